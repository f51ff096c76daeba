//! tokio's task hooks, there under `--cfg tokio_unstable` alone: through them every poll of a task that `tokio::spawn`
//! spawned is timed exactly, in dependencies too, with nothing wrapped.
//!
//! [`attach_builder`](super::attach_builder()), [`run`](super::run()), [`run_on`](super::run_on()) and the test wrapper claim
//! them, and a builder keeps one function for each: what the program set before is replaced, and what it sets later replaces
//! ours, which [`doctor`](crate::doctor()) says. A program with hooks of its own calls these functions in them:
//!
//! ```
//! use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
//!
//! use birthmark::tokio::hooks;
//!
//! static POLLS: AtomicU64 = AtomicU64::new(0);
//!
//! hooks::by_hand(); // nobody replaces what follows
//! let mut builder = tokio::runtime::Builder::new_current_thread();
//! birthmark::tokio::attach_builder(&mut builder);
//! builder.on_task_spawn(hooks::on_task_spawn);
//! builder.on_before_task_poll(|task| {
//!     POLLS.fetch_add(1, Relaxed);
//!     hooks::on_before_task_poll(task);
//! });
//! builder.on_after_task_poll(hooks::on_after_task_poll);
//! builder.on_task_terminate(hooks::on_task_terminate);
//! # let runtime = builder.build().unwrap();
//! # runtime.block_on(async { tokio::spawn(async {}).await.unwrap() });
//! # assert_eq!(POLLS.load(Relaxed), 1);
//! ```
//!
//! While async debug is off each is a relaxed load. None of them panics.
//!
//! tokio calls no hooks for the tasks of a `LocalSet`, for a root future and for blocking jobs: those are seen as on a stable tokio.
//! tokio 1.46.1 is the first that tells where a task was spawned: on an older one tasks are timed and not listed.

