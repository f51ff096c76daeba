//! Which tasks there are: asyncio's `current_task` and `all_tasks`.
//!
//! Wrapped futures (`birthmark::tokio::spawn`, [`watched`](crate::watched()), the future of `birthmark::tokio::run`) are registered
//! while async debug is on, on any executor. tokio's other tasks are found by their cells among the recorded blocks: where
//! the debug heap or tracing was on when they were spawned. [`Tasks::missing`] says what may be missing from the list, and why.
//!
//! While async debug and tracing are both on, each task's blocks are counted for it, whoever frees them: [`Task::held`],
//! [`Task::allocated`], [`Task::peak`], and in snapshots [`GroupBy::Task`](crate::GroupBy::Task) and
//! [`GroupBy::SpawnSite`](crate::GroupBy::SpawnSite). A block is the task's that was polled when it was made or last
//! reallocated: a task's own cell is its spawner's.
//!
//! Facts first: `registry` keeps the wrapped futures, in places of a `slab` of which each thread has a `stock`, and `spotted` has what is
//! said of those that are lost; `layout` measures what a cell looks like, and `cells` finds them; `gather`
//! joins both, and what `memory` counts, to the plain data of `record`, for which `display` has words.

#[cfg(feature = "tokio")]
mod cells;
mod display;
mod gather;
#[cfg(feature = "tokio")]
mod layout;
mod life;
pub(crate) mod memory;
mod record;
pub(crate) mod registry;
mod slab;
#[cfg(feature = "tokio")]
pub(crate) mod spotted;
pub(crate) mod stock;
pub(crate) mod waits;

pub use record::{Missing, NotKnown, Task, TaskId, TaskKind, TaskState, Tasks, Tree, Wait};

/// Whether a runtime was attached or a future wrapped, on any executor, while async debug was on.
pub(crate) fn saw_a_runtime() -> bool {
    #[cfg(feature = "tokio")]
    if super::tokio::was_attached() {
        return true;
    }
    registry::any()
}

/// The task that this thread polls now: of nested wrapped futures the task that they are parts of. Nothing outside of all.
///
/// ```
/// # #[cfg(feature = "tokio")]
/// birthmark::tokio::run(true, async {
///     birthmark::tokio::spawn(async {
///         let task = birthmark::current_task().unwrap();
///         println!("{} was polled {} times", task.id(), task.polls().unwrap());
///     })
///     .await
///     .unwrap();
/// });
/// ```
pub fn current_task() -> Option<Task> {
    gather::current()
}

/// All tasks that there are now, as plain data: who they are, what they do, where they were spawned, and whether these are all.
/// Ordinary code that takes some milliseconds the first time, and a few microseconds a task; names are looked up when they are
/// asked for.
///
/// ```
/// birthmark::set_debug(true);
/// let idle = Box::pin(birthmark::watched(std::future::pending::<()>()));
/// let tasks = birthmark::all_tasks();
/// assert_eq!(tasks.len(), 1);
/// println!("{tasks}");
/// println!("{}", tasks.tree());
/// # drop(idle);
/// ```
pub fn all_tasks() -> Tasks {
    gather::all()
}
