//! Tasks that were pending when their runtime closed: told in one report, by where they were spawned; and all that must
//! stay silent.

#![cfg(feature = "tokio")]

mod child_process;

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use birthmark::WatchExt as _;
use child_process::{Output, asked, run};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::{JoinSet, LocalSet, yield_now};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

const MS: Duration = Duration::from_millis(1);

async fn settle() {
    tokio::time::sleep(MS * 30).await;
}

async fn waits() {
    pending::<()>().await;
}

async fn sleeps() {
    tokio::time::sleep(MS * 60_000).await;
}

/// Dropped with its task.
struct OnDrop<F: FnMut()>(F);
impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Leaves tasks behind, or none, as the program says.
async fn body(program: &str) {
    match program {
        // Pending at the end.
        "plain" => {
            drop(tokio::spawn(waits()));
            settle().await;
        }
        "sleeping" => {
            drop(tokio::spawn(sleeps()));
            settle().await;
        }
        "held" => {
            let handle = tokio::spawn(waits());
            settle().await;
            drop(handle);
        }
        "unpolled" => drop(tokio::spawn(waits())),
        "wrapped" => {
            drop(birthmark::tokio::spawn(waits()));
            settle().await;
        }
        "wrapped_unpolled" => drop(birthmark::tokio::spawn(waits())),
        "large" => {
            drop(tokio::spawn(async {
                let big = [1u8; 40_000];
                waits().await;
                std::hint::black_box(&big);
            }));
            settle().await;
        }
        "both" => {
            for _ in 0..2 {
                drop(birthmark::tokio::spawn(sleeps()));
            }
            for _ in 0..3 {
                drop(tokio::spawn(waits()));
            }
            let gone = tokio::spawn(waits());
            settle().await;
            gone.abort();
            settle().await;
        }
        "thousand" => {
            for _ in 0..500 {
                drop(tokio::spawn(waits()));
                drop(birthmark::tokio::spawn(waits()));
            }
            settle().await;
        }
        "child_of_a_lost_one" => {
            drop(birthmark::tokio::spawn(async {
                let mut set = JoinSet::new();
                set.spawn(waits());
                waits().await;
                drop(set);
            }));
            settle().await;
        }
        // Nothing is lost.
        "nothing" => {}
        "awaited" => {
            tokio::spawn(yield_now()).await.unwrap();
            birthmark::tokio::spawn(yield_now()).await.unwrap();
        }
        "finished_detached" => {
            drop(tokio::spawn(yield_now()));
            drop(birthmark::tokio::spawn(yield_now()));
            settle().await;
        }
        "aborted" => {
            let (plain, wrapped) = (tokio::spawn(waits()), birthmark::tokio::spawn(waits()));
            settle().await;
            plain.abort();
            wrapped.abort();
            settle().await;
        }
        "aborted_last" => {
            let (plain, wrapped) = (tokio::spawn(waits()), birthmark::tokio::spawn(waits()));
            settle().await;
            plain.abort_handle().abort();
            wrapped.abort_handle().abort();
        }
        "aborted_unpolled" => {
            tokio::spawn(waits()).abort();
            birthmark::tokio::spawn(waits()).abort();
        }
        "join_set_dropped" => {
            let mut set = JoinSet::new();
            set.spawn(waits());
            set.spawn(sleeps());
            settle().await;
        }
        "abort_all" => {
            let mut set = JoinSet::new();
            set.spawn(waits());
            settle().await;
            set.abort_all();
            set.detach_all();
        }
        "select" => {
            tokio::spawn(async {
                tokio::select! {
                    () = waits().watched() => {}
                    () = yield_now() => {}
                }
            })
            .await
            .unwrap();
        }
        "timeout" => {
            let _ = tokio::time::timeout(MS, waits().watched()).await;
            let late = birthmark::tokio::spawn(tokio::time::timeout(MS, waits()));
            assert!(late.await.unwrap().is_err());
        }
        "daemon" => {
            drop(tokio::spawn(waits().watched().daemon()));
            drop(birthmark::tokio::spawn(sleeps().watched().daemon()));
            settle().await;
        }
        "daemon_unpolled" => {
            drop(tokio::spawn(waits().watched().daemon()));
            drop(birthmark::tokio::spawn(waits().watched().daemon()));
        }
        "panicked" => {
            let handle = birthmark::tokio::spawn(async { panic!("of the task") });
            assert!(handle.await.is_err());
        }
        "root_panics" => {
            drop(tokio::spawn(waits()));
            drop(birthmark::tokio::spawn(waits()));
            settle().await;
            panic!("of the root");
        }
        "blocking" => {
            drop(tokio::task::spawn_blocking(|| std::thread::sleep(MS * 40)));
            settle().await;
        }
        "other_runtime" => {
            let inner = tokio::task::spawn_blocking(|| {
                let inner = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
                birthmark::tokio::attach(inner.handle());
                inner.block_on(async { drop(tokio::spawn(yield_now())) });
                inner.block_on(settle());
            });
            // Pending in ours while the other one closes; then it ends.
            let (end, ended) = tokio::sync::oneshot::channel::<()>();
            let ours = tokio::spawn(async { ended.await.unwrap() });
            let wrapped = birthmark::tokio::spawn(yield_now());
            inner.await.unwrap();
            end.send(()).unwrap();
            ours.await.unwrap();
            wrapped.await.unwrap();
        }
        // Must complete.
        "must_timeout" => {
            let _ = tokio::time::timeout(MS, waits().watched().must_complete()).await;
        }
        "must_aborted" => {
            let handle = birthmark::tokio::spawn(waits().watched().must_complete());
            settle().await;
            handle.abort();
            settle().await;
        }
        "must_lost" => {
            drop(birthmark::tokio::spawn(waits().watched().must_complete()));
            settle().await;
        }
        "must_unpolled" => drop(waits().watched().must_complete()),
        "must_completes" => {
            yield_now().watched().must_complete().await;
            birthmark::tokio::spawn(yield_now().watched().must_complete()).await.unwrap();
        }
        "must_panics" => {
            let handle = birthmark::tokio::spawn(async { panic!("of the task") }.watched().must_complete());
            assert!(handle.await.is_err());
        }
        "must_ends_off" => {
            let mut completes = Box::pin(yield_now().watched().must_complete());
            let mut panics = Box::pin(async { panic!("of the future") }.watched().must_complete());
            birthmark::set_debug(false);
            completes.as_mut().await;
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let polled = std::panic::AssertUnwindSafe(|| panics.as_mut().poll(&mut context));
            assert!(std::panic::catch_unwind(polled).is_err());
            birthmark::set_debug(true);
            drop((completes, panics));
        }
        other => panic!("no program {other}"),
    }
}

