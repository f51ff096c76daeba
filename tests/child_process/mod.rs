//! Runs a program of this test file in a child process of its own, with a time limit.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a child wrote and how it ended.
pub struct Output {
    pub stdout: String,
    pub stderr: String,
    pub code: Option<i32>,
}

#[allow(dead_code)]
impl Output {
    /// The first lines of the reports of a kind.
    pub fn reports(&self, kind: &str) -> Vec<&str> {
        let head = format!("birthmark: {kind}: ");
        self.stderr.lines().filter_map(|line| line.strip_prefix(&head)).collect()
    }

    /// What the program said under a name, on a line `name=value`.
    pub fn said(&self, name: &str) -> &str {
        let head = format!("{name}=");
        match self.stdout.lines().find_map(|line| line.find(&head).map(|at| &line[at + head.len()..])) {
            Some(value) => value,
            None => panic!("the program said no {name}:\n{}\n{}", self.stdout, self.stderr),
        }
    }

    /// The first line of a row of the reports.
    pub fn row(&self, label: &str) -> &str {
        let mut lines = self.stderr.lines();
        lines
            .find(|line| line.split_whitespace().next() == Some(label))
            .unwrap_or_else(|| panic!("no {label}:\n{}", self.stderr))
    }
}

/// The name of the program that this process is to run, in a child.
pub fn asked() -> Option<String> {
    std::env::var("CHILD_PROGRAM").ok()
}

fn start(program: &str, variables: &[(&str, &str)]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "program", "--nocapture", "--test-threads=1"]);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("BIRTHMARK_") || name == "TRACEMALLOC" {
            command.env_remove(name);
        }
    }
    // To print std's own backtrace takes longer than a poll may.
    command.env_remove("RUST_BACKTRACE");
    command.env("CHILD_PROGRAM", program).envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Runs `program`; `meanwhile` gets the child's id once it has started.
pub fn run_meanwhile(program: &str, variables: &[(&str, &str)], meanwhile: impl FnOnce(u32)) -> Output {
    let mut child = start(program, variables);
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = out.read_to_string(&mut text);
        text
    });
    let read_err = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = err.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    meanwhile(child.id());
    let end = Instant::now() + Duration::from_secs(60);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let output = Output {
        stdout: read.join().unwrap(),
        stderr: read_err.join().unwrap(),
        code: status.and_then(|s| s.code()),
    };
    assert!(status.is_some(), "{program} hung:\n{}\n{}", output.stdout, output.stderr);
    output
}

/// Runs `program`.
#[allow(dead_code)]
pub fn run(program: &str, variables: &[(&str, &str)]) -> Output {
    run_meanwhile(program, variables, |_| {})
}

/// Runs `program`, which must come to its end and say `done=yes` there.
#[allow(dead_code)]
pub fn ran(program: &str, variables: &[(&str, &str)]) -> Output {
    let output = run(program, variables);
    assert_eq!(output.code, Some(0), "{program} {variables:?}\n{}\n{}", output.stdout, output.stderr);
    assert_eq!(output.said("done"), "yes");
    output
}
