//! Processes that take turns.

use std::path::PathBuf;
use std::process::Command;

use crate::cargo::is_ours;

pub type Variables = &'static [(&'static str, &'static str)];

#[derive(Clone)]
pub struct Run {
    pub exe: PathBuf,
    pub argument: &'static str,
    pub variables: Variables,
    /// A slow peer that nothing is judged by.
    pub once: bool,
}

/// The least seconds and the most KiB of the rounds.
#[derive(Clone, Copy)]
pub struct Best {
    pub seconds: f64,
    pub kib: f64,
}

pub fn command(exe: &PathBuf, variables: Variables) -> Command {
    let mut command = Command::new(exe);
    for (name, _) in std::env::vars_os() {
        if is_ours(&name.to_string_lossy()) {
            command.env_remove(&name);
        }
    }
    command.envs(variables.iter().copied());
    command
}

/// What `programs` writes: seconds, then KiB.
fn once(run: &Run) -> Option<(f64, f64)> {
    let output = command(&run.exe, run.variables).arg(run.argument).output().ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || !said.is_empty() && !said.starts_with("dhat:") {
        eprintln!("{} {} {:?}: {} {said}", run.exe.display(), run.argument, run.variables, output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut numbers = text.split_whitespace().map_while(|w| w.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

pub fn interleaved(rounds: usize, runs: &[Run]) -> Vec<Best> {
    let mut best = vec![Best { seconds: f64::NAN, kib: f64::NAN }; runs.len()];
    for round in 0..rounds {
        for (run, best) in runs.iter().zip(&mut best) {
            if run.once && round > 0 {
                continue;
            }
            if let Some((seconds, kib)) = once(run) {
                // `min` and `max` take the other side of a NaN.
                best.seconds = best.seconds.min(seconds);
                best.kib = best.kib.max(kib);
            }
        }
    }
    best
}
