//! std's `Command`, whose children are ours.

use std::ffi::OsStr;
use std::fmt::{self, Debug};
use std::io::Result;
use std::ops::{Deref, DerefMut};
use std::process::{ExitStatus, Output};

#[cfg(unix)]
use std::os::unix::process::CommandExt as _;
#[cfg(windows)]
use std::os::windows::process::CommandExt as _;

use super::Child;

/// What sets a command up, for std's and for tokio's alike; `$inner` is the command of theirs inside of ours.
macro_rules! builds {
    ($command:ident, $inner:tt) => {
        impl $command {
            /// Adds an argument.
            pub fn arg<S: AsRef<std::ffi::OsStr>>(&mut self, arg: S) -> &mut Self {
                self.$inner.arg(arg);
                self
            }

            /// Adds arguments.
            pub fn args<I, S>(&mut self, args: I) -> &mut Self
            where
                I: IntoIterator<Item = S>,
                S: AsRef<std::ffi::OsStr>,
            {
                self.$inner.args(args);
                self
            }

            /// Sets a variable of its environment.
            pub fn env<K, V>(&mut self, key: K, value: V) -> &mut Self
            where
                K: AsRef<std::ffi::OsStr>,
                V: AsRef<std::ffi::OsStr>,
            {
                self.$inner.env(key, value);
                self
            }

            /// Sets variables of its environment.
            pub fn envs<I, K, V>(&mut self, variables: I) -> &mut Self
            where
                I: IntoIterator<Item = (K, V)>,
                K: AsRef<std::ffi::OsStr>,
                V: AsRef<std::ffi::OsStr>,
            {
                self.$inner.envs(variables);
                self
            }

            /// Leaves a variable out of its environment.
            pub fn env_remove<K: AsRef<std::ffi::OsStr>>(&mut self, key: K) -> &mut Self {
                self.$inner.env_remove(key);
                self
            }

            /// Lets it inherit no variable.
            pub fn env_clear(&mut self) -> &mut Self {
                self.$inner.env_clear();
                self
            }

            /// Sets its working directory.
            pub fn current_dir<P: AsRef<std::path::Path>>(&mut self, folder: P) -> &mut Self {
                self.$inner.current_dir(folder);
                self
            }

            /// Sets its standard input.
            pub fn stdin<T: Into<std::process::Stdio>>(&mut self, stdin: T) -> &mut Self {
                self.$inner.stdin(stdin);
                self
            }

            /// Sets its standard output.
            pub fn stdout<T: Into<std::process::Stdio>>(&mut self, stdout: T) -> &mut Self {
                self.$inner.stdout(stdout);
                self
            }

            /// Sets its standard error.
            pub fn stderr<T: Into<std::process::Stdio>>(&mut self, stderr: T) -> &mut Self {
                self.$inner.stderr(stderr);
                self
            }
        }

        #[cfg(unix)]
        impl $command {
            /// Sets its user: std's `CommandExt::uid`.
            pub fn uid(&mut self, id: u32) -> &mut Self {
                self.$inner.uid(id);
                self
            }

            /// Sets its group: std's `CommandExt::gid`.
            pub fn gid(&mut self, id: u32) -> &mut Self {
                self.$inner.gid(id);
                self
            }

            /// Sets its argument 0: std's `CommandExt::arg0`.
            pub fn arg0<S: AsRef<std::ffi::OsStr>>(&mut self, arg: S) -> &mut Self {
                self.$inner.arg0(arg);
                self
            }

            /// Sets its process group: std's `CommandExt::process_group`.
            pub fn process_group(&mut self, group: i32) -> &mut Self {
                self.$inner.process_group(group);
                self
            }

            /// Has `f` run in it before its program: std's `CommandExt::pre_exec`.
            ///
            /// # Safety
            /// `f` runs after a `fork` of a process that may have threads.
            pub unsafe fn pre_exec<F>(&mut self, f: F) -> &mut Self
            where
                F: FnMut() -> std::io::Result<()> + Send + Sync + 'static,
            {
                // SAFETY: the caller's.
                unsafe { self.$inner.pre_exec(f) };
                self
            }
        }

        #[cfg(windows)]
        impl $command {
            /// Sets flags for its creation: std's `CommandExt::creation_flags`.
            pub fn creation_flags(&mut self, flags: u32) -> &mut Self {
                self.$inner.creation_flags(flags);
                self
            }

            /// Adds an argument without quotes: std's `CommandExt::raw_arg`.
            pub fn raw_arg<S: AsRef<std::ffi::OsStr>>(&mut self, text: S) -> &mut Self {
                self.$inner.raw_arg(text);
                self
            }
        }
    };
}
#[cfg(feature = "tokio-process")]
pub(crate) use builds;

/// As [`std::process::Command`], and spawns a [`Child`] of this module.
///
/// What std's has beyond these methods is reached through `Deref`; those that build (`arg`, `uid`, ..) are here, so that a chain ends
/// in this `spawn`, and on Unix `std::os::unix::process::CommandExt` needn't be imported for them.
pub struct Command(std::process::Command);

impl Command {
    /// A command that runs `program`.
    pub fn new<S: AsRef<OsStr>>(program: S) -> Self {
        Self(std::process::Command::new(program))
    }

    /// Starts it.
    ///
    /// # Errors
    /// When that can't be.
    pub fn spawn(&mut self) -> Result<Child> {
        let child = self.0.spawn()?;
        Ok(Child::over(child, || self.0.get_program().to_string_lossy().into_owned()))
    }

    /// Runs it to its end, and collects what it writes.
    ///
    /// # Errors
    /// When that can't be.
    pub fn output(&mut self) -> Result<Output> {
        self.0.output()
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When that can't be.
    pub fn status(&mut self) -> Result<ExitStatus> {
        self.0.status()
    }

    /// std's command, whose children are std's.
    pub fn into_std(self) -> std::process::Command {
        self.0
    }
}

builds!(Command, 0);

impl Deref for Command {
    type Target = std::process::Command;

    fn deref(&self) -> &std::process::Command {
        &self.0
    }
}

impl DerefMut for Command {
    fn deref_mut(&mut self) -> &mut std::process::Command {
        &mut self.0
    }
}

impl From<std::process::Command> for Command {
    fn from(command: std::process::Command) -> Self {
        Self(command)
    }
}

impl Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
