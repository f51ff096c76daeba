//! What goes on now, for a test that passed its limit and for SIGQUIT: what each thread is blocked in, the tasks, the guards
//! with work undone. On a thread of ours; none of it waits for the program's threads.

use std::time::Duration;

use super::super::guard::{self, Undone};
use super::super::heap::{self, Named};
use super::super::stuck::Looker;
use super::super::tasks::{TaskId, Tasks, all_tasks};
use super::super::trial;
use super::context::{self, Holds};
use super::{cpu, words};
use crate::config::{Level, settings};
use crate::report::record::{Report, Stack};
use crate::report::{sink, text};
use crate::trace::frame::{Owner, Traceback};

/// How long a thread may take to answer the signal.
const ANSWER: Duration = Duration::from_millis(100);

/// Of one test alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Only {
    /// Its number.
    pub test: u64,
    /// In whose list the tasks of its runtime are, where that is known.
    pub owner: Option<u64>,
}

/// A thread that polls something of the program's.
struct Busy {
    traceback: Traceback,
    /// `thread tokio-rt-worker, task 17, in clock_nanosleep`.
    words: String,
}

/// What goes on.
pub(crate) struct Situation {
    busy: Vec<Busy>,
    tasks: Tasks,
    undone: Vec<Undone>,
}

/// Looks at everything, or at what belongs to one test.
pub(crate) fn look(only: Option<Only>) -> Situation {
    let _ours = heap::ours();
    let mut tasks = all_tasks();
    let mut undone = guard::undone();
    if let Some(only) = only {
        // Whose a `LocalSet`'s are isn't known: they are shown where no other test runs.
        if trial::count() > 1 {
            tasks.keep(|task| task.is_of(only.test, only.owner));
        }
        undone.retain(|guard| guard.test == only.test);
    }
    Situation { busy: busy(only), tasks, undone }
}

