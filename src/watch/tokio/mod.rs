//! The diagnostics for tokio: which task blocks its worker, whose panic nobody read, what a writer lost.
//!
//! Works on stable tokio from 1.45 on, and tells more where all is built with `--cfg tokio_unstable`. One line attaches a program
//! that stays as it is:
//!
//! ```
//! # let _ = ::tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! birthmark::tokio::attach(&::tokio::runtime::Handle::current());
//! # });
//! ```
//!
//! # What reaches how far
//!
//! While async debug is on (attached alone, unread panics are told): of a task of plain `tokio::spawn` on a runtime that [`attach`]
//! attached, of a wrapped one ([`run`]'s future, [`spawn`], `.watched()`), and of a plain one in a program built with
//! `RUSTFLAGS="--cfg tokio_unstable"`, where [`attach_builder`], [`run`], [`run_on`] and the test wrapper claim tokio's task hooks.
//! [`attach`] can't set hooks: its runtime is built.
//!
//! | | attached, nothing wrapped | wrapped | hooks of `tokio_unstable`, nothing wrapped |
//! |---|---|---|---|
//! | a poll that blocks its thread, and its stack, while it does | `slow-callback`; `worker-busy` for an `unconstrained` task, and where tokio's words can't be read | `slow-callback` | `slow-callback` |
//! | which task, and where it was spawned | its id; the stack if tracing was on at the spawn | its id and line; the stack too if tracing was on | as wrapped, but for a task spawned while async debug was off |
//! | how long its poll took | "at least", since the watchdog's second sight of it | exact, and told when it ends | exact, and told when it ends |
//! | bytes allocated in this poll | at least, since then | exact | exact |
//! | `block_in_place` in a poll | silent | a part of the poll | silent |
//! | a panic that nobody reads | yes | yes | yes |
//! | pending when its runtime ends | if tracing or the debug heap was on at the spawn | yes | as attached; its line without tracing too |
//! | an `Err` that nobody reads; a future never polled | no | [`spawn_fallible`]; `.watched()` | no: hooks know no outcome, and are called before the "poll" of a task that was aborted too |
//! | a lock of [`birthmark::sync`](crate::sync) held across an `.await` | no | yes | yes |
//! | a row in [`all_tasks`](crate::all_tasks()) | if tracing or the debug heap was on at the spawn | yes | yes |
//! | its age, polls, busy time and parent | no | yes | yes |
//! | what it holds and allocates | with tracing on | with tracing on | with tracing on |
//! | where it waits, its `.await`s | no | with tracing on | no |
//! | its start and end, by `BIRTHMARK_REPORT=level=debug` | no | yes | yes |
//!
//! A watchdog looks at what each thread polls, more than twice in a limit, and about once in a limit while the whole program waits: a
//! poll that blocks for 1.5 limits is told while it does, one that begins while all waits, of two. (What is wrapped or has hooks is told
//! of any length over the limit, at its end.)
//!
//! Times leave out what the thread waited for a processor since the watchdog saw the poll, or saw the thread in none before, and what
//! the process was stopped, where that may be more than a tenth of it. tokio has no hooks for a `LocalSet`'s tasks nor for a
//! root future: they are as in the first column, or wrapped. A task that is both wrapped and hooked is told once, as wrapped.
//! `birthmark::tokio::hooks` is for programs that have hooks of their own.
//!
//! # What is told
//!
//! Attached, panics of tasks that nobody reads are told, of those whose `JoinHandle` is forgotten at exit. While async debug is on (`BIRTHMARK_ASYNC_DEBUG=1`,
//! [`run`]`(true, ..)`, [`crate::set_debug`]) polls that block their thread are, too: tasks from plain `tokio::spawn`, of
//! dependencies as well, the root future, and tasks of a `LocalSet`.
//!
//! Then the end of a runtime is seen, too: tasks that are still pending when it is dropped, shut down in the background or at
//! the end of [`run`] or `#[tokio::main]` are told in one report, `task-destroyed`, by where they were spawned. Silent
//! are tasks that had been aborted, those of dependencies where there are no others, and a runtime whose root future
//! panics. [`spawn`]ed tasks are told always; those of plain `tokio::spawn`
//!
//! - where they were spawned after [`attach`], with tracing or the debug heap on;
//! - on a multi-threaded runtime where no worker polls, and no other thread of the process is busy, for a moment within 100 ms:
//!   else one that is told might yet end.
//!
//! For that some tasks of Birthmark's own, at most 32 for each worker, wait in the runtime, and are counted in its metrics. Of
//! a `LocalSet` the end is seen from its first [`spawn_local`] on. Jobs of `spawn_blocking` aren't looked at.
//!
//! While async debug is on and a runtime is attached or a future wrapped, SIGQUIT prints the tasks and what each thread is busy in
//! (of other executors' threads those that poll a watched future), with every worker stuck too, and the program goes on. Where the program handles or ignores SIGQUIT itself, that stays.
//!
//! A waker that is busy inside the runtime's driver for longer than a poll may take is told as `slow-driver`: where it blocks in a
//! system call, or where it computes while every worker of the attached runtimes is parked.
//!
//! A blocking pool of an attached runtime whose threads are all held is told as `pool-starved`. Where a job has run for longer than a
//! poll may take, an empty job of Birthmark's own asks the pool, at most once a second; a queue of jobs that are each shorter isn't seen.
//!
//! What isn't seen: a waker that waits for a lock, which looks as an idle worker does; polls of a task inside `unconstrained`, and
//! with `coop=off` those of every task that isn't wrapped, but as `worker-busy` of a multi-threaded runtime: nothing of them on a
//! current-thread runtime or in a `LocalSet`; a panic whose payload has no size (`panic_any(())`); without symbols, whether a `block_on`
//! stands inside `block_in_place`.

