//! The debug heap: fills, red zones and the checks at free, for each block.
//!
//! The word of a block is taken by one compare-and-swap before anything else happens to it, so of two threads that free
//! the same block one finds it freed. Runs inside an allocation.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use super::facts::{Block, BlockFacts, Found, Memory};
use super::fault::{self, Fault};
use super::pattern::{self, Pattern};
use super::quarantine::{self, Entry};
use super::{fork, layout};
use crate::mode::{TASKS, mode};
use crate::sys::line::Line;
use crate::table::{self, HUGE, Record, State, accounts, counters, leaf};
use crate::thread::Slot;
use crate::trace::capture::{Start, capture};
use crate::trace::generation::Control;
use crate::{dropped, sys};

/// From here on only the first and the last page are filled, new and freed, and `realloc` stays in place.
pub(crate) const LARGE: usize = 128 << 10;
const PAGE: usize = 4096;
/// All of a record but its trace.
const WHOLE: u64 = (1 << 38) - 1;
/// The same but its fork number.
const SHAPE: u64 = WHOLE & !(3 << 3);

/// Fills a block as far as its size says.
///
/// # Safety
/// `p` is a block of `size` bytes that nobody else uses.
#[inline(always)]
unsafe fn fill(p: *mut u8, size: usize, pattern: Pattern) {
    // SAFETY: the caller's; both pages lie in a block of at least 128 KiB.
    unsafe {
        if size < LARGE {
            pattern::fill(p, size, pattern);
        } else {
            pattern::fill(p, PAGE, pattern);
            pattern::fill(p.add(size.wrapping_sub(PAGE)), PAGE, pattern);
        }
    }
}

/// Draws the red zones around a block and fills it, unless zeroes were asked for.
///
/// # Safety
/// `base` is a fresh block of the inner allocator with the layout of [`layout::guarded`] for this size and alignment.
#[inline(always)]
pub(crate) unsafe fn dress(base: *mut u8, size: usize, align: usize, zeroed: bool) -> *mut u8 {
    // SAFETY: front, block and zone behind lie in the layout that the block was asked for with.
    unsafe {
        let user = base.add(layout::front(align));
        draw_zones(user, size, align);
        if !zeroed {
            fill(user, size, Pattern::New);
        }
        user
    }
}

/// Fills both red zones.
///
/// # Safety
/// `user` is a block of this size and alignment under the debug heap.
#[inline(always)]
unsafe fn draw_zones(user: *mut u8, size: usize, align: usize) {
    // SAFETY: both zones belong to the block. The front one is nearly always 16 bytes, which then is a constant.
    unsafe {
        if align <= layout::ZONE {
            pattern::fill(user.sub(layout::ZONE), layout::ZONE, Pattern::Zone);
        } else {
            let zone = layout::front_zone(align);
            pattern::fill(user.sub(zone), zone, Pattern::Zone);
        }
        pattern::fill(user.add(size), layout::ZONE, Pattern::Zone);
    }
}

/// Whether both red zones are whole.
///
/// # Safety
/// `user` is a block of this size and alignment under the debug heap.
#[inline(always)]
unsafe fn zones_intact(user: *const u8, size: usize, align: usize) -> bool {
    // Nearly always 16, which then is a constant.
    let zone = if align <= layout::ZONE { layout::ZONE } else { layout::front_zone(align) };
    // SAFETY: both zones belong to the block.
    unsafe {
        let before = if zone == layout::ZONE {
            pattern::intact(user.sub(layout::ZONE), layout::ZONE, Pattern::Zone)
        } else {
            pattern::intact(user.sub(zone), zone, Pattern::Zone)
        };
        before & pattern::intact(user.add(size), layout::ZONE, Pattern::Zone)
    }
}