/// On an executor that isn't tokio.
fn on_smol(program: &str) {
    birthmark::set_debug(true);
    let executor = smol::LocalExecutor::new();
    let run = |n: usize| {
        smol::block_on(executor.run(async {
            for _ in 0..n {
                yield_now().await;
            }
        }));
    };
    match program {
        "must_cancelled" => {
            let task = executor.spawn(waits().watched().must_complete());
            run(10);
            smol::block_on(executor.run(task.cancel()));
        }
        "must_lost" => {
            executor.spawn(waits().watched().must_complete()).detach();
            run(10);
        }
        "must_unpolled" => executor.spawn(waits().watched().must_complete()).detach(),
        "must_lost_a_race" => {
            let late = waits().watched().must_complete();
            smol::block_on(executor.run(smol::future::or(late, yield_now())));
        }
        // Silent.
        "must_completes" => {
            smol::block_on(executor.run(executor.spawn(yield_now().watched().must_complete())));
        }
        "lost" => {
            executor.spawn(waits().watched()).detach();
            executor.spawn(waits().watched().daemon()).detach();
            executor.spawn(waits()).detach();
            run(10);
        }
        other => panic!("no program {other}"),
    }
}

fn built(flavour: &str) -> Runtime {
    match flavour {
        "mt" => Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap(),
        "ct" => Builder::new_current_thread().enable_all().build().unwrap(),
        other => panic!("no flavour {other}"),
    }
}

