//! A watched future that is dropped without a poll: told where the program forgot it, silent where its owner was cancelled. On both
//! flavours of tokio, in a `LocalSet` and on another executor.

#![cfg(feature = "tokio")]

mod child_process;
mod executors;

use std::time::Duration;

use birthmark::WatchExt as _;
use child_process::{asked, run};
use executors::run_as_a_local_task;
use tokio::runtime::Builder;
use tokio::task::yield_now;

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

async fn work() {
    yield_now().await;
}

struct Holder(#[allow(dead_code)] birthmark::Watched<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>>);

async fn body(program: &str) {
    match program {
        // Forgotten.
        "dropped" => drop(work().watched()),
        "at_scope_end" => {
            let _forgotten = work().watched();
            yield_now().await;
        }
        "in_a_task" => tokio::spawn(async { drop(birthmark::watched(work())) }).await.unwrap(),
        "held" => {
            let boxed: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(work());
            drop(Holder(boxed.watched()));
        }
        // Not forgotten.
        "unwatched" => {
            #[allow(clippy::let_underscore_future)]
            let _ = work();
        }
        "awaited" => work().watched().await,
        "polled_once" => {
            let mut future = Box::pin(work().watched());
            std::future::poll_fn(|cx| {
                let _ = future.as_mut().poll(cx);
                std::task::Poll::Ready(())
            })
            .await;
        }
        "spawned" => birthmark::tokio::spawn(work()).await.unwrap(),
        "spawned_plainly" => tokio::spawn(work().watched()).await.unwrap(),
        "aborted_unpolled" => {
            birthmark::tokio::spawn(work()).abort();
            tokio::spawn(work().watched()).abort();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        "join_set_dropped" => {
            let mut set = tokio::task::JoinSet::new();
            set.spawn(work().watched());
            drop(set);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        "shut_down_unpolled" => {
            drop(birthmark::tokio::spawn(work()));
            drop(tokio::spawn(work().watched()));
        }
        "owner_aborted" => {
            let owner = tokio::spawn(async {
                let held = work().watched();
                std::future::pending::<()>().await;
                held.await;
            });
            tokio::time::sleep(Duration::from_millis(20)).await;
            owner.abort();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        "owner_lost" => {
            let owner = async {
                let held = work().watched();
                std::future::pending::<()>().await;
                held.await;
            };
            let _ = tokio::time::timeout(Duration::from_millis(5), owner).await;
        }
        "select" => {
            for _ in 0..50 {
                tokio::select! {
                    biased;
                    () = std::future::ready(()) => {}
                    () = work().watched() => {}
                }
            }
        }
        "panicking" => {
            let task = tokio::spawn(async {
                let _held = work().watched();
                panic!("the panic is the news");
            });
            assert!(task.await.is_err());
        }
        "local_set_dropped" => {
            let local = tokio::task::LocalSet::new();
            local.spawn_local(work().watched());
            local.run_until(async { drop(birthmark::tokio::spawn_local(work())) }).await;
        }
        "switched" => {
            let mut future = Box::pin(work().watched());
            birthmark::set_debug(false);
            std::future::poll_fn(|cx| {
                let _ = future.as_mut().poll(cx);
                std::task::Poll::Ready(())
            })
            .await;
            birthmark::set_debug(true);
        }
        other => panic!("no program {other}"),
    }
}

/// Futures that an executor, or a collection of `futures`, drops unpolled with what held them.
fn cancelled_on_smol() {
    birthmark::set_debug(true);
    let executor = smol::Executor::new();
    executor.spawn(work().watched()).detach();
    drop(executor);
    let executor = smol::LocalExecutor::new();
    drop(executor.spawn(work().watched()));
    executor.spawn(async { assert!(smol::spawn(work().watched()).cancel().await.is_none()) }).detach();
    let owner = executor.spawn(async {
        let held = work().watched();
        std::future::pending::<()>().await;
        held.await;
    });
    smol::block_on(executor.run(async {
        for _ in 0..10 {
            yield_now().await;
        }
        owner.cancel().await;
    }));
    let unordered: futures_util::stream::FuturesUnordered<_> = [work().watched()].into_iter().collect();
    drop(unordered);
    drop(futures_util::future::join_all([work().watched()]));
}

#[test]
fn program() {
    if let Some(asked) = asked() {
        let (how, program) = asked.split_once(' ').unwrap();
        match how {
            "mt" => birthmark::tokio::run(true, body(program)),
            "ct" => {
                birthmark::tokio::run_on(Builder::new_current_thread().enable_all(), true, body(program));
            }
            "off" => birthmark::tokio::run(false, body(program)),
            "smol" if program == "cancelled" => cancelled_on_smol(),
            "local" | "smol" => {
                let program = program.to_owned();
                run_as_a_local_task(how, async move { body(&program).await });
            }
            other => panic!("no way {other}"),
        }
    }
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "needs line tables: CARGO_PROFILE_RELEASE_DEBUG=line-tables-only")]
fn a_future_that_the_program_forgets_is_told_once_with_both_places() {
    for how in ["mt", "ct", "local", "smol"] {
        for program in ["dropped", "at_scope_end", "in_a_task", "held"] {
            if (how, program) == ("smol", "in_a_task") {
                continue; // a task of tokio's; the others are tasks of smol's there
            }
            for variables in [&[][..], &[("TRACEMALLOC", "5")]] {
                let output = run(&format!("{how} {program}"), variables);
                let text = format!("{how} {program} {variables:?}\n{}", output.stderr);
                assert_eq!(output.code, Some(0), "{text}");
                let all = output.reports("never-awaited");
                assert_eq!(all.len(), 1, "{text}");
                assert!(all[0].ends_with("was dropped and had never been polled"), "{text}");
                if program != "held" {
                    assert!(all[0].starts_with("future `never_awaited::work`"), "{text}");
                }
                for label in ["  created ", "  dropped "] {
                    let line = output.stderr.lines().find(|l| l.starts_with(label));
                    assert!(line.is_some_and(|l| l.contains("tests/never_awaited.rs:")), "{text}");
                }
            }
        }
    }
}

#[test]
fn a_future_that_was_polled_or_whose_owner_was_cancelled_is_silent() {
    for how in ["mt", "ct"] {
        for program in [
            "unwatched",
            "awaited",
            "polled_once",
            "spawned",
            "spawned_plainly",
            "aborted_unpolled",
            "join_set_dropped",
            "shut_down_unpolled",
            "owner_aborted",
            "owner_lost",
            "select",
            "panicking",
            "switched",
        ] {
            let output = run(&format!("{how} {program}"), &[("TRACEMALLOC", "5")]);
            assert_eq!(output.code, Some(0), "{how} {program}\n{}", output.stderr);
            assert!(output.reports("never-awaited").is_empty(), "{how} {program}\n{}", output.stderr);
        }
    }
}

#[test]
fn in_a_local_set_and_on_another_executor_too_what_was_polled_or_cancelled_is_silent() {
    for program in [
        "local awaited",
        "local polled_once",
        "local owner_aborted",
        "local select",
        "mt local_set_dropped",
        "ct local_set_dropped",
        "smol awaited",
        "smol polled_once",
        "smol select",
        "smol cancelled",
    ] {
        let output = run(program, &[("TRACEMALLOC", "5")]);
        assert_eq!(output.code, Some(0), "{program}\n{}", output.stderr);
        assert!(output.reports("never-awaited").is_empty(), "{program}\n{}", output.stderr);
    }
}

#[test]
fn while_async_debug_is_off_nothing_is_told() {
    let output = run("off dropped", &[]);
    assert!(!output.stderr.contains("birthmark:"), "{}", output.stderr);
}
