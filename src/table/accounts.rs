//! What each task has allocated, and what of that lives, whoever freed the rest: an account a task, which its blocks name in a
//! column of the table.
//!
//! A task is known by its key: the id that tokio keeps for it in one word of each thread, or the serial of a wrapped future
//! that no tokio task polls. One thread at a time works on a task, so what it counts itself takes one unlocked add, as in
//! `counters`; frees of its blocks outside of it are counted beside, with locked ones. An account is given back when
//! its task has ended and none of its blocks is left; until then they count for the place that spawned it. Blocks belong to
//! the generation of their traces, and an account begins anew with each. Runs inside an allocation.

use core::sync::atomic::{
    AtomicI64, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
};

use super::counters::{add, add_one};
use super::leaf;
use crate::free_list::FreeList;
use crate::mode::{self, ASK, TASKS};
use crate::sys::line::Line;
use crate::trace::generation::{self, Control, control};
use crate::{dropped, sys};

/// Set in the key of a wrapped future's serial; tokio's ids lie below.
const SERIAL: u64 = 1 << 43;
const LARGEST: u64 = SERIAL - 1;

/// A future's serial as a key; 0 where serials have grown out of all bounds.
pub(crate) fn key_of_serial(serial: u64) -> u64 {
    if serial <= LARGEST { SERIAL | serial } else { 0 }
}

/// The serial that a key stands for; else it is tokio's id.
pub(crate) fn serial_of(key: u64) -> Option<u64> {
    (key & SERIAL != 0).then_some(key & LARGEST)
}

/// An account's state, in its lowest two bits; above them how often it was in use.
const FREE: u32 = 0;
/// Its task may run.
const LIVE: u32 = 1;
/// Its task has ended.
const ENDED: u32 = 2;
const STATE: u32 = 3;

const CHUNK: usize = 512;
const CHUNKS: usize = 1024;

/// What a task has allocated in a generation.
#[repr(C, align(128))]
pub(crate) struct Account {
    // Written by the thread that works on the task.
    key: AtomicU64,
    generation: AtomicU32,
    number: AtomicU32,
    allocated: AtomicI64,
    allocations: AtomicI64,
    freed: AtomicI64,
    frees: AtomicI64,
    peak: AtomicI64,
    // Written by everybody.
    beside: Beside,
}

#[repr(C, align(64))]
struct Beside {
    /// What was freed outside of the task.
    freed: AtomicI64,
    frees: AtomicI64,
    /// The block that the runtime kept the task in, by the trace that made it, once it has ended; 0: not known.
    trace: AtomicU32,
    state: AtomicU32,
    next_free: AtomicU32,
    /// Where a wrapped task was made, a `&'static Location`, once it has ended; 0: not known.
    made: AtomicUsize,
}

const _: () = assert!(size_of::<Account>() == 128);

static CHUNK_TABLE: [AtomicPtr<Account>; CHUNKS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; CHUNKS];
/// Numbers that were ever taken; the first is 1.
static TAKEN: AtomicU32 = AtomicU32::new(0);
static FREE_LIST: FreeList = FreeList::new();

/// From a key to its account: the key above the account's number.
static INDEX: AtomicPtr<AtomicU64> = AtomicPtr::new(core::ptr::null_mut());
const NUMBER: u32 = 20;
const LANES: usize = 64;
const GROUPS: usize = 1 << 14;
const PROBES: usize = 8;
/// How many keys stand, or are about to, in another than their first place: mostly none, and then nobody looks any further.
static ELSEWHERE: AtomicU32 = AtomicU32::new(0);
const INDEX_BYTES: usize = LANES * GROUPS * 8;

/// Distance from the thread pointer of the word in which the runtime keeps its present task's id, as a wrapping addition; 0: not
/// known.
static WORD: AtomicUsize = AtomicUsize::new(0);

/// Tells where the runtime keeps its present task's id: an aligned word of each thread's static block.
#[cfg_attr(not(feature = "tokio"), allow(dead_code))]
pub(crate) fn read_there(distance: usize) {
    WORD.store(distance, Release);
}

