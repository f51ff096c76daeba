//! Filters, errors and catching, each with real warnings in a child process of its own.

#![cfg(feature = "tokio")]

mod child_process;

use std::pin::Pin;
use std::sync::Mutex;

use birthmark::ResourceGuard;
use birthmark::warnings::{self, Action, Filter, Kind, Level};
use child_process::{Output, asked, run};
use tokio::runtime::Builder;
use tokio::task::{LocalSet, yield_now};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

/// Each with words of its own: a release build makes one function of those that are the same.
mod export {
    #[inline(never)]
    pub fn lose(what: &'static str, n: usize) {
        let guard = super::ResourceGuard::new(what, "finish()");
        guard.pending(n);
        drop(std::hint::black_box(guard));
    }
}

mod cache {
    #[inline(never)]
    pub fn lose(what: &'static str, n: usize) {
        let guard = super::ResourceGuard::new(what, "finish() of the cache");
        guard.pending(n);
        drop(std::hint::black_box(guard));
    }

    #[inline(never)]
    pub fn lose_more(what: &'static str, n: usize) {
        let guard = super::ResourceGuard::new(what, "finish() of the whole cache");
        guard.pending(n);
        drop(std::hint::black_box(guard));
    }
}

/// Twice from one site, once from another, once with other words.
fn lose_all() {
    birthmark::set_debug(true);
    for n in 1..=2 {
        export::lose("Export", n);
    }
    cache::lose("Export", 3);
    cache::lose_more("Cache", 4);
}

async fn fails() {
    panic!("boom");
}

/// A task that panics unread on this thread.
fn lose_a_panic() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    birthmark::tokio::attach(runtime.handle());
    runtime.block_on(async {
        drop(tokio::spawn(fails()));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    });
}

fn child(program: &str) {
    match program {
        "lose" => lose_all(),
        "code" => {
            warnings::filter(Action::Ignore);
            warnings::filter(Filter::new(Action::Always).message("Export"));
            lose_all();
        }
        "run" => birthmark::tokio::run(true, async { lose_all() }),
        "run_slow" => {
            birthmark::set_slow_callback_duration(std::time::Duration::from_millis(50));
            birthmark::tokio::run(true, async {
                let slow = async { std::thread::sleep(std::time::Duration::from_millis(400)) };
                tokio::spawn(slow).await.unwrap();
            });
        }
        "panic" => lose_a_panic(),
        "check" => {
            warnings::check();
            lose_all();
            for _ in 0..2 {
                let payload = std::panic::catch_unwind(warnings::check).unwrap_err();
                println!("said={}", payload.downcast_ref::<String>().unwrap().lines().next().unwrap());
                warnings::check();
                export::lose("Export", 5);
            }
            let _ = std::panic::catch_unwind(warnings::check);
        }
        "catch" => {
            let ((), caught) = warnings::catch(lose_all);
            println!("caught={}", caught.len());
            let first = &caught[0];
            println!("first={} {} {:?}", first.kind(), first.sentence(), first.level() == Level::Warning);
            let dropped = first.traceback("dropped").unwrap();
            println!("dropped={}", dropped.lead().function().unwrap());
            println!("row={}", first.to_string().lines().next().unwrap());
        }
        "catch_panic" => {
            let ((), caught) = warnings::catch(lose_a_panic);
            println!("caught={}", caught.len());
            println!("kind={}", caught[0].kind() == Kind::TaskError);
            println!("words={}", caught[0].sentence());
        }
        "catch_many_panics" => {
            let ((), caught) = warnings::catch(|| {
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                birthmark::tokio::attach(runtime.handle());
                runtime.block_on(async {
                    for _ in 0..200 {
                        drop(tokio::spawn(fails()));
                        yield_now().await;
                    }
                });
            });
            println!("caught={}", caught.len());
        }
        "nested" => {
            birthmark::set_debug(true);
            let (((), inner), outer) = warnings::catch(|| {
                export::lose("Outer", 1);
                let inner = warnings::catch(|| export::lose("Inner", 2));
                export::lose("Outer", 3);
                std::thread::spawn(|| export::lose("Elsewhere", 4)).join().unwrap();
                inner
            });
            println!("inner={} outer={}", inner.len(), outer.len());
        }
        "catch_then_panic" => {
            birthmark::set_debug(true);
            let _ = std::panic::catch_unwind(|| {
                warnings::catch(|| {
                    export::lose("Export", 1);
                    panic!("out of it");
                })
            });
        }
        "run_ct" => birthmark::tokio::run_on(&mut Builder::new_current_thread(), true, async { lose_all() }),
        "run_local" => birthmark::tokio::run(true, async {
            let lose = async { tokio::task::spawn_local(async { lose_all() }).await.unwrap() };
            LocalSet::new().run_until(lose).await;
        }),
        "catch_async" => birthmark::tokio::run(true, async {
            let work = |n: usize| async move {
                for _ in 0..n {
                    export::lose("Export", n);
                    yield_now().await;
                }
            };
            let tasks: Vec<_> = (1..=4).map(|n| tokio::spawn(warnings::catch_async(work(n)))).collect();
            let mut counts = Vec::new();
            for task in tasks {
                counts.push(task.await.unwrap().1.len());
            }
            println!("counts={counts:?}");
        }),
        "interleaved_mt" => birthmark::tokio::run(true, interleaved(&|task| drop(tokio::spawn(task)))),
        "interleaved_ct" => {
            let body = interleaved(&|task| drop(tokio::spawn(task)));
            birthmark::tokio::run_on(&mut Builder::new_current_thread(), true, body);
        }
        "interleaved_local" => birthmark::tokio::run(true, async {
            let body = interleaved(&|task| drop(tokio::task::spawn_local(task)));
            LocalSet::new().run_until(body).await;
        }),
        "interleaved_smol" => {
            birthmark::set_debug(true);
            let executor = smol::LocalExecutor::new();
            smol::block_on(executor.run(interleaved(&|task| executor.spawn(task).detach())));
        }
        other => panic!("no program {other}"),
    }
}