mod index;
mod seen;

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::panic::Location;
use std::sync::atomic::{
    AtomicBool, AtomicU8,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ::tokio::runtime::{Builder, Handle, RuntimeFlavor, TaskMeta};
use ::tokio::task::Id;

use super::super::poll::{self, Entered};
use super::super::tasks::registry::{self, Registered};
use super::super::warning::Row;
use super::super::{heap, locks, switch};
use super::{shutdown, words};
use index::{Entry, Index};
use seen::{AFTER, BEFORE, SPAWN, TERMINATE};

/// What is known of each task that a hook told of.
static INDEX: Index = Index::new();
/// A task was spawned or polled while async debug was on.
static ANY: AtomicBool = AtomicBool::new(false);

/// What the hooks of one builder have shown, while async debug was on.
#[derive(Debug, Default)]
struct Claim {
    /// Those that were called.
    seen: AtomicU8,
    /// Those that weren't when they had to be: others have replaced them.
    lost: AtomicU8,
}

/// Those that the program calls.
static BY_HAND: Claim = Claim { seen: AtomicU8::new(0), lost: AtomicU8::new(0) };
/// The program said that it does.
static IS_BY_HAND: AtomicBool = AtomicBool::new(false);
/// Those of builders.
static CLAIMS: Mutex<Vec<Weak<Claim>>> = Mutex::new(Vec::new());
/// Some poll's end was told, and of some it wasn't.
static ENDS_SEEN: AtomicBool = AtomicBool::new(false);
static ENDS_LOST: AtomicBool = AtomicBool::new(false);

impl Claim {
    fn address(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    #[inline]
    fn saw(&self, hook: u8) {
        if self.seen.load(Relaxed) & hook == 0 {
            self.seen.fetch_or(hook, Relaxed);
        }
    }

    #[inline]
    fn has_lost(&self, hooks: u8) -> bool {
        self.lost.load(Relaxed) & hooks != 0
    }
}

/// Claims of which nothing was ever seen are gone.
static GONE_UNSEEN: AtomicBool = AtomicBool::new(false);

impl Drop for Claim {
    fn drop(&mut self) {
        if self.seen.load(Relaxed) == 0 && switch::on() {
            GONE_UNSEEN.store(true, Relaxed);
        }
    }
}

/// Visits the claims of builders that live, or whose runtimes do.
fn claims(visit: &mut dyn FnMut(&Claim)) {
    let all = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
    all.iter().filter_map(Weak::upgrade).for_each(|claim| visit(&claim));
}

/// What is about to be spawned on this thread.
#[derive(Clone, Copy)]
pub(super) enum Spawning {
    /// A wrapper tells all of it.
    Wrapped,
    /// It is ours, and waits for ever.
    Ours,
    /// It is ours, and ends in its first poll.
    OursOnce,
}

/// A poll that began on this thread.
struct Polled {
    id: u64,
    known: Option<Entry>,
    /// Where in the stack it began.
    at: usize,
    /// The lock that the thread had taken last.
    locks: u64,
    /// Its task is no more.
    has_ended: bool,
    hooks: usize,
    entered: Option<Entered>,
}

/// So many polls inside of each other are seen: a runtime inside of `block_in_place` polls inside of another's poll.
const DEEPEST: usize = 4;
/// What is polled inside of a poll begins further down in the stack than this.
const APART: usize = 256;

thread_local! {
    static SPAWNING: Cell<Option<Spawning>> = const { Cell::new(None) };
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Without a destructor: a hook may be called when others have run.
    static POLLED: RefCell<ManuallyDrop<[Option<Polled>; DEEPEST]>> =
        const { RefCell::new(ManuallyDrop::new([const { None }; DEEPEST])) };
}

/// Tells the hooks what `spawn` spawns on this thread.
#[inline]
pub(super) fn spawning<R>(what: Spawning, spawn: impl FnOnce() -> R) -> R {
    struct Before(Option<Spawning>);
    impl Drop for Before {
        fn drop(&mut self) {
            SPAWNING.set(self.0);
        }
    }
    let _before = Before(SPAWNING.replace(Some(what)));
    spawn()
}

/// Claims the hooks of this builder, unless the program calls them by hand.
pub(super) fn claim(builder: &mut Builder) {
    if IS_BY_HAND.load(Acquire) {
        return;
    }
    let _ours = heap::ours();
    let claim = Arc::new(Claim::default());
    {
        let mut all = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|claim| claim.strong_count() != 0);
        all.push(Arc::downgrade(&claim));
    }
    let [spawn, before, after, terminate] = std::array::from_fn(|_| Arc::clone(&claim));
    builder.on_task_spawn(move |meta| spawned(&spawn, meta));
    builder.on_before_task_poll(move |meta| begins(&before, meta));
    builder.on_after_task_poll(move |meta| ends(&after, meta));
    builder.on_task_terminate(move |meta| terminated(&terminate, meta));
}

/// From now on [`attach_builder`](super::attach_builder()), [`run`](super::run()) and [`run_on`](super::run_on()) leave the task
/// hooks of builders as they are: the program calls the functions of this module in hooks of its own.
pub fn by_hand() {
    IS_BY_HAND.store(true, Release);
}

/// For `Builder::on_task_spawn`.
#[inline]
pub fn on_task_spawn(task: &TaskMeta<'_>) {
    spawned(&BY_HAND, task);
}

/// For `Builder::on_before_task_poll`.
#[inline]
pub fn on_before_task_poll(task: &TaskMeta<'_>) {
    begins(&BY_HAND, task);
}

/// For `Builder::on_after_task_poll`.
#[inline]
pub fn on_after_task_poll(task: &TaskMeta<'_>) {
    ends(&BY_HAND, task);
}

/// For `Builder::on_task_terminate`.
#[inline]
pub fn on_task_terminate(task: &TaskMeta<'_>) {
    terminated(&BY_HAND, task);
}

/// The number of an id.
#[inline]
fn number(id: Id) -> u64 {
    const YES: u8 = 1;
    const NO: u8 = 2;
    /// Whether an id is just its number, as its words tell it: found out once.
    static IS_WORD: AtomicU8 = AtomicU8::new(0);
    if size_of::<Id>() != size_of::<u64>() {
        return words::number(id);
    }
    // SAFETY: as large as a word, and a word of any value is a valid one.
    let word = || unsafe { std::mem::transmute_copy::<Id, u64>(&id) };
    match IS_WORD.load(Relaxed) {
        YES => word(),
        NO => words::number(id),
        _ => {
            let number = words::number(id);
            IS_WORD.store(if word() == number { YES } else { NO }, Relaxed);
            number
        }
    }
}

/// For a tokio that doesn't tell where a task was spawned; one that does has a method of this name, which comes first.
#[allow(dead_code)]
trait Unplaced {
    fn spawned_at(&self) -> Option<&'static Location<'static>> {
        None
    }
}
impl Unplaced for TaskMeta<'_> {}

fn place_of(task: &TaskMeta<'_>) -> Option<&'static Location<'static>> {
    #[allow(clippy::useless_conversion)]
    Option::from(task.spawned_at())
}

#[inline]
fn spawned(claim: &Claim, task: &TaskMeta<'_>) {
    if switch::on() {
        note(claim, task);
    }
}

#[inline(never)]
fn note(claim: &Claim, task: &TaskMeta<'_>) {
    // Taken: what is spawned inside of this is something else.
    let what = SPAWNING.take();
    let spawned = if what.is_none() { heap::trace_here() } else { 0 };
    claim.saw(SPAWN);
    if !ANY.load(Relaxed) {
        ANY.store(true, Relaxed);
    }
    super::wrapped();
    let _ours = heap::ours();
    let id = number(task.id());
    let entry = match what {
        Some(Spawning::Wrapped) => Entry::Wrapped,
        Some(Spawning::Ours) => Entry::Ours,
        Some(Spawning::OursOnce) => Entry::OursOnce,
        None => {
            // Of rows that nobody takes away there are enough.
            let place = place_of(task).filter(|_| !claim.has_lost(AFTER | TERMINATE));
            let row = place.and_then(|made| Registered::hooked(id, made, spawned, claim.address()));
            let Some(number) = row else { return };
            Entry::Row(number)
        }
    };
    if !INDEX.insert(id, entry)
        && let Entry::Row(number) = entry
    {
        registry::left_out_hooked(number);
    }
}

#[inline]
fn begins(claim: &Claim, task: &TaskMeta<'_>) {
    if switch::on() {
        enter(claim, task);
    }
}

fn enter(claim: &Claim, task: &TaskMeta<'_>) {
    if claim.seen.load(Relaxed) & BEFORE == 0 {
        first(claim);
    }
    if claim.has_lost(AFTER) {
        return; // it would never end
    }
    let id = number(task.id());
    let known = INDEX.find(id);
    if matches!(known, Some(Entry::Wrapped | Entry::Ours)) {
        return;
    }
    let at = std::ptr::from_ref(&id) as usize;
    POLLED.with(|polled| {
        let Ok(mut polled) = polled.try_borrow_mut() else { return };
        let mut depth = DEPTH.get();
        while let Some(above) = depth.checked_sub(1).and_then(|n| polled[n].take_if(|p| at + APART > p.at)) {
            depth -= 1;
            lost(above); // this poll isn't inside of that one, which is over
        }
        DEPTH.set(depth);
        if depth == DEEPEST {
            return;
        }
        let entered = match known {
            Some(Entry::OursOnce) => None,
            Some(Entry::Row(number)) => poll::enter_hooked(id, Registered::hooked_place(number)),
            _ => poll::enter_hooked(id, None),
        };
        let locks = locks::last();
        let hooks = claim.address();
        polled[depth] = Some(Polled { id, known, at, locks, has_ended: false, hooks, entered });
        DEPTH.set(depth + 1);
    });
}

/// The first poll that a builder's hooks tell of: a task of our own shows whether all of them are called.
#[cold]
fn first(claim: &Claim) {
    ANY.store(true, Relaxed);
    if claim.seen.fetch_or(BEFORE, AcqRel) & BEFORE == 0
        && let Ok(handle) = Handle::try_current()
    {
        let _ours = heap::ours();
        drop(shutdown::spawn_on(&handle, shutdown::Job::nothing()));
    }
}

/// A poll whose end no hook told.
#[cold]
fn lost(polled: Polled) {
    let _ours = heap::ours();
    let mut note = |claim: &Claim| {
        // Where ends are told, one that wasn't says nothing of the hook: the thread has other stacks, say.
        if claim.address() == polled.hooks && claim.seen.load(Relaxed) & AFTER == 0 {
            claim.lost.fetch_or(AFTER, Relaxed);
            ENDS_LOST.store(true, Release);
        }
    };
    note(&BY_HAND);
    claims(&mut note);
    if let Some(entered) = polled.entered {
        entered.forget();
    }
    if let (true, Some(Entry::Row(number))) = (polled.has_ended, polled.known) {
        Registered::forget_hooked(number, true);
    }
}

#[inline]
fn ends(claim: &Claim, task: &TaskMeta<'_>) {
    if DEPTH.get() != 0 {
        leave(claim, number(task.id()));
    }
}

fn leave(claim: &Claim, id: u64) {
    let polled = POLLED.with(|polled| {
        let mut polled = polled.try_borrow_mut().ok()?;
        let depth = DEPTH.get().checked_sub(1)?;
        let ours = polled.get_mut(depth)?.take_if(|polled| polled.id == id)?;
        DEPTH.set(depth);
        Some(ours)
    });
    let Some(polled) = polled else { return };
    claim.saw(AFTER);
    if !ENDS_SEEN.load(Relaxed) {
        ENDS_SEEN.store(true, Release);
    }
    if polled.known == Some(Entry::OursOnce) {
        if !polled.has_ended {
            claim.lost.fetch_or(TERMINATE, Relaxed);
        }
        return;
    }
    // Whether it has ended is known where the hook that tells it is called.
    if !polled.has_ended && !claim.has_lost(TERMINATE) {
        locks::pending(polled.locks, || (format!("task {id}"), spawn_row(polled.known)));
    }
    drop(polled.entered);
    if let (true, Some(Entry::Row(number))) = (polled.has_ended, polled.known) {
        Registered::forget_hooked(number, true);
    }
}

/// Where a task that goes on was spawned.
pub(super) fn made_of(id: u64) -> Option<&'static Location<'static>> {
    let Some(Entry::Row(number)) = INDEX.find(id) else { return None };
    Some(Registered::hooked_place(number)?.read()?.made)
}

/// Where a task was spawned, for a report.
fn spawn_row(known: Option<Entry>) -> Option<Row> {
    let Some(Entry::Row(number)) = known else { return None };
    let row = Registered::hooked_place(number)?.read()?;
    let stack = heap::stack_of(row.spawned).map(|stack| Row::stack("spawned", stack));
    Some(stack.unwrap_or_else(|| Row::place("spawned", row.made)))
}

#[inline]
fn terminated(claim: &Claim, task: &TaskMeta<'_>) {
    if ANY.load(Relaxed) {
        forget(claim, number(task.id()));
    }
}

fn forget(claim: &Claim, id: u64) {
    claim.saw(TERMINATE);
    let known = INDEX.take(id);
    let is_polled = POLLED.with(|polled| {
        let mut polled = polled.try_borrow_mut().ok()?;
        let polled =
            polled.get_mut(DEPTH.get().checked_sub(1)?)?.as_mut().filter(|polled| polled.id == id)?;
        polled.has_ended = true;
        Some(())
    });
    // A poll that goes on counts in the row: what ends the poll gives it back.
    if is_polled.is_none()
        && let Some(Entry::Row(number)) = known
    {
        Registered::forget_hooked(number, false);
    }
}

/// Whether the thread, at the end of a poll, still has the worker on which that began: `block_in_place` gives it away.
pub(crate) fn holds_its_worker() -> bool {
    let Ok(handle) = Handle::try_current() else { return true };
    if handle.runtime_flavor() != RuntimeFlavor::MultiThread {
        return true;
    }
    let (metrics, me) = (handle.metrics(), std::thread::current().id());
    (0..metrics.num_workers()).any(|n| metrics.worker_thread_id(n) == Some(me))
}

/// Whether a poll that a hook began and none ended goes on for sure.
pub(super) fn is_trusted() -> bool {
    ENDS_SEEN.load(Acquire) && !ENDS_LOST.load(Acquire)
}

/// Where those hooks are whose rows are true: they live, and none of them was replaced.
pub(crate) fn whole() -> Vec<usize> {
    let mut whole = Vec::new();
    let mut add = |claim: &Claim| {
        if !claim.has_lost(AFTER | TERMINATE) {
            whole.push(claim.address());
        }
    };
    add(&BY_HAND);
    claims(&mut add);
    whole
}

/// What the hooks tell, in words.
pub(crate) fn found() -> Option<String> {
    let is_whole = |claim: &Claim| claim.seen.load(Relaxed) & !claim.lost.load(Relaxed) == seen::ALL;
    let mut whole = usize::from(is_whole(&BY_HAND));
    claims(&mut |claim| whole += usize::from(is_whole(claim)));
    match whole {
        0 => None,
        1 => Some("its task hooks tell every poll of one builder's tasks".into()),
        n => Some(format!("its task hooks tell every poll of {n} builders' tasks")),
    }
}

/// Hooks that were claimed and aren't called.
pub(crate) fn advice() -> Vec<String> {
    let mut all = Vec::new();
    if !switch::on() {
        return all;
    }
    claims(&mut |claim| all.extend(seen::advice(claim.seen.load(Relaxed), claim.lost.load(Relaxed))));
    if GONE_UNSEEN.load(Relaxed) {
        all.extend(seen::advice(0, 0));
    }
    if IS_BY_HAND.load(Acquire) {
        let (seen, lost) = (BY_HAND.seen.load(Relaxed), BY_HAND.lost.load(Relaxed));
        all.extend(seen::advice(seen, lost));
    }
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ids_number_is_what_it_shows() {
        let runtime = Builder::new_current_thread().build().unwrap();
        for _ in 0..3 {
            let id = runtime.spawn(async {}).id();
            assert_eq!(number(id), words::number(id));
        }
    }
}
