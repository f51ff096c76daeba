//! `birthmark::tokio::test`: tests that must fail with what they left behind or with why they passed their limit, and near misses that
//! must pass in silence. Each runs under libtest in a process of its own, on both flavours.

#![cfg(feature = "tokio")]

mod child_process;

use std::panic::catch_unwind;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use birthmark::{ResourceGuard, WatchExt as _, warnings};
use child_process::{Output, asked, run};
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{LocalSet, spawn_blocking, yield_now};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

const MS: Duration = Duration::from_millis(1);

#[inline(never)]
fn nap(time: Duration) {
    std::thread::sleep(std::hint::black_box(time));
    std::hint::black_box(());
}

async fn waiter() {
    std::future::pending::<()>().await;
}

async fn napper(time: Duration) {
    nap(time);
    yield_now().await;
}

async fn unflushed() {
    let mut out = birthmark::tokio::io::BufWriter::new(Vec::new());
    out.write_all(b"hello").await.unwrap();
}

async fn body(program: &str) {
    match program {
        // Silent.
        "done" => {
            birthmark::tokio::spawn(async {}).await.unwrap();
            tokio::spawn(async {}).await.unwrap();
            unflushed_no_more().await;
        }
        "ends_in_shutdown" => {
            let (send, mut receive) = mpsc::unbounded_channel::<u32>();
            tokio::spawn(async move { while receive.recv().await.is_some() {} });
            let (go, theirs) = oneshot::channel::<()>();
            birthmark::tokio::spawn(async move {
                let _ = theirs.await;
            });
            tokio::time::sleep(MS * 5).await;
            drop((send, go));
        }
        "poll_under_way" => {
            tokio::spawn(async { nap(MS * 400) });
            tokio::time::sleep(MS * 5).await;
        }
        "blocking_job" => {
            spawn_blocking(|| nap(MS * 400));
        }
        "aborted" => {
            tokio::spawn(waiter()).abort();
            let task = birthmark::tokio::spawn(waiter());
            tokio::time::sleep(MS * 5).await;
            task.abort();
            let mut set = tokio::task::JoinSet::new();
            set.spawn(waiter());
        }
        "within_limit" => tokio::time::sleep(MS * 300).await,
        "caught" => {
            let ((), caught) = warnings::catch_async(unflushed()).await;
            assert_eq!(caught.len(), 1);
        }
        "read_panic" => assert!(tokio::spawn(async { panic!("read") }).await.is_err()),
        "local" => {
            let local = LocalSet::new();
            local.run_until(async { tokio::task::spawn_local(async {}).await.unwrap() }).await;
        }
        // Failing.
        "unflushed_in_a_local_set" => {
            let local = LocalSet::new();
            local.run_until(async { tokio::task::spawn_local(unflushed()).await.unwrap() }).await;
        }
        "leak_in_a_local_set" => {
            let local = LocalSet::new();
            let lost = async {
                birthmark::tokio::spawn_local(waiter());
                yield_now().await;
            };
            local.run_until(lost).await;
        }
        "leak" => {
            tokio::spawn(waiter());
        }
        "leak_wrapped" => {
            birthmark::tokio::spawn(waiter());
            tokio::time::sleep(MS * 5).await;
        }
        "leak_watched" => {
            tokio::spawn(waiter().watched());
            tokio::time::sleep(MS * 5).await;
        }
        "leak_three" => (0..3).for_each(|_| {
            tokio::spawn(waiter());
        }),
        "unread_panic" => {
            tokio::spawn(async { panic!("nobody reads this") });
            tokio::time::sleep(MS * 20).await;
        }
        "unflushed" => unflushed().await,
        "unflushed_in_a_task" => tokio::spawn(unflushed()).await.unwrap(),
        "lost_at_shutdown" => {
            tokio::spawn(async {
                let guard = ResourceGuard::new("Export", "finish()");
                guard.pending(3);
                waiter().await;
                guard.close();
            });
            tokio::time::sleep(MS * 5).await;
        }
        "own_panic" => {
            tokio::spawn(waiter());
            tokio::spawn(async { nap(MS * 300) });
            tokio::time::sleep(MS * 5).await;
            panic!("its own words");
        }
        // Past the limit.
        "waits_for_ever" => {
            let guard = ResourceGuard::new("Export", "finish()");
            guard.pending(3);
            birthmark::tokio::spawn(waiter());
            waiter().await;
            guard.close();
        }
        "workers_blocked" => {
            for _ in 0..8 {
                tokio::spawn(napper(MS * 20_000));
            }
            waiter().await;
        }
        "root_blocked" => nap(MS * 60_000),
        "task_blocks_root" => {
            tokio::spawn(napper(MS * 60_000));
            waiter().await;
        }
        "too_late" => nap(MS * 900),
        "job_blocked" => spawn_blocking(|| nap(MS * 3_000)).await.unwrap(),
        other => panic!("no program {other}"),
    }
}

