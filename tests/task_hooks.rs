//! tokio's task hooks, under `--cfg tokio_unstable` alone: tasks that nothing wraps, on both flavours, timed exactly and listed as
//! wrapped ones are; and what must stay silent all the same. Each program runs in a process of its own.

#![cfg(all(feature = "tokio", tokio_unstable))]

mod child_process;
mod inventory;
mod load;

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use birthmark::tasks::{Missing, NotKnown, Task, TaskId, TaskKind, TaskState, Tasks};
use birthmark::tokio::hooks;
use birthmark::{WatchExt as _, all_tasks, current_task};
use child_process::{Output, asked, ran, run_meanwhile};
use inventory::until;
use load::with_every_core_busy;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, block_in_place, spawn_blocking, unconstrained, yield_now};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

const MS: Duration = Duration::from_millis(1);

/// Computes for so long of the thread's own time on a processor.
#[inline(never)]
fn compute(time: Duration) {
    let spent = || {
        let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a valid buffer of the right type.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
        Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
    };
    let end = spent() + time;
    while spent() < end {
        std::hint::black_box(7u64.wrapping_mul(31));
    }
}

/// The number that tokio gives a task.
fn number(id: tokio::task::Id) -> u64 {
    id.to_string().parse().unwrap()
}

fn say_culprit() {
    println!("culprit={}", tokio::task::id());
}

async fn waiter(go: oneshot::Receiver<()>) {
    let _ = go.await;
}

fn row(id: u64) -> Option<Task> {
    all_tasks().by_id(TaskId::Task(id)).cloned()
}

/// A future that is sent with what it isn't to be sent with, as `unsafe` code in a library may do.
struct Sent<F>(Pin<Box<F>>);
// SAFETY: polled on a current-thread runtime only, so it is never sent.
unsafe impl<F> Send for Sent<F> {}
impl<F: Future> Future for Sent<F> {
    type Output = F::Output;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.0.as_mut().poll(cx)
    }
}

static LOCK: birthmark::sync::Mutex<u32> = birthmark::sync::Mutex::new(0);