mod bound;
mod busy;
mod cell;
mod context;
pub(crate) mod cpu;
mod fallible;
pub mod fs;
#[cfg(tokio_unstable)]
pub mod hooks;
#[cfg(not(tokio_unstable))]
#[path = "hooks_none.rs"]
mod hooks;
pub mod io;
mod nap;
#[cfg(feature = "tokio-net")]
pub mod net;
mod pace;
mod parks;
mod pool;
mod probe;
#[cfg(feature = "tokio-process")]
pub mod process;
mod proof;
mod rest;
mod say;
mod shutdown;
mod situation;
pub mod sync;
mod testing;
mod turns;
mod waits;
mod watchdog;
pub(crate) mod words;

pub use bound::RuntimeBound;
use context::Holds;
pub(crate) use context::future_type_of as future_type;
pub use fallible::FallibleTask;
pub(crate) use fallible::end as end_fallible;
pub(crate) use hooks::{advice, whole as whole_hooks};
pub(crate) use shutdown::panicked;
pub use testing::{test, test_on};
pub(crate) use watchdog::{settle, surely};

pub(crate) use busy::{our_alive, runtimes};
pub(crate) use cell::{
    Shape, among_blocks as cell_among_blocks, holds_output, id_at, id_in, is_cell, is_running, on_free,
    on_stack, shape,
};
pub(crate) use shutdown::{is_table_of_ours, sentinels};

use std::fmt::Debug;
use std::future::Future;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Relaxed, SeqCst},
};

use ::tokio::runtime::{Builder, Handle, RuntimeFlavor};
use ::tokio::task::JoinHandle;

use super::tasks::registry::Role;
pub(crate) use super::units::{next_case, words_of_bytes, words_of_time};
use super::{heap, panics, switch, trial, wrapped};

/// A runtime was attached.
static ATTACHED: AtomicBool = AtomicBool::new(false);
/// A future was wrapped while async debug was on.
static WRAPPED: AtomicBool = AtomicBool::new(false);

