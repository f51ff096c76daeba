//! Wrapped tasks, and futures that may be lost or must complete: what is told of one that is dropped before its end.

use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use super::destroyed::{self, Lost};
use super::tasks::spotted::{DAEMON, Gone, MUST_COMPLETE, Spotted, spotted};
use super::tokio::words;
use super::{heap, reporter, switch};

/// Locks unless that takes a second: in a fork's child the holder may not exist.
pub(super) fn soon<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    let mut end = None;
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
        if Instant::now() > *end.get_or_insert_with(|| Instant::now() + Duration::from_secs(1)) {
            return None;
        }
        std::thread::yield_now();
    }
}

/// A wrapped future is dropped: before its end, or after a runtime that closes has found it pending.
#[cold]
#[inline(never)]
pub(super) fn gone(task: &Gone) {
    // One that panicked isn't lost, nor is what a panic took along: the panic is the news.
    let lost = !task.done && !task.has_panicked() && switch::on() && !std::thread::panicking();
    let must_complete = lost && task.has(MUST_COMPLETE);
    if !task.done && task.cell() == 0 && (task.has(DAEMON) || must_complete) {
        answer_for_the_task();
    }
    if must_complete {
        tell(task);
    }
    if task.found_by() != 0 {
        let lost = lost && !task.has(DAEMON | MUST_COMPLETE);
        destroyed::settle(task.found_by(), || lost.then(|| facts(task)));
    }
}

/// A marked future inside a wrapped task: what is said of it is said of the task.
fn answer_for_the_task() {
    let id = words::own_id();
    let is_it = |task: &Spotted| id != 0 && task.is_spawned() && task.id() == id;
    spotted().filter(is_it).for_each(|task| task.becomes_daemon());
}

fn facts(task: &Gone) -> Lost {
    let spawned = match heap::trace_number(task.cell()) {
        0 => task.marked(),
        number => number,
    };
    Lost { id: task.id(), name: Some(task.name()), made: Some(task.made()), spawned }
}

fn tell(task: &Gone) {
    let created = heap::stack_of(task.marked());
    let _ours = heap::ours();
    let dropped = heap::stack_here();
    reporter::tell(destroyed::incomplete(task.name(), task.made(), created, dropped, heap::this_thread()));
}