async fn body(program: &str) {
    match program {
        "computing" => {
            let task = tokio::spawn(async {
                say_culprit();
                let block = vec![1u8; 3 << 20];
                compute(MS * 300);
                drop(std::hint::black_box(block));
            });
            task.await.unwrap();
        }
        "dependency" => {
            // As a crate would that has never heard of us.
            let mut set = tokio::task::JoinSet::new();
            set.spawn(async {
                say_culprit();
                std::thread::sleep(MS * 300);
            });
            while set.join_next().await.is_some() {}
        }
        "unconstrained" => {
            tokio::spawn(unconstrained(async {
                say_culprit();
                compute(MS * 500);
            }))
            .await
            .unwrap();
        }
        "twice" => {
            birthmark::tokio::spawn(async {
                say_culprit();
                compute(MS * 300);
            })
            .await
            .unwrap();
        }
        "watched" => {
            let task = async {
                say_culprit();
                compute(MS * 300);
            };
            tokio::spawn(task.watched()).await.unwrap();
        }
        "local" => {
            let local = LocalSet::new();
            let task = async {
                say_culprit();
                compute(MS * 300);
            };
            local.run_until(async { tokio::task::spawn_local(task).await.unwrap() }).await;
        }
        "switched" => {
            birthmark::set_debug(false);
            let (go, on) = oneshot::channel();
            let task = tokio::spawn(async {
                on.await.unwrap();
                say_culprit();
                compute(MS * 300);
            });
            yield_now().await;
            birthmark::set_debug(true);
            go.send(()).unwrap();
            task.await.unwrap();
        }
        "zero" => {
            birthmark::set_slow_callback_duration(Duration::ZERO);
            let task = tokio::spawn(async {
                println!("culprit={}", tokio::task::id());
                yield_now().await;
                yield_now().await;
            });
            task.await.unwrap();
        }
        // Silent from here on.
        "short_polls" => {
            tokio::spawn(async {
                for _ in 0..30 {
                    compute(MS * 8);
                    yield_now().await;
                }
            })
            .await
            .unwrap();
        }
        "block_in_place" => {
            tokio::spawn(async { block_in_place(|| std::thread::sleep(MS * 400)) }).await.unwrap();
            tokio::spawn(async { block_in_place(|| compute(MS * 400)) }).await.unwrap();
        }
        "block_on_in_place" => {
            let handle = Handle::current();
            let inside = move || {
                handle.block_on(async {
                    compute(MS * 200);
                    yield_now().await;
                    compute(MS * 200);
                });
            };
            tokio::spawn(async move { block_in_place(inside) }).await.unwrap();
        }
        "another_runtime_in_place" => {
            // Its tasks' polls are short, and lie inside of the poll of ours.
            let inside = || {
                let mut builder = Builder::new_current_thread();
                birthmark::tokio::attach_builder(&mut builder);
                builder.build().unwrap().block_on(async {
                    let task = tokio::spawn(async {
                        for _ in 0..20 {
                            compute(MS * 10);
                            yield_now().await;
                        }
                        row(number(tokio::task::id())).unwrap().polls().unwrap()
                    });
                    assert_eq!(task.await.unwrap(), 21);
                });
            };
            tokio::spawn(async move { block_in_place(inside) }).await.unwrap();
        }
        "spawn_blocking" => {
            let jobs: Vec<_> = (0..4).map(|_| spawn_blocking(|| std::thread::sleep(MS * 200))).collect();
            for job in jobs {
                let id = number(job.id());
                assert!(row(id).is_none());
                job.await.unwrap();
            }
            assert_eq!(all_tasks().len(), all_tasks().iter().filter(|t| t.kind() == TaskKind::Root).count());
        }
        "idle" => {
            tokio::spawn(async { tokio::time::sleep(MS * 400).await }).await.unwrap();
        }
        "stopped" => {
            // The parent stops and continues us, in the middle of polls that are short by their own time. By then there is
            // a watchdog, which counts what surely passes.
            tokio::time::sleep(MS * 60).await;
            tokio::spawn(async {
                for n in 0..16 {
                    if n % 2 == 0 {
                        compute(MS * 30)
                    } else {
                        std::thread::sleep(MS * 30)
                    }
                    yield_now().await;
                }
            })
            .await
            .unwrap();
        }
        "leaked_guard" => {
            let task = async {
                yield_now().await;
                std::mem::forget(LOCK.lock());
            };
            tokio::spawn(Sent(Box::pin(task))).await.unwrap();
        }
        "guard_before" => {
            let task = async {
                *LOCK.lock().unwrap() += 1;
                yield_now().await;
                *LOCK.lock().unwrap() += 1;
            };
            tokio::spawn(task).await.unwrap();
        }
        "guard" => {
            let task = async {
                say_culprit();
                let guard = LOCK.lock();
                yield_now().await;
                yield_now().await;
                drop(guard);
            };
            tokio::spawn(Sent(Box::pin(task))).await.unwrap();
        }
        "listed" => listed().await,
        "one_row" => {
            let tasks = [
                birthmark::tokio::spawn(std::future::pending::<()>()),
                tokio::spawn(std::future::pending::<()>().watched()),
            ];
            for task in &tasks {
                let id = TaskId::Task(number(task.id()));
                let listed = until("polled", |all| all.by_id(id).is_some_and(|t| t.polls() == Ok(1))).await;
                let rows: Vec<_> = listed
                    .iter()
                    .filter(|task| task.future() == Some("core::future::pending::Pending<()>"))
                    .collect();
                assert_eq!(rows.len(), 2, "{listed}");
                assert_eq!(listed.iter().filter(|task| task.id() == id).count(), 1, "{listed}");
                assert!(listed.by_id(id).unwrap().waits().is_ok(), "it is the wrapper's row: {listed}");
            }
            tasks.iter().for_each(|task| task.abort());
        }
        "local_list" => {
            let local = LocalSet::new();
            let list = async {
                let task = tokio::task::spawn_local(std::future::pending::<()>());
                yield_now().await;
                let tasks = all_tasks();
                assert!(tasks.by_id(TaskId::Task(number(task.id()))).is_none());
                assert!(tasks.missing().contains(&Missing::TracingBeganLate), "{tasks}");
            };
            local.run_until(list).await;
        }
        "ends" => {
            // However a task ends, its row goes with it.
            let (go, theirs) = oneshot::channel();
            let normal = tokio::spawn(waiter(theirs));
            let aborted = tokio::spawn(std::future::pending::<()>());
            let unpolled = tokio::spawn(std::future::pending::<()>());
            let panicked = tokio::spawn(async { panic!("on purpose") });
            unpolled.abort();
            let ids = [normal.id(), aborted.id(), unpolled.id(), panicked.id()].map(number);
            assert!(row(ids[0]).is_some() && row(ids[1]).is_some());
            aborted.abort();
            go.send(()).unwrap();
            assert!(normal.await.is_ok());
            assert!(aborted.await.is_err() && unpolled.await.is_err() && panicked.await.is_err());
            until("gone", |tasks| ids.iter().all(|id| tasks.by_id(TaskId::Task(*id)).is_none())).await;
            // That of a runtime which ends too.
            let id = std::thread::spawn(move || {
                let mut builder = Builder::new_multi_thread();
                builder.worker_threads(1);
                birthmark::tokio::attach_builder(&mut builder);
                let runtime = builder.build().unwrap();
                let id = number(runtime.spawn(std::future::pending::<()>()).id());
                assert!(row(id).is_some());
                drop(runtime);
                id
            });
            assert!(row(id.join().unwrap()).is_none());
        }
        "shut_down" => drop(tokio::spawn(std::future::pending::<()>())),
        "nothing" => tokio::spawn(async {}).await.unwrap(),
        other => panic!("no program {other}"),
    }
}