/// Runs `future` to its end on a multi-threaded runtime with everything enabled, as `#[tokio::main]` does, with async debug
/// on when `debug` is true: Python's `asyncio.run(main(), debug=True)`. The future is polled in place, so it needn't be `Send`.
///
/// `run(false, ..)` leaves async debug to `BIRTHMARK_ASYNC_DEBUG`, and `BIRTHMARK_ASYNC_DEBUG=0` wins over `run(true, ..)`.
///
/// ```
/// let n = birthmark::tokio::run(true, async { 6 * 7 });
/// assert_eq!(n, 42);
/// ```
///
/// # Panics
/// When the runtime can't be built, inside of another runtime, when the future panics, and once the runtime is down when
/// a filter made a warning an error ([`crate::warnings`]).
#[track_caller]
pub fn run<F: Future>(debug: bool, future: F) -> F::Output {
    run_on(Builder::new_multi_thread().enable_all(), debug, future)
}

/// [`run`] on a runtime of your own making.
///
/// ```
/// use ::tokio::runtime::Builder;
///
/// let n = birthmark::tokio::run_on(Builder::new_current_thread().enable_all(), false, async { 6 * 7 });
/// assert_eq!(n, 42);
/// ```
///
/// # Panics
/// As [`run`].
#[track_caller]
pub fn run_on<F: Future>(builder: &mut Builder, debug: bool, future: F) -> F::Output {
    let _during = switch::During::asked(debug);
    attach_builder(builder);
    let runtime = match builder.build() {
        Ok(runtime) => runtime,
        Err(error) => panic!("birthmark::tokio::run: the runtime can't be built: {error}"),
    };
    struct Attached(u64, Option<Arc<shutdown::Guarded>>);
    impl Drop for Attached {
        fn drop(&mut self) {
            busy::forget(self.0);
            if let Some(guarded) = self.1.take().filter(|_| std::thread::panicking()) {
                guarded.silence(); // the panic is the news
            }
        }
    }
    let (number, guarded) = watch(runtime.handle());
    let attached = Attached(number, guarded);
    // Off, the root future goes as it came: not even its size grows.
    let output = if switch::on() {
        runtime.block_on(wrapped::for_a_task(future, Role::Root))
    } else {
        runtime.block_on(future)
    };
    drop(attached);
    drop(runtime);
    super::warnings::check();
    output
}

/// Attaches a running runtime: panics of its tasks that nobody reads are told, and slow callbacks while async debug is on.
/// One line in a program that is otherwise left as it is.
///
/// ```
/// use ::tokio::runtime::{Builder, Handle};
///
/// let runtime = Builder::new_current_thread().build().unwrap();
/// runtime.block_on(async {
///     birthmark::tokio::attach(&Handle::current());
/// });
/// ```
pub fn attach(handle: &Handle) {
    watch(handle);
}

/// [`attach`] for runtimes that this builder will make. Under `--cfg tokio_unstable` its four task hooks are claimed, which tell
/// every poll of every task, unless `hooks::by_hand` says that the program calls them. Of the others only `on_thread_park` and
/// `on_thread_unpark` are taken, and only where `BIRTHMARK_REPORT=level=debug` asks for driver turns. A hook that is set later takes
/// the place of ours, which [`crate::doctor`] says.
///
/// ```
/// let mut builder = ::tokio::runtime::Builder::new_current_thread();
/// birthmark::tokio::attach_builder(&mut builder);
/// let runtime = builder.build().unwrap();
/// ```
#[track_caller]
pub fn attach_builder(builder: &mut Builder) {
    // Threads made while the allocator counts have a slot from their first block on.
    parks::claim(builder, Location::caller());
    hooks::claim(builder);
    ATTACHED.store(true, SeqCst);
    panics::install();
    if switch::on() {
        start();
    }
}

