//! A value used on a thread that isn't its own, and a lock of std held while its task waits. On both flavours of tokio, in a
//! `LocalSet` and on another executor.

#![cfg(feature = "tokio")]

mod child_process;
mod executors;

use std::time::Duration;

use birthmark::ThreadBound;
use birthmark::WatchExt as _;
use birthmark::sync::{Mutex, RwLock};
use child_process::{Output, asked, run};
use executors::{EVERYWHERE, run_as_a_local_task, run_as_a_task};
use tokio::runtime::Builder;
use tokio::task::{LocalSet, yield_now};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

#[inline(never)]
fn bind() -> ThreadBound<std::rc::Rc<u8>> {
    ThreadBound::new(std::rc::Rc::new(7))
}

#[inline(never)]
fn use_elsewhere(bound: &ThreadBound<std::rc::Rc<u8>>) -> u8 {
    ***bound
}

async fn holds_a_mutex(mutex: &Mutex<u8>) {
    let mut guard = mutex.lock().unwrap();
    yield_now().await;
    *guard += 1;
}

async fn gives_it_back(mutex: &Mutex<u8>) {
    *mutex.lock().unwrap() += 1;
    yield_now().await;
    let guard = mutex.lock().unwrap();
    drop(guard);
    yield_now().await;
}

static SHARED: Mutex<u8> = Mutex::new(0);

/// In a task of its own; whether it may wait in between and be polled by the same thread again.
async fn bound_in_a_task(program: &str, may_wait: bool) {
    let bound = bind();
    match program {
        "stays" => {
            for _ in 0..3 {
                assert_eq!(use_elsewhere(&bound), 7);
                if may_wait {
                    yield_now().await;
                }
            }
        }
        "lent_to_a_thread" => {
            let elsewhere = std::thread::Builder::new().name("elsewhere".into());
            let user = elsewhere.spawn(move || use_elsewhere(&bound)).unwrap();
            assert!(user.join().is_err());
        }
        // On one thread it is at home in every task.
        "lent_to_a_task" => {
            tokio::spawn(async move { assert_eq!(use_elsewhere(&bound), 7) }).await.unwrap();
        }
        // Of a multi-threaded runtime, from its root or a `LocalSet`, which are on the main thread.
        "lent_to_a_worker" => {
            assert!(tokio::spawn(async move { use_elsewhere(&bound) }).await.is_err());
        }
        other => panic!("no program {other}"),
    }
}

#[allow(clippy::await_holding_lock)] // what clippy finds itself
async fn body(program: &str) {
    match program {
        "used_elsewhere" => {
            let bound = bind();
            let panicked = std::thread::Builder::new()
                .name("elsewhere".into())
                .spawn(move || use_elsewhere(&bound))
                .unwrap()
                .join();
            assert!(panicked.is_err());
        }
        "dropped_elsewhere" => {
            let bound = bind();
            std::thread::spawn(move || drop(bound)).join().unwrap();
        }
        "brought_back" => {
            let bound = bind();
            let bound = std::thread::spawn(move || bound).join().unwrap();
            assert_eq!(use_elsewhere(&bound), 7);
        }
        "mutex" => holds_a_mutex(&Mutex::new(0)).watched().await,
        "mutex_in_root" => holds_a_mutex(&Mutex::new(0)).await,
        "mutex_in_local_set" => {
            let local = LocalSet::new();
            local
                .run_until(async {
                    tokio::task::spawn_local(async { holds_a_mutex(&Mutex::new(0)).await }.watched())
                        .await
                        .unwrap();
                })
                .await;
        }
        "mutex_each_time" => {
            for _ in 0..3 {
                holds_a_mutex(&Mutex::new(0)).watched().await;
            }
        }
        "not_watched" => holds_a_mutex(&Mutex::new(0)).await,
        "of_std" => {
            let mutex = std::sync::Mutex::new(0);
            async {
                let guard = mutex.lock().unwrap();
                yield_now().await;
                drop(guard);
            }
            .watched()
            .await;
        }
        "given_back_here" => gives_it_back(&Mutex::new(0)).watched().await,
        "rw_lock" => {
            let lock = RwLock::new(0);
            async {
                let read = lock.read().unwrap();
                yield_now().await;
                drop(read);
            }
            .watched()
            .await;
        }
        "given_back" => {
            gives_it_back(&Mutex::new(0)).watched().await;
            birthmark::tokio::spawn(gives_it_back(&SHARED)).await.unwrap();
        }
        "taken_before" => {
            // In a task that isn't wrapped: the wrapped future inside took nothing.
            let mutex = Mutex::new(0);
            let guard = mutex.lock().unwrap();
            yield_now().watched().await;
            drop(guard);
        }
        "stuck_in_a_lock" => {
            let (sender, taken) = std::sync::mpsc::channel();
            let holder = std::thread::Builder::new()
                .name("holder".into())
                .spawn(move || {
                    let guard = SHARED.lock().unwrap();
                    sender.send(()).unwrap();
                    std::thread::sleep(Duration::from_millis(400));
                    drop(guard);
                })
                .unwrap();
            taken.recv().unwrap();
            birthmark::tokio::spawn(async { *SHARED.lock().unwrap() += 1 }).await.unwrap();
            holder.join().unwrap();
        }
        other => panic!("no program {other}"),
    }
}