async fn listed() {
    let (go, theirs) = oneshot::channel();
    let parent = tokio::spawn(async move {
        let child = tokio::spawn(waiter(theirs));
        let id = number(child.id());
        compute(MS * 5);
        yield_now().await;
        let me = current_task().unwrap();
        assert_eq!(me.id(), TaskId::Task(number(tokio::task::id())));
        assert_eq!((me.polls(), me.state()), (Ok(2), TaskState::Running));
        assert!(me.busy().unwrap() >= MS * 5 && me.age().unwrap() >= me.busy().unwrap());
        (child, id)
    });
    let parent_id = number(parent.id());
    let (child, id) = parent.await.unwrap();
    let polled = |all: &Tasks| {
        all.by_id(TaskId::Task(id)).is_some_and(|t| t.polls() == Ok(1) && t.state() != TaskState::Running)
    };
    let tasks = until("polled", |all| polled(all) && all.by_id(TaskId::Task(parent_id)).is_none()).await;
    let task = tasks.by_id(TaskId::Task(id)).unwrap();
    assert_eq!((task.kind(), task.is_wrapped()), (TaskKind::Task, true));
    assert_eq!(task.parent(), Ok(Some(TaskId::Task(parent_id))));
    assert!(task.spawned_at().unwrap().file().ends_with("task_hooks.rs"));
    assert_eq!(task.waits().err(), Some(NotKnown::NotWrapped));
    if std::env::var_os("TRACEMALLOC").is_some() {
        assert!(task.spawned().unwrap().lead().place().contains("task_hooks.rs:"), "{tasks}");
        assert!(task.future().is_none_or(|name| name == "task_hooks::waiter"), "{tasks}");
        assert!(task.held().is_ok(), "{tasks}");
        assert!(tasks.is_complete(), "{tasks}");
    } else {
        assert!(task.spawned().is_none());
    }
    println!("table={}", tasks.to_string().replace('\n', "|"));
    let _ = go.send(());
    child.await.unwrap();
    until("gone", |tasks| tasks.by_id(TaskId::Task(id)).is_none()).await;
}

fn builder(flavour: &str) -> Builder {
    let mut builder = match flavour {
        "ct" => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if flavour == "mt" {
        builder.worker_threads(2);
    }
    builder.enable_all();
    builder
}

static POLLS: AtomicU64 = AtomicU64::new(0);

#[test]
fn program() {
    let Some(asked) = asked() else { return };
    let [how, flavour, program] = asked.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let mut builder = builder(flavour);
    if how == "by_hand" {
        hooks::by_hand();
    }
    if how == "run" {
        birthmark::tokio::run_on(&mut builder, true, body(program));
    } else {
        birthmark::tokio::attach_builder(&mut builder);
        let count = |_: &tokio::runtime::TaskMeta<'_>| {
            POLLS.fetch_add(1, Relaxed);
        };
        match how {
            "attached" => {}
            "by_hand" => {
                builder.on_task_spawn(hooks::on_task_spawn);
                builder.on_before_task_poll(move |task| {
                    count(task);
                    hooks::on_before_task_poll(task);
                });
                builder.on_after_task_poll(hooks::on_after_task_poll);
                builder.on_task_terminate(hooks::on_task_terminate);
            }
            "no_spawn" => _ = builder.on_task_spawn(count),
            "no_before" => _ = builder.on_before_task_poll(count),
            "no_after" => _ = builder.on_after_task_poll(count),
            "no_terminate" => _ = builder.on_task_terminate(count),
            "none" => {
                builder.on_task_spawn(count).on_before_task_poll(count);
                builder.on_after_task_poll(count).on_task_terminate(count);
            }
            other => panic!("no way {other}"),
        }
        let runtime = builder.build().unwrap();
        runtime.block_on(body(program));
        if how != "attached" {
            assert!(POLLS.load(Relaxed) >= 1);
            // The tasks that have ended are not listed as if they hadn't.
            let end = std::time::Instant::now() + MS * 2000;
            while !all_tasks().is_empty() && std::time::Instant::now() < end {
                std::thread::sleep(MS);
            }
            assert!(all_tasks().is_empty(), "{}", all_tasks());
        }
        println!("doctor={}", birthmark::doctor().to_string().replace('\n', "|"));
    }
    println!("done=yes");
}

