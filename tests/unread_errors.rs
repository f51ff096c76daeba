//! Whose `Err` nobody read: tasks from `birthmark::tokio::spawn_fallible`, on both flavours, and from `spawn_local_fallible`.

#![cfg(feature = "tokio")]

mod child_process;

use std::time::Duration;

use birthmark::tokio::{spawn, spawn_fallible, spawn_local, spawn_local_fallible};
use child_process::{asked, run};
use tokio::runtime::Builder;
use tokio::task::{LocalSet, yield_now};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

/// Owns no memory.
#[derive(Debug)]
#[allow(dead_code)]
struct Broken(u8);

async fn settle() {
    tokio::time::sleep(Duration::from_millis(30)).await;
}

async fn fails() -> Result<u32, Broken> {
    println!("culprit={}", tokio::task::id());
    yield_now().await;
    Err(Broken(7))
}

async fn works() -> Result<u32, Broken> {
    yield_now().await;
    Ok(6)
}

async fn body(program: &str) {
    match program {
        // Unread.
        "detached" => drop(spawn_fallible(fails())),
        "dropped_later" => {
            let task = spawn_fallible(fails());
            settle().await;
            assert!(task.is_finished());
            drop(task);
        }
        "dropped_elsewhere" => {
            let task = spawn_fallible(fails());
            settle().await;
            spawn(async move { drop(task) }).await.unwrap();
        }
        "aborted_after" => {
            let task = spawn_fallible(fails());
            settle().await;
            task.abort();
        }
        "lost_a_select" => {
            tokio::select! {
                biased;
                () = std::future::ready(()) => {} // sooner than the task may end
                _ = spawn_fallible(fails()) => {}
            }
            settle().await;
        }
        // Held to the end.
        "leaked" => {
            std::mem::forget(spawn_fallible(fails()));
            settle().await;
        }
        // Read, or there is nothing to read.
        "awaited" => assert!(spawn_fallible(fails()).await.unwrap().is_err()),
        "awaited_by_reference" => {
            let mut task = spawn_fallible(fails());
            assert!((&mut task).await.unwrap().is_err());
            drop(task);
        }
        "read_and_kept" => {
            let mut task = spawn_fallible(fails());
            let error = (&mut task).await;
            std::mem::forget((task, error));
        }
        "read_elsewhere" => {
            let task = spawn_fallible(fails());
            spawn(async move { assert!(task.await.unwrap().is_err()) }).await.unwrap();
        }
        "works" => {
            drop(spawn_fallible(works()));
            let task = spawn_fallible(works());
            settle().await;
            drop(task);
            std::mem::forget(spawn_fallible(works()));
            settle().await;
        }
        "aborted" => {
            // Before its first poll, or just after it.
            spawn_fallible(async {
                settle().await;
                fails().await
            })
            .abort();
            let waits = spawn_fallible(async {
                std::future::pending::<()>().await;
                fails().await
            });
            settle().await;
            waits.abort();
        }
        "panics" => {
            let task = spawn_fallible(async {
                assert!(std::hint::black_box(false), "of the task");
                fails().await
            });
            assert!(task.await.unwrap_err().is_panic());
        }
        "panic_takes_it_along" => {
            let task = tokio::spawn(async {
                let _failed = spawn_fallible(fails());
                settle().await;
                panic!("the panic is the news");
            });
            assert!(task.await.is_err());
        }
        // A task of which nobody can know whether its output is an `Err`.
        "plainly_spawned" => {
            drop(tokio::spawn(fails()));
            drop(spawn(fails()));
        }
        other => panic!("no program {other}"),
    }
    settle().await;
}

/// Fails with what isn't `Send`.
async fn fails_here() -> Result<u32, std::rc::Rc<Broken>> {
    println!("culprit={}", tokio::task::id());
    yield_now().await;
    Err(std::rc::Rc::new(Broken(7)))
}

async fn local_body(program: &str) {
    match program {
        "detached" => drop(spawn_local_fallible(fails_here())),
        "dropped_later" => {
            let task = spawn_local_fallible(fails_here());
            settle().await;
            assert!(task.is_finished());
            drop(task);
        }
        "dropped_elsewhere" => {
            let task = spawn_local_fallible(fails_here());
            settle().await;
            spawn_local(async move { drop(task) }).await.unwrap();
        }
        "leaked" => {
            std::mem::forget(spawn_local_fallible(fails_here()));
            settle().await;
        }
        // Read, or there is nothing to read.
        "awaited" => assert!(spawn_local_fallible(fails_here()).await.unwrap().is_err()),
        "read_elsewhere" => {
            let task = spawn_local_fallible(fails_here());
            spawn_local(async move { assert!(task.await.unwrap().is_err()) }).await.unwrap();
        }
        "works" => {
            drop(spawn_local_fallible(works()));
            assert!(spawn_local_fallible(works()).await.unwrap().is_ok());
        }
        "aborted" => {
            spawn_local_fallible(fails()).abort();
            settle().await;
        }
        other => panic!("no program {other}"),
    }
    settle().await;
}

