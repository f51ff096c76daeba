//! Sees that a runtime or a `LocalSet` closes, and which tasks were pending then.
//!
//! Tasks of our own wait in each of them for ever: nobody can abort them, so where one is dropped, the runtime closes. tokio
//! drops the oldest task of each of its lists first, and each list begins with some of ours, so when the first of them is dropped
//! none of the tasks that came after them was. Then the cells tell what every other task is at: one that was
//! aborted before, or has ended, isn't lost. Wrapped tasks tell themselves when they are dropped; of the others only those
//! count that nobody can poll any more.

use std::cell::Cell;
use std::collections::HashSet;
use std::pin::Pin;
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Release},
};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ::tokio::runtime::{Handle, RuntimeFlavor};
use ::tokio::task::JoinHandle;

use super::super::destroyed::{Closed, Closing, Lost};
use super::super::task::soon;
use super::super::tasks::registry::Ticket;
use super::super::tasks::spotted::spotted;
use super::super::{heap, switch, trial};
use super::busy::Ours;
use super::hooks::{self, Spawning};
use super::pool::Canary;
use super::{cell, cpu, words};

/// So long the runtime's end may be held up until its workers stand still.
const PATIENCE: Duration = Duration::from_millis(100);
/// At most so many of our own tasks wait in a runtime.
const MOST: usize = 2048;
/// At most so many workers are held up in one list; one too many is as unlikely as 1 in 5,000, and drops a few tasks unseen.
const IN_A_LIST: usize = 4;

/// A runtime or a `LocalSet` whose end will be seen.
#[derive(Debug)]
pub(crate) struct Guarded {
    what: Closed,
    /// Other threads may poll its tasks while it closes.
    is_shared: bool,
    owner: u64,
    /// The table of functions of our own tasks in it.
    table: usize,
    /// Its end says nothing: a panic ends it.
    silent: AtomicBool,
    /// How many tasks of our own wait in it.
    sentinels: AtomicUsize,
    closed: Mutex<bool>,
    /// When it closed.
    ended: OnceLock<Instant>,
}

/// Those that haven't closed.
static OPEN: Mutex<Vec<Arc<Guarded>>> = Mutex::new(Vec::new());
/// The newest of them, by its owner.
static NEWEST: AtomicU64 = AtomicU64::new(0);
/// Changes when one closes: what a thread knows is then out of date.
static GENERATION: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The generation in which this thread's runtime, and its `LocalSet`, were found guarded.
    static KNOWN: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Everything that we spawn ourselves, so that one table of functions stands for it.
pub(super) enum Job {
    /// Waits until the runtime closes.
    Sentinel(Arc<Guarded>),
    /// Gives the worker that polls it a slot, and says which test it works for.
    Register(u64, Ours),
    /// Shows its cell.
    Nothing(#[allow(dead_code)] Ours), // counted until it is dropped
}

impl Job {
    /// Gives the worker that polls it a slot. `test`: which it works for, 0: none.
    pub(super) fn register(test: u64) -> Self {
        Self::Register(test, Ours::begin())
    }

    pub(super) fn nothing() -> Self {
        Self::Nothing(Ours::begin())
    }