#[test]
fn program() {
    if let Some(asked) = asked() {
        let (how, program) = asked.split_once(' ').unwrap();
        let (place, own) = (how.strip_prefix("task:"), program.to_owned());
        if let Some(place) = place {
            let may_wait = place != "mt";
            run_as_a_task(place, async move { bound_in_a_task(&own, may_wait).await });
            return;
        }
        match how {
            "mt" => birthmark::tokio::run(true, body(program)),
            "ct" => {
                birthmark::tokio::run_on(Builder::new_current_thread().enable_all(), true, body(program));
            }
            "attached" => Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                birthmark::tokio::attach(&tokio::runtime::Handle::current());
                birthmark::set_debug(true);
                body(program).await;
            }),
            "off" => birthmark::tokio::run(false, body(program)),
            "local" | "smol" => run_as_a_local_task(how, async move { body(&own).await }),
            "root" => birthmark::tokio::run(true, bound_in_a_task(program, true)),
            other => panic!("no way {other}"),
        }
    }
}

const TRACED: (&str, &str) = ("TRACEMALLOC", "5");

/// The rows of one label.
fn rows<'o>(output: &'o Output, label: &str) -> Vec<&'o str> {
    let head = format!("  {label:<10} ");
    output.stderr.lines().filter(|line| line.starts_with(&head)).collect()
}

fn is_here(line: &str) -> bool {
    line.contains("tests/threads_and_locks.rs:") || !cfg!(debug_assertions)
}

#[test]
fn a_use_on_another_thread_panics_there_with_both_stacks_and_both_threads() {
    for variables in [&[][..], &[TRACED]] {
        let output = run("mt used_elsewhere", variables);
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        let all = output.reports("wrong-thread");
        assert_eq!(all.len(), 1, "{}", output.stderr);
        assert!(all[0].contains("Rc<u8> of thread "), "{}", output.stderr);
        assert!(all[0].ends_with(" was used on thread elsewhere"), "{}", output.stderr);
        let (made, used) = (rows(&output, "made"), rows(&output, "used"));
        assert!(made.len() == 1 && is_here(made[0]), "{}", output.stderr);
        assert!(used.len() == 1 && is_here(used[0]), "{}", output.stderr);
        assert!(used[0].contains("use_elsewhere"), "{}", output.stderr);
        if variables.is_empty() {
            assert!(output.stderr.contains("TRACEMALLOC=5"), "{}", output.stderr);
        } else {
            assert!(made[0].contains("threads_and_locks::bind"), "{}", output.stderr);
        }
    }
}

#[test]
fn a_value_bound_in_a_task_panics_on_another_thread_and_is_silent_on_its_own() {
    for how in EVERYWHERE {
        let output = run(&format!("task:{how} lent_to_a_thread"), &[TRACED]);
        let text = format!("{how}\n{}", output.stderr);
        assert_eq!(output.code, Some(0), "{text}");
        let all = output.reports("wrong-thread");
        assert!(all.len() == 1 && all[0].ends_with(" was used on thread elsewhere"), "{text}");
        let (made, used) = (rows(&output, "made"), rows(&output, "used"));
        assert!(made.len() == 1 && made[0].contains("threads_and_locks::bind"), "{text}");
        assert!(used.len() == 1 && used[0].contains("use_elsewhere"), "{text}");
        assert!(is_here(made[0]) && is_here(used[0]), "{text}");
        let output = run(&format!("task:{how} stays"), &[TRACED]);
        assert_eq!(output.code, Some(0), "{how}\n{}", output.stderr);
        assert!(!output.stderr.contains("birthmark:"), "{how}\n{}", output.stderr);
    }
}