/// Three tasks lose something in turn: two catch, each its own, and the third doesn't.
async fn interleaved(spawn: &dyn Fn(Pin<Box<dyn Future<Output = ()> + Send>>)) {
    static TURNS: Mutex<Vec<&str>> = Mutex::new(Vec::new());
    static DONE: Mutex<Vec<String>> = Mutex::new(Vec::new());
    async fn work(what: &'static str) {
        for n in 1..=3 {
            export::lose(what, n);
            TURNS.lock().unwrap().push(what);
            yield_now().await;
        }
    }
    for what in ["Left", "Right"] {
        spawn(Box::pin(async move {
            let ((), caught) = warnings::catch_async(work(what)).await;
            let all: Vec<_> = caught.iter().map(|warning| warning.sentence()).collect();
            DONE.lock().unwrap().push(format!("{what}={}", all.join("|")));
        }));
    }
    spawn(Box::pin(async {
        work("Nobody").await;
        DONE.lock().unwrap().push("Nobody=".into());
    }));
    while DONE.lock().unwrap().len() < 3 {
        yield_now().await;
    }
    DONE.lock().unwrap().iter().for_each(|line| println!("{line}"));
    println!("turns={}", TURNS.lock().unwrap().join(" "));
}

#[test]
fn program() {
    if let Some(asked) = asked() {
        child(&asked);
    }
}

fn under(program: &str, filters: &str) -> Output {
    run(program, &[("BIRTHMARK_WARNINGS", filters)])
}

/// The sentences of the resource warnings, but for the counts at exit.
fn lost(output: &Output) -> Vec<&str> {
    let all = output.reports("resource-warning");
    all.into_iter().filter(|line| !line.ends_with("told once")).collect()
}

