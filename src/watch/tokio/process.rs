//! `tokio::process` with children that tell when nobody waits for them: a changed `use` line. With the feature `tokio-process`.
//!
//! A [`Child`](::tokio::process::Child) of tokio's that is dropped runs on, also one whose `status` or `output` lost to a time-out, and
//! nobody learns how it ended; the runtime takes it away then, while it lasts. While async debug is on ([`crate::set_debug`])
//! that is told as a `resource-warning`: which process, whether it still runs, where it was spawned (with tracing on), last
//! touched and dropped.
//!
//! Silent are a child that was waited for, also by somebody else (`waitpid`, an ignored `SIGCHLD`); one that was killed, or will
//! be (`kill_on_drop`); one that is let go on purpose, with [`Child::detach`]; one that is dropped by a panic; and Windows,
//! where nothing is left of an ended process.
//!
//! Everything else of `tokio::process` is here under its own name.
//!
//! ```
//! # #[cfg(unix)] {
//! use birthmark::tokio::process::Command;
//!
//! # birthmark::tokio::run(false, async {
//! let mut child = Command::new("true").spawn()?;
//! assert!(child.wait().await?.success());
//! # std::io::Result::Ok(()) }).unwrap();
//! # }
//! ```

use std::ffi::OsStr;
use std::future::Future;
use std::io::Result;
use std::process::{Command as StdCommand, ExitStatus, Output, Stdio};

use ::tokio::process::Child as TokioChild;
use ::tokio::process::Command as TokioCommand;

pub use ::tokio::process::*;

use super::super::process::command::builds;
use super::super::process::fate::Fate;

/// As [`tokio::process::Child`](::tokio::process::Child), and tells when it is dropped and nobody waited for it: see
/// [the module](self).
#[derive(Debug)]
pub struct Child {
    /// As tokio's.
    pub stdin: Option<ChildStdin>,
    /// As tokio's.
    pub stdout: Option<ChildStdout>,
    /// As tokio's.
    pub stderr: Option<ChildStderr>,
    fate: Fate,
    inner: TokioChild,
}

impl Child {
    fn over(mut inner: TokioChild, program: impl FnOnce() -> String) -> Self {
        let (stdin, stdout, stderr) = (inner.stdin.take(), inner.stdout.take(), inner.stderr.take());
        let call = "wait().await`, `kill().await` or `detach()`, or set `kill_on_drop(true)";
        let fate = Fate::new(inner.id(), call, program).collected();
        Self { stdin, stdout, stderr, fate, inner }
    }

    /// The process's number, until it was waited for.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.inner.id()
    }

    /// The process's handle, until it was waited for.
    #[cfg(windows)]
    #[must_use]
    pub fn raw_handle(&self) -> Option<std::os::windows::io::RawHandle> {
        self.inner.raw_handle()
    }

    /// Kills it, and doesn't wait until it has ended. How it ends is known then: no drop is told from now on.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn start_kill(&mut self) -> Result<()> {
        self.inner.start_kill()?;
        self.fate.waited();
        Ok(())
    }

    /// Kills it, and waits until it has ended.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn kill(&mut self) -> Result<()> {
        self.start_kill()?;
        self.wait().await?;
        Ok(())
    }

    /// Waits until it has ended; closes its standard input first.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        drop(self.stdin.take());
        let status = self.inner.wait().await?;
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
    pub async fn wait_with_output(self) -> Result<Output> {
        let (inner, fate) = self.whole();
        let output = inner.wait_with_output().await?;
        fate.waited();
        Ok(output)
    }

    /// Lets it go on purpose: nobody will wait for it, and that isn't told.
    pub fn detach(self) {
        self.fate.waited();
    }

    /// tokio's child, for which its new owner answers.
    pub fn into_tokio(self) -> TokioChild {
        let (inner, fate) = self.whole();
        fate.waited();
        inner
    }

    fn whole(self) -> (TokioChild, Fate) {
        let Self { stdin, stdout, stderr, fate, mut inner } = self;
        (inner.stdin, inner.stdout, inner.stderr) = (stdin, stdout, stderr);
        (inner, fate)
    }
}

/// As [`tokio::process::Command`](::tokio::process::Command), and spawns a [`Child`] of this module.
#[derive(Debug)]
pub struct Command {
    inner: TokioCommand,
    kill_on_drop: bool,
}

impl Command {
    /// A command that runs `program`.
    pub fn new<S: AsRef<OsStr>>(program: S) -> Self {
        Self { inner: TokioCommand::new(program), kill_on_drop: false }
    }

    /// std's command inside it.
    pub fn as_std(&self) -> &StdCommand {
        self.inner.as_std()
    }

    /// std's command inside it.
    pub fn as_std_mut(&mut self) -> &mut StdCommand {
        self.inner.as_std_mut()
    }

    /// std's command inside it.
    pub fn into_std(self) -> StdCommand {
        self.inner.into_std()
    }

    /// Whether the drop of its child kills it.
    pub fn kill_on_drop(&mut self, kill_on_drop: bool) -> &mut Self {
        self.kill_on_drop = kill_on_drop;
        self.inner.kill_on_drop(kill_on_drop);
        self
    }

    /// What [`Command::kill_on_drop`] was told.
    pub fn get_kill_on_drop(&self) -> bool {
        self.kill_on_drop
    }

    /// Starts it.
    ///
    /// # Errors
    /// When that can't be.
    pub fn spawn(&mut self) -> Result<Child> {
        let child = self.inner.spawn()?;
        let program = || self.inner.as_std().get_program().to_string_lossy().into_owned();
        let child = Child::over(child, program);
        if self.kill_on_drop {
            child.fate.waited();
        }
        Ok(child)
    }

    /// Runs it to its end. Dropped before, the future lets it run on, which is told.
    ///
    /// # Errors
    /// When that can't be.
    pub fn status(&mut self) -> impl Future<Output = Result<ExitStatus>> + use<> {
        let child = self.spawn();
        async {
            let mut child = child?;
            // Else it may wait for us to read or write.
            drop((child.stdin.take(), child.stdout.take(), child.stderr.take()));
            child.wait().await
        }
    }

    /// Runs it to its end, and collects what it writes. Dropped before, the future lets it run on, which is told.
    ///
    /// # Errors
    /// When that can't be.
    pub fn output(&mut self) -> impl Future<Output = Result<Output>> + use<> {
        self.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.spawn();
        async { child?.wait_with_output().await }
    }
}

builds!(Command, inner);

impl From<StdCommand> for Command {
    fn from(command: StdCommand) -> Self {
        Self { inner: command.into(), kill_on_drop: false }
    }
}