fn busy(only: Option<Only>) -> Vec<Busy> {
    let own = heap::thread_id();
    let mut infos = Vec::new();
    heap::threads(&mut |info| infos.push(info));
    let mut looker = Looker::new();
    let mut busy = Vec::new();
    for info in infos.into_iter().filter(|info| info.tid != own) {
        let Some(held) = heap::hold(&info) else { continue };
        if only.is_some_and(|only| held.published().test() != only.test) {
            continue;
        }
        let id = words::read(&held).map_or(0, |seen| seen.id);
        let poll = held.published().current().map(|current| current.since);
        drop(held);
        // Somebody else may be asking a thread just now, or it is in a signal's handler still, SIGQUIT's for one, that nothing unwinds.
        let mut looked = None;
        for n in 0..3 {
            std::thread::sleep(Duration::from_millis(10 * n));
            looked = looker.look(info.tid, ANSWER).or(looked);
            if looked.as_ref().is_some_and(|stuck| stuck.complete) {
                break;
            }
        }
        let Some(stuck) = looked else { continue };
        let is_same = |since| {
            let held = heap::hold(&info);
            held.is_some_and(|held| held.published().still(since))
        };
        let watched = poll.is_some_and(is_same);
        let traceback = heap::traceback(&stuck.shown());
        let mut names = heap::names_of(&traceback);
        // A dependency's frames alone are a way to wait: std's threads park by one of them.
        for (named, frame) in names.iter_mut().zip(traceback.all_frames()) {
            named.user = *frame.owner() == Owner::User;
        }
        let Some(what) = judge(&names, stuck.complete, watched) else { continue };
        let mut said = cpu::name(info.tid);
        match what {
            Polls::Task if id != 0 => said += &format!(", {}", TaskId::Task(stuck.polls.unwrap_or(id))),
            Polls::Task => {}
            Polls::Root => said += ", the root future",
            Polls::Job => said += ", a blocking job",
            Polls::Watched => said += ", a watched future",
        }
        said += &format!(", {}", stuck.doing());
        busy.push(Busy { traceback, words: said });
    }
    busy
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Polls {
    Task,
    Root,
    Job,
    /// On another executor.
    Watched,
}

/// What of the program's a thread is in, as the names of its stack tell, and whether it was in one wrapped poll all the while;
/// nothing where it waits for work.
fn judge(names: &[Named], complete: bool, watched: bool) -> Option<Polls> {
    let (holds, n) = context::holds(names, complete);
    let inside = names.get(..n).unwrap_or(names);
    let user = inside.iter().any(|named| named.user);
    if holds == Holds::Root && inside.iter().any(parks) {
        return None;
    }
    match holds {
        Holds::Worker if context::polls_a_task(inside) => Some(Polls::Task),
        Holds::Root if context::polls_a_task(inside) => Some(Polls::Task), // of a current-thread runtime
        Holds::Root if user => Some(Polls::Root),
        Holds::Nobody if user => Some(Polls::Job),
        Holds::Unknown if watched => Some(Polls::Watched),
        _ => None,
    }
}

/// Whether it is tokio's own waiting for work.
fn parks(named: &Named) -> bool {
    named.function.as_deref().is_some_and(|function| {
        let last = function.rsplit("::").next().unwrap_or(function);
        function.contains("tokio::") && last.starts_with("park")
    })
}

impl Situation {
    /// A report of it.
    pub(crate) fn report(&self, kind: &'static str, sentence: &str) -> String {
        let mut first = Report::new(kind, Level::Error, sentence);
        for busy in &self.busy {
            first = first.stack(Stack {
                label: "busy in",
                before: String::new(),
                traceback: busy.traceback.clone(),
                thread: String::new(),
                behind: busy.words.clone(),
            });
        }
        let mut rest = Report::new(kind, Level::Error, "").row("tasks", self.tasks.to_string());
        for guard in &self.undone {
            rest = match &guard.made {
                Some(stack) => rest.stack(Stack {
                    label: "pending",
                    before: format!("{}, made in", guard.words),
                    traceback: heap::named_stack(stack),
                    thread: String::new(),
                    behind: String::new(),
                }),
                None => rest.row("pending", guard.words.clone()),
            };
        }
        if settings().report.json {
            first.rows.append(&mut rest.rows);
            return sink::written(&first, sink::style());
        }
        // Each part has its own share of lines.
        sink::written(&first, sink::style()) + &text::body(&rest, sink::style())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(functions: &[&str]) -> Vec<Named> {
        functions.iter().map(|f| Named::called(f)).collect()
    }

    #[test]
    fn a_thread_that_waits_for_work_is_not_busy_and_one_that_polls_is() {
        let worker = "tokio::runtime::scheduler::multi_thread::worker::run";
        let root = "tokio::runtime::park::CachedParkThread::block_on";
        let park = "tokio::runtime::scheduler::multi_thread::park::Parker::park";
        let poll = "tokio::runtime::task::harness::poll_future";
        let job = "tokio::runtime::blocking::pool::Inner::run";
        for (functions, what) in [
            (vec!["app::f", poll, worker, job], Some(Polls::Task)),
            (vec![park, worker, job], None),
            (vec!["std::thread::park", root, "app::main"], None),
            (vec!["app::waits", "tokio::runtime::park::CachedParkThread::park", root, "app::main"], None),
            (vec!["app::body", root, "app::main"], Some(Polls::Root)),
            (vec!["app::f", poll, root, "app::main"], Some(Polls::Task)),
            (vec!["app::f", job], Some(Polls::Job)),
            (vec!["std::sync::Condvar::wait", job], None),
            (vec!["app::thread"], None),
        ] {
            assert_eq!(judge(&stack(&functions), true, false), what, "{functions:?}");
        }
        let elsewhere = stack(&["app::f", "async_executor::Executor::run", "app::main"]);
        assert_eq!(judge(&elsewhere, true, true), Some(Polls::Watched));
        assert_eq!(judge(&elsewhere, true, false), None);
    }
}