async fn in_a_local_set(program: &str) {
    LocalSet::new().run_until(local_body(program)).await;
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
            "plain" => Builder::new_current_thread().enable_all().build().unwrap().block_on(body(program)),
            "off" => birthmark::tokio::run(false, body(program)),
            "local_mt" => birthmark::tokio::run(true, in_a_local_set(program)),
            "local_ct" => birthmark::tokio::run_on(
                Builder::new_current_thread().enable_all(),
                true,
                in_a_local_set(program),
            ),
            "local_off" => birthmark::tokio::run(false, in_a_local_set(program)),
            other => panic!("no way {other}"),
        }
    }
}

const DEBUG: (&str, &str) = ("BIRTHMARK_ASYNC_DEBUG", "1");

#[test]
fn an_error_that_nobody_reads_is_told_once_with_its_text_and_the_place_of_its_task() {
    for how in ["mt", "ct", "plain"] {
        for program in
            ["detached", "dropped_later", "dropped_elsewhere", "aborted_after", "lost_a_select", "leaked"]
        {
            told_once(how, program, "fails");
        }
    }
}

/// The one report, with tracing and without.
fn told_once(how: &str, program: &str, future: &str) {
    for more in [("TRACEMALLOC", "5"), ("BIRTHMARK_MALLOC", "0")] {
        let output = run(&format!("{how} {program}"), &[DEBUG, more]);
        let text = format!("{how} {program} {more:?}\n{}\n{}", output.stdout, output.stderr);
        assert_eq!(output.code, Some(0), "{text}");
        let all = output.reports("task-error");
        let until = if program == "leaked" { " before the program ended" } else { "" };
        let culprit = output.said("culprit");
        let told =
            format!("task {culprit} `unread_errors::{future}` failed and nobody read it{until}: Broken(7)");
        assert_eq!(all, [told], "{text}");
        let spawned = output.stderr.lines().find(|line| line.starts_with("  spawned "));
        assert!(spawned.is_some_and(|line| line.contains("tests/unread_errors.rs:")), "{text}");
        if program.starts_with("dropped") {
            assert!(output.stderr.contains("\n  dropped "), "{text}");
        }
        // The report, and the line that ends a test binary.
        assert_eq!(output.stderr.matches("birthmark:").count(), 2, "{text}");
    }
}

#[test]
fn an_error_of_a_task_of_a_local_set_that_nobody_reads_is_told_as_any_other() {
    for how in ["local_mt", "local_ct"] {
        for program in ["detached", "dropped_later", "dropped_elsewhere", "leaked"] {
            told_once(how, program, "fails_here");
        }
    }
}

/// No report.
fn silent(how: &str, program: &str) {
    let output = run(&format!("{how} {program}"), &[DEBUG, ("TRACEMALLOC", "5")]);
    let text = format!("{how} {program}\n{}\n{}", output.stdout, output.stderr);
    assert_eq!(output.code, Some(0), "{text}");
    // A panic's backtrace may well be a slow poll.
    assert!(output.reports("task-error").is_empty(), "{text}");
}

#[test]
fn in_a_local_set_too_what_is_read_what_works_and_what_never_came_to_its_end_is_silent() {
    for how in ["local_mt", "local_ct"] {
        ["awaited", "read_elsewhere", "works", "aborted"].iter().for_each(|program| silent(how, program));
    }
}

#[test]
fn what_is_read_what_works_and_what_never_came_to_its_end_is_silent() {
    for how in ["mt", "ct", "plain"] {
        for program in [
            "awaited",
            "awaited_by_reference",
            "read_and_kept",
            "read_elsewhere",
            "works",
            "aborted",
            "panics",
            "panic_takes_it_along",
            "plainly_spawned",
        ] {
            silent(how, program);
        }
    }
}

#[test]
fn filters_see_unread_errors_and_while_async_debug_is_off_nothing_is_told() {
    let ignored = run("mt detached", &[("BIRTHMARK_WARNINGS", "ignore::task-error")]);
    let off = run("off detached", &[]);
    let local_off = run("local_off detached", &[]);
    for output in [ignored, off, local_off] {
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        assert!(!output.stderr.contains("birthmark:"), "{}", output.stderr);
    }
}
