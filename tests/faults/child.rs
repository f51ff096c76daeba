//! This test program again, as a child that commits one fault.

use std::fmt;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Names the fault that the child is to commit.
pub const FAULT: &str = "FAULT";

/// The debug heap, with five frames.
pub const DEBUG: [(&str, &str); 2] = [("TRACEMALLOC", "5"), ("BIRTHMARK_MALLOC", "debug")];
/// Everything.
pub const DEV: [(&str, &str); 1] = [("BIRTHMARK_DEV", "1")];

const LIMIT: Duration = Duration::from_secs(90);

/// What became of a child.
pub struct Child {
    pub fault: String,
    pub id: u32,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Child {
    pub fn aborted(&self) -> bool {
        self.status.signal() == Some(libc::SIGABRT)
    }
    pub fn succeeded(&self) -> bool {
        self.status.success()
    }
    /// The one line on standard error.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.stderr.lines().count(), 1, "{self}");
        serde_json::from_str(&self.stderr).unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

impl fmt::Display for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, status, stdout, stderr, .. } = self;
        write!(f, "`{fault}` ended with {status}\n--- stderr\n{stderr}\n--- stdout\n{stdout}")
    }
}

/// Commits `fault` in a child with these variables and no others of ours.
#[track_caller]
pub fn run(fault: &str, variables: &[(&str, &str)]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "faults::child", "--nocapture", "--test-threads=1"]);
    for (name, _) in std::env::vars() {
        if name.starts_with("BIRTHMARK_") || ["TRACEMALLOC", "NO_COLOR", "CLICOLOR_FORCE"].contains(&&*name) {
            command.env_remove(name);
        }
    }
    command.env(FAULT, fault).envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: one system call between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::setrlimit(libc::RLIMIT_CORE, &none);
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    let id = child.id();
    let read = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = from.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = read(Box::new(child.stdout.take().unwrap()));
    let stderr = read(Box::new(child.stderr.take().unwrap()));
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > LIMIT {
            child.kill().unwrap();
            let status = child.wait().unwrap();
            panic!("`{fault}` took too long ({status}): {}", stderr.join().unwrap());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Child { fault: fault.into(), id, status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}
