//! The wrapped tasks of this process, and futures that may be lost or must complete: what is known of each until it ends.

use std::panic::Location;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::destroyed::{self, Closing, Lost};
use super::tokio::words;
use super::{heap, reporter, switch};

/// It may be dropped at its runtime's end.
const DAEMON: u8 = 1;
/// It is told whenever it is dropped before its end.
const MUST_COMPLETE: u8 = 2;
/// Its future has returned.
const ENDED: u8 = 4;

/// What a watched future keeps of its task, where it is one or was marked; dropped after the future.
#[derive(Debug, Default)]
pub(super) struct Tasked(Option<Arc<Task>>);

/// A heap block of its own: its trace is the place where the future was made.
#[derive(Debug)]
pub(crate) struct Task {
    made: &'static Location<'static>,
    name: &'static str,
    flags: AtomicU8,
    /// It is inside a poll: what is dropped then has panicked.
    polled: AtomicBool,
    /// The task's cell and owner where it was spawned by us, and its id; 0 while they aren't known.
    cell: AtomicUsize,
    owner: AtomicU64,
    id: AtomicU64,
    /// What found it pending when its runtime began to close.
    closing: Mutex<Option<Arc<Closing>>>,
    /// Where in its part of the list it stands.
    at: AtomicUsize,
}

/// All that haven't ended, in parts so that threads seldom meet.
static LIST: [Mutex<Vec<Arc<Task>>>; PARTS] = [const { Mutex::new(Vec::new()) }; PARTS];
const PARTS: usize = 16;

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

impl Tasked {
    /// For a future of this type.
    pub(super) fn new(made: &'static Location<'static>, name: &'static str) -> Self {
        let task = Arc::new(Task {
            made,
            name,
            flags: AtomicU8::new(0),
            polled: AtomicBool::new(false),
            cell: AtomicUsize::new(0),
            owner: AtomicU64::new(0),
            id: AtomicU64::new(0),
            closing: Mutex::new(None),
            at: AtomicUsize::new(0),
        });
        let _ours = heap::ours();
        if let Some(mut part) = soon(task.part()) {
            task.at.store(part.len(), Relaxed);
            part.push(Arc::clone(&task));
        }
        Self(Some(task))
    }

    pub(super) fn task(&self) -> Option<Arc<Task>> {
        self.0.clone()
    }

    /// Marks it, making what is kept first where nothing is.
    fn mark(&mut self, flag: u8, made: &'static Location<'static>, name: &'static str) {
        if switch::on() {
            if self.0.is_none() {
                *self = Self::new(made, name);
            }
            self.0.as_ref().inspect(|task| task.set(flag));
        }
    }

    pub(super) fn daemon(&mut self, made: &'static Location<'static>, name: &'static str) {
        self.mark(DAEMON, made, name);
    }

    pub(super) fn must_complete(&mut self, made: &'static Location<'static>, name: &'static str) {
        self.mark(MUST_COMPLETE, made, name);
    }

    /// Runs one poll.
    #[inline]
    pub(super) fn poll<T>(&self, poll: impl FnOnce() -> std::task::Poll<T>) -> std::task::Poll<T> {
        let Some(task) = &self.0 else { return poll() };
        if task.id.load(Relaxed) == 0 {
            task.id.store(words::own_id(), Relaxed);
        }
        task.polled.store(true, Relaxed);
        let answer = poll();
        task.polled.store(false, Relaxed);
        if answer.is_ready() {
            task.set(ENDED);
        }
        answer
    }
}

impl Drop for Tasked {
    #[inline]
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            let created = std::ptr::from_ref(&*task) as usize;
            task.gone(created);
        }
    }
}

impl Task {
    fn part(&self) -> &'static Mutex<Vec<Arc<Task>>> {
        // The low bits of an address say little.
        &LIST[(std::ptr::from_ref(self) as usize >> 6) % PARTS]
    }

    fn set(&self, flag: u8) {
        self.flags.fetch_or(flag, Release);
    }

    fn has(&self, flag: u8) -> bool {
        self.flags.load(Acquire) & flag != 0
    }

    /// It was spawned: its id, its cell and its owner.
    pub(super) fn spawned(&self, id: u64, cell: usize, owner: u64) {
        self.id.store(id, Relaxed);
        self.owner.store(owner, Relaxed);
        self.cell.store(cell, Release);
    }

    /// Its id, 0: not known.
    pub(super) fn id(&self) -> u64 {
        self.id.load(Relaxed)
    }

    /// Its cell; nothing where it wasn't spawned by us for this owner.
    pub(super) fn cell_of(&self, owner: u64) -> Option<usize> {
        let cell = self.cell.load(Acquire);
        (cell != 0 && self.owner.load(Relaxed) == owner).then_some(cell)
    }

    pub(super) fn is_daemon(&self) -> bool {
        self.has(DAEMON)
    }

    /// Its runtime closes while it is pending.
    pub(super) fn found_by(&self, closing: &Arc<Closing>) {
        *self.closing.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(closing));
    }

    #[cold]
    #[inline(never)]
    fn gone(&self, created: usize) {
        let unfinished = !self.has(ENDED);
        self.set(ENDED); // a list that can't be locked keeps it
        if let Some(mut part) = soon(self.part()) {
            let at = self.at.load(Relaxed);
            if part.get(at).is_some_and(|task| std::ptr::eq(&**task, self)) {
                let _ours = heap::ours();
                drop(part.swap_remove(at));
                if let Some(moved) = part.get(at) {
                    moved.at.store(at, Relaxed);
                }
            }
        }
        // One that panicked isn't lost, nor is what a panic took along: the panic is the news.
        let lost = unfinished && !self.polled.load(Relaxed) && switch::on() && !std::thread::panicking();
        if unfinished && self.cell.load(Relaxed) == 0 && (self.has(DAEMON) || lost && self.has(MUST_COMPLETE))
        {
            self.answer_for_the_task();
        }
        let closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner).take();
        if lost && self.has(MUST_COMPLETE) {
            self.tell(created);
        }
        if let Some(closing) = closing {
            let lost = lost && !self.has(DAEMON | MUST_COMPLETE);
            closing.settle(lost.then(|| self.lost(created)));
        }
    }

    /// A marked future inside a wrapped task: what is said of it is said of the task.
    fn answer_for_the_task(&self) {
        let id = words::own_id();
        each(&mut |task| {
            if id != 0 && task.id() == id && task.cell.load(Acquire) != 0 {
                task.set(DAEMON);
            }
        });
    }

    fn lost(&self, created: usize) -> Lost {
        let spawned = heap::trace_of(self.cell.load(Relaxed)).or_else(|| heap::trace_of(created));
        Lost { id: self.id(), name: Some(self.name), made: Some(self.made), spawned }
    }

    fn tell(&self, created: usize) {
        let created = heap::trace_of(created);
        let _ours = heap::ours();
        let dropped = heap::stack_here();
        reporter::tell(destroyed::incomplete(self.name, self.made, created, dropped, heap::this_thread()));
    }
}

/// Visits all that haven't ended. What is visited stays where it is meanwhile.
pub(super) fn each(visit: &mut dyn FnMut(&Task)) {
    for part in &LIST {
        if let Some(part) = soon(part) {
            part.iter().filter(|task| !task.has(ENDED)).for_each(|task| visit(task));
        }
    }
}