const DEBUG: (&str, &str) = ("BIRTHMARK_ASYNC_DEBUG", "1");
const TRACED: (&str, &str) = ("TRACEMALLOC", "5");
const BARE: (&str, &str) = ("BIRTHMARK_MALLOC", "0");

const ALL: [(&str, &str); 4] = [("run", "ct"), ("run", "mt"), ("attached", "ct"), ("attached", "mt")];
const WORKERS: [(&str, &str); 2] = [("run", "mt"), ("attached", "mt")];

fn ran_with((how, flavour): (&str, &str), program: &str, variables: &[(&str, &str)]) -> Output {
    ran(&format!("{how} {flavour} {program}"), variables)
}

/// The culprit is told exactly, by its id, while it is stuck and when it ends; the text of all reports.
#[track_caller]
fn told(way: (&str, &str), program: &str, variables: &[(&str, &str)]) -> Output {
    let output = ran_with(way, program, variables);
    let (all, text) = (output.reports("slow-callback"), format!("{way:?} {variables:?}\n{}", output.stderr));
    assert_eq!(all.len(), 2, "{text}");
    let culprit = format!("task {} ", output.said("culprit"));
    assert!(all[0].starts_with(&culprit) && all[0].ends_with("and is still stuck (#1)"), "{text}");
    assert!(all[1].starts_with(&format!("one poll of {culprit}")), "{text}");
    assert!(all[1].ends_with(" (#1): ended"), "{text}");
    assert!(!all.iter().any(|line| line.contains("at least")), "{text}");
    assert!(output.reports("worker-busy").is_empty(), "{text}");
    let place = output.row("spawned");
    assert!(place.contains("task_hooks.rs:") || text.contains("line numbers need"), "{text}");
    output
}

#[track_caller]
fn silent(way: (&str, &str), program: &str, variables: &[(&str, &str)]) {
    let output = ran_with(way, program, variables);
    assert!(!output.stderr.contains("birthmark:"), "{way:?} {program}\n{}", output.stderr);
}

#[test]
fn a_task_that_nothing_wraps_is_told_exactly_while_it_is_stuck_and_when_it_ended() {
    for way in ALL {
        let output = told(way, "computing", &[DEBUG, TRACED]);
        assert!(output.stderr.contains("it allocated 3.0 MiB (#1): ended"), "{}", output.stderr);
        assert!(output.stderr.contains("task_hooks::compute"), "{}", output.stderr);
        told(way, "dependency", &[DEBUG, BARE]);
    }
}

#[test]
fn where_it_was_spawned_is_told_without_tracing_too() {
    let output = told(("attached", "mt"), "computing", &[DEBUG, BARE]);
    let line = output.row("spawned").split_whitespace().nth(1).unwrap().to_owned();
    let line: usize = line.rsplit_once(':').unwrap().1.parse().unwrap();
    let text = std::fs::read_to_string(file!()).unwrap();
    assert!(text.lines().nth(line - 1).unwrap().contains("tokio::spawn(async {"), "{}", output.stderr);
    assert!(!output.stderr.contains("adds where it was spawned"), "{}", output.stderr);
    assert!(
        output.stderr.contains("TRACEMALLOC=5 adds the whole stack that spawned it"),
        "{}",
        output.stderr
    );
}

#[test]
fn an_unconstrained_task_is_told_exactly_too_and_once() {
    for way in WORKERS {
        let output = ran_with(way, "unconstrained", &[DEBUG, TRACED]);
        let all = output.reports("slow-callback");
        assert!(output.reports("worker-busy").is_empty(), "{}", output.stderr);
        let last = all.last().unwrap();
        assert!(
            last.starts_with(&format!("one poll of task {}", output.said("culprit"))),
            "{}",
            output.stderr
        );
        assert!(all.len() <= 2 && !last.contains("at least"), "{}", output.stderr);
    }
}