async fn unflushed_no_more() {
    let mut out = birthmark::tokio::io::BufWriter::new(Vec::new());
    out.write_all(b"hello").await.unwrap();
    out.flush().await.unwrap();
}

fn limit(program: &str) -> Duration {
    match program {
        "waits_for_ever" | "workers_blocked" | "root_blocked" | "task_blocks_root" | "too_late"
        | "job_blocked" => MS * 400,
        _ => MS * 20_000,
    }
}

fn wrapped(how: &str, program: &str) {
    match how {
        "mt" => birthmark::tokio::test(limit(program), body(program)),
        "ct" => {
            birthmark::tokio::test_on(
                Builder::new_current_thread().enable_all(),
                limit(program),
                body(program),
            );
        }
        other => panic!("no way {other}"),
    }
}

#[test]
fn program() {
    let Some(asked) = asked() else { return };
    let (how, program) = asked.split_once(' ').unwrap();
    if let Some(program) = program.strip_prefix("then_another ") {
        let first = catch_unwind(|| wrapped(how, program));
        assert!(first.is_err());
        wrapped(how, "done");
        println!("another=passed");
        return;
    }
    if program == "attached" {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            birthmark::tokio::attach(&tokio::runtime::Handle::current());
            tokio::spawn(unflushed()).await.unwrap();
        });
        return;
    }
    if program == "twice" {
        assert!(catch_unwind(|| wrapped(how, "unflushed")).is_err());
        assert!(catch_unwind(|| wrapped(how, "unflushed")).is_err());
        wrapped(how, "done");
        return;
    }
    wrapped(how, program);
}

const BOTH: [&str; 2] = ["mt", "ct"];

fn passes(program: &str, variables: &[(&str, &str)]) {
    for how in BOTH {
        let output = run(&format!("{how} {program}"), variables);
        let text = format!("{how} {program}\n{}\n{}", output.stdout, output.stderr);
        assert_eq!(output.code, Some(0), "{text}");
        for kind in ["task-leak", "task-error", "resource-warning", "timeout"] {
            assert!(output.reports(kind).is_empty(), "{text}");
        }
    }
}

fn fails(how: &str, program: &str, variables: &[(&str, &str)]) -> Output {
    let output = run(&format!("{how} {program}"), variables);
    assert_eq!(output.code, Some(101), "{how} {program}\n{}\n{}", output.stdout, output.stderr);
    output
}

/// The panic's message.
fn message(output: &Output) -> &str {
    let (_, message) = output.stderr.split_once("panicked at tests/test_wrapper.rs:").unwrap_or_else(|| {
        panic!("no panic of the test's\n{}", output.stderr);
    });
    message
}

#[test]
fn a_test_that_leaves_nothing_behind_passes() {
    for program in ["done", "within_limit", "local", "read_panic"] {
        passes(program, &[]);
    }
}

#[test]
fn aborted_tasks_and_those_that_end_by_themselves_are_no_leaks() {
    for program in ["ends_in_shutdown", "poll_under_way", "aborted"] {
        passes(program, &[]);
    }
}

#[test]
fn a_blocking_job_is_waited_for_and_is_no_leak() {
    passes("blocking_job", &[]);
}

