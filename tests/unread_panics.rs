//! Whose panic nobody read: tokio's own `JoinHandle`, nothing wrapped, on both flavours.

#![cfg(feature = "tokio")]

mod child_process;

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use child_process::{Output, asked, run};
use tokio::runtime::Builder;
use tokio::task::{JoinSet, LocalSet, block_in_place, spawn_blocking, yield_now};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

const MS: Duration = Duration::from_millis(1);

fn boom() {
    panic!("boom");
}

fn say() {
    println!("culprit={}", tokio::task::id());
}

async fn fails() {
    say();
    yield_now().await;
    boom();
}

/// `catch_unwind` around each poll of a future.
struct Caught<F>(Pin<Box<F>>);
impl<F: Future> Future for Caught<F> {
    type Output = std::thread::Result<F::Output>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
            Err(payload) => Poll::Ready(Err(payload)),
        }
    }
}

#[repr(align(256))]
struct Aligned(u64);

async fn body(program: &str) {
    match program {
        // Unread.
        "detached" => drop(tokio::spawn(fails())),
        "dropped_later" => {
            let handle = tokio::spawn(fails());
            tokio::time::sleep(MS * 30).await;
            assert!(handle.is_finished());
            drop(handle);
        }
        "dropped_in_another_task" => {
            let handle = tokio::spawn(fails());
            tokio::time::sleep(MS * 30).await;
            tokio::spawn(async move { drop(handle) }).await.unwrap();
        }
        "aborted_after" => {
            let handle = tokio::spawn(fails());
            tokio::time::sleep(MS * 30).await;
            handle.abort();
            drop(handle);
        }
        "join_set_dropped" => {
            let mut set = JoinSet::new();
            set.spawn(fails());
            tokio::time::sleep(MS * 30).await;
            drop(set);
        }
        "blocking_detached" => {
            drop(spawn_blocking(|| {
                say();
                boom();
            }));
            tokio::time::sleep(MS * 30).await;
        }
        "local_detached" => {
            LocalSet::new()
                .run_until(async {
                    drop(tokio::task::spawn_local(fails()));
                    tokio::time::sleep(MS * 30).await;
                })
                .await;
        }
        "large_future" => drop(tokio::spawn(async {
            let big = [1u8; 20_000];
            yield_now().await;
            say();
            std::hint::black_box(&big);
            boom();
        })),
        "aligned_future" => drop(tokio::spawn(async {
            let wide = Aligned(1);
            yield_now().await;
            say();
            std::hint::black_box(wide.0);
            boom();
        })),
        "string" => drop(tokio::spawn(async {
            say();
            let n = std::hint::black_box(3);
            panic!("boom {n}");
        })),
        "any" => drop(tokio::spawn(async {
            say();
            std::panic::panic_any(7u64);
        })),
        "returned_as_output" => drop(tokio::spawn(async {
            say();
            catch_unwind(boom).err()
        })),
        // Held to the program's end.
        "leaked" => {
            std::mem::forget(tokio::spawn(fails()));
            tokio::time::sleep(MS * 30).await;
        }
        "leaked_large" => {
            std::mem::forget(tokio::spawn(async {
                let big = [1u64; 100];
                yield_now().await;
                say();
                std::hint::black_box(&big);
                boom();
                big
            }));
            tokio::time::sleep(MS * 30).await;
        }
        "leaked_string" => {
            std::mem::forget(tokio::spawn(async {
                say();
                let n = std::hint::black_box(3);
                panic!("boom {n}");
            }));
            tokio::time::sleep(MS * 30).await;
        }
        "local_leaked" => {
            let set = LocalSet::new();
            set.run_until(async {
                std::mem::forget(tokio::task::spawn_local(fails()));
                tokio::time::sleep(MS * 30).await;
            })
            .await;
        }
        "in_a_static" => {
            static HELD: std::sync::Mutex<Vec<tokio::task::JoinHandle<()>>> =
                std::sync::Mutex::new(Vec::new());
            let handle = tokio::spawn(fails());
            HELD.lock().unwrap().push(handle);
            tokio::time::sleep(MS * 30).await;
        }
        "set_leaked" => {
            let mut set = JoinSet::new();
            set.spawn(fails());
            std::mem::forget(set);
            tokio::time::sleep(MS * 30).await;
        }
        "blocking_leaked" => {
            std::mem::forget(spawn_blocking(|| {
                say();
                boom();
            }));
            tokio::time::sleep(MS * 30).await;
        }
        // Read, and both the handle and what was read held to the program's end.
        "error_kept" => {
            let mut handle = tokio::spawn(fails());
            let error = (&mut handle).await.unwrap_err();
            std::mem::forget((handle, error));
        }
        "payload_kept" => {
            let mut handle = tokio::spawn(fails());
            let payload = (&mut handle).await.unwrap_err().into_panic();
            std::mem::forget((handle, payload));
        }
        "error_kept_alone" => std::mem::forget(tokio::spawn(fails()).await.unwrap_err()),
        "blocking_error_kept" => {
            let mut handle = spawn_blocking(|| {
                say();
                boom();
            });
            let error = (&mut handle).await.unwrap_err();
            std::mem::forget((handle, error));
        }
        "caught_and_kept" => {
            let handle = tokio::spawn(async {
                say();
                std::mem::forget(catch_unwind(boom));
            });
            std::mem::forget(handle);
            tokio::time::sleep(MS * 30).await;
        }
        // Read.
        "awaited" => {
            let error = tokio::spawn(fails()).await.unwrap_err();
            assert!(error.is_panic());
        }
        "into_panic" => {
            let payload = tokio::spawn(fails()).await.unwrap_err().into_panic();
            assert_eq!(payload.downcast_ref::<&str>(), Some(&"boom"));
        }
        "awaited_elsewhere" => {
            let handle = tokio::spawn(fails());
            tokio::spawn(async move { assert!(handle.await.unwrap_err().is_panic()) }).await.unwrap();
        }
        "into_panic_elsewhere" => {
            let handle = tokio::spawn(fails());
            let payload = tokio::spawn(async move { handle.await.unwrap_err().into_panic() }).await.unwrap();
            drop(payload);
        }
        "join_next" => {
            let mut set = JoinSet::new();
            set.spawn(fails());
            assert!(set.join_next().await.unwrap().is_err());
        }
        "caught_at_once" => tokio::spawn(async {
            say();
            assert!(catch_unwind(boom).is_err());
            yield_now().await;
        })
        .await
        .unwrap(),
        "caught_over_an_await" => tokio::spawn(async {
            let payload = Caught(Box::pin(fails())).await.unwrap_err();
            yield_now().await;
            drop(payload);
        })
        .await
        .unwrap(),
        "caught_in_poll_fn" => tokio::spawn(async {
            say();
            poll_fn(|_| {
                let caught = catch_unwind(boom);
                assert!(caught.is_err());
                Poll::Ready(())
            })
            .await;
        })
        .await
        .unwrap(),
        "caught_in_place" => tokio::spawn(async {
            say();
            block_in_place(|| assert!(catch_unwind(boom).is_err()));
        })
        .await
        .unwrap(),
        "caught_in_blocking" => spawn_blocking(|| {
            say();
            assert!(catch_unwind(boom).is_err());
        })
        .await
        .unwrap(),
        "blocking_awaited" => {
            let error = spawn_blocking(|| {
                say();
                boom();
            })
            .await
            .unwrap_err();
            assert!(error.is_panic());
        }
        "local_awaited" => {
            LocalSet::new()
                .run_until(async { assert!(tokio::task::spawn_local(fails()).await.unwrap_err().is_panic()) })
                .await;
        }
        "local_caught" => {
            LocalSet::new()
                .run_until(async {
                    let task = tokio::task::spawn_local(async {
                        let payload = Caught(Box::pin(fails())).await.unwrap_err();
                        yield_now().await;
                        drop(payload);
                    });
                    task.await.unwrap();
                })
                .await;
        }
        "smol_caught" => {
            // Another executor's: whoever polls it gets the panic.
            let thread = std::thread::spawn(|| {
                let executor = smol::LocalExecutor::new();
                let task = executor.spawn(async { boom() });
                catch_unwind(AssertUnwindSafe(|| smol::block_on(executor.run(task))))
            });
            std::mem::forget(thread.join().unwrap().unwrap_err());
        }
        "no_size" => drop(tokio::spawn(async {
            say();
            std::panic::panic_any(());
        })),
        "many" => {
            for _ in 0..200 {
                drop(tokio::spawn(async {
                    yield_now().await;
                    boom();
                }));
                tokio::time::sleep(MS).await;
            }
        }
        "select" => {
            let mut handle = pin!(tokio::spawn(fails()));
            tokio::time::sleep(MS * 30).await;
            assert!(handle.as_mut().await.is_err());
        }
        other => panic!("no program {other}"),
    }
    tokio::time::sleep(MS * 30).await;
}

