//! `std::process` with children that tell when nobody waits for them: a changed `use` line.
//!
//! std neither kills nor waits for a [`Child`](std::process::Child) that is dropped: it runs on, nobody learns how it ended, and on
//! Unix it stays a zombie until this process ends. While async debug is on ([`crate::set_debug`]) that is told as a
//! `resource-warning`: which process, whether it still runs, where it was spawned (with tracing on), last touched and dropped.
//!
//! Silent are a child that was waited for, also by somebody else (`waitpid`, an ignored `SIGCHLD`); one that is let go on
//! purpose, with [`Child::detach`]; one that is dropped by a panic; and Windows, where nothing is left of an ended process.
//!
//! Everything else of `std::process` is here under its own name.
//!
//! ```
//! # #[cfg(unix)] {
//! use birthmark::process::Command;
//!
//! let mut child = Command::new("true").spawn()?;
//! assert!(child.wait()?.success());
//! # }
//! # std::io::Result::Ok(())
//! ```

pub(super) mod command;
pub(super) mod fate;

pub use std::process::*;

pub use command::Command;

use std::io::Result;

use fate::Fate;

/// As [`std::process::Child`], and tells when it is dropped and nobody waited for it: see [the module](self).
#[derive(Debug)]
pub struct Child {
    /// As std's.
    pub stdin: Option<ChildStdin>,
    /// As std's.
    pub stdout: Option<ChildStdout>,
    /// As std's.
    pub stderr: Option<ChildStderr>,
    fate: Fate,
    inner: std::process::Child,
}

impl Child {
    /// Takes over a child; `program` is asked while async debug is on.
    fn over(mut inner: std::process::Child, program: impl FnOnce() -> String) -> Self {
        let (stdin, stdout, stderr) = (inner.stdin.take(), inner.stdout.take(), inner.stderr.take());
        let fate = Fate::new(Some(inner.id()), "wait()` or, where it may go on alone, `detach()", program);
        Self { stdin, stdout, stderr, fate, inner }
    }

    /// The process's number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.inner.id()
    }

    /// Kills it. It still has to be waited for.
    ///
    /// # Errors
    /// When the system refuses.
    #[track_caller]
    pub fn kill(&mut self) -> Result<()> {
        self.fate.touch();
        self.inner.kill()
    }

    /// Waits until it has ended; closes its standard input first.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        drop(self.stdin.take());
        let status = self.inner.wait()?;
        self.fate.waited();
        Ok(status)
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system refuses.
    #[track_caller]
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.fate.touch();
        let status = self.inner.try_wait()?;
        if status.is_some() {
            self.fate.waited();
        }
        Ok(status)
    }

    /// Reads what it writes until it has ended; closes its standard input first.
    ///
    /// # Errors
    /// When that can't be read, or the system refuses.
    pub fn wait_with_output(self) -> Result<Output> {
        let (inner, fate) = self.whole();
        let output = inner.wait_with_output()?;
        fate.waited();
        Ok(output)
    }

    /// Lets it go on purpose: nobody will wait for it, and that isn't told.
    pub fn detach(self) {
        self.fate.waited();
    }

    /// std's child, for which its new owner answers.
    pub fn into_std(self) -> std::process::Child {
        let (inner, fate) = self.whole();
        fate.waited();
        inner
    }

    fn whole(self) -> (std::process::Child, Fate) {
        let Self { stdin, stdout, stderr, fate, mut inner } = self;
        (inner.stdin, inner.stdout, inner.stderr) = (stdin, stdout, stderr);
        (inner, fate)
    }
}

/// A child of std's that isn't told of yet; without its program's name.
impl From<std::process::Child> for Child {
    fn from(child: std::process::Child) -> Self {
        Self::over(child, String::new)
    }
}

#[cfg(windows)]
mod windows {
    use std::os::windows::io::{
        AsHandle, AsRawHandle, BorrowedHandle, IntoRawHandle, OwnedHandle, RawHandle,
    };

    use super::Child;

    impl AsHandle for Child {
        fn as_handle(&self) -> BorrowedHandle<'_> {
            self.inner.as_handle()
        }
    }
    impl AsRawHandle for Child {
        fn as_raw_handle(&self) -> RawHandle {
            self.inner.as_raw_handle()
        }
    }
    impl IntoRawHandle for Child {
        fn into_raw_handle(self) -> RawHandle {
            self.into_std().into_raw_handle()
        }
    }
    impl From<Child> for OwnedHandle {
        fn from(child: Child) -> Self {
            child.into_std().into()
        }
    }
}