fn told(filters: &str) -> Vec<String> {
    let output = under("lose", filters);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    lost(&output).into_iter().map(|line| line.split(" left").next().unwrap().to_owned()).collect()
}

const E1: &str = "Export was dropped with 1";
const E2: &str = "Export was dropped with 2";
const E3: &str = "Export was dropped with 3";
const C4: &str = "Cache was dropped with 4";

#[test]
fn each_action_tells_what_it_says() {
    assert_eq!(told(""), [E1, E3, C4]);
    assert_eq!(told("default"), [E1, E3, C4]);
    assert_eq!(told("always"), [E1, E2, E3, C4]);
    assert_eq!(told("once"), [E1, C4]);
    assert_eq!(told("module"), [E1, E3, C4]);
    assert!(told("ignore").is_empty());
    assert!(told("0").is_empty());
}

#[test]
fn message_category_module_and_line_choose_and_the_last_that_matches_wins() {
    assert_eq!(told("ignore:Export"), [C4]);
    assert_eq!(told("ignore::ResourceWarning"), Vec::<String>::new());
    assert_eq!(told("ignore::task-error"), [E1, E3, C4]);
    assert_eq!(told("ignore:::warnings.cache"), [E1]);
    assert_eq!(told("ignore:::warnings"), Vec::<String>::new());
    assert_eq!(told("ignore,always:Export"), [E1, E2, E3]);
    assert_eq!(told("always:Export,ignore"), Vec::<String>::new());
    if cfg!(debug_assertions) {
        let (before, _) = include_str!("warnings.rs").split_once("drop(std::hint").unwrap();
        let line = before.lines().count();
        assert_eq!(told(&format!("ignore::::{line}")), [E3, C4]);
    }
}

#[test]
fn a_filter_in_code_is_later_than_the_variables() {
    assert_eq!(lost(&under("code", "default")).len(), 3);
    let all = run("code", &[]);
    assert_eq!(lost(&all).len(), 3, "{}", all.stderr);
}

#[test]
fn a_value_that_is_no_filter_stops_the_program_before_main() {
    let output = under("lose", "error::use-after-free");
    assert_eq!(output.code, Some(2));
    assert!(output.stderr.contains("BIRTHMARK_WARNINGS=\"error::use-after-free\""), "{}", output.stderr);
    assert!(output.stdout.is_empty());
}

#[test]
fn an_error_that_nobody_takes_ends_the_process_with_status_70_when_it_ends() {
    for program in ["lose", "panic"] {
        let output = under(program, "error");
        assert_eq!(output.code, Some(70), "{}", output.stderr);
        assert!(
            output.stderr.contains("birthmark: a warning was an error by its filter"),
            "{}",
            output.stderr
        );
    }
    let output = under("lose", "error");
    assert_eq!(lost(&output).len(), 3, "{}", output.stderr);
    let hidden = run("lose", &[("BIRTHMARK_WARNINGS", "error"), ("BIRTHMARK_REPORT", "level=error")]);
    assert_eq!((hidden.code, lost(&hidden).len()), (Some(70), 3), "{}", hidden.stderr);
    let none = under("lose", "error,ignore::resource-warning");
    assert_eq!(none.code, Some(0), "{}", none.stderr);
}

#[test]
fn run_panics_with_the_reports_once_it_is_over() {
    for program in ["run", "run_ct", "run_local"] {
        let output = under(program, "error");
        assert_eq!(output.code, Some(101), "{}", output.stderr);
        let head = "a filter makes these 3 warnings errors\nbirthmark: resource-warning: Export";
        assert!(output.stderr.contains(head), "{program}\n{}", output.stderr);
        assert!(output.stderr.contains("tests/warnings.rs:"), "{}", output.stderr);
        let ignored = under(program, "error,ignore::resource-warning");
        assert_eq!(ignored.code, Some(0), "{program}\n{}", ignored.stderr);
        assert!(ignored.stderr.is_empty(), "{program}\n{}", ignored.stderr);
    }
    let slow = under("run_slow", "error::slow-callback");
    assert_eq!(slow.code, Some(101), "{}", slow.stderr);
    assert!(slow.stderr.contains("a filter makes this warning an error\nbirthmark: slow-callback: task "));
    let ignored = under("run_slow", "error,ignore::slow-callback");
    assert_eq!(ignored.code, Some(0), "{}", ignored.stderr);
    assert!(!ignored.stderr.contains("slow-callback"), "{}", ignored.stderr);
}

