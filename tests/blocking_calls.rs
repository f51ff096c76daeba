//! `blocking-call`: a function that blocks its thread, called inside of a task and where it may be.

#![cfg(feature = "tokio")]

mod child_process;

use birthmark::WatchExt as _;
use child_process::{Output, asked, ran, run};
use tokio::runtime::{Builder, Handle};
use tokio::task::{LocalSet, block_in_place, spawn_blocking};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

struct Client;

impl Client {
    #[inline(never)]
    #[track_caller]
    fn query(&self) -> u32 {
        birthmark::blocking_call("Client::query", "Client::query_async(..).await");
        7
    }
}

#[inline(never)]
async fn handler() -> u32 {
    Client.query()
}

async fn waits() -> u32 {
    birthmark::block_on(async { tokio::spawn(async { 7 }).await.unwrap() })
}

fn panicked(result: Result<u32, tokio::task::JoinError>) {
    assert!(result.unwrap_err().is_panic());
}

async fn body(program: &str) {
    match program {
        "plain" => panicked(tokio::spawn(handler()).await),
        "wrapped" => panicked(birthmark::tokio::spawn(handler()).await),
        "block_on" => panicked(tokio::spawn(waits()).await),
        "in_local_set" => {
            let local = LocalSet::new();
            local.run_until(async { panicked(tokio::task::spawn_local(handler()).await) }).await;
        }
        "in_block_on_in_a_task" => {
            // In a worker's poll another executor's `block_on` is no place to block either.
            panicked(tokio::spawn(async { futures_executor::block_on(handler()) }).await);
        }
        "root" => drop(handler().await),
        "may" => {
            assert_eq!(spawn_blocking(|| Client.query()).await.unwrap(), 7);
            let handle = Handle::current();
            assert_eq!(spawn_blocking(move || handle.block_on(handler())).await.unwrap(), 7);
            let local = LocalSet::new();
            let job = local.spawn_local(async { spawn_blocking(|| Client.query()).await.unwrap() });
            local.run_until(async { assert_eq!(job.await.unwrap(), 7) }).await;
            let of_no_runtime = || {
                assert_eq!(Client.query(), 7);
                birthmark::block_on(async { 7 })
            };
            let joined = spawn_blocking(move || std::thread::spawn(of_no_runtime).join().unwrap());
            assert_eq!(joined.await.unwrap(), 7);
        }
        "in_block_in_place" => {
            let task = async {
                assert_eq!(block_in_place(|| Client.query()), 7);
                assert_eq!(block_in_place(|| birthmark::block_on(async { Client.query() })), 7);
                let handle = Handle::current();
                assert_eq!(block_in_place(|| handle.block_on(handler())), 7);
            };
            tokio::spawn(task).await.unwrap();
            birthmark::tokio::spawn(async { assert_eq!(block_in_place(|| Client.query()), 7) })
                .await
                .unwrap();
        }
        other => panic!("no program {other}"),
    }
}

#[test]
fn program() {
    let Some(asked) = asked() else { return };
    let (how, program) = asked.split_once(' ').unwrap_or((&asked, ""));
    match how {
        "mt" => birthmark::tokio::run(true, body(program)),
        "ct" => birthmark::tokio::run_on(Builder::new_current_thread().enable_all(), true, body(program)),
        "attached" => Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
            birthmark::tokio::attach(&Handle::current());
            birthmark::set_debug(true);
            body(program).await;
        }),
        "off" => birthmark::tokio::run(false, async {
            assert_eq!(tokio::spawn(handler()).await.unwrap(), 7);
            assert_eq!(tokio::spawn(async { birthmark::block_on(async { 7 }) }).await.unwrap(), 7);
        }),
        "smol" => {
            birthmark::set_debug(true);
            let task = smol::spawn(handler().watched());
            assert_eq!(smol::block_on(smol::unblock(|| Client.query())), 7);
            smol::block_on(task);
        }
        other => panic!("no way {other}"),
    }
    println!("done=yes");
}

const TRACED: (&str, &str) = ("TRACEMALLOC", "5");