#[tokio::main(worker_threads = 2)]
async fn main_of_many(program: &str) {
    birthmark::tokio::attach(&Handle::current());
    body(program).await;
}

#[tokio::main(flavor = "current_thread")]
async fn main_of_one(program: &str) {
    birthmark::tokio::attach(&Handle::current());
    body(program).await;
}

/// Leaves fifty receivers behind whose senders are dropped while the runtime closes, and a worker that goes on meanwhile: some
/// receivers end then, others are lost. Says how many ended.
fn ending(runtime: Runtime, is_wrapped: bool) {
    static ENDED: AtomicUsize = AtomicUsize::new(0);
    runtime.block_on(async {
        let mut senders = Vec::new();
        for _ in 0..50 {
            let (send, mut receive) = tokio::sync::mpsc::channel::<u8>(1);
            senders.push(send);
            let receives = async move {
                while receive.recv().await.is_some() {}
                ENDED.fetch_add(1, Relaxed);
            };
            drop(match is_wrapped {
                true => birthmark::tokio::spawn(receives),
                false => tokio::spawn(receives),
            });
        }
        settle().await;
        drop(tokio::spawn(async move {
            drop(birthmark::tokio::spawn(waits()));
            let mut senders = senders;
            loop {
                std::thread::sleep(MS);
                senders.truncate(senders.len().saturating_sub(1));
                yield_now().await;
            }
        }));
        tokio::time::sleep(MS * 5).await;
    });
    drop(runtime);
    println!("ended={}", ENDED.load(Relaxed));
}

fn child(asked: &str) {
    let (how, program) = asked.split_once(' ').unwrap();
    if how == "smol" {
        return on_smol(program);
    }
    let (way, flavour) = how.split_once('_').unwrap();
    match way {
        "attach" => {
            let runtime = built(flavour);
            runtime.block_on(async {
                birthmark::tokio::attach(&Handle::current());
                body(program).await;
            });
        }
        "unattached" => built(flavour).block_on(body(program)),
        "main" if flavour == "mt" => main_of_many(program),
        "main" => main_of_one(program),
        "run" if flavour == "mt" => birthmark::tokio::run(true, body(program)),
        "run" => birthmark::tokio::run_on(Builder::new_current_thread().enable_all(), true, body(program)),
        "background" | "timeout" => {
            let runtime = built(flavour);
            birthmark::tokio::attach(runtime.handle());
            runtime.block_on(body(program));
            if way == "background" {
                runtime.shutdown_background();
                std::thread::sleep(MS * 100);
            } else {
                runtime.shutdown_timeout(MS * 500);
            }
        }
        "caught" => {
            let runtime = built(flavour);
            birthmark::tokio::attach(runtime.handle());
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                runtime.block_on(body(program));
            }));
            assert!(caught.is_err());
        }
        "ending" => {
            let runtime = built(flavour);
            birthmark::tokio::attach(runtime.handle());
            ending(runtime, program == "wrapped");
        }
        "late" => {
            let runtime = built(flavour);
            birthmark::tokio::attach(runtime.handle());
            birthmark::set_debug(true);
            runtime.block_on(body(program));
        }
        "local" => built(flavour).block_on(async {
            birthmark::tokio::attach(&Handle::current());
            let local = LocalSet::new();
            local.run_until(local_body(program)).await;
        }),
        "spawned" => {
            // A runtime that lives inside of a blocking job of another.
            built(flavour).block_on(async {
                birthmark::tokio::attach(&Handle::current());
                let program = program.to_owned();
                tokio::task::spawn_blocking(move || {
                    let inner = Builder::new_current_thread().enable_all().build().unwrap();
                    birthmark::tokio::attach(inner.handle());
                    inner.block_on(body(&program));
                })
                .await
                .unwrap();
            });
        }
        "exit" => built(flavour).block_on(async {
            birthmark::tokio::attach(&Handle::current());
            body(program).await;
            std::process::exit(0);
        }),
        "slow" => {
            // A task that is dropped slowly: the report waits for the wrapped ones behind it.
            let runtime = built(flavour);
            runtime.block_on(async {
                birthmark::tokio::attach(&Handle::current());
                drop(tokio::spawn(async {
                    let _slow = OnDrop(|| std::thread::sleep(MS * 50));
                    waits().await;
                }));
                body(program).await;
            });
        }
        other => panic!("no way {other}"),
    }
}