#[test]
fn what_is_both_wrapped_and_hooked_is_told_once() {
    for way in ALL {
        for program in ["twice", "watched"] {
            let output = told(way, program, &[DEBUG, TRACED]);
            assert_eq!(output.stderr.matches("  watched ").count(), 1, "{}", output.stderr);
        }
    }
}

#[test]
fn a_task_of_a_local_set_is_told_as_before_by_its_own_id() {
    for way in ALL {
        let output = ran_with(way, "local", &[DEBUG, TRACED]);
        let all = output.reports("slow-callback");
        assert_eq!(all.len(), 2, "{way:?}\n{}", output.stderr);
        assert!(all[0].starts_with(&format!("task {} ", output.said("culprit"))), "{}", output.stderr);
    }
}

#[test]
fn a_task_spawned_while_async_debug_was_off_is_timed_once_it_is_on() {
    for way in ALL {
        let output = ran_with(way, "switched", &[DEBUG, BARE]);
        let all = output.reports("slow-callback");
        assert_eq!(all.len(), 2, "{way:?}\n{}", output.stderr);
        assert!(
            all[1].starts_with(&format!("one poll of task {}", output.said("culprit"))),
            "{}",
            output.stderr
        );
    }
}

#[test]
fn at_limit_zero_every_poll_of_every_task_is_told_and_none_of_ours() {
    for way in ALL {
        let output = ran_with(way, "zero", &[DEBUG, TRACED]);
        let all = output.reports("slow-callback");
        let tasks: Vec<_> = all.iter().filter(|line| line.starts_with("one poll of task ")).collect();
        assert_eq!(tasks.len(), 3, "{way:?}\n{}", output.stderr);
        let culprit = format!("one poll of task {} ", output.said("culprit"));
        assert!(tasks.iter().all(|line| line.starts_with(&culprit)), "{way:?}\n{}", output.stderr);
    }
}

#[test]
fn short_polls_and_idle_tasks_are_silent() {
    for way in ALL {
        silent(way, "short_polls", &[DEBUG, TRACED]);
        silent(way, "idle", &[DEBUG, TRACED]);
    }
}

#[test]
fn block_in_place_is_silent_and_so_is_what_is_polled_inside() {
    for way in WORKERS {
        for program in ["block_in_place", "block_on_in_place", "another_runtime_in_place"] {
            silent(way, program, &[DEBUG, TRACED]);
        }
    }
    silent(("run", "mt"), "block_in_place", &[DEBUG, BARE]);
}

#[test]
fn blocking_jobs_are_silent_and_no_rows() {
    ALL.iter().for_each(|way| silent(*way, "spawn_blocking", &[DEBUG, TRACED]));
}

#[test]
fn a_process_that_is_stopped_and_continued_is_silent() {
    for (how, flavour) in ALL {
        let output = run_meanwhile(&format!("{how} {flavour} stopped"), &[DEBUG, TRACED], |pid| {
            std::thread::sleep(MS * 250);
            for _ in 0..2 {
                // SAFETY: signals to a child of ours that hasn't been waited for.
                unsafe { libc::kill(pid as i32, libc::SIGSTOP) };
                std::thread::sleep(MS * 400);
                // SAFETY: as above.
                unsafe { libc::kill(pid as i32, libc::SIGCONT) };
                std::thread::sleep(MS * 35);
            }
        });
        assert_eq!(output.said("done"), "yes");
        assert!(!output.stderr.contains("birthmark:"), "{how} {flavour}\n{}", output.stderr);
    }
}

#[test]
fn near_misses_stay_silent_with_every_core_kept_busy() {
    with_every_core_busy(1, || {
        for program in ["short_polls", "block_on_in_place", "spawn_blocking", "idle"] {
            silent(("attached", "mt"), program, &[DEBUG, TRACED]);
        }
        silent(("attached", "ct"), "short_polls", &[DEBUG, TRACED]);
    });
}