    fn spawning(&self) -> Spawning {
        if matches!(self, Self::Sentinel(_)) { Spawning::Ours } else { Spawning::OursOnce }
    }
}

/// The tables of functions of our own tasks: one for each scheduler of tokio's.
static TABLES: [AtomicUsize; 8] = [const { AtomicUsize::new(0) }; 8];

fn note_table(job: &JoinHandle<()>) {
    let Some(table) = cell::table(cell::of_handle(job)) else { return };
    for place in &TABLES {
        match place.compare_exchange(0, table, AcqRel, Acquire) {
            Err(other) if other != table => {}
            _ => return,
        }
    }
}

/// Whether a cell with this table of functions is a task of our own.
pub(crate) fn is_table_of_ours(table: usize) -> bool {
    TABLES.iter().any(|place| place.load(Acquire) == table)
}

/// In whose list the tasks of this runtime are.
pub(super) fn owner(handle: &Handle) -> Option<u64> {
    let _ours = heap::ours();
    cell::owner_of_handle(&spawn_on(handle, Job::nothing()))
}

/// How many tasks of our own wait in the runtime with this owner for its end.
pub(crate) fn sentinels(owner: u64) -> usize {
    let find = |all: &Vec<Arc<Guarded>>| {
        all.iter().find(|guarded| guarded.owner == owner).map(|guarded| guarded.sentinels.load(Acquire))
    };
    soon(&OPEN).and_then(|all| find(&all)).unwrap_or(0)
}

impl Future for Job {
    type Output = ();
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        match *self {
            Self::Sentinel(_) => Poll::Pending,
            Self::Register(test, _) => {
                heap::register_thread();
                if test != 0 {
                    trial::set_here(test);
                }
                std::thread::sleep(Duration::from_micros(100));
                Poll::Ready(())
            }
            Self::Nothing(_) => Poll::Ready(()),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Self::Sentinel(guarded) = self {
            guarded.closes();
        }
    }
}

#[inline(never)]
pub(super) fn spawn_on(handle: &Handle, job: Job) -> JoinHandle<()> {
    let known = matches!(job, Job::Sentinel(_));
    let handle = hooks::spawning(job.spawning(), || handle.spawn(job));
    if !known {
        note_table(&handle);
    }
    handle
}

/// Hands a job of our own to the blocking pool.
#[inline(never)]
pub(super) fn ask_pool(handle: &Handle, canary: Canary) {
    let _ours = heap::ours();
    note_table(&handle.spawn_blocking(move || canary.run()));
}

#[inline(never)]
#[track_caller]
fn spawn_local(job: Job) -> JoinHandle<()> {
    let handle = hooks::spawning(job.spawning(), || ::tokio::task::spawn_local(job));
    note_table(&handle);
    handle
}

/// Sees the end of this runtime from now on, while async debug is on. Ordinary code, after the probes.
pub(super) fn guard(handle: &Handle) -> Option<Arc<Guarded>> {
    if !cell::shows_ends() {
        return None;
    }
    super::panics::install(); // a panic of the root future silences the end
    let _ours = heap::ours();
    let first = spawn_on(handle, Job::nothing());
    let is_shared = handle.runtime_flavor() != RuntimeFlavor::CurrentThread;
    // tokio keeps its tasks in four lists for each worker, and that rounded up to a power of two. Each worker begins to drop
    // them at a list of its choice, so several may begin at the same one.
    let workers = handle.metrics().num_workers();
    let all = (workers.next_power_of_two() * 4 * workers.min(IN_A_LIST)).min(MOST);
    let (guarded, is_new) = open(Closed::Runtime, &first, is_shared)?;
    if is_new {
        guarded.sentinels.store(all, Release);
        for _ in 0..all {
            drop(spawn_on(handle, Job::Sentinel(Arc::clone(&guarded))));
        }
    }
    Some(guarded)
}

/// The same for the `LocalSet` that this thread is in.
#[track_caller]
fn guard_local() {
    if !cell::shows_ends() {
        return;
    }
    let _ours = heap::ours();
    let first = spawn_local(Job::nothing());
    if let Some((guarded, true)) = open(Closed::LocalSet, &first, false) {
        drop(spawn_local(Job::Sentinel(guarded)));
    }
}

/// The open one that this task of our own is in, and whether it is new.
fn open(what: Closed, first: &JoinHandle<()>, is_shared: bool) -> Option<(Arc<Guarded>, bool)> {
    let owner = cell::owner_of_handle(first)?;
    let table = cell::table(cell::of_handle(first))?;
    let mut all = soon(&OPEN)?;
    if let Some(guarded) = all.iter().find(|guarded| guarded.owner == owner) {
        return Some((Arc::clone(guarded), false));
    }
    let guarded = Arc::new(Guarded {
        what,
        is_shared,
        owner,
        table,
        silent: AtomicBool::new(false),
        sentinels: AtomicUsize::new(0),
        closed: Mutex::new(false),
        ended: OnceLock::new(),
    });
    all.push(Arc::clone(&guarded));
    NEWEST.store(owner, Release);
    Some((guarded, true))
}

/// Sees the end of the runtime that this thread is in, before its first wrapped task is spawned.
pub(super) fn before_a_spawn() {
    let now = GENERATION.load(Acquire);
    let (known, local) = KNOWN.get();
    if known != now
        && let Ok(handle) = Handle::try_current()
    {
        guard(&handle);
        KNOWN.set((now, local));
    }
}

/// Sees the end of the `LocalSet` that this thread is in, before its first wrapped task is spawned.
#[track_caller]
pub(super) fn before_a_local_spawn() {
    let now = GENERATION.load(Acquire);
    let (known, local) = KNOWN.get();
    if local != now {
        guard_local();
        KNOWN.set((known, now));
    }
}

/// A wrapped task was spawned, the ticket's.
pub(super) fn spawned<T>(ticket: &Ticket, handle: &JoinHandle<T>, is_local: bool) {
    if heap::tells_debug() {
        ticket.started(words::number(handle.id()));
    }
    let owner = cell::owner_of_handle(handle).filter(|owner| ticket.lies_at(cell::of_handle(handle), *owner));
    let Some(owner) = owner else { return ticket.is_task(words::number(handle.id())) };
    if NEWEST.load(Acquire) != owner {
        spawned_elsewhere(owner, is_local);
    }
}

/// Perhaps the thread is in another runtime than it was: that one is seen from its second wrapped task on.
#[cold]
#[inline(never)]
fn spawned_elsewhere(owner: u64, is_local: bool) {
    if soon(&OPEN).is_some_and(|all| all.iter().all(|guarded| guarded.owner != owner)) {
        if is_local {
            guard_local();
        } else if let Ok(handle) = Handle::try_current() {
            guard(&handle);
        }
    }
}

/// A thread panics. Outside of all tasks that is the root future of a runtime, whose end then says nothing of its tasks.
pub(crate) fn panicked() {
    if !switch::on() || NEWEST.load(Acquire) == 0 || words::own_id() != 0 {
        return;
    }
    let Ok(handle) = Handle::try_current() else { return };
    let _ours = heap::ours();
    let owner = cell::owner_of_handle(&spawn_on(&handle, Job::nothing()));
    if let Some(all) = soon(&OPEN) {
        all.iter().filter(|guarded| Some(guarded.owner) == owner).for_each(|guarded| guarded.silence());
    }
}

impl Guarded {
    /// Says nothing of its tasks when it closes.
    pub(crate) fn silence(&self) {
        self.silent.store(true, Release);
    }

