//! The inventory of tasks: programs on both flavours, on a `LocalSet` and on another executor, whose tasks must be listed with
//! what is known of them, and whose list must say whether it is complete.

#![cfg(feature = "tokio")]

mod child_process;
mod inventory;

use std::time::Duration;

use birthmark::tasks::{Missing, NotKnown, TaskId, TaskKind, TaskState, Tasks};
use birthmark::{WatchExt as _, all_tasks, current_task};
use child_process::{asked, ran};
use inventory::until;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_blocking, yield_now};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

const MS: Duration = Duration::from_millis(1);

async fn waiter(go: oneshot::Receiver<()>) {
    let _ = go.await;
}

async fn parent(go: oneshot::Receiver<()>, ready: oneshot::Sender<TaskId>) {
    let (send, theirs) = oneshot::channel();
    let child = birthmark::tokio::spawn(waiter(theirs));
    let _ = ready.send(current_task().unwrap().id());
    let _ = go.await;
    let _ = send.send(());
    child.await.unwrap();
}

/// The number that tokio gives a task.
fn number(id: tokio::task::Id) -> u64 {
    id.to_string().parse().unwrap()
}

fn named<'t>(tasks: &'t Tasks, future: &str) -> Vec<&'t birthmark::tasks::Task> {
    tasks.iter().filter(|task| task.future().is_some_and(|name| name.contains(future))).collect()
}

/// Under `--cfg tokio_unstable` hooks tell of tasks that nothing wraps, on runtimes whose builder was attached (`tests/task_hooks.rs`).
const HOOKS: bool = cfg!(tokio_unstable);