async fn local_body(program: &str) {
    match program {
        "wrapped" => {
            drop(birthmark::tokio::spawn_local(waits()));
            settle().await;
        }
        "unpolled" => drop(birthmark::tokio::spawn_local(waits())),
        "plain" => {
            birthmark::tokio::spawn_local(yield_now()).await.unwrap();
            drop(tokio::task::spawn_local(waits()));
            settle().await;
        }
        "finished" => birthmark::tokio::spawn_local(yield_now()).await.unwrap(),
        "aborted" => {
            let handle = birthmark::tokio::spawn_local(waits());
            let other = tokio::task::spawn_local(waits());
            settle().await;
            handle.abort();
            other.abort();
        }
        "daemon" => {
            drop(birthmark::tokio::spawn_local(waits().watched().daemon()));
            settle().await;
        }
        "must_aborted" => {
            let handle = birthmark::tokio::spawn_local(waits().watched().must_complete());
            settle().await;
            handle.abort();
            settle().await;
        }
        "must_lost" => {
            drop(birthmark::tokio::spawn_local(waits().watched().must_complete()));
            settle().await;
        }
        "must_completes" => {
            birthmark::tokio::spawn_local(yield_now().watched().must_complete()).await.unwrap();
        }
        "none" => {
            let task = tokio::task::spawn_local(yield_now());
            task.await.unwrap();
        }
        other => panic!("no program {other}"),
    }
}

#[test]
fn program() {
    if let Some(asked) = asked() {
        child(&asked);
    }
}

const DEBUG: (&str, &str) = ("BIRTHMARK_ASYNC_DEBUG", "1");
const TRACED: (&str, &str) = ("TRACEMALLOC", "5");

fn text(program: &str, variables: &[(&str, &str)], output: &Output) -> String {
    format!("{program} {variables:?}\n{}\n{}", output.stdout, output.stderr)
}

/// The one report, with so many tasks.
fn destroyed(program: &str, variables: &[(&str, &str)], n: usize) -> Output {
    let output = run(program, variables);
    let text = text(program, variables, &output);
    assert_eq!(output.code, Some(0), "{text}");
    let all = output.reports("task-destroyed");
    assert_eq!(all.len(), 1, "{text}");
    let closed =
        if program.starts_with("local") { "`LocalSet` was dropped" } else { "runtime was shut down" };
    let sentence = match n {
        1 => format!("1 task was still pending when its {closed}"),
        n => format!("{n} tasks were still pending when their {closed}"),
    };
    assert_eq!(all[0], sentence, "{text}");
    assert!(output.stderr.lines().count() <= 14, "{text}");
    if variables.contains(&TRACED) {
        let line = output.stderr.lines().find(|line| line.starts_with("  spawned "));
        assert!(line.is_some_and(|line| line.contains("tests/task_destroyed.rs:")), "{text}");
        assert!(!output.stderr.contains("TRACEMALLOC"), "{text}");
    } else {
        assert!(output.stderr.contains("TRACEMALLOC=5 adds where"), "{text}");
    }
    output
}

fn silent(program: &str, variables: &[(&str, &str)]) -> Output {
    let output = run(program, variables);
    let text = text(program, variables, &output);
    assert!(output.reports("task-destroyed").is_empty(), "{text}");
    output
}

