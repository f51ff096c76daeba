//! Tasks that go on when their test's future is done.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use ::tokio::runtime::{Runtime, RuntimeFlavor};
use ::tokio::task::yield_now;

use super::super::super::tasks::spotted::spotted;
use super::super::super::tasks::{Task, TaskId, TaskState, all_tasks};
use super::super::super::trial::{self, Trial};
use super::super::super::warning::{Kind, Row, Warning};
use super::super::super::{heap, reporter};
use super::super::{our_alive, sentinels};
use crate::trace::frame::Owner as Code;
use crate::trace::owner::origin;

/// So long may tasks take to end by themselves once the test's future is done: they were aborted, or see that their channel
/// is closed.
const GRACE: Duration = Duration::from_millis(100);

/// Tells of the tasks that go on. `until`: when the limit passes, which tells better of a poll that doesn't end.
pub(super) fn tell(runtime: &Runtime, trial: &Trial, owner: Option<u64>, until: Instant) {
    let _ours = heap::ours();
    let grace = Instant::now() + GRACE;
    let alive = || {
        let ours = owner.map_or(0, sentinels) + our_alive();
        runtime.metrics().num_alive_tasks().saturating_sub(ours)
    };
    loop {
        drive(runtime);
        if alive() == 0 || Instant::now() > until {
            return;
        }
        if Instant::now() < grace {
            continue;
        }
        let left = left(trial, owner);
        // A poll under way may be the last.
        let busy = |task: &Task| matches!(task.state(), TaskState::Running | TaskState::Scheduled);
        if !left.iter().any(busy) {
            let unlisted = alive().saturating_sub(left.len());
            groups(without_daemons(left))
                .into_iter()
                .for_each(|group| reporter::later(Box::new(move || words(&group))));
            if unlisted > 0 {
                reporter::tell_of_others(unlisted_words(unlisted));
            }
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Lets the runtime's tasks go on for a moment.
fn drive(runtime: &Runtime) {
    if runtime.handle().runtime_flavor() == RuntimeFlavor::CurrentThread {
        runtime.block_on(async {
            for _ in 0..64 {
                yield_now().await;
            }
        });
    }
    std::thread::sleep(Duration::from_millis(1));
}

/// Those of the test's runtime that haven't ended.
fn left(trial: &Trial, owner: Option<u64>) -> Vec<Task> {
    let all = all_tasks().into_iter();
    all.filter(|task| task.is_task_of(trial.number, owner) && task.state() != TaskState::Complete).collect()
}

/// Those that may not be lost.
fn without_daemons(mut tasks: Vec<Task>) -> Vec<Task> {
    let daemons = spotted().filter(|task| task.is_daemon()).map(|task| TaskId::Task(task.id()));
    let daemons: HashSet<TaskId> = daemons.collect();
    tasks.retain(|task| !daemons.contains(&task.id()));
    tasks
}

/// Those that were spawned at one place, as people read it: a loop that was unrolled has several addresses for it.
fn groups(tasks: Vec<Task>) -> Vec<Group> {
    let same = |a: &Task, b: &Task| {
        a.spawned() == b.spawned() && a.spawned_at() == b.spawned_at() && a.future() == b.future()
    };
    let mut groups: Vec<Group> = Vec::new();
    for task in tasks {
        match groups.iter_mut().find(|group| group.tasks.iter().any(|other| same(other, &task))) {
            Some(group) => group.tasks.push(task),
            None => groups.push(Group { test: trial::here(), tasks: vec![task] }),
        }
    }
    groups
}

struct Group {
    test: u64,
    tasks: Vec<Task>,
}

/// The report of a group, once names are known; nothing where a dependency spawned them.
fn words(group: &Group) -> Option<Warning> {
    let first = group.tasks.first()?;
    let theirs = match (first.spawned(), first.spawned_at()) {
        (Some(traceback), _) => {
            traceback.via().is_some() || matches!(traceback.lead().owner(), Code::Dependency(_))
        }
        (None, Some(made)) => matches!(origin(made.file()).owner, Code::Dependency(_)),
        (None, None) => false,
    };
    if theirs && (!first.is_wrapped() || first.is_hooked()) {
        return None;
    }
    let who = match first.future() {
        Some(future) => format!(" `{future}`"),
        None => String::new(),
    };
    let sentence = match group.tasks.len() {
        1 => format!("{}{who} went on when its test was done", first.id()),
        n => format!("{n} tasks{who} went on when their test was done"),
    };
    let mut rows = Vec::new();
    let mut help = "await its `JoinHandle`, or abort it, before the test ends".to_owned();
    match (first.raw_stack(), first.spawned_at()) {
        (Some(stack), _) => rows.push(Row::stack("spawned", stack)),
        (None, Some(at)) => rows.push(Row::place("spawned", at)),
        (None, None) => help += "; TRACEMALLOC=5 adds where it was spawned",
    }
    let polled = match first.polls() {
        Ok(1) => ", polled once".into(),
        Ok(n) => format!(", polled {n} times"),
        Err(_) => String::new(),
    };
    rows.push(Row::words("state", format!("{}{polled}", first.state())));
    rows.push(Row::words("help", help));
    Some(Warning::new(Kind::TaskLeak, sentence, rows).of_test(group.test))
}

/// Of tasks that the runtime counts, and of which nothing else is known.
fn unlisted_words(n: usize) -> Warning {
    let (task, its) = if n == 1 { ("task", "its") } else { ("tasks", "their") };
    let sentence = format!("{n} {task} went on when {its} test was done");
    let help = if heap::installed() {
        "TRACEMALLOC=5 adds where it was spawned"
    } else {
        "`DebugAlloc` as this test file's `#[global_allocator]` adds where it was spawned"
    };
    Warning::new(Kind::TaskLeak, sentence, vec![Row::words("help", help.into())])
}
