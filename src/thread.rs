//! Thread slots: what a thread's hooks keep from one allocation to the next, and what others may read of it.
//!
//! A slot is taken by a compare-and-swap on a thread's first hook and given back by a pthread key's destructor; its
//! memory stays for the next thread, so that counters outlive the threads that made them. Threads past the last slot, or
//! past their key's destructor, share one. Runs inside an allocation.

pub(crate) mod names;

use core::cell::UnsafeCell;
use core::sync::atomic::{
    AtomicI32, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use crate::block::fork;
use crate::block::quarantine::{self, Ring};
use crate::sys::line::{Line, line};
use crate::sys::{self, ThreadKey};
use crate::table::counters::Set;
use crate::trace::memo::Memo;

/// A slot's state, in the lowest two bits; above them the number of the process that it was taken in.
const FREE: u32 = 0;
const USED: u32 = 1;
/// Its thread ends, and may have given its memo back.
const LEFT: u32 = 2;
const STATE: u32 = 3;

fn used() -> u32 {
    USED | (fork::number() as u32) << 2
}

const CHUNK: usize = 32;
const CHUNKS: usize = 128;

/// What one thread's hooks keep. One writer, the thread itself; others read the atomics.
#[repr(C, align(128))]
pub(crate) struct Slot {
    /// Counts of this generation and the one before.
    pub counts: (Set, Set),
    /// Bytes that this thread has asked for since its start; never falls.
    pub allocated: AtomicI64,
    /// The shared slot: locked adds, no memo, no ring.
    pub shared: bool,
    /// Number of the slot, for [`hold`].
    pub number: u32,
    /// Which thread has it, for the thread column and the quarantine: see [`names`]. 0 in the shared slot.
    pub who: AtomicU32,
    /// The kernel's id of the thread.
    pub tid: AtomicI32,
    /// The thread pointer.
    pub thread_pointer: AtomicUsize,
    /// The thread's own stack.
    pub stack_low: AtomicUsize,
    /// One past its last byte.
    pub stack_high: AtomicUsize,
    /// Its memo of whole stacks; touched by the owner only.
    pub memo: UnsafeCell<Memo>,
    /// Its part of the quarantine.
    pub ring: Ring,
    /// The wrapped poll that it is in.
    pub poll: crate::watch::poll::Published,
    /// Places for wrapped futures. The next thread that has the slot goes on with them.
    pub stock: crate::watch::tasks::stock::Stock,
    state: AtomicU32,
    held: AtomicU32,
}

// SAFETY: `memo` is used by the slot's owner only (the shared slot never uses it), all else is atomic.
unsafe impl Sync for Slot {}

impl Slot {
    const fn new(number: u32, shared: bool) -> Self {
        Self {
            counts: (Set::new(), Set::new()),
            allocated: AtomicI64::new(0),
            shared,
            number,
            who: AtomicU32::new(0),
            tid: AtomicI32::new(0),
            thread_pointer: AtomicUsize::new(0),
            stack_low: AtomicUsize::new(0),
            stack_high: AtomicUsize::new(0),
            memo: UnsafeCell::new(Memo::new()),
            ring: Ring::new(),
            poll: crate::watch::poll::Published::new(),
            stock: crate::watch::tasks::stock::Stock::new(),
            state: AtomicU32::new(FREE),
            held: AtomicU32::new(0),
        }
    }

    /// Its thread is gone: for the next one.
    fn free(&self) {
        quarantine::leave(self);
        self.poll.forget();
        self.who.store(0, Relaxed);
        self.tid.store(0, Relaxed);
        self.thread_pointer.store(0, Relaxed);
        self.stack_low.store(0, Relaxed);
        self.stack_high.store(0, Relaxed);
        self.allocated.store(0, Relaxed);
        self.state.store(FREE, Release);
    }

    /// Whether `sp` lies in the thread's own stack.
    #[inline(always)]
    pub(crate) fn owns(&self, sp: usize) -> bool {
        sp >= self.stack_low.load(Relaxed) && sp < self.stack_high.load(Relaxed)
    }
}

static SHARED: Slot = Slot::new(0, true);
static CHUNK_TABLE: [AtomicPtr<Slot>; CHUNKS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; CHUNKS];
/// The highest number of a slot that was ever taken: each takes the lowest that is free, so all below were taken, too.
static HIGHEST: AtomicU32 = AtomicU32::new(0);
/// The key's number + 1, or 0: threads then share a slot.
static KEY: AtomicU64 = AtomicU64::new(0);

/// Makes the key whose destructor gives slots back. Once, before `main`.
pub(crate) fn make_key() {
    if let Some(key) = ThreadKey::new(give_back) {
        KEY.store(key.number().wrapping_add(1), Release);
    }
}

/// This thread's slot.
#[inline(always)]
pub(crate) fn slot(line: &Line) -> &'static Slot {
    let p = line.slot.get();
    if p.is_null() {
        return take(line);
    }
    // SAFETY: a slot's memory is never unmapped.
    unsafe { &*p }
}