/// Whether the runtime's tasks are seen, and their ends, without their being wrapped.
pub(crate) fn sees_all() -> bool {
    WORD.load(Acquire) != 0
}

/// Blocks are counted for their tasks from now on.
pub(crate) fn begin() {
    mode::set(TASKS | ASK);
}

/// New blocks count for no task from now on; those that were counted still do.
pub(crate) fn pause() {
    mode::clear(ASK);
    if mode::mode() & mode::TRACE == 0 {
        mode::clear(TASKS); // none was
    }
}

/// Whether blocks of tasks are counted now.
pub(crate) fn counting() -> bool {
    mode::mode() & ASK != 0 && control().on()
}

/// The task that this thread works on, by its key; 0: none.
#[inline(always)]
fn here(line: &Line) -> u64 {
    #[cfg(native)]
    {
        let at = WORD.load(Relaxed);
        if at != 0 {
            let id: u64;
            // SAFETY: reads an aligned word of this thread's own static block, where `read_there` says that one is.
            unsafe {
                core::arch::asm!("mov {}, qword ptr fs:[{}]", out(reg) id, in(reg) at,
                    options(readonly, nostack, preserves_flags));
            }
            if id != 0 {
                return id;
            }
        }
    }
    line.task.get()
}

/// A traced block of `control`'s generation is about to be put into the table. `mode`: what is on.
#[inline(never)]
pub(crate) fn born(line: &Line, control: Control, user: usize, size: usize, mode: u32) {
    let key = here(line);
    // Rare cases go on elsewhere with the same arguments, so that this needs no registers kept.
    let Some(leaf) = leaf::leaf(user) else { return born_slowly(line, control, user, size) };
    if key == 0 || mode & ASK == 0 {
        return leaf.tasks.clear(user);
    }
    // SAFETY: null before the first, or an account, which is never unmapped.
    if let Some(a) = unsafe { line.account.get().as_ref() }
        && line.seen.get() == key
        && a.generation.load(Relaxed) == control.first()
        && leaf.tasks.replace(user, a.number.load(Relaxed))
    {
        return a.count_in(size as i64);
    }
    born_slowly(line, control, user, size);
}

#[cold]
#[inline(never)]
fn born_slowly(line: &Line, control: Control, user: usize, size: usize) {
    let Some(leaf) = leaf::leaf_or_make(user) else { return };
    let key = here(line);
    let counted = key != 0 && mode::mode() & ASK != 0;
    match if counted { find(line, key, control) } else { None } {
        Some(a) if leaf.tasks.set(user, a.number.load(Relaxed)) => a.count_in(size as i64),
        _ => leaf.tasks.clear(user),
    }
}

/// A traced block of `control`'s generation has left the program's hands, and its memory hasn't been given back yet. Hands
/// `user` on, so that the caller needn't keep it.
#[inline(never)]
pub(crate) fn gone(line: &Line, control: Control, user: *mut u8, size: usize) -> *mut u8 {
    let address = user as usize;
    let number = leaf::leaf(address).map_or(0, |leaf| leaf.tasks.get(address));
    if number == 0 {
        return user;
    }
    let key = here(line);
    // SAFETY: null before the first, or an account, which is never unmapped.
    if let Some(a) = unsafe { line.account.get().as_ref() }
        && line.seen.get() == key
        && a.number.load(Relaxed) == number
        && a.generation.load(Relaxed) == control.first()
    {
        a.count_out(size as i64);
        return user;
    }
    gone_elsewhere(number, key, control, size as i64);
    user
}

#[inline(never)]
fn gone_elsewhere(number: u32, key: u64, control: Control, size: i64) {
    let Some(a) = by_number(number) else { return };
    if a.generation.load(Relaxed) != control.first() {
        return;
    }
    if key != 0 && a.key.load(Relaxed) == key {
        return a.count_out(size);
    }
    a.beside.freed.fetch_add(size, Relaxed);
    // First counted, then looked whether the task has ended: `ended` does it the other way round.
    a.beside.frees.fetch_add(1, SeqCst);
    if a.beside.state.load(SeqCst) & STATE == ENDED {
        a.give_back();
    }
}