#[test]
fn pending_tasks_are_told_once_with_their_place_however_their_runtime_ends() {
    for way in ["attach", "main", "run", "background", "timeout", "late"] {
        for flavour in ["mt", "ct"] {
            for (program, n) in
                [("plain", 1), ("unpolled", 1), ("wrapped", 1), ("wrapped_unpolled", 1), ("both", 5)]
            {
                if way == "late" {
                    destroyed(&format!("{way}_{flavour} {program}"), &[TRACED], n);
                } else {
                    destroyed(&format!("{way}_{flavour} {program}"), &[DEBUG, TRACED], n);
                }
            }
        }
    }
}

#[test]
fn whatever_they_wait_for_and_whoever_holds_their_handle() {
    for flavour in ["mt", "ct"] {
        for program in ["sleeping", "held", "large"] {
            destroyed(&format!("attach_{flavour} {program}"), &[DEBUG, TRACED], 1);
        }
        destroyed(&format!("run_{flavour} child_of_a_lost_one"), &[TRACED], 2);
        destroyed(&format!("slow_{flavour} wrapped"), &[DEBUG, TRACED], 2);
        destroyed(&format!("spawned_{flavour} both"), &[DEBUG, TRACED], 5);
    }
}

#[test]
fn without_tracing_the_switch_that_adds_the_place_is_named_and_a_wrapped_task_has_its_own() {
    for flavour in ["mt", "ct"] {
        destroyed(&format!("attach_{flavour} plain"), &[DEBUG, ("BIRTHMARK_MALLOC", "debug")], 1);
        for heap in ["0", "debug"] {
            let output = destroyed(&format!("run_{flavour} wrapped"), &[("BIRTHMARK_MALLOC", heap)], 1);
            let line = output.stderr.lines().find(|line| line.starts_with("  spawned ")).unwrap();
            assert!(line.contains("`task_destroyed::waits`"), "{line}");
            assert!(line.contains("tests/task_destroyed.rs:"), "{line}");
        }
    }
}

#[test]
fn wrapped_tasks_are_told_with_nothing_attached() {
    for flavour in ["mt", "ct"] {
        for program in ["wrapped", "wrapped_unpolled"] {
            destroyed(&format!("unattached_{flavour} {program}"), &[DEBUG, TRACED], 1);
            destroyed(&format!("unattached_{flavour} {program}"), &[DEBUG, ("BIRTHMARK_MALLOC", "0")], 1);
        }
    }
}

#[test]
fn a_thousand_tasks_are_one_short_report() {
    for flavour in ["mt", "ct"] {
        let output = destroyed(&format!("attach_{flavour} thousand"), &[DEBUG, TRACED], 1000);
        assert!(output.stderr.contains("500 tasks `task_destroyed::waits` in"), "{}", output.stderr);
    }
}

#[test]
fn a_local_sets_end_is_told_from_its_first_wrapped_task_on() {
    for flavour in ["mt", "ct"] {
        for program in ["wrapped", "unpolled", "plain"] {
            destroyed(&format!("local_{flavour} {program}"), &[DEBUG, TRACED], 1);
        }
        for program in ["finished", "aborted", "daemon", "none"] {
            silent(&format!("local_{flavour} {program}"), &[DEBUG, TRACED]);
        }
    }
}

#[test]
fn what_ends_or_is_ended_on_purpose_is_silent() {
    for way in ["attach", "run", "unattached"] {
        for flavour in ["mt", "ct"] {
            for program in [
                "nothing",
                "awaited",
                "finished_detached",
                "aborted",
                "aborted_last",
                "aborted_unpolled",
                "join_set_dropped",
                "abort_all",
                "select",
                "timeout",
                "daemon",
                "daemon_unpolled",
                "panicked",
                "blocking",
                "other_runtime",
                "must_completes",
                "must_panics",
                "must_ends_off",
            ] {
                for variables in [[DEBUG, TRACED], [DEBUG, ("BIRTHMARK_MALLOC", "0")]] {
                    let program = format!("{way}_{flavour} {program}");
                    let output = silent(&program, &variables);
                    assert_eq!(output.code, Some(0), "{}", text(&program, &variables, &output));
                }
            }
        }
    }
}