#[cold]
#[inline(never)]
fn take(line: &Line) -> &'static Slot {
    let slot = if line.done.get() != 0 { None } else { find() };
    let slot = slot.unwrap_or(&SHARED);
    let theirs = line.slot.get();
    if !theirs.is_null() {
        // A handler of this thread took one meanwhile.
        if !slot.shared {
            slot.state.store(FREE, Release);
        }
        // SAFETY: a slot's memory is never unmapped.
        return unsafe { &*theirs };
    }
    line.slot.set(slot);
    if slot.shared {
        names::count_nameless();
        return slot;
    }
    let key = ThreadKey::of(KEY.load(Relaxed).wrapping_sub(1));
    if !key.set((slot as *const Slot).cast()) {
        slot.state.store(FREE, Release);
        line.slot.set(&SHARED);
        return &SHARED;
    }
    slot.who.store(names::begin(), Relaxed);
    #[cfg(native)]
    {
        let (low, high) = sys::stack_bounds();
        slot.stack_low.store(low, Relaxed);
        slot.stack_high.store(high, Relaxed);
        slot.thread_pointer.store(sys::thread_pointer(), Relaxed);
        slot.tid.store(sys::thread_id(), Release);
    }
    slot
}

fn chunk(place: &AtomicPtr<Slot>, index: usize) -> Option<*mut Slot> {
    let p = place.load(Acquire);
    if !p.is_null() {
        return Some(p);
    }
    let bytes = size_of::<Slot>().wrapping_mul(CHUNK);
    let fresh = sys::map(bytes)?;
    let slots = fresh.cast::<Slot>().as_ptr();
    for i in 0..CHUNK {
        let number = index.wrapping_mul(CHUNK).wrapping_add(i).wrapping_add(1);
        // SAFETY: the mapping holds CHUNK slots, is page-aligned and not yet seen by anybody else.
        unsafe { slots.add(i).write(Slot::new(number as u32, false)) };
    }
    match place.compare_exchange(core::ptr::null_mut(), slots, AcqRel, Acquire) {
        Ok(_) => Some(slots),
        Err(theirs) => {
            // SAFETY: ours was never published.
            unsafe { sys::unmap(fresh, bytes) };
            Some(theirs)
        }
    }
}

fn find() -> Option<&'static Slot> {
    if KEY.load(Acquire) == 0 {
        return None;
    }
    let used = used();
    for (index, place) in CHUNK_TABLE.iter().enumerate() {
        let first = chunk(place, index)?;
        for i in 0..CHUNK {
            // SAFETY: a published chunk holds CHUNK slots for ever.
            let slot = unsafe { &*first.add(i) };
            if slot.state.load(Relaxed) == FREE
                && slot.state.compare_exchange(FREE, used, AcqRel, Relaxed).is_ok()
            {
                HIGHEST.fetch_max(slot.number, AcqRel);
                return Some(slot);
            }
        }
    }
    None
}

/// The key's destructor: after the thread's own `thread_local` destructors, before its thread-local block goes.
unsafe extern "C" fn give_back(slot: *mut core::ffi::c_void) {
    let line = line();
    line.done.set(1);
    line.slot.set(&SHARED);
    // SAFETY: the value was set by `take` to a slot, whose memory is never unmapped.
    let slot = unsafe { &*slot.cast::<Slot>() };
    fork::number(); // in a child that asks for the first time, what its parent's threads left goes first
    names::end(slot.who.load(Relaxed));
    slot.state.store(LEFT | slot.state.load(Relaxed) & !STATE, Release);
    // SAFETY: this thread is still the slot's owner, and no hook of it runs here.
    unsafe { (*slot.memo.get()).let_go() };
    slot.free();
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst); // first freed, then looked: see `hold`
    // A watchdog that holds the slot reads this thread's words: they stay mapped until it lets go.
    while slot.held.load(Acquire) != 0 {
        core::hint::spin_loop();
    }
}

/// The first question for the fork number in a child: what threads that are no more have left behind is for others from
/// here on. `process`: the child's number.
///
/// The thread that forked is the child's first, whose id is the process's. Where another one of the child comes before it,
/// nothing is done: who of the old slots lives on can't be told then, so they stay taken.
#[cold]
pub(crate) fn after_fork(process: u64) {
    if !sys::is_main_thread() {
        return;
    }
    let mine = line().slot.get();
    slots(&mut |slot| {
        slot.held.store(0, Relaxed); // by a watchdog of the parent's
        let state = slot.state.load(Acquire);
        if slot.shared || state == FREE || state >> 2 == process as u32 & u32::MAX >> 2 {
            return;
        }
        if core::ptr::eq(slot, mine) {
            #[cfg(native)]
            slot.tid.store(sys::thread_id(), Release);
            if names::several() {
                slot.who.store(names::begin(), Relaxed); // `main` here, whatever it was in the parent
            }
            slot.state.store(state & STATE | (process as u32) << 2, Release);
            return;
        }
        // SAFETY: the slot's owner doesn't exist in this process, and nobody else takes the slot before `free`. Where it was
        // about to give its memo back, that may be done already, so it is forgotten; else the memo is whole.
        unsafe {
            match state & STATE {
                LEFT => slot.memo.get().write(Memo::new()),
                _ => (*slot.memo.get()).let_go(),
            }
        }
        slot.free();
    });
    quarantine::after_fork();
}