/// The block at `user` counts for no task any more: it was counted out and didn't move after all.
#[cold]
pub(crate) fn forget(user: usize) {
    if let Some(leaf) = leaf::leaf(user) {
        leaf.tasks.clear(user);
    }
}

impl Account {
    #[inline(always)]
    fn count_in(&self, size: i64) {
        add(&self.allocated, size, false);
        add_one(&self.allocations);
        let held = self.held();
        if held > self.peak.load(Relaxed) {
            self.peak.store(held, Relaxed);
        }
    }

    #[inline(always)]
    fn count_out(&self, size: i64) {
        add(&self.freed, size, false);
        add_one(&self.frees);
    }

    #[inline(always)]
    fn held(&self) -> i64 {
        let freed = self.freed.load(Relaxed).wrapping_add(self.beside.freed.load(Relaxed));
        self.allocated.load(Relaxed).wrapping_sub(freed)
    }

    fn blocks(&self) -> i64 {
        let frees = self.frees.load(Relaxed).wrapping_add(self.beside.frees.load(SeqCst));
        self.allocations.load(Relaxed).wrapping_sub(frees)
    }

    /// Begins `control`'s generation. For the thread that works on the task.
    fn renew(&self, control: Control) {
        let counts = [&self.allocated, &self.allocations, &self.freed, &self.frees, &self.peak];
        for count in counts.into_iter().chain([&self.beside.freed, &self.beside.frees]) {
            count.store(0, Relaxed);
        }
        self.generation.store(control.first(), Release);
    }

    /// Gives the account back where its task has ended and none of its blocks is left.
    fn give_back(&self) {
        let state = self.beside.state.load(SeqCst);
        let lasts = self.generation.load(Relaxed) == control().first();
        if state & STATE != ENDED || lasts && self.blocks() > 0 {
            return;
        }
        // The state counts its uses: who looked at an earlier use doesn't end this one.
        let next = (state & !STATE).wrapping_add(STATE.wrapping_add(1)) | FREE;
        if self.beside.state.compare_exchange(state, next, SeqCst, Relaxed).is_err() {
            return;
        }
        let (key, number) = (self.key.load(Relaxed), self.number.load(Relaxed));
        for (nth, place) in places(key).enumerate() {
            if place.compare_exchange(entry(key, number), 0, AcqRel, Relaxed).is_ok() {
                if nth != 0 {
                    ELSEWHERE.fetch_sub(1, Release);
                }
                break;
            }
        }
        self.key.store(0, Release);
        put_number(self, number);
    }
}

/// The account of this task, made if need be, for the thread that works on it; it is kept at hand in the thread's line.
fn find(line: &Line, key: u64, control: Control) -> Option<&'static Account> {
    if line.seen.get() == key {
        // SAFETY: null, or an account, which is never unmapped.
        match unsafe { line.account.get().as_ref() } {
            None => return None, // it got none, and that was counted
            Some(a) if a.generation.load(Relaxed) == control.first() => return Some(a),
            Some(_) => {}
        }
    }
    if !generation::lasts(control) {
        return None;
    }
    let found = match lookup(key) {
        None => make(key, control),
        found => found,
    };
    if let Some(a) = found
        && a.generation.load(Relaxed) != control.first()
    {
        a.renew(control);
    }
    line.account.set(found.map_or(core::ptr::null(), core::ptr::from_ref));
    line.seen.set(key);
    if found.is_none() {
        dropped::ACCOUNTS.add(1);
    }
    found
}

fn by_number(number: u32) -> Option<&'static Account> {
    let number = number as usize;
    let first = CHUNK_TABLE.get(number / CHUNK)?.load(Acquire);
    if first.is_null() {
        return None;
    }
    // SAFETY: a published chunk holds CHUNK accounts for ever.
    Some(unsafe { &*first.add(number % CHUNK) })
}

