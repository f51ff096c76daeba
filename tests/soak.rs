//! A real server of hyper's under `BIRTHMARK_DEV=1`: some thousand connections raise nothing and leak nothing, and of the same
//! server with a mistake planted exactly that mistake is told, once, with its line.
//!
//! `SOAK=100000 cargo test --release --test soak` makes so many connections instead.
#![cfg(all(target_os = "linux", target_arch = "x86_64", not(birthmark_portable)))]

mod fixture;
mod support;

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use fixture::{cargo, folder, said, target_folder};
use support::Outcome;

const FLAVOURS: [&str; 2] = ["workers", "one"];
const MIB: i64 = 1 << 20;

fn program() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        said(cargo("soak", "soak").args(["build", "--quiet", "--release"]));
        target_folder("soak").join("release/soak")
    })
}

fn connections() -> String {
    std::env::var("SOAK").unwrap_or_else(|_| "2000".into())
}

fn run(arguments: &[&str]) -> Outcome {
    let mut command = Command::new(program());
    let outcome = support::run(command.args(arguments).env_clear().env("BIRTHMARK_DEV", "1"));
    assert!(outcome.status.success() && !outcome.timed_out, "{arguments:?}: {}", outcome.told());
    outcome
}

/// What the program wrote behind `name=`.
fn number(outcome: &Outcome, name: &str) -> i64 {
    let value = outcome.stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let number = value.and_then(|v| v.parse().ok());
    number.unwrap_or_else(|| panic!("no number `{name}`: {}", outcome.told()))
}

#[test]
fn a_server_without_a_mistake_raises_nothing_and_leaks_nothing() {
    for flavour in FLAVOURS {
        let outcome = run(&[flavour, &connections()]);
        let told = || format!("{flavour}: {}", outcome.told());
        assert_eq!(outcome.stderr, "", "{}", told());
        assert!(number(&outcome, "served") >= connections().parse().unwrap(), "{}", told());
        assert_eq!(number(&outcome, "tasks"), 0, "{}", told());
        assert!(outcome.stdout.contains("complete=true"), "{}", told());
        // Between the ends of the first tenth and the last, whatever the number of connections: lists that the runtime keeps
        // may have grown, and stacks were met that the warm-up had not.
        assert!(number(&outcome, "traced_grew") < 64 << 10, "{}", told());
        assert!(number(&outcome, "own_grew") < MIB, "{}", told());
    }
}

/// The fixture's line that must be told.
fn line_of(fault: &str) -> usize {
    let source = std::fs::read_to_string(folder("soak").join("src/faults.rs")).unwrap();
    let marked = |line: &str| line.ends_with(&format!("// told: {fault}"));
    1 + source.lines().position(marked).expect("the mistake is marked")
}

/// Of the server with this mistake nothing but reports of `kind` is told, all of them one report.
fn told_once(fault: &str, kind: &str) {
    let place = format!("src/faults.rs:{}", line_of(fault));
    for flavour in FLAVOURS {
        let outcome = run(&[flavour, "1000", fault]);
        let heads: Vec<&str> =
            outcome.stderr.lines().filter_map(|line| line.strip_prefix("birthmark: ")).collect();
        let told = || format!("{fault} on {flavour}: {}", outcome.told());
        assert!(heads.iter().all(|head| head.starts_with(&format!("{kind}: "))), "{}", told());
        // A stuck poll is told again when it ends, under the number of its report.
        let lasting = |head: &&&str| head.contains("(#1)") && !head.contains("has been in one poll");
        let again = heads.iter().filter(lasting).count();
        assert_eq!(heads.len() - again, 1, "{}", told());
        // The report's own rows, and not what a panic wrote.
        let report = outcome.stderr.split_once("birthmark: ").expect("it was told").1;
        assert!(report.contains(&place), "not at {place}: {}", told());
    }
}

#[test]
fn a_handler_that_blocks_its_worker_is_told_as_a_slow_callback() {
    told_once("blocks", "slow-callback");
}

#[test]
fn a_writer_dropped_unflushed_is_told_as_a_resource_warning() {
    told_once("unflushed", "resource-warning");
}

#[test]
fn a_panic_that_nobody_reads_is_told_as_a_task_error() {
    told_once("panic", "task-error");
}

#[test]
fn a_task_pending_at_the_end_is_told_as_destroyed() {
    told_once("pending", "task-destroyed");
}

#[test]
fn a_future_dropped_without_a_poll_is_told_as_never_awaited() {
    told_once("unpolled", "never-awaited");
}

#[test]
fn a_lock_held_across_an_await_is_told() {
    told_once("locked", "lock-across-await");
}