fn child(asked: &str) {
    let (how, program) = asked.split_once(' ').unwrap();
    let whole = async {
        birthmark::tokio::attach(&tokio::runtime::Handle::current());
        body(program).await;
    };
    match how {
        "mt" => Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(whole),
        "ct" => Builder::new_current_thread().enable_all().build().unwrap().block_on(whole),
        "run" => birthmark::tokio::run(false, body(program)),
        other => panic!("no way {other}"),
    }
}

#[test]
fn program() {
    if let Some(asked) = asked() {
        std::panic::set_hook(Box::new(|_| println!("hook=called")));
        child(&asked);
    }
}

const UNREAD: [&str; 12] = [
    "detached",
    "dropped_later",
    "dropped_in_another_task",
    "aborted_after",
    "join_set_dropped",
    "blocking_detached",
    "local_detached",
    "large_future",
    "aligned_future",
    "string",
    "any",
    "returned_as_output",
];

const READ: [&str; 14] = [
    "awaited",
    "into_panic",
    "awaited_elsewhere",
    "into_panic_elsewhere",
    "join_next",
    "caught_at_once",
    "caught_over_an_await",
    "caught_in_poll_fn",
    "caught_in_place",
    "caught_in_blocking",
    "blocking_awaited",
    "local_awaited",
    "local_caught",
    "select",
];