#[test]
fn a_value_lent_to_another_task_panics_where_that_is_polled_by_another_thread() {
    for how in ["root", "task:local"] {
        let output = run(&format!("{how} lent_to_a_worker"), &[TRACED]);
        assert_eq!(output.code, Some(0), "{how}\n{}", output.stderr);
        let all = output.reports("wrong-thread");
        assert_eq!(all.len(), 1, "{how}\n{}", output.stderr);
        assert!(all[0].contains(" was used on thread tokio-rt-worker, task "), "{how}\n{}", output.stderr);
        let used = rows(&output, "used");
        assert!(used.len() == 1 && used[0].contains("use_elsewhere"), "{how}\n{}", output.stderr);
    }
    let output = run("task:ct lent_to_a_task", &[TRACED]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(!output.stderr.contains("birthmark:"), "{}", output.stderr);
}

#[test]
fn with_async_debug_off_a_use_elsewhere_still_panics_with_both_lines() {
    let output = run("off used_elsewhere", &[]);
    let told = output.reports("wrong-thread");
    assert_eq!(told.len(), 1, "{}", output.stderr);
    assert_eq!(told[0].matches("tests/threads_and_locks.rs:").count(), 2, "{}", output.stderr);
}

#[test]
fn a_value_dropped_elsewhere_is_told_and_one_brought_back_is_not() {
    let output = run("mt dropped_elsewhere", &[TRACED]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let all = output.reports("wrong-thread");
    assert_eq!(all.len(), 1, "{}", output.stderr);
    assert!(all[0].contains(" was dropped on ") && all[0].ends_with(", and leaked"), "{}", output.stderr);
    for program in ["mt brought_back", "off dropped_elsewhere"] {
        let output = run(program, &[TRACED]);
        assert_eq!(output.code, Some(0), "{program}\n{}", output.stderr);
        assert!(!output.stderr.contains("birthmark:"), "{program}\n{}", output.stderr);
    }
}

#[test]
fn a_lock_held_across_an_await_is_told_once_with_the_line_that_took_it() {
    for (program, what) in [
        ("mt mutex", "Mutex"),
        ("ct mutex", "Mutex"),
        ("mt mutex_in_root", "Mutex"),
        ("ct mutex_in_root", "Mutex"),
        ("mt mutex_in_local_set", "Mutex"),
        ("ct mutex_in_local_set", "Mutex"),
        ("local rw_lock", "RwLock"),
        ("smol mutex", "Mutex"),
        ("smol rw_lock", "RwLock"),
        ("attached mutex_each_time", "Mutex"),
        ("attached rw_lock", "RwLock"),
    ] {
        for variables in [&[][..], &[TRACED]] {
            let output = run(program, variables);
            let text = format!("{program} {variables:?}\n{}", output.stderr);
            assert_eq!(output.code, Some(0), "{text}");
            let mut all = output.reports("lock-across-await");
            all.retain(|line| !line.contains("times in all"));
            assert_eq!(all.len(), 1, "{text}");
            assert!(all[0].ends_with(&format!(" holds a {what} while it waits")), "{text}");
            assert_eq!(program.ends_with("in_root"), all[0].starts_with("the root future"), "{text}");
            let locked = rows(&output, "locked");
            assert!(locked.len() == 1 && is_here(locked[0]), "{text}");
            assert!(output.stderr.contains(&format!("`tokio::sync::{what}`")), "{text}");
        }
    }
}

#[test]
fn a_lock_given_back_before_the_await_or_taken_outside_is_silent() {
    for program in [
        "mt given_back",
        "ct given_back",
        "local given_back_here",
        "smol given_back_here",
        "attached taken_before",
        "smol taken_before",
        "off mutex",
    ] {
        let output = run(program, &[TRACED]);
        assert_eq!(output.code, Some(0), "{program}\n{}", output.stderr);
        assert!(!output.stderr.contains("birthmark:"), "{program}\n{}", output.stderr);
    }
}

#[test]
fn a_lock_of_a_future_that_nothing_watches_and_stds_own_are_not_seen_as_documented() {
    for program in ["attached not_watched", "local not_watched", "smol not_watched", "mt of_std"] {
        let output = run(program, &[TRACED]);
        assert_eq!(output.code, Some(0), "{program}\n{}", output.stderr);
        assert!(!output.stderr.contains("birthmark:"), "{program}\n{}", output.stderr);
    }
}

#[test]
fn a_poll_that_is_stuck_in_a_lock_names_who_holds_it_and_where_it_was_taken() {
    let output = run("mt stuck_in_a_lock", &[TRACED]);
    let all = output.reports("slow-callback");
    assert_eq!(all.len(), 2, "{}", output.stderr);
    let lock = rows(&output, "lock");
    assert_eq!(lock.len(), 1, "{}", output.stderr);
    assert!(
        lock[0].contains("held by thread holder, taken tests/threads_and_locks.rs:"),
        "{}",
        output.stderr
    );
}