const fn entry(key: u64, number: u32) -> u64 {
    key << NUMBER | number as u64
}

/// The places of the index where a key may stand; none before the first account.
///
/// Ids follow each other, so 64 of them share a group: their places lie side by side.
fn places(key: u64) -> impl Iterator<Item = &'static AtomicU64> {
    let index = INDEX.load(Acquire);
    let group = (key >> 6).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50;
    let lane = key as usize & (LANES - 1);
    let probes = if index.is_null() { 0 } else { PROBES };
    (0..probes).map(move |n| {
        let group = (group as usize).wrapping_add(n.wrapping_mul(0x1d35)) & (GROUPS - 1);
        // SAFETY: a published index has GROUPS x LANES places and is never unmapped.
        unsafe { &*index.add(group.wrapping_mul(LANES).wrapping_add(lane)) }
    })
}

/// All accounts of a key: more than one only where a signal handler made another while its thread made the first.
///
/// The account that a thread works on is counted in `ELSEWHERE` for whoever works on the task later: what hands tasks on orders that,
/// too. Others may look a moment too early, as they may for the account itself.
fn all_of(key: u64) -> impl Iterator<Item = &'static Account> {
    let looked = if ELSEWHERE.load(Acquire) == 0 { 1 } else { PROBES };
    places(key).take(looked).filter_map(move |place| {
        let word = place.load(Acquire);
        (key != 0 && word >> NUMBER == key).then(|| by_number(word as u32 & ((1 << NUMBER) - 1))).flatten()
    })
}

fn lookup(key: u64) -> Option<&'static Account> {
    all_of(key).next()
}

fn make(key: u64, control: Control) -> Option<&'static Account> {
    if key & LARGEST == 0 || key > SERIAL | LARGEST {
        return None;
    }
    if INDEX.load(Acquire).is_null() {
        let fresh = sys::map(INDEX_BYTES)?;
        if INDEX.compare_exchange(core::ptr::null_mut(), fresh.as_ptr().cast(), AcqRel, Acquire).is_err() {
            // SAFETY: ours was never published.
            unsafe { sys::unmap(fresh, INDEX_BYTES) };
        }
    }
    let (number, account) = take_number()?;
    account.key.store(key, Relaxed);
    account.number.store(number, Relaxed);
    account.beside.trace.store(0, Relaxed);
    account.beside.made.store(0, Relaxed);
    account.renew(control);
    let state = account.beside.state.load(Relaxed);
    account.beside.state.store(state & !STATE | LIVE, Release);
    for (nth, place) in places(key).enumerate() {
        if place.load(Relaxed) != 0 {
            continue;
        }
        if nth != 0 {
            ELSEWHERE.fetch_add(1, SeqCst); // first counted, then there
        }
        if place.compare_exchange(0, entry(key, number), AcqRel, Relaxed).is_ok() {
            return Some(account);
        }
        if nth != 0 {
            ELSEWHERE.fetch_sub(1, Release);
        }
    }
    account.beside.state.store(state, Relaxed);
    account.key.store(0, Relaxed);
    put_number(account, number);
    None
}

fn take_number() -> Option<(u32, &'static Account)> {
    if let Some(number) = FREE_LIST.take(|number| Some(&by_number(number)?.beside.next_free)) {
        return Some((number, by_number(number)?));
    }
    let number = TAKEN.fetch_update(Relaxed, Relaxed, |n| {
        let next = n.wrapping_add(1);
        ((next as usize) < CHUNK * CHUNKS).then_some(next)
    });
    let number = number.ok()?.wrapping_add(1);
    let place = CHUNK_TABLE.get(number as usize / CHUNK)?;
    if place.load(Acquire).is_null() {
        const BYTES: usize = CHUNK * size_of::<Account>();
        // Where there is no memory the number is lost with its chunk's: the next ones try again.
        let fresh = sys::map(BYTES)?;
        // Zeroes are a valid account: free, and nobody's.
        if place.compare_exchange(core::ptr::null_mut(), fresh.as_ptr().cast(), AcqRel, Acquire).is_err() {
            // SAFETY: ours was never published.
            unsafe { sys::unmap(fresh, BYTES) };
        }
    }
    Some((number, by_number(number)?))
}