/// Attaches: a number by which the runtime's counters are let go, and what sees its end.
fn watch(handle: &Handle) -> (u64, Option<Arc<shutdown::Guarded>>) {
    let number = busy::remember(handle);
    ATTACHED.store(true, SeqCst);
    panics::install();
    let mut guarded = None;
    if switch::on() {
        start();
        guarded = shutdown::guard(handle);
    }
    // Workers that began before anybody counted get their slots now; each of these jobs takes one for a moment, so that
    // the idle ones take the others.
    heap::renew_thread();
    let test = if switch::on() { trial::of_this_thread() } else { 0 };
    if handle.runtime_flavor() == RuntimeFlavor::MultiThread && switch::on() {
        let _ours = heap::ours();
        for _ in 0..handle.metrics().num_workers() * 2 {
            drop(shutdown::spawn_on(handle, shutdown::Job::register(test)));
        }
    }
    (number, guarded)
}

/// Spawns a task whose polls are timed exactly while async debug is on: `tokio::spawn` of a [`crate::watched`] future.
///
/// ```
/// # birthmark::tokio::run(false, async {
/// let handle = birthmark::tokio::spawn(async { 6 * 7 });
/// assert_eq!(handle.await.unwrap(), 42);
/// # });
/// ```
///
/// # Panics
/// Outside of a runtime, as `tokio::spawn`.
#[track_caller]
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    if !switch::on() {
        return ::tokio::spawn(wrapped::for_a_task(future, Role::Task));
    }
    wrapped(); // what a cell looks like must be known first
    shutdown::before_a_spawn();
    let future = wrapped::for_a_task(future, Role::Task);
    let ticket = future.ticket();
    let handle = hooks::spawning(hooks::Spawning::Wrapped, || ::tokio::spawn(future));
    if let Some(ticket) = ticket {
        shutdown::spawned(&ticket, &handle, false);
    }
    handle
}

/// [`spawn`] for a task that may fail: while async debug is on, an `Err` that nobody reads is told as `task-error`, when the
/// task ends without a handle, when its handle is dropped unread, or at exit. Python's "Task exception was never
/// retrieved". Reading is awaiting the handle. [`spawn`] itself can't see whether an output is an `Err`.
///
/// ```
/// # birthmark::tokio::run(false, async {
/// let task = birthmark::tokio::spawn_fallible(async { "6".parse::<u8>() });
/// assert_eq!(task.await.unwrap(), Ok(6));
/// # });
/// ```
///
/// # Panics
/// Outside of a runtime, as `tokio::spawn`.
#[track_caller]
pub fn spawn_fallible<F, T, E>(future: F) -> FallibleTask<T, E>
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Debug + Send + 'static,
{
    let noted = fallible::Noted::new(future);
    let watch = noted.watch();
    FallibleTask::new(spawn(noted), watch)
}

/// [`spawn_fallible`] for a task that isn't `Send`, on the `LocalSet` that this code runs in.
///
/// ```
/// # birthmark::tokio::run(false, async {
/// let local = tokio::task::LocalSet::new();
/// let read = local.run_until(async {
///     let task = birthmark::tokio::spawn_local_fallible(async { "6".parse::<u8>() });
///     task.await.unwrap()
/// });
/// assert_eq!(read.await, Ok(6));
/// # });
/// ```
///
/// # Panics
/// Outside of a `LocalSet`, as `tokio::task::spawn_local`.
#[track_caller]
pub fn spawn_local_fallible<F, T, E>(future: F) -> FallibleTask<T, E>
where
    F: Future<Output = Result<T, E>> + 'static,
    T: 'static,
    E: Debug + 'static,
{
    let noted = fallible::Noted::new(future);
    let watch = noted.watch();
    FallibleTask::new(spawn_local(noted), watch)
}