/// Whether a freed block still has its fill.
///
/// # Safety
/// `user` is a quarantined block of this size.
#[inline(always)]
unsafe fn fill_intact(user: *const u8, size: usize) -> bool {
    // SAFETY: the block's own bytes; both pages lie in a block of at least 128 KiB.
    unsafe {
        if size < LARGE {
            pattern::intact(user, size, Pattern::Freed)
        } else {
            pattern::intact(user, PAGE, Pattern::Freed)
                && pattern::intact(user.add(size.wrapping_sub(PAGE)), PAGE, Pattern::Freed)
        }
    }
}

/// Adds to the facts which bytes of a block's surroundings were damaged and, if it is freed, of the block itself.
///
/// # Safety
/// `block` is one of the debug heap that is held, or that only this thread may free.
#[cold]
pub(crate) unsafe fn inspect(block: Block, facts: BlockFacts) -> BlockFacts {
    let user = block.start as *const u8;
    let (size, zone) = (block.size, layout::front_zone(block.align));
    // SAFETY: zones and block are the block's own memory.
    unsafe {
        let within = if !block.freed {
            None
        } else if size < LARGE {
            pattern::damage(user, size, Pattern::Freed)
        } else {
            let last = size.wrapping_sub(PAGE);
            let first_page = pattern::damage(user, PAGE, Pattern::Freed);
            let last_page =
                pattern::damage(user.add(last), PAGE, Pattern::Freed).map(|damage| damage.moved(last));
            match (first_page, last_page) {
                (Some(first), Some(last)) => Some(first.and(last)),
                (first, last) => first.or(last),
            }
        };
        BlockFacts {
            block: Some(block),
            before: pattern::damage(user.sub(zone), zone, Pattern::Zone),
            behind: pattern::damage(user.add(size), layout::ZONE, Pattern::Zone),
            within,
            ..facts
        }
    }
}

/// A record in plain words.
#[cold]
pub(crate) fn block_of(start: usize, record: Record) -> Block {
    Block {
        start,
        size: table::size_of_block(start, record),
        align: record.align(),
        // Left to its holder, its word keeps another number in the trace's place.
        trace: if record.state() == State::HeldFreed { 0 } else { record.trace() },
        thread: table::thread_of(start),
        freed: !matches!(record.state(), State::Live | State::HeldLive),
        free: None,
        inherited: record.fork() != fork::number() & 3,
    }
}

/// The block that holds `address`, or in whose red zone it lies.
#[cold]
fn block_around(address: usize) -> Option<Block> {
    let below = table::nearest_record(address).filter(|(start, record)| {
        let size = table::size_of_block(*start, *record);
        address.wrapping_sub(*start) < size.saturating_add(layout::ZONE)
    });
    let above = || {
        table::nearest_record(address.saturating_add(layout::MOST_FRONT)).filter(|(start, record)| {
            let before = start.wrapping_sub(address);
            *start > address && before <= layout::front_zone(record.align())
        })
    };
    below.or_else(above).map(|(start, record)| block_of(start, record))
}

/// What an address that no block has belongs to.
#[cold]
fn memory_at(call: &Call<'_>, address: usize) -> Memory {
    if !call.slot.shared && call.slot.owns(address) {
        Memory::Stack
    } else if sys::in_module(address) {
        Memory::Module
    } else {
        Memory::Unknown
    }
}

/// A free or a `realloc` of `address`, judged by what the table says: `record` is what it has for exactly this address.
#[cold]
#[inline(never)]
fn judge(call: &Call<'_>, record: Record, address: usize, asked: (usize, usize)) -> Option<Fault> {
    let mut block = if record.is_block() { Some(block_of(address, record)) } else { block_around(address) };
    if let Some(block) = block.as_mut().filter(|block| block.freed) {
        block.free = quarantine::find(block.start);
    }
    Fault::of(BlockFacts {
        asked: Some(asked),
        block,
        memory: if block.is_none() { memory_at(call, address) } else { Memory::Unknown },
        complete: dropped::TABLE.count() == 0,
        ..BlockFacts::of(call.found(), address)
    })
}

/// What a hook knows of the call that it serves.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub line: &'a Line,
    pub slot: &'a Slot,
    pub control: Control,
    pub start: Start,
    /// The inner allocator's number, and [`MOVED`].
    pub inner: u16,
}