fn put_number(account: &Account, number: u32) {
    FREE_LIST.give(number, &account.beside.next_free);
}

/// Whether any task may have an account.
#[inline(always)]
pub(crate) fn any() -> bool {
    mode::mode() & TASKS != 0
}

/// A task has ended. `trace`: what made the block that the runtime kept it in, 0: not known.
#[cold]
pub(crate) fn ended(key: u64, trace: u32) {
    for a in all_of(key) {
        if trace != 0 {
            a.beside.trace.store(trace, Relaxed);
        }
        let state = a.beside.state.load(Relaxed);
        if state & STATE == LIVE
            && a.beside.state.compare_exchange(state, state & !STATE | ENDED, SeqCst, Relaxed).is_ok()
        {
            a.give_back();
        }
    }
}

/// Where a wrapped task was made, the address of a `&'static Location`.
pub(crate) fn made_at(key: u64, made: usize) {
    for a in all_of(key) {
        a.beside.made.store(made, Relaxed);
    }
}

/// A new generation has begun: gives back what ended tasks had in older ones.
#[cold]
pub(crate) fn sweep() {
    for number in 1..=TAKEN.load(Relaxed) {
        if let Some(a) = by_number(number)
            && a.beside.state.load(Relaxed) & STATE == ENDED
        {
            a.give_back();
        }
    }
}

/// What is counted of a task in the present generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Bytes of its blocks that live.
    pub held: u64,
    /// Bytes that it has asked for.
    pub allocated: u64,
    /// How often.
    pub allocations: u64,
    /// The most bytes that it held.
    pub peak: u64,
}

/// What is counted of the task with this key: all 0 where it has allocated nothing.
pub(crate) fn sums(key: u64) -> Sums {
    let mut sums = Sums::default();
    for a in all_of(key).filter(|a| a.generation.load(Acquire) == control().first()) {
        let positive = |n: i64| u64::try_from(n).unwrap_or(0);
        sums.held = sums.held.wrapping_add(positive(a.held()));
        sums.allocated = sums.allocated.wrapping_add(positive(a.allocated.load(Relaxed)));
        sums.allocations = sums.allocations.wrapping_add(positive(a.allocations.load(Relaxed)));
        sums.peak = sums.peak.wrapping_add(positive(a.peak.load(Relaxed)));
    }
    sums
}

/// Whose an account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub key: u64,
    /// The trace that made the task's block, 0: not known, or the task goes on.
    pub trace: u32,
    /// Where the task was wrapped, 0: not known, or it goes on.
    pub made: usize,
    pub ended: bool,
}

/// Whose the account of this number is; nothing where nobody has it.
pub(crate) fn owner(number: u32) -> Option<Owner> {
    let a = by_number(number)?;
    let key = a.key.load(Acquire);
    let owner = Owner {
        key,
        trace: a.beside.trace.load(Relaxed),
        made: a.beside.made.load(Relaxed),
        ended: a.beside.state.load(Acquire) & STATE == ENDED,
    };
    (key != 0 && a.key.load(Acquire) == key).then_some(owner)
}