async fn body(how: &str, program: &str) {
    match program {
        "wrapped" => {
            let ((go, theirs), (ready, is_ready)) = (oneshot::channel(), oneshot::channel());
            let handle = birthmark::tokio::spawn(parent(theirs, ready));
            let id = is_ready.await.unwrap();
            assert_eq!(id, TaskId::Task(number(handle.id())));
            let tasks =
                until("idle", |tasks| tasks.by_id(id).is_some_and(|t| t.state() == TaskState::Idle)).await;
            let root = named(&tasks, "body")[0];
            assert_eq!((root.kind(), root.state()), (TaskKind::Root, TaskState::Running));
            assert!(root.polls().unwrap() >= 1 && root.busy().unwrap() > Duration::ZERO);
            let task = tasks.by_id(id).unwrap();
            assert_eq!(task.future(), Some("tasks::parent"));
            assert_eq!(task.kind(), TaskKind::Task);
            assert_eq!(task.parent(), Ok(Some(root.id())));
            assert!(task.polls().unwrap() >= 1 && task.age().unwrap() > Duration::ZERO);
            assert!(task.bytes().unwrap() >= 16);
            assert!(task.spawned_at().unwrap().file().ends_with("tests/tasks.rs"));
            let child = named(&tasks, "tasks::waiter")[0];
            assert_eq!(child.parent(), Ok(Some(id)));
            if std::env::var_os("TRACEMALLOC").is_some() {
                let frames: Vec<_> = task.spawned().unwrap().frames().filter_map(|f| f.file()).collect();
                assert!(frames[0].ends_with("tests/tasks.rs"), "{frames:?}");
            }
            println!("table={}", tasks.to_string().replace('\n', "|"));
            println!("tree={}", tasks.tree().to_string().replace('\n', "|"));
            let _ = go.send(());
            handle.await.unwrap();
            assert!(named(&all_tasks(), "tasks::waiter").is_empty());
        }
        "unpolled" => {
            // No worker has come to it yet, or it has: either way it is one row with its number.
            let handle = birthmark::tokio::spawn(std::future::pending::<()>());
            let id = TaskId::Task(number(handle.id()));
            let tasks = all_tasks();
            let row = tasks.by_id(id).unwrap();
            assert_eq!(row.kind(), TaskKind::Task);
            assert_eq!(named(&tasks, "Pending").len(), 1, "{tasks}");
            handle.abort();
        }
        "part" => {
            let handle = birthmark::tokio::spawn(async {
                let (go, theirs) = oneshot::channel();
                let part = Box::pin(waiter(theirs).watched());
                let tasks = all_tasks();
                let future = named(&tasks, "tasks::waiter")[0];
                assert_eq!(future.kind(), TaskKind::Future);
                let _ = go.send(());
                let mine = current_task().unwrap();
                assert_eq!(mine.id(), TaskId::Task(number(tokio::task::id())));
                assert_eq!(future.parent().unwrap(), Some(mine.id()));
                part.await;
                mine.id()
            });
            handle.await.unwrap();
        }
        "plain" => {
            let (go, theirs) = oneshot::channel();
            let handle = tokio::spawn(waiter(theirs));
            let id = TaskId::Task(number(handle.id()));
            let tasks =
                until("idle", |tasks| tasks.by_id(id).is_some_and(|t| t.state() == TaskState::Idle)).await;
            let task = tasks.by_id(id).unwrap();
            if !HOOKS || how == "attached" {
                assert_eq!(task.polls(), Err(NotKnown::NotWrapped));
                assert_eq!(task.parent(), Err(NotKnown::NotWrapped));
            }
            assert!(task.bytes().unwrap() >= 128);
            assert!(tasks.is_complete(), "{tasks}");
            if std::env::var_os("TRACEMALLOC").is_some() {
                assert!(task.spawned().unwrap().lead().place().starts_with("tests/tasks.rs:"), "{tasks}");
                // Names leave types out in a build with the old mangling.
                assert!(task.future().is_none_or(|name| name == "tasks::waiter"), "{tasks}");
            }
            let seen = tokio::spawn(async { (current_task().unwrap().id(), number(tokio::task::id())) });
            let (seen, own) = seen.await.unwrap();
            assert_eq!(seen, TaskId::Task(own));
            let _ = go.send(());
            handle.await.unwrap();
            // The worker lets go of it a moment later.
            until("gone", |tasks| tasks.by_id(id).is_none()).await;
        }
        "boxed" => {
            let big = async {
                let mut large = [7u8; 40_000];
                std::future::pending::<()>().await;
                std::hint::black_box(&mut large);
            };
            let handle = tokio::spawn(big);
            let id = TaskId::Task(number(handle.id()));
            until("listed", |tasks| tasks.by_id(id).is_some()).await;
            handle.abort();
        }
        "local" => {
            let local = LocalSet::new();
            local
                .run_until(async {
                    let (go, theirs) = oneshot::channel();
                    let handle = tokio::task::spawn_local(waiter(theirs));
                    let (go_wrapped, theirs) = oneshot::channel();
                    let wrapped = tokio::task::spawn_local(waiter(theirs).watched());
                    yield_now().await;
                    yield_now().await;
                    let (id, other) = (number(handle.id()), number(wrapped.id()));
                    let tasks = until("idle", |tasks| {
                        let idle =
                            |id| tasks.by_id(TaskId::Task(id)).is_some_and(|t| t.state() == TaskState::Idle);
                        idle(id) && idle(other)
                    })
                    .await;
                    assert!(tasks.by_id(TaskId::Task(id)).unwrap().polls().is_err());
                    assert!(tasks.by_id(TaskId::Task(other)).unwrap().polls().is_ok());
                    assert!(tasks.is_complete(), "{tasks}");
                    let _ = (go.send(()), go_wrapped.send(()));
                    let _ = (handle.await, wrapped.await);
                    let own = || (current_task().unwrap().id(), TaskId::Task(number(tokio::task::id())));
                    let (seen, own_id) = tokio::task::spawn_local(async move { own() }).await.unwrap();
                    assert_eq!(seen, own_id);
                    let own = move || async move { (current_task().unwrap(), own()) };
                    let (task, (seen, own_id)) = birthmark::tokio::spawn_local(own()).await.unwrap();
                    assert_eq!((seen, task.id(), task.kind()), (own_id, own_id, TaskKind::Task));
                    assert!(task.spawned_at().unwrap().file().ends_with("tests/tasks.rs"));
                })
                .await;
        }
        "complete" => {
            let handle = tokio::spawn(async {});
            let id = TaskId::Task(number(handle.id()));
            let tasks =
                until("complete", |tasks| tasks.by_id(id).is_some_and(|t| t.state() == TaskState::Complete))
                    .await;
            assert!(tasks.is_complete(), "{tasks}");
            handle.await.unwrap();
            // The worker lets go of it a moment later.
            until("gone", |tasks| tasks.by_id(id).is_none()).await;
        }
        "running" => {
            // Needs a second worker.
            let (send, receive) = std::sync::mpsc::channel::<()>();
            let handle = tokio::spawn(async move {
                let _ = receive.recv();
            });
            let id = TaskId::Task(number(handle.id()));
            until("running", |tasks| tasks.by_id(id).is_some_and(|t| t.state() == TaskState::Running)).await;
            drop(send);
            handle.await.unwrap();
        }
        "scheduled" => {
            // On one thread nobody polls it before the root waits.
            let handle = tokio::spawn(async {});
            let id = TaskId::Task(number(handle.id()));
            assert_eq!(all_tasks().by_id(id).unwrap().state(), TaskState::Scheduled);
            handle.await.unwrap();
        }
        "blocking" => {
            let (send, receive) = std::sync::mpsc::channel::<()>();
            let job = spawn_blocking(move || {
                let _ = receive.recv();
            });
            let id = TaskId::Task(number(job.id()));
            for _ in 0..20 {
                assert!(all_tasks().by_id(id).is_none());
                std::thread::sleep(MS);
            }
            drop(send);
            job.await.unwrap();
        }
        "many" => {
            let handles: Vec<_> =
                (0..100).map(|_| birthmark::tokio::spawn(std::future::pending::<()>())).collect();
            let tasks = all_tasks();
            assert!(tasks.len() >= 100);
            println!("table={}", tasks.to_string().replace('\n', "|"));
            handles.iter().for_each(|handle| handle.abort());
        }
        "late" => {
            let before = tokio::spawn(std::future::pending::<()>());
            birthmark::tracemalloc::start(5);
            let after = tokio::spawn(std::future::pending::<()>());
            let id = TaskId::Task(number(after.id()));
            let tasks = until("listed", |tasks| tasks.by_id(id).is_some()).await;
            let missing = if HOOKS { Missing::TracingBeganLate } else { Missing::TracingWasOff(1) };
            assert_eq!(tasks.missing(), [missing], "{tasks}");
            before.abort();
            let _ = before.await;
            // The worker lets go of it a moment later.
            until("gone", |tasks| tasks.missing() == [Missing::TracingBeganLate]).await;
            after.abort();
        }
        "untraced" => {
            let handle = birthmark::tokio::spawn(std::future::pending::<()>());
            yield_now().await;
            let id = TaskId::Task(number(handle.id()));
            let tasks =
                until("idle", |tasks| tasks.by_id(id).is_some_and(|t| t.state() == TaskState::Idle)).await;
            assert!(tasks.by_id(id).unwrap().spawned().is_none());
            assert!(tasks.by_id(id).unwrap().spawned_at().is_some());
            assert_eq!(tasks.missing(), [Missing::TracingBeganLate]);
            handle.abort();
        }
        other => panic!("no program {other}"),
    }
}