/// Visits every slot that was ever used, the shared one too.
pub(crate) fn slots(visit: &mut dyn FnMut(&'static Slot)) {
    visit(&SHARED);
    let mut left = HIGHEST.load(Acquire) as usize;
    for place in &CHUNK_TABLE {
        let first = place.load(Acquire);
        if left == 0 || first.is_null() {
            return;
        }
        for i in 0..left.min(CHUNK) {
            // SAFETY: a published chunk holds CHUNK slots for ever.
            visit(unsafe { &*first.add(i) });
        }
        left = left.saturating_sub(CHUNK);
    }
}

/// What others may know of a running thread.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "tokio"), allow(dead_code))]
pub(crate) struct ThreadInfo {
    /// The kernel's id.
    pub tid: i32,
    /// The thread pointer.
    pub thread_pointer: usize,
    /// Bytes that the thread has asked for since its start.
    pub allocated: u64,
    /// Its own stack, lowest and one past the highest address.
    pub stack: (usize, usize),
    /// The slot's number, for [`hold`].
    pub slot: u32,
}

fn info(slot: &Slot) -> Option<ThreadInfo> {
    let tid = slot.tid.load(Acquire);
    (!slot.shared && slot.state.load(Acquire) & STATE == USED && tid != 0).then(|| ThreadInfo {
        tid,
        thread_pointer: slot.thread_pointer.load(Relaxed),
        allocated: slot.allocated.load(Relaxed) as u64,
        stack: (slot.stack_low.load(Relaxed), slot.stack_high.load(Relaxed)),
        slot: slot.number,
    })
}

/// Visits each running thread that has a slot of its own.
#[cfg_attr(not(feature = "tokio"), allow(dead_code))]
pub(crate) fn each(visit: &mut dyn FnMut(ThreadInfo)) {
    slots(&mut |slot| {
        if let Some(i) = info(slot) {
            visit(i);
        }
    });
}

/// While this lives the thread can't end: its words may be read. For a few loads and a store, no more.
#[cfg_attr(not(feature = "tokio"), allow(dead_code))]
pub(crate) struct Held {
    slot: &'static Slot,
    /// The thread, as it is.
    pub info: ThreadInfo,
}

#[cfg(feature = "tokio")]
impl Held {
    /// What the thread publishes of its wrapped polls; stays readable when it has ended.
    pub(crate) fn published(&self) -> &'static crate::watch::poll::Published {
        &self.slot.poll
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.slot.held.fetch_sub(1, Release);
    }
}

/// Holds a thread; nothing where it has ended, whoever has its slot now.
#[cfg_attr(not(feature = "tokio"), allow(dead_code))]
pub(crate) fn hold(thread: &ThreadInfo) -> Option<Held> {
    let held = hold_slot(thread.slot)?;
    (held.info.tid == thread.tid).then_some(held)
}

/// Holds the thread of slot `number`; nothing where nobody has it.
#[cfg_attr(not(feature = "tokio"), allow(dead_code))]
fn hold_slot(number: u32) -> Option<Held> {
    let index = (number as usize).checked_sub(1)?;
    let first = CHUNK_TABLE.get(index / CHUNK)?.load(Acquire);
    if first.is_null() {
        return None;
    }
    // SAFETY: a published chunk holds CHUNK slots for ever.
    let slot = unsafe { &*first.add(index % CHUNK) };
    // First the mark, then the look: the destructor first frees the state, then looks at the mark.
    slot.held.fetch_add(1, core::sync::atomic::Ordering::SeqCst);
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    match info(slot) {
        Some(info) => Some(Held { slot, info }),
        None => {
            slot.held.fetch_sub(1, Release);
            None
        }
    }
}

/// While this lives, blocks that this thread makes are our own: recorded, but without a trace and not counted.
pub(crate) struct Ours(core::marker::PhantomData<*const ()>);

impl Ours {
    pub(crate) fn enter() -> Self {
        let l = line();
        l.ours.set(l.ours.get().wrapping_add(1));
        Self(core::marker::PhantomData)
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let l = line();
        l.ours.set(l.ours.get().wrapping_sub(1));
    }
}