#[test]
fn what_was_caught_and_what_a_filter_ignores_fails_nobody() {
    passes("caught", &[]);
    passes("leak", &[("BIRTHMARK_WARNINGS", "ignore::task-leak")]);
    passes("unflushed", &[("BIRTHMARK_WARNINGS", "ignore::ResourceWarning")]);
    passes("unread_panic", &[("BIRTHMARK_WARNINGS", "ignore::task-error")]);
}

#[test]
fn a_task_that_goes_on_fails_its_test_with_the_place_of_its_spawn() {
    for how in BOTH {
        for program in ["leak", "leak_wrapped", "leak_watched"] {
            let output = fails(how, program, &[]);
            assert_eq!(
                output.reports("task-leak").len(),
                2,
                "told at once and by the panic: {}",
                output.stderr
            );
            let message = message(&output);
            assert!(message.contains("test `program` left 1 thing behind"), "{message}");
            assert!(message.contains("went on when its test was done"), "{message}");
            let spawned = message.lines().find(|line| line.starts_with("  spawned ")).unwrap();
            assert!(spawned.contains("tests/test_wrapper.rs:"), "{message}");
        }
        let output = fails(how, "leak_three", &[]);
        assert!(message(&output).contains("birthmark: task-leak: 3 tasks"), "{}", output.stderr);
    }
}

#[test]
fn a_task_that_its_local_set_took_along_fails_its_test_as_destroyed() {
    for how in BOTH {
        let output = fails(how, "leak_in_a_local_set", &[]);
        let message = message(&output);
        assert!(message.contains("1 task was still pending when its `LocalSet` was dropped"), "{message}");
        let spawned = message.lines().find(|line| line.starts_with("  spawned ")).unwrap();
        assert!(spawned.contains("tests/test_wrapper.rs:"), "{message}");
    }
}

#[test]
fn without_traces_a_leak_is_told_with_what_is_known() {
    for how in BOTH {
        let output = fails(how, "leak", &[("TRACEMALLOC", "0")]);
        // tokio's hooks, where there are any, tell the place too.
        let known =
            if cfg!(tokio_unstable) { "  spawned    tests/test_wrapper.rs:" } else { "TRACEMALLOC=5" };
        assert!(message(&output).contains(known), "{}", output.stderr);
        let output = fails(how, "leak_wrapped", &[("TRACEMALLOC", "0")]);
        assert!(message(&output).contains("  spawned    tests/test_wrapper.rs:"), "{}", output.stderr);
    }
}

#[test]
fn an_unread_panic_and_a_lost_writer_fail_their_test_with_their_places() {
    for how in BOTH {
        let output = fails(how, "unread_panic", &[]);
        assert!(message(&output).contains("birthmark: task-error: task "), "{}", output.stderr);
        assert!(message(&output).contains("nobody reads this"), "{}", output.stderr);
        for program in ["unflushed", "unflushed_in_a_task", "unflushed_in_a_local_set"] {
            let output = fails(how, program, &[]);
            let message = message(&output);
            assert!(message.contains("BufWriter was dropped with 5 bytes unflushed"), "{message}");
            assert!(message.contains("  allocated  "), "{message}");
            assert!(message.contains("  test       program"), "{message}");
        }
        let output = fails(how, "lost_at_shutdown", &[]);
        assert!(message(&output).contains("left 2 things behind"), "{}", output.stderr);
        assert!(message(&output).contains("Export was dropped with 3 left undone"), "{}", output.stderr);
    }
}

#[test]
fn the_same_site_fails_a_second_test_too() {
    for how in BOTH {
        let output = run(&format!("{how} twice"), &[]);
        assert_eq!(output.code, Some(0), "{}\n{}", output.stdout, output.stderr);
    }
}

#[test]
fn a_test_that_panics_keeps_its_own_message() {
    for how in BOTH {
        let output = fails(how, "own_panic", &[]);
        assert!(message(&output).contains("its own words"), "{}", output.stderr);
        assert!(!output.stderr.contains("left"), "{}", output.stderr);
        assert!(output.reports("task-leak").is_empty(), "{}", output.stderr);
    }
}