fn on_another_executor() {
    birthmark::set_debug(true);
    let executor = smol::Executor::new();
    let (go, theirs) = oneshot::channel();
    let task = executor.spawn(waiter(theirs).watched());
    assert!(current_task().is_none());
    smol::block_on(executor.run(async {
        for _ in 0..10 {
            smol::future::yield_now().await;
        }
        let seen = executor.spawn(async { current_task().map(|task| task.kind()) }.watched()).await;
        assert_eq!(seen, Some(TaskKind::Future));
        let tasks = all_tasks();
        let row = named(&tasks, "tasks::waiter")[0];
        assert_eq!((row.kind(), row.state()), (TaskKind::Future, TaskState::Waiting));
        assert!(row.polls().unwrap() >= 1);
        assert!(tasks.is_complete(), "{tasks}");
        if std::env::var_os("TRACEMALLOC").is_some() {
            assert!(row.spawned().unwrap().lead().place().starts_with("tests/tasks.rs:"), "{tasks}");
        }
        let _ = go.send(());
        task.await;
    }));
    assert!(named(&all_tasks(), "tasks::waiter").is_empty());
}

#[test]
fn program() {
    let Some(asked) = asked() else { return };
    let (how, program) = asked.split_once(' ').unwrap();
    match how {
        "mt" => birthmark::tokio::run(true, body(how, program)),
        "ct" => {
            birthmark::tokio::run_on(Builder::new_current_thread().enable_all(), true, body(how, program))
        }
        "attached" => {
            birthmark::set_debug(true);
            let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                birthmark::tokio::attach(&Handle::current());
                body(how, program).await;
            });
        }
        "bare" => {
            let runtime = Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let tasks = all_tasks();
                assert_eq!(tasks.missing(), [Missing::AsyncDebugOff, Missing::NotAttached], "{tasks}");
                assert!(!tasks.is_complete());
            });
        }
        "smol" => on_another_executor(),
        other => panic!("no way {other}"),
    }
    println!("done=yes");
}