    /// In whose list its tasks are: tokio's own number of the runtime.
    pub(super) fn owner(&self) -> u64 {
        self.owner
    }

    /// How long ago it closed; nothing while it runs.
    pub(super) fn ended(&self) -> Option<Duration> {
        self.ended.get().map(Instant::elapsed)
    }

    /// A task of our own is dropped. The first one counts; further ones wait until it has, so that no task of the user's is
    /// dropped before it was counted.
    fn closes(&self) {
        let _counting = Counting::begin();
        let _ = self.ended.set(Instant::now());
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *closed, true) {
            return;
        }
        let _ours = heap::ours();
        if let Some(mut all) = soon(&OPEN) {
            all.retain(|guarded| !std::ptr::eq(&**guarded, self));
        }
        GENERATION.fetch_add(1, AcqRel);
        if switch::on() && !self.silent.load(Acquire) && !std::thread::panicking() {
            self.count();
        }
    }

    fn count(&self) {
        let closing = Closing::new(self.what);
        let tasks: Vec<_> = spotted().filter_map(|task| Some((task.cell_of(self.owner)?, task))).collect();
        let mut open = 0;
        let mut wrapped = HashSet::new();
        cell::look_at_each(tasks, self.owner, |cell, task, seen| {
            wrapped.insert(cell);
            let is_pending = !seen.cancelled && !seen.complete;
            if is_pending && closing.number().is_some_and(|number| task.found_by(number)) {
                open += 1;
            }
        });
        let lost = self.plain(&wrapped);
        closing.counted(lost, open);
    }