#[test]
fn a_lock_held_across_an_await_is_told_and_one_that_was_given_back_or_leaked_is_not() {
    for way in [("run", "ct"), ("attached", "ct")] {
        let output = ran_with(way, "guard", &[DEBUG, BARE]);
        let all = output.reports("lock-across-await");
        assert_eq!(all, [format!("task {} holds a Mutex while it waits", output.said("culprit"))]);
        for label in ["locked", "spawned"] {
            assert!(output.row(label).contains("task_hooks.rs:"), "{}", output.stderr);
        }
        for program in ["leaked_guard", "guard_before"] {
            silent(way, program, &[DEBUG, TRACED]);
        }
    }
}

#[test]
fn tasks_that_nothing_wraps_are_listed_with_their_polls_their_times_and_their_parents() {
    for way in ALL {
        for variables in [&[DEBUG, TRACED][..], &[DEBUG, BARE], &[DEBUG]] {
            let output = ran_with(way, "listed", variables);
            let table = output.said("table");
            assert!(table.contains("task_hooks.rs:"), "{table}");
            assert!(table.contains("help       where a task waits is known of those that"), "{table}");
        }
    }
}

#[test]
fn what_is_both_wrapped_and_hooked_is_one_row() {
    for way in ALL {
        ran_with(way, "one_row", &[DEBUG, TRACED]);
        ran_with(way, "one_row", &[DEBUG, BARE]);
    }
}

#[test]
fn a_row_goes_with_its_task_however_that_ends() {
    for way in ALL {
        ran_with(way, "ends", &[DEBUG, BARE]);
    }
}

#[test]
fn the_list_still_says_that_tasks_of_a_local_set_may_be_missing() {
    ran_with(("run", "ct"), "local_list", &[DEBUG, BARE]);
    ran_with(("run", "mt"), "local_list", &[DEBUG, BARE]);
}

#[test]
fn a_task_that_is_pending_at_shutdown_is_told_with_its_place_without_tracing() {
    for flavour in ["ct", "mt"] {
        let output = ran_with(("run", flavour), "shut_down", &[DEBUG, ("BIRTHMARK_MALLOC", "debug")]);
        assert_eq!(output.reports("task-destroyed").len(), 1, "{}", output.stderr);
        assert!(output.row("spawned").contains("task_hooks.rs:"), "{}", output.stderr);
    }
}

#[test]
fn start_and_end_of_each_task_are_told_where_they_are_asked_for() {
    for way in ALL {
        let output = ran_with(way, "guard_before", &[DEBUG, BARE, ("BIRTHMARK_REPORT", "level=debug")]);
        let (start, end) = (output.reports("task-start"), output.reports("task-end"));
        assert_eq!((start.len(), end.len()), (1, 1), "{way:?}\n{}", output.stderr);
        assert!(start[0].ends_with(" was spawned"), "{}", output.stderr);
        assert!(
            end[0].contains(" has ended after ") && end[0].contains(": 2 polls, busy for "),
            "{}",
            output.stderr
        );
    }
}

#[test]
fn a_program_with_hooks_of_its_own_calls_ours_in_them() {
    for flavour in ["ct", "mt"] {
        let output = told(("by_hand", flavour), "computing", &[DEBUG, TRACED]);
        let doctor = output.said("doctor");
        assert!(doctor.contains("its task hooks tell every poll of one builder's tasks"), "{doctor}");
        assert!(!doctor.contains("advice         of the task hooks"), "{doctor}");
    }
}

#[test]
fn hooks_that_the_program_replaced_are_named_by_doctor_and_nothing_false_is_told() {
    for flavour in ["ct", "mt"] {
        for (how, words) in [
            ("no_spawn", "aren't called: `on_task_spawn`;"),
            ("no_before", "aren't called: `on_before_task_poll`"),
            ("no_after", "aren't called: `on_after_task_poll`;"),
            ("no_terminate", "aren't called: `on_task_terminate`;"),
            ("none", "none was ever called while async debug was on"),
        ] {
            let output = ran_with((how, flavour), "idle", &[DEBUG, BARE]);
            assert!(!output.stderr.contains("birthmark:"), "{how} {flavour}\n{}", output.stderr);
            assert!(output.said("doctor").contains(words), "{how} {flavour}: {}", output.said("doctor"));
        }
    }
    let output = ran_with(("attached", "mt"), "idle", &[DEBUG, BARE]);
    assert!(!output.said("doctor").contains("task hooks of a builder"), "{}", output.said("doctor"));
}

#[test]
fn with_async_debug_off_nothing_is_told_and_nothing_listed() {
    for flavour in ["ct", "mt"] {
        silent(("attached", flavour), "computing", &[TRACED]);
    }
}