/// Beside the inner allocator's number: the program doesn't free the block but reallocates it.
pub(crate) const MOVED: u16 = 1 << 8;

impl Call<'_> {
    /// The inner allocator's number.
    #[inline(always)]
    fn number(&self) -> u8 {
        self.inner as u8
    }

    /// What the program does.
    fn found(&self) -> Found {
        if self.inner & MOVED == 0 { Found::Free } else { Found::Realloc }
    }

    #[inline(always)]
    fn trace(&self) -> u32 {
        // SAFETY: a `Call` is made by the hook from its own thread's line, slot and registers.
        unsafe { capture(self.line, self.slot, self.control, self.start) }
    }
}

/// Takes a block out of the program's hands: checks, fill, quarantine.
///
/// # Safety
/// The program frees `user` with this layout; whether it may is checked here.
#[inline(always)]
pub(crate) unsafe fn freed<const TRACE: bool>(call: &Call<'_>, user: *mut u8, size: usize, align: usize) {
    let address = user as usize;
    // Both zones and the word may lie far off in memory, and nothing is read past a compare-and-swap before it is done.
    prefetch(address.wrapping_sub(layout::ZONE));
    prefetch(address.wrapping_add(size));
    // With this process's fork number: a block that a child inherited is claimed the slow way, which makes it its own.
    let shape = Record::marked(address, size, align, 0, fork::mark()).0;
    let mut record = Record::ABSENT;
    let mut word = None;
    if let Some(leaf) = leaf::leaf(address) {
        let w = leaf.word(address);
        record = Record(w.load(Acquire));
        word = Some(w);
    }
    let taken = match word {
        Some(w) if (record.0 ^ shape) & WHOLE == 0 && size < HUGE => {
            w.compare_exchange(record.0, record.with_state(State::Quarantined).0, AcqRel, Acquire).is_ok()
        }
        _ => false,
    };
    if !taken {
        // Held, huge, inherited, or wrong.
        match claim(call, address, size, align) {
            Claim::Ours(r) => record = r,
            Claim::Refused => return,
            Claim::Unknown => {
                // Its record had no room: nothing is known of it, so it goes back unchecked.
                // SAFETY: the program frees a block of ours that was made with this layout.
                return unsafe { quarantine::release(entry(call, address, 0, size, align)) };
            }
        }
    }
    // The layout may have been wrong, and we told to go on: what the table says is right.
    let (size, align) = (table::size_of_block(address, record), record.align());
    // SAFETY: the claim made the block ours alone; the table says that it has this shape.
    unsafe {
        if !zones_intact(user, size, align) {
            tell_damage(call, record, address);
            // The program goes on: drawn anew, so that what was told isn't found again.
            draw_zones(user, size, align);
        }
        fill(user, size, Pattern::Freed);
    }
    if TRACE && call.control.holds(record.trace()) {
        counters::count(call.slot, call.control, (size as i64).wrapping_neg(), -1);
        if mode() & TASKS != 0 {
            accounts::gone(call.line, call.control, user, size);
        }
    }
    let line = call.line;
    // What Birthmark itself frees, while it finds names for one, must not push the program's blocks out.
    if line.busy.get() | line.ours.get() == 0 {
        let trace = if TRACE { call.trace() } else { 0 };
        line.busy.set(1);
        // SAFETY: the slot is this thread's and `busy` says that no push of it is under way; the block is as asked for.
        let kept = unsafe { quarantine::push(call.slot, entry(call, address, trace, size, align)) };
        line.busy.set(0);
        if kept {
            return;
        }
    } else if line.busy.get() != 0 {
        dropped::QUARANTINE.add(1); // a signal handler inside a push
    }
    pattern::keep(user);
    leave(address, call.number());
}

#[inline(always)]
fn entry(call: &Call<'_>, address: usize, freed_by: u32, size: usize, align: usize) -> Entry {
    Entry { address, inner: call.number(), freed_by, thread: call.slot.who.load(Relaxed), size, align }
}