const HELD: [&str; 7] = [
    "leaked",
    "leaked_large",
    "leaked_string",
    "in_a_static",
    "set_leaked",
    "blocking_leaked",
    "local_leaked",
];

const KEPT: [&str; 6] = [
    "error_kept",
    "payload_kept",
    "error_kept_alone",
    "blocking_error_kept",
    "caught_and_kept",
    "smol_caught",
];

#[test]
fn a_panic_whose_handle_is_forgotten_or_held_to_the_end_is_told_at_exit() {
    for how in ["mt", "ct"] {
        for program in HELD {
            for variables in [&[][..], &[("BIRTHMARK_MALLOC", "0")], &[("TRACEMALLOC", "5")]] {
                let output = run(&format!("{how} {program}"), variables);
                let text = format!("{how} {program} {variables:?}\n{}\n{}", output.stdout, output.stderr);
                assert_eq!(output.code, Some(0), "{text}");
                let all = output.reports("task-error");
                assert_eq!(all.len(), 1, "{text}");
                let culprit = output.said("culprit");
                let head = format!("task {culprit} panicked and nobody read it before the program ended: ");
                assert!(all[0].starts_with(&head), "{text}");
                assert!(output.stderr.contains("tests/unread_panics.rs:"), "{text}");
            }
        }
    }
}

#[test]
fn a_panic_that_was_read_is_silent_at_exit_though_everything_is_kept() {
    for how in ["mt", "ct"] {
        for program in KEPT {
            for variables in [&[][..], &[("BIRTHMARK_MALLOC", "0")], &[("TRACEMALLOC", "5")]] {
                let output = run(&format!("{how} {program}"), variables);
                assert_eq!(output.code, Some(0), "{how} {program}\n{}\n{}", output.stdout, output.stderr);
                assert!(!output.stderr.contains("birthmark:"), "{how} {program}\n{}", output.stderr);
            }
        }
    }
}

fn unread(how: &str, program: &str, variables: &[(&str, &str)]) -> Output {
    let output = run(&format!("{how} {program}"), variables);
    let text = format!("{how} {program} {variables:?}\n{}\n{}", output.stdout, output.stderr);
    assert_eq!(output.code, Some(0), "{text}");
    let all = output.reports("task-error");
    assert_eq!(all.len(), 1, "{text}");
    assert!(
        all[0].starts_with(&format!("task {} panicked and nobody read it: ", output.said("culprit"))),
        "{text}"
    );
    // The panic's own place needs no debug information.
    assert!(output.stderr.contains("tests/unread_panics.rs:"), "{text}");
    assert_eq!(output.said("hook"), "called", "{text}");
    output
}

#[test]
fn a_panic_that_nobody_reads_is_told_once_by_its_task_with_tracing_and_without() {
    for how in ["mt", "ct"] {
        for program in UNREAD {
            unread(how, program, &[]);
            let traced = unread(how, program, &[("TRACEMALLOC", "5")]);
            assert!(traced.stderr.contains("  spawned "), "{how} {program}\n{}", traced.stderr);
        }
    }
}

#[test]
fn without_the_debug_heap_too() {
    for program in UNREAD {
        unread("run", program, &[("BIRTHMARK_MALLOC", "0")]);
    }
}

#[test]
fn a_panic_that_is_read_or_caught_inside_is_silent() {
    for how in ["mt", "ct"] {
        for program in READ {
            if how == "ct" && program == "caught_in_place" {
                continue;
            }
            for variables in [&[][..], &[("BIRTHMARK_MALLOC", "0")], &[("TRACEMALLOC", "5")]] {
                let output = run(&format!("{how} {program}"), variables);
                assert_eq!(output.code, Some(0), "{how} {program}\n{}\n{}", output.stdout, output.stderr);
                assert!(!output.stderr.contains("birthmark:"), "{how} {program}\n{}", output.stderr);
                assert_eq!(output.said("hook"), "called", "{how} {program}");
            }
        }
    }
}

#[test]
fn a_payload_without_size_is_unseen_as_documented() {
    let output = run("mt no_size", &[]);
    assert_eq!(output.code, Some(0));
    assert!(output.reports("task-error").is_empty(), "{}", output.stderr);
}

#[test]
fn places_on_the_watch_list_are_given_back() {
    let output = run("mt many", &[("BIRTHMARK_MALLOC", "0")]);
    let told = output.reports("task-error");
    assert_eq!(told.len(), 2, "one report and its count: {}", output.stderr);
    assert!(told[0].contains("panicked and nobody read it"), "{}", output.stderr);
    assert!(
        told[1].starts_with("panicked ") && told[1].ends_with(": 200 times in all, told once"),
        "{}",
        output.stderr
    );
}