#[test]
fn tasks_that_end_while_their_runtime_closes_are_not_among_those_that_are_told() {
    for flavour in ["mt", "ct"] {
        for _ in 0..5 {
            for kind in ["wrapped", "plain"] {
                let program = format!("ending_{flavour} {kind}");
                let output = run(&program, &[DEBUG, TRACED]);
                let text = text(&program, &[], &output);
                assert_eq!(output.code, Some(0), "{text}");
                let told = output.reports("task-destroyed");
                assert!(told.len() <= 1, "{text}");
                let told: usize =
                    told.first().map_or(0, |told| told.split(' ').next().unwrap().parse().unwrap());
                // The receivers, the one that waits, and the one that works (which may be inside a poll, and isn't told then).
                let lost = 50 - output.said("ended").parse::<usize>().unwrap() + 1;
                if kind == "wrapped" {
                    assert!(told == lost || told == lost + 1, "{told} of {lost}: {text}");
                } else {
                    assert!(told <= lost + 1, "{told} of {lost}: {text}");
                }
            }
        }
    }
}

#[test]
fn a_panic_out_of_the_root_future_is_the_news_itself() {
    for way in ["attach", "run", "main", "unattached"] {
        for flavour in ["mt", "ct"] {
            let output = silent(&format!("{way}_{flavour} root_panics"), &[DEBUG, TRACED]);
            assert_eq!(output.code, Some(101), "{}", output.stderr);
        }
    }
    for flavour in ["mt", "ct"] {
        let output = silent(&format!("caught_{flavour} root_panics"), &[DEBUG, TRACED]);
        assert_eq!(output.code, Some(0), "{}", output.stderr);
    }
}

#[test]
fn a_process_that_ends_beside_its_runtime_and_async_debug_that_is_off_are_silent() {
    for flavour in ["mt", "ct"] {
        silent(&format!("exit_{flavour} both"), &[DEBUG, TRACED]);
        let output = silent(&format!("attach_{flavour} both"), &[TRACED]);
        assert!(!output.stderr.contains("birthmark:"), "{}", output.stderr);
    }
}

#[test]
fn a_future_that_must_complete_is_told_wherever_it_is_dropped_before() {
    for flavour in ["mt", "ct"] {
        for program in ["must_timeout", "must_aborted", "must_lost", "must_unpolled"] {
            for variables in [[DEBUG, TRACED], [DEBUG, ("BIRTHMARK_MALLOC", "0")]] {
                incomplete(&format!("attach_{flavour} {program}"), &variables);
            }
        }
    }
}

/// The one report, of a future that must complete.
fn incomplete(program: &str, variables: &[(&str, &str)]) {
    let output = run(program, variables);
    let text = text(program, variables, &output);
    let all = output.reports("task-destroyed");
    let told = "future `task_destroyed::waits` must complete and was dropped before it did";
    assert_eq!(all, [told], "{text}");
    assert!(output.reports("never-awaited").is_empty(), "{text}");
    let created = output.stderr.lines().find(|line| line.starts_with("  created ")).unwrap();
    assert!(created.contains("tests/task_destroyed.rs:"), "{text}");
}

#[test]
fn a_future_that_must_complete_is_told_in_a_local_set_and_on_another_executor_too() {
    let programs = ["cancelled", "lost", "unpolled", "lost_a_race"].map(|end| format!("smol must_{end}"));
    let local = ["local_mt must_aborted", "local_ct must_lost"].map(str::to_owned);
    programs.iter().chain(&local).for_each(|program| incomplete(program, &[DEBUG, TRACED]));
    for program in ["smol must_completes", "smol lost", "local_ct must_completes"] {
        let output = silent(program, &[DEBUG, TRACED]);
        assert!(!output.stderr.contains("birthmark:"), "{program}\n{}", output.stderr);
    }
}