/// [`spawn`] for a task that isn't `Send`, on the `LocalSet` that this code runs in. From the first such task on the set's end
/// is seen.
///
/// ```
/// # birthmark::tokio::run(false, async {
/// let local = tokio::task::LocalSet::new();
/// let n = local.run_until(async { birthmark::tokio::spawn_local(async { 6 * 7 }).await });
/// assert_eq!(n.await.unwrap(), 42);
/// # });
/// ```
///
/// # Panics
/// Outside of a `LocalSet`, as `tokio::task::spawn_local`.
#[track_caller]
pub fn spawn_local<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    if !switch::on() {
        return ::tokio::task::spawn_local(wrapped::for_a_task(future, Role::Task));
    }
    wrapped();
    shutdown::before_a_local_spawn();
    let future = wrapped::for_a_task(future, Role::Task);
    let ticket = future.ticket();
    let handle = hooks::spawning(hooks::Spawning::Wrapped, || ::tokio::task::spawn_local(future));
    if let Some(ticket) = ticket {
        shutdown::spawned(&ticket, &handle, true);
    }
    handle
}

/// Async debug goes on.
pub(crate) fn switched_on() {
    if ATTACHED.load(SeqCst) || WRAPPED.load(SeqCst) {
        start();
        busy::handles().iter().for_each(|handle| drop(shutdown::guard(handle)));
    }
}

/// Whether a runtime was ever attached.
pub(crate) fn was_attached() -> bool {
    ATTACHED.load(Relaxed)
}

/// A future was wrapped while async debug is on.
pub(crate) fn wrapped() {
    if !WRAPPED.load(Relaxed) {
        WRAPPED.store(true, SeqCst);
        start();
    }
}

fn start() {
    let _ours = heap::ours();
    probe::probe();
    super::tasks::memory::begin();
    watchdog::ensure();
    super::quit::switched_on();
}

/// A report of what goes on. Ordinary code, on a thread of ours.
#[cfg(unix)]
pub(crate) fn situation(kind: &'static str, sentence: &str) -> String {
    situation::look(None).report(kind, sentence)
}

/// Measures tokio's words now, where they weren't yet. Ordinary code.
pub(crate) fn measure() {
    let _ours = heap::ours();
    probe::probe();
}

/// Whether this thread may be inside of a poll of tokio's; nothing outside of all runtimes.
pub(crate) fn may_poll_here() -> Option<bool> {
    Handle::try_current().ok()?;
    measure();
    Some(!matches!(words::own_budget(), Ok(None)))
}

/// What is called a poll that a worker or a root future waits for, where the names of this stack tell that it is in one.
pub(crate) fn poll_of(stack: &[usize]) -> Option<Option<String>> {
    let names = heap::names(stack);
    let (holds, inside) = context::holds(&names, true);
    let inside = names.get(..inside).unwrap_or(&names);
    let polls = match holds {
        Holds::Worker => context::polls_a_task(inside),
        holds => holds == Holds::Root,
    };
    polls.then(|| context::future_name(inside).map(str::to_owned))
}

/// What was found of tokio's insides, in words; nothing before anybody asked for them.
pub(crate) fn found() -> Option<String> {
    let found = probe::known()?;
    let words = match (found.id, found.budget, found.cell) {
        (Some(_), Some(_), Some(cell)) if cell.life.is_none() => {
            "polls are told apart from outside; what a task's end looks like wasn't found: no task-destroyed"
        }
        (Some(_), Some(_), Some(_)) => "polls are told apart from outside: slow-callback names the task",
        (Some(_), None, _) => "its budget wasn't found: a blocked worker is told as worker-busy",
        (Some(_), Some(_), None) => "its task cells weren't found: no spawn stacks, no unread panics",
        (None, ..) => {
            "its words weren't found (a tokio in a library loaded later, or laid out otherwise): worker-busy only"
        }
    };
    let evicted = "no driver turn was seen yet: none came, or a park hook that was set after `attach_builder` took the place of ours";
    let parts = [Some(words.to_owned()), hooks::found(), parks::is_evicted().then(|| evicted.to_owned())];
    Some(parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
}