    /// The pending tasks that aren't wrapped and that nobody can poll any more.
    fn plain(&self, wrapped: &HashSet<usize>) -> Vec<Lost> {
        let before = Daemons::now();
        let cells = cell::of_owner(self.owner, wrapped, self.table);
        let look = || -> Vec<(usize, cell::Seen)> {
            let mut all = Vec::with_capacity(cells.len());
            cell::look_at_each(cells.iter().map(|cell| (*cell, ())), self.owner, |cell, (), seen| {
                all.push((cell, seen));
            });
            // Asked afterwards: what is left of a cell that was freed meanwhile may well look like one.
            all.retain(|(cell, _)| heap::is_block(*cell));
            all
        };
        let end = Instant::now() + PATIENCE;
        let seen = loop {
            let asleep = others();
            let seen = look();
            if !self.is_shared || stand_still(&seen, asleep, &others) {
                break seen;
            }
            if Instant::now() > end {
                return Vec::new();
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        // Whose future was polled first, or dropped, meanwhile?
        let daemons = Daemons::now();
        if !before.futures.is_subset(&daemons.futures) {
            return Vec::new();
        }
        let lost = seen.into_iter().filter(|(_, seen)| {
            let is_over = seen.cancelled || seen.complete || seen.running;
            !(is_over || daemons.may_be(seen))
        });
        let lost = lost.map(|(cell, seen)| {
            let spawned = heap::trace_number(cell);
            let made = if spawned == 0 { hooks::made_of(seen.id) } else { None };
            Lost { id: seen.id, name: None, made, spawned }
        });
        lost.collect()
    }
}

/// While it lives a thread counts, or waits for one that does.
struct Counting;

static COUNTING: AtomicUsize = AtomicUsize::new(0);

impl Counting {
    fn begin() -> Self {
        COUNTING.fetch_add(1, AcqRel);
        Self
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        COUNTING.fetch_sub(1, AcqRel);
    }
}

/// Whether a worker is held up by us.
pub(super) fn counts() -> bool {
    COUNTING.load(Acquire) != 0
}

/// The futures that are marked as daemons.
struct Daemons {
    futures: HashSet<u64>,
    /// The tasks that poll them; 0: one was never polled.
    tasks: HashSet<u64>,
}

impl Daemons {
    fn now() -> Self {
        let mut all = Self { futures: HashSet::new(), tasks: HashSet::new() };
        for task in spotted().filter(|task| task.is_daemon()) {
            all.futures.insert(task.serial());
            all.tasks.insert(task.id());
        }
        all
    }

    /// A daemon that was never polled may be any task that waits for its first poll.
    fn may_be(&self, seen: &cell::Seen) -> bool {
        self.tasks.contains(&seen.id) || self.tasks.contains(&0) && seen.notified
    }
}

/// Whether nobody polls any of these tasks, nor will: none is polled, and every other thread has slept since `before` they
/// were looked at. A worker that is about to poll doesn't sleep, and one that sleeps sees first that its runtime closes when
/// it wakes.
fn stand_still(
    tasks: &[(usize, cell::Seen)],
    before: Option<Vec<Sleeper>>,
    others: &dyn Fn() -> Option<Vec<Sleeper>>,
) -> bool {
    before.is_some() && !tasks.iter().any(|(_, seen)| seen.running && !seen.complete) && others() == before
}

/// A thread that waits for something else than a processor, and how often it has had one.
type Sleeper = (i32, u64);

/// All other threads of the process but ours; nothing where one doesn't sleep.
fn others() -> Option<Vec<Sleeper>> {
    let me = heap::thread_id();
    let mut sleepers = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task").ok()? {
        let tid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        if tid == me || cpu::name(tid).starts_with("thread birthmark-") {
            continue;
        }
        let runs = cpu::counts(tid)?.runs;
        if !cpu::sleeps(tid) {
            return None;
        }
        sleepers.push((tid, runs));
    }
    Some(sleepers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: cell::Seen =
        cell::Seen { id: 1, running: false, notified: false, cancelled: false, complete: false };

    #[test]
    fn a_runtime_stands_still_when_no_task_is_polled_and_nobody_has_run_meanwhile() {
        let of = |seen| [(64, IDLE), (128, seen)];
        let asleep = || Some(vec![(7, 3), (8, 1)]);
        let still =
            |seen, before, after: Option<Vec<Sleeper>>| stand_still(&of(seen), before, &|| after.clone());
        let queued = cell::Seen { notified: true, ..IDLE };
        let polled = cell::Seen { running: true, ..IDLE };
        assert!(still(IDLE, asleep(), asleep()) && still(queued, asleep(), asleep()));
        assert!(!still(polled, asleep(), asleep()));
        assert!(!still(queued, None, None), "somebody was awake");
        assert!(!still(queued, asleep(), None));
        assert!(!still(IDLE, asleep(), Some(vec![(7, 4), (8, 1)])), "somebody ran and sleeps again");
    }
}