#[test]
fn past_the_limit_the_tasks_and_what_is_pending_are_told_and_the_test_panics() {
    for how in BOTH {
        let output = fails(how, "waits_for_ever", &[]);
        let told = output.reports("timeout");
        assert_eq!(told, ["test `program` isn't done after its limit of 400 ms"; 2], "{}", output.stderr);
        let message = message(&output);
        assert!(message.contains("  tasks      2 tasks"), "{message}");
        assert!(message.contains("test_wrapper::waiter"), "{message}");
        assert!(message.contains("  pending    Export with 3 left undone, made in"), "{message}");
        assert!(!message.contains("busy in"), "nobody is: {message}");
        let output = run(&format!("{how} then_another waits_for_ever"), &[]);
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        assert_eq!(output.said("another"), "passed");
    }
}

#[test]
fn with_every_worker_blocked_their_stacks_are_told_and_the_test_panics() {
    let output = run("mt then_another workers_blocked", &[]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let (told, _) = output.stderr.split_once("panicked at").unwrap();
    let stacks = told.lines().filter(|line| line.starts_with("  busy in "));
    let mut n = 0;
    for line in stacks {
        assert!(line.contains("test_wrapper::nap") && line.contains("tests/test_wrapper.rs:"), "{told}");
        n += 1;
    }
    assert!(n >= 1, "{told}");
    assert!(told.contains(", in clock_nanosleep"), "{told}");
}

#[test]
fn a_test_whose_own_thread_is_blocked_is_told_and_ends_the_process() {
    for (how, program) in [("mt", "root_blocked"), ("ct", "root_blocked"), ("ct", "task_blocks_root")] {
        let begun = Instant::now();
        let output = fails(how, program, &[]);
        assert!(begun.elapsed() < MS * 30_000);
        assert_eq!(output.reports("timeout").len(), 1, "{}", output.stderr);
        assert!(output.stderr.contains("test_wrapper::nap"), "{}", output.stderr);
        assert!(output.stderr.contains("its thread doesn't come back"), "{}", output.stderr);
    }
}

#[test]
fn a_test_that_comes_back_after_its_limit_fails_all_the_same() {
    for how in BOTH {
        let output = fails(how, "too_late", &[]);
        assert!(
            message(&output).contains("birthmark: timeout: test `program` isn't done"),
            "{}",
            output.stderr
        );
        let output = fails(how, "job_blocked", &[]);
        assert!(output.stderr.contains(", a blocking job, in clock_nanosleep"), "{}", output.stderr);
    }
}

#[test]
fn what_a_filter_makes_an_error_fails_the_test() {
    for how in BOTH {
        let output = fails(how, "poll_under_way", &[("BIRTHMARK_WARNINGS", "error::slow-callback")]);
        assert!(message(&output).contains("birthmark: slow-callback: "), "{}", output.stderr);
    }
}

#[test]
fn under_libtest_warnings_are_not_captured_and_one_line_ends_the_binary() {
    // No `--nocapture`: libtest shows what it captured of failing tests alone, on the standard output.
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "program", "--test-threads=2"]).env("CHILD_PROGRAM", "mt twice");
    let output = command.env_remove("RUST_BACKTRACE").stdin(Stdio::null()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert_eq!(err.matches("birthmark: resource-warning: BufWriter").count(), 1, "{err}");
    assert!(!out.contains("birthmark:"), "{out}");
    let last = err.lines().last().unwrap();
    assert_eq!(last, "birthmark: 2 warnings in this test run: 2 resource-warning", "{err}");
}

#[test]
fn without_the_wrapper_a_warning_on_a_worker_names_its_test_too() {
    let output = run("mt attached", &[("BIRTHMARK_ASYNC_DEBUG", "1")]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let report = output.stderr.split_once("birthmark: resource-warning").unwrap().1;
    assert!(report.contains("  thread tokio-r"), "{report}"); // its name differs by version
    assert!(report.contains("\n  test       program\n"), "{report}");
    assert!(report.contains("birthmark: 1 warning in this test run: 1 resource-warning"), "{report}");
}