#[test]
fn check_panics_with_what_came_since_the_last_time() {
    let output = under("check", "error");
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let said: Vec<&str> =
        output.stdout.lines().filter_map(|line| line.split_once("said=").map(|(_, s)| s)).collect();
    assert_eq!(said, ["a filter makes these 3 warnings errors", "a filter makes this warning an error"]);
}

#[test]
fn what_is_caught_is_handed_over_whatever_the_filters_say_and_nothing_is_told() {
    for filters in ["", "ignore", "error"] {
        let output = under("catch", filters);
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        assert!(output.stderr.is_empty(), "{}", output.stderr);
        assert_eq!(output.said("caught"), "4");
        assert!(
            output.said("first").starts_with("resource-warning Export was dropped with 1 left undone true")
        );
        assert!(output.said("dropped").contains("warnings::export::lose"));
        assert!(output.said("row").starts_with("birthmark: resource-warning: Export was dropped"));
    }
}

#[test]
fn an_unread_panic_is_caught_on_the_thread_that_drops_it() {
    let output = run("catch_panic", &[]);
    assert_eq!((output.said("caught"), output.said("kind")), ("1", "true"), "{}", output.stderr);
    assert!(output.said("words").contains("panicked and nobody read it"));
    assert!(!output.stderr.contains("birthmark: "), "{}", output.stderr);
    let many = run("catch_many_panics", &[]);
    assert_eq!(many.said("caught"), "200", "{}", many.stderr);
    let told = run("panic", &[]);
    assert_eq!(told.reports("task-error").len(), 1, "{}", told.stderr);
}

#[test]
fn the_inner_one_catches_and_other_threads_are_told() {
    let output = run("nested", &[]);
    assert_eq!(output.said("inner"), "1 outer=2");
    assert_eq!(lost(&output).len(), 1, "{}", output.stderr);
    assert!(lost(&output)[0].starts_with("Elsewhere"));
}

#[test]
fn what_was_caught_before_a_panic_is_told() {
    let output = run("catch_then_panic", &[]);
    assert_eq!(lost(&output), ["Export was dropped with 1 left undone"], "{}", output.stderr);
}

#[test]
fn a_task_catches_what_arises_in_its_own_polls() {
    let output = run("catch_async", &[]);
    assert_eq!(output.said("counts"), "[1, 2, 3, 4]");
    assert!(lost(&output).is_empty(), "{}", output.stderr);
}

#[test]
fn of_tasks_interleaved_on_one_thread_each_catches_its_own_and_what_nobody_catches_is_told() {
    for how in ["mt", "ct", "local", "smol"] {
        let output = run(&format!("interleaved_{how}"), &[]);
        let text = format!("{how}\n{}\n{}", output.stdout, output.stderr);
        assert_eq!(output.code, Some(0), "{text}");
        for what in ["Left", "Right"] {
            let all = [1, 2, 3].map(|n| format!("{what} was dropped with {n} left undone"));
            assert_eq!(output.said(what), all.join("|"), "{text}");
        }
        // Each once a round.
        let turns: Vec<_> = output.said("turns").split(' ').collect();
        for round in turns.chunks(3).filter(|_| how != "mt") {
            assert!(["Left", "Right", "Nobody"].iter().all(|what| round.contains(what)), "{text}");
        }
        assert_eq!(lost(&output), ["Nobody was dropped with 1 left undone"], "{text}");
    }
}