fn told<'o>(output: &'o Output, text: &str) -> &'o str {
    let all = output.reports("blocking-call");
    assert_eq!(all.len(), 1, "{text}\n{}", output.stderr);
    let called = output.row("called");
    assert!(
        called.contains("tests/blocking_calls.rs:") || !cfg!(debug_assertions),
        "{text}\n{}",
        output.stderr
    );
    all[0]
}

#[test]
fn a_call_inside_of_a_task_panics_there_with_both_places() {
    for way in ["mt", "ct", "attached"] {
        for program in ["plain", "wrapped", "in_local_set", "in_block_on_in_a_task"] {
            let asked = format!("{way} {program}");
            let output = ran(&asked, &[TRACED]);
            let line = told(&output, &asked);
            let begins = "`Client::query` blocks its thread, and was called in a poll of ";
            assert!(line.starts_with(begins), "{asked}: {line}");
            assert!(line[begins.len()..].starts_with("task "), "{asked}: {line}");
            let spawned = output.row("spawned");
            // Optimised, an inlined async block has no better name than its line.
            let named = spawned.contains("blocking_calls::body") || !cfg!(debug_assertions);
            assert!(named && spawned.contains("tests/blocking_calls.rs:"), "{asked}\n{}", output.stderr);
            assert!(output.row("help").contains("`Client::query_async(..).await`"), "{}", output.stderr);
        }
    }
}

#[test]
fn without_tracing_a_wrapped_task_still_says_where_it_was_spawned_and_a_plain_one_which_switch_adds_it() {
    let output = ran("mt wrapped", &[]);
    told(&output, "wrapped");
    assert!(output.row("spawned").contains("tests/blocking_calls.rs:"), "{}", output.stderr);
    let output = ran("attached plain", &[]);
    told(&output, "plain");
    assert!(output.row("help").contains("TRACEMALLOC=5"), "{}", output.stderr);
}

#[test]
fn our_block_on_panics_in_a_task_where_others_would_wait_for_ever() {
    for way in ["mt", "ct"] {
        let output = ran(&format!("{way} block_on"), &[TRACED]);
        let line = told(&output, way);
        assert!(
            line.starts_with("`block_on` blocks its thread, and was called in a poll of task "),
            "{line}"
        );
        assert!(output.row("help").contains("`.await`"), "{}", output.stderr);
    }
}

#[test]
fn in_a_root_future_it_is_told_as_the_root() {
    for way in ["mt", "ct", "attached"] {
        let output = run(&format!("{way} root"), &[TRACED]);
        assert_eq!(output.code, Some(101), "{way}\n{}", output.stderr);
        assert!(told(&output, way).ends_with("called in a poll of the root future"), "{}", output.stderr);
    }
}

#[test]
fn on_another_executor_a_wrapped_task_is_told() {
    let output = run("smol", &[TRACED]);
    assert_eq!(output.code, Some(101), "{}", output.stderr);
    told(&output, "smol");
}

#[test]
fn where_a_thread_may_block_it_is_silent() {
    for program in
        ["mt may", "ct may", "attached may", "mt in_block_in_place", "attached in_block_in_place", "off"]
    {
        let output = ran(program, &[TRACED]);
        assert!(!output.stderr.contains("birthmark:"), "{program}\n{}", output.stderr);
    }
}

#[test]
fn a_filter_that_ignores_it_lets_the_call_pass() {
    for filter in ["ignore::blocking-call", "ignore:`client", "ignore:::blocking_calls", "0"] {
        let output = run("mt root", &[TRACED, ("BIRTHMARK_WARNINGS", filter)]);
        assert_eq!(output.code, Some(0), "{filter}\n{}", output.stderr);
        assert!(output.reports("blocking-call").is_empty(), "{filter}\n{}", output.stderr);
    }
    let output = run("mt root", &[TRACED, ("BIRTHMARK_WARNINGS", "ignore::slow-callback")]);
    assert_eq!(output.code, Some(101), "{}", output.stderr);
}