/// The number of the account that the block at `start` counts for; 0: no task's.
pub(crate) fn of_block(start: usize) -> u32 {
    leaf::leaf(start).map_or(0, |leaf| leaf.tasks.get(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::line::line;

    /// One at a time: the accounts in use are counted.
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

    fn in_use() -> usize {
        let used = |n: &u32| by_number(*n).is_some_and(|a| a.beside.state.load(Relaxed) & STATE != FREE);
        (1..=TAKEN.load(Relaxed)).filter(used).count()
    }

    #[test]
    fn each_task_has_one_account_until_it_has_ended_and_its_last_block_is_freed() {
        let _alone = ALONE.lock();
        // Ids that no runtime of these tests comes to, and serials.
        let keys: Vec<u64> = (0..20_000).map(|n| 1 << 40 | n).chain((1..500).map(key_of_serial)).collect();
        let before = in_use();
        let numbers: Vec<u32> = keys
            .iter()
            .map(|key| {
                let account = find(line(), *key, control()).expect("there is room");
                account.count_in(64);
                account.number.load(Relaxed)
            })
            .collect();
        assert_eq!(in_use() - before, keys.len());
        for (key, number) in keys.iter().zip(&numbers) {
            assert_eq!(lookup(*key).unwrap().number.load(Relaxed), *number);
            assert_eq!(sums(*key), Sums { held: 64, allocated: 64, allocations: 1, peak: 64 });
            made_at(*key, 8);
            ended(*key, 7);
            assert_eq!(owner(*number), Some(Owner { key: *key, trace: 7, made: 8, ended: true }));
        }
        assert_eq!(in_use() - before, keys.len(), "their blocks live");
        // Freed by somebody else, and by whoever works on the task: both count.
        for (n, (key, number)) in keys.iter().zip(&numbers).enumerate() {
            gone_elsewhere(*number, if n % 2 == 0 { 0 } else { *key }, control(), 64);
            if n % 2 != 0 {
                ended(*key, 0); // it had ended: nobody works on it any more
                by_number(*number).unwrap().give_back();
            }
            assert_eq!((lookup(*key).is_none(), owner(*number)), (true, None));
        }
        assert_eq!(in_use(), before);
    }

    #[test]
    fn a_key_whose_first_place_is_taken_is_found_elsewhere_as_long_as_it_is_there() {
        let _alone = ALONE.lock();
        let one = 1 << 42 | 3;
        let first = find(line(), one, control()).expect("there is room").number.load(Relaxed);
        let place = |key| std::ptr::from_ref(places(key).next().unwrap());
        let other = (1..).map(|n| one + n * 64).find(|key| place(*key) == place(one)).unwrap();
        let before = ELSEWHERE.load(SeqCst);
        assert!(lookup(other).is_none());
        let second = find(line(), other, control()).expect("there is room").number.load(Relaxed);
        assert_eq!(ELSEWHERE.load(SeqCst), before + 1);
        let number = |key| lookup(key).map(|a| a.number.load(Relaxed));
        assert_eq!((number(one), number(other)), (Some(first), Some(second)));
        ended(one, 0);
        assert_eq!((number(one), number(other)), (None, Some(second)));
        ended(other, 0);
        assert_eq!((number(other), ELSEWHERE.load(SeqCst)), (None, before));
    }

    #[test]
    fn keys_tell_ids_from_serials_and_numbers_beyond_all_bounds_have_no_account() {
        assert_eq!(serial_of(key_of_serial(9)), Some(9));
        assert_eq!(serial_of(9), None);
        assert_eq!(key_of_serial(LARGEST + 1), 0);
        for key in [0, SERIAL, u64::MAX, 1 << 44] {
            assert!(make(key, control()).is_none(), "{key:#x}");
        }
    }

    #[test]
    fn a_peak_is_the_most_that_was_held_at_a_time() {
        let _alone = ALONE.lock();
        let key = 1 << 41 | 5;
        let account = find(line(), key, control()).unwrap();
        let number = account.number.load(Relaxed);
        for size in [100, 50] {
            account.count_in(size);
        }
        gone_elsewhere(number, key, control(), 100);
        account.count_in(60);
        assert_eq!(sums(key), Sums { held: 110, allocated: 210, allocations: 3, peak: 150 });
        account.count_in(60);
        assert_eq!(sums(key).peak, 170);
        ended(key, 0);
        for size in [50, 60, 60] {
            gone_elsewhere(number, 0, control(), size);
        }
        assert_eq!(lookup(key).map(|a| a.number.load(Relaxed)), None);
    }
}