/// A freed block goes back at once: its record goes, then its memory; or, if it is held, its holder sees to that.
fn leave(address: usize, inner: u8) {
    let Some(leaf) = leaf::leaf(address) else { return };
    let word = leaf.word(address);
    let mut record = Record(word.load(Acquire));
    loop {
        let size = table::size_of_block(address, record);
        let next = match record.state() {
            State::HeldQuarantined if record.fork() == fork::number() & 3 => {
                record.with_state(State::HeldFreed).with_trace(u32::from(inner))
            }
            _ => Record::ABSENT,
        };
        match word.compare_exchange(record.0, next.0, AcqRel, Acquire) {
            Ok(_) if next.0 == 0 => {
                table::forget_size(address, record); // not before: a sweeper that held it now would read a wrong size
                // SAFETY: the block is freed, and its word is gone by our swap: nobody else has it.
                return unsafe {
                    quarantine::release(Entry {
                        address,
                        inner,
                        freed_by: 0,
                        thread: 0,
                        size,
                        align: record.align(),
                    })
                };
            }
            Ok(_) => return,
            Err(now) => record = Record(now),
        }
    }
}

enum Claim {
    /// Taken out of the program's hands; its record as it was.
    Ours(Record),
    /// An error that was told; the block stays as it is.
    Refused,
    /// The table knows nothing, and had no room once.
    Unknown,
}

/// The slow way of a free: huge blocks, held ones, those made before a fork, and errors.
#[cold]
#[inline(never)]
fn claim(call: &Call<'_>, address: usize, size: usize, align: usize) -> Claim {
    loop {
        let record = table::at(address).unwrap_or(Record::ABSENT);
        let fault = judge(call, record, address, (size, align));
        if let Some(fault) = &fault {
            fault::tell(fault, call);
        }
        let next = match record.state() {
            // A sweeper of this process looks at it: it goes on looking while the block is in quarantine.
            State::HeldLive if record.fork() == fork::number() & 3 => {
                record.with_state(State::HeldQuarantined)
            }
            // Whoever made it: what is written to it from here on, this process writes.
            State::Live | State::HeldLive => record.with_state(State::Quarantined).with_fork(fork::number()),
            _ if fault.is_none() => return Claim::Unknown,
            _ => return Claim::Refused,
        };
        let Some(leaf) = leaf::leaf(address) else { return Claim::Unknown };
        if leaf.word(address).compare_exchange(record.0, next.0, AcqRel, Acquire).is_ok() {
            return Claim::Ours(record);
        }
    }
}

/// The red zones of a live block aren't whole.
///
/// # Safety
/// `address` is a block with this record that only this thread may free.
#[cold]
#[inline(never)]
unsafe fn tell_damage(call: &Call<'_>, record: Record, address: usize) {
    let live = Block { freed: false, ..block_of(address, record) };
    // SAFETY: the caller's.
    if let Some(fault) = Fault::of(unsafe { inspect(live, BlockFacts::of(call.found(), address)) }) {
        fault::tell(&fault, call);
    }
}