const TRACED: &[(&str, &str)] = &[("TRACEMALLOC", "5")];
const HEAP: &[(&str, &str)] = &[("BIRTHMARK_MALLOC", "debug")];
const PLAIN: &[(&str, &str)] = &[("BIRTHMARK_MALLOC", "0")];

#[test]
fn wrapped_tasks_are_listed_with_their_times_their_parents_and_their_spawn_stacks() {
    for how in ["mt", "ct"] {
        for variables in [TRACED, HEAP] {
            let output = ran(&format!("{how} wrapped"), variables);
            let slow = output.reports("slow-callback");
            assert!(slow.is_empty(), "finding names for the list is our time, not the poll's: {slow:?}");
            let table = output.said("table");
            assert!(table.contains("|  root ") && table.contains("tasks::parent"), "{table}");
            assert!(table.contains("tests/tasks.rs:"), "{table}");
            let tree = output.said("tree");
            let depth = |name: &str| {
                let line = tree.split('|').find(|line| line.contains(name)).unwrap();
                line.len() - line.trim_start().len()
            };
            assert!(depth("root") < depth("tasks::parent"), "{tree}");
            assert!(depth("tasks::parent") < depth("tasks::waiter"), "{tree}");
        }
    }
}

#[test]
fn a_task_is_one_row_before_its_first_poll_too() {
    for how in ["mt unpolled", "ct unpolled"] {
        ran(how, TRACED);
        ran(how, PLAIN);
    }
}

#[test]
fn a_watched_part_of_a_task_is_listed_below_it_and_is_not_the_current_task() {
    ran("mt part", TRACED);
    ran("ct part", TRACED);
}

#[test]
fn tasks_that_nothing_wraps_are_found_where_blocks_are_recorded() {
    for how in ["mt", "ct", "attached"] {
        for program in ["plain", "boxed", "local", "complete"] {
            ran(&format!("{how} {program}"), TRACED);
            ran(&format!("{how} {program}"), HEAP);
        }
    }
}

#[test]
fn what_a_task_does_is_read_from_its_cell() {
    ran("attached running", TRACED);
    ran("ct scheduled", TRACED);
}

#[test]
fn a_blocking_job_is_no_task() {
    ran("mt blocking", TRACED);
    ran("ct blocking", TRACED);
}

#[test]
fn many_tasks_of_one_place_share_a_line() {
    for how in ["mt many", "ct many"] {
        let output = ran(how, TRACED);
        let table = output.said("table");
        let line = table.split('|').find(|line| line.contains("Pending")).unwrap();
        assert!(line.starts_with("  100 "), "{table}");
    }
}

#[test]
fn a_list_that_may_not_be_complete_says_why() {
    ran("mt late", PLAIN);
    ran("ct late", PLAIN);
    ran("mt untraced", PLAIN);
    ran("ct untraced", PLAIN);
    ran("bare nothing", PLAIN);
}

#[test]
fn on_another_executor_wrapped_tasks_are_listed() {
    ran("smol nothing", TRACED);
    ran("smol nothing", HEAP);
}