#[inline(always)]
fn prefetch(address: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address is harmless.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(address as *const i8);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks memory for what [`evict`] will read first: the word, and both ends of the block.
#[inline(always)]
pub(crate) fn fetch(entry: &Entry) {
    if let Some(leaf) = leaf::leaf(entry.address) {
        prefetch(leaf.word(entry.address).as_ptr() as usize);
    }
    prefetch(entry.address.wrapping_sub(layout::ZONE));
    prefetch(entry.address.wrapping_add(entry.size));
}

/// Asks memory for what lies between.
#[inline(always)]
pub(crate) fn fetch_inside(entry: &Entry) {
    for i in 0..5usize {
        prefetch(entry.address.wrapping_add(48).wrapping_add(i.wrapping_mul(64)));
    }
}

/// A block leaves the quarantine: verified, its record taken, given back.
///
/// # Safety
/// The caller claimed the entry: nobody else takes this block out.
#[inline(always)]
pub(crate) unsafe fn evict(entry: Entry) {
    let Some(leaf) = leaf::leaf(entry.address) else { return };
    let word = leaf.word(entry.address);
    let (user, size, align) = (entry.address as *mut u8, entry.size, entry.align);
    // SAFETY: a quarantined block is memory of the inner allocator that we haven't given back, of the size that its record
    // had when it was freed, and still has.
    let intact = unsafe { fill_intact(user, size) & zones_intact(user, size, align) };
    let record = Record(word.load(Acquire));
    if !intact {
        tell_late(entry, record, size, align);
    }
    if record.state() == State::Quarantined
        && size < HUGE
        && word.compare_exchange(record.0, 0, AcqRel, Acquire).is_ok()
    {
        // SAFETY: the record is gone by our swap, and the entry was ours.
        unsafe { quarantine::release(entry) };
    } else {
        leave(entry.address, entry.inner);
    }
}

#[cold]
#[inline(never)]
fn tell_late(entry: Entry, record: Record, size: usize, align: usize) {
    let mut block = block_of(entry.address, record);
    (block.size, block.align, block.freed, block.free) = (size, align, true, Some(entry));
    let facts = BlockFacts::of(Found::Quarantine, entry.address);
    // SAFETY: the caller claimed the block.
    if let Some(fault) = Fault::of(unsafe { inspect(block, facts) }) {
        fault::tell_anywhere(&fault);
    }
}

/// Before a `realloc` copies: whether the block may be reallocated with this layout. False: it was told, and the
/// block is not to be touched.
#[inline(always)]
pub(crate) fn may_move(call: &Call<'_>, user: *mut u8, size: usize, align: usize) -> bool {
    let address = user as usize;
    let shape = Record::live(address, size, align, 0, 0).0;
    let record = leaf::leaf(address).map_or(Record::ABSENT, |l| Record(l.word(address).load(Acquire)));
    if (record.0 ^ shape) & SHAPE == 0 && size < HUGE {
        return true;
    }
    may_move_slow(call, address, size, align)
}

#[cold]
#[inline(never)]
fn may_move_slow(call: &Call<'_>, address: usize, size: usize, align: usize) -> bool {
    let record = table::at(address).unwrap_or(Record::ABSENT);
    let Some(fault) = judge(call, record, address, (size, align)) else { return true };
    fault::tell(&fault, call);
    // Told to go on: with a wrong layout the block can still be moved.
    matches!(record.state(), State::Live | State::HeldLive)
}

/// A large block is about to grow or shrink in place: its word goes. The record, or nothing: then it must move.
#[inline(always)]
pub(crate) fn lift(call: &Call<'_>, user: *mut u8, size: usize, align: usize) -> Option<Record> {
    let address = user as usize;
    let record = table::at(address)?;
    if record.state() != State::Live
        || table::size_of_block(address, record) != size
        || record.align() != align
    {
        return None;
    }
    // SAFETY: a live block of this shape, in its owner's hands.
    unsafe {
        if !zones_intact(user, size, align) {
            tell_damage(call, record, address);
        }
    }
    let word = leaf::leaf(address)?.word(address);
    word.compare_exchange(record.0, 0, AcqRel, Acquire).ok()?;
    table::forget_size(address, record);
    Some(record)
}

/// The block is at its new place, or still at its old one: its last zone is drawn anew and new bytes at its end filled.
///
/// # Safety
/// `user` is a block of `size` bytes with room for its zones, of which the first `old` hold the program's data.
pub(crate) unsafe fn redress(user: *mut u8, old: usize, size: usize) {
    // SAFETY: the caller's.
    unsafe {
        pattern::fill(user.add(size), layout::ZONE, Pattern::Zone);
        if size > old {
            let from = size.saturating_sub(PAGE).max(old);
            pattern::fill(user.add(from), size.wrapping_sub(from), Pattern::New);
        }
    }
}
