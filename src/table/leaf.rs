//! The table's memory: a word for every 32 bytes of heap, in leaves of 64 MiB of heap each, mapped as touched.
//!
//! Beside the words a leaf keeps one summary bit for each 4 KiB of heap and one for each 2 MiB; above the leaves there is
//! one bit for each leaf. A set bit says "a block may start here"; it is set on the first use of its page, and cleared
//! by a block that covers the page whole. Nothing is ever unmapped, so a reader needs no lock. Runs inside an allocation.

use core::sync::atomic::{
    AtomicPtr, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use super::record::Record;
use crate::dropped;
use crate::sys;

/// log2 of the heap that one leaf covers.
pub(crate) const LEAF_SHIFT: u32 = 26;
const WORDS: usize = 1 << (LEAF_SHIFT - 5);
const PAGES: usize = 1 << (LEAF_SHIFT - 12);
/// What lies above the program's addresses has no leaf.
const LEAVES: usize = 1 << (sys::ADDRESS_BITS - LEAF_SHIFT);

/// Words of 64 MiB of heap, with their summaries and columns.
#[repr(C, align(4096))]
pub(crate) struct Leaf {
    words: [AtomicU64; WORDS],
    pages: [AtomicU64; PAGES / 64],
    chunks: AtomicU32,
    /// The allocating thread's number in `thread::names`, for each word.
    pub(crate) threads: Column,
    /// The number of the allocating task's account, for each word.
    pub(crate) tasks: Column,
}

/// A further number for each word of a leaf; mapped when the first one is kept.
pub(crate) struct Column(AtomicPtr<AtomicU32>);

impl Column {
    /// The number kept for `address`; 0 where none was.
    #[inline(always)]
    pub(crate) fn get(&self, address: usize) -> u32 {
        let column = self.0.load(Acquire);
        if column.is_null() {
            return 0;
        }
        // SAFETY: a published column has WORDS entries and is never unmapped.
        unsafe { (*column.add(index(address))).load(Relaxed) }
    }

    /// Keeps a number for `address`: whether there was room.
    #[inline(always)]
    pub(crate) fn set(&self, address: usize, number: u32) -> bool {
        let column = self.0.load(Acquire);
        keep(if column.is_null() { self.make() } else { column }, address, number)
    }

    /// Keeps a number for `address` where the column is mapped: whether it is.
    #[inline(always)]
    pub(crate) fn replace(&self, address: usize, number: u32) -> bool {
        keep(self.0.load(Acquire), address, number)
    }

    /// Forgets what was kept for `address`.
    #[inline(always)]
    pub(crate) fn clear(&self, address: usize) {
        self.replace(address, 0);
    }

    #[cold]
    #[inline(never)]
    fn make(&self) -> *mut AtomicU32 {
        const BYTES: usize = WORDS * 4;
        let Some(fresh) = sys::map(BYTES) else {
            dropped::TABLE.add(1);
            return core::ptr::null_mut();
        };
        match self.0.compare_exchange(core::ptr::null_mut(), fresh.as_ptr().cast(), AcqRel, Acquire) {
            Ok(_) => fresh.as_ptr().cast(),
            Err(theirs) => {
                // SAFETY: ours was never published.
                unsafe { sys::unmap(fresh, BYTES) };
                theirs
            }
        }
    }
}

/// Keeps a number in a column: whether there is one.
#[inline(always)]
fn keep(column: *mut AtomicU32, address: usize, number: u32) -> bool {
    if column.is_null() {
        return false;
    }
    // SAFETY: as in `Column::get`.
    unsafe { (*column.add(index(address))).store(number, Relaxed) };
    true
}

static LEAF_TABLE: [AtomicPtr<Leaf>; LEAVES] = [const { AtomicPtr::new(core::ptr::null_mut()) }; LEAVES];
static TOP: [AtomicU64; LEAVES / 64] = [const { AtomicU64::new(0) }; LEAVES / 64];

/// Bytes of table for one leaf.
pub(crate) const LEAF_BYTES: usize = size_of::<Leaf>();

/// The leaf over `address`, if anything was ever recorded there.
#[inline(always)]
pub(crate) fn leaf(address: usize) -> Option<&'static Leaf> {
    let place = LEAF_TABLE.get(address >> LEAF_SHIFT)?;
    // SAFETY: a published leaf is never unmapped; its content is atomics, valid as zeroes.
    unsafe { place.load(Acquire).as_ref() }
}

/// The leaf over `address`, made if need be; nothing where memory ran out (counted).
#[inline(always)]
pub(crate) fn leaf_or_make(address: usize) -> Option<&'static Leaf> {
    match leaf(address) {
        None => make(address),
        found => found,
    }
}

#[cold]
#[inline(never)]
fn make(address: usize) -> Option<&'static Leaf> {
    let index = address >> LEAF_SHIFT;
    let place = LEAF_TABLE.get(index)?;
    let Some(fresh) = sys::map(LEAF_BYTES) else {
        dropped::TABLE.add(1);
        return None;
    };
    let leaf = match place.compare_exchange(core::ptr::null_mut(), fresh.as_ptr().cast(), AcqRel, Acquire) {
        Ok(_) => fresh.as_ptr().cast(),
        Err(theirs) => {
            // SAFETY: ours was never published.
            unsafe { sys::unmap(fresh, LEAF_BYTES) };
            theirs
        }
    };
    // SAFETY: as in `leaf`.
    unsafe { leaf.as_ref() }
}

#[inline(always)]
fn index(address: usize) -> usize {
    (address >> 5) & (WORDS - 1)
}

impl Leaf {
    /// The word that stands for `address`.
    #[inline(always)]
    pub(crate) fn word(&self, address: usize) -> &AtomicU64 {
        // SAFETY: `index` masks to the array's length.
        unsafe { self.words.get_unchecked(index(address)) }
    }

    /// Records a block and sees to it that the summaries lead to it.
    #[inline(always)]
    pub(crate) fn put(&self, address: usize, record: Record) {
        self.word(address).store(record.0, Release);
        self.mark(address);
    }

    #[inline(always)]
    pub(crate) fn mark(&self, address: usize) {
        let page = (address >> 12) & (PAGES - 1);
        // SAFETY: PAGES / 64 words, and `page` is below PAGES.
        let word = unsafe { self.pages.get_unchecked(page >> 6) };
        if word.load(Relaxed) >> (page & 63) & 1 == 0 {
            self.mark_first(address, word, page & 63);
        }
    }

    #[cold]
    #[inline(never)]
    fn mark_first(&self, address: usize, word: &AtomicU64, bit: usize) {
        // From above: who finds the page's bit set, a handler or a fork's child too, may rely on the other two.
        let leaf = address >> LEAF_SHIFT;
        if let Some(top) = TOP.get(leaf >> 6) {
            top.fetch_or(1u64.wrapping_shl(leaf as u32 & 63), AcqRel);
        }
        self.chunks.fetch_or(1u32.wrapping_shl((address >> 21) as u32 & 31), AcqRel);
        word.fetch_or(1u64.wrapping_shl(bit as u32), AcqRel);
    }

    /// Visits the address of each granule of the leaf (number `leaf`) whose word says that a block starts in it.
    fn blocks(&self, leaf: usize, visit: &mut dyn FnMut(usize, Record)) {
        let chunks = self.chunks.load(Acquire);
        for (i, pages) in self.pages.iter().enumerate() {
            // 64 pages are an eighth of a chunk of 2 MiB.
            if chunks.wrapping_shr((i >> 3) as u32) & 1 == 0 {
                continue;
            }
            let mut bits = pages.load(Acquire);
            while bits != 0 {
                let page = i.wrapping_shl(6) | bits.trailing_zeros() as usize;
                bits &= bits.wrapping_sub(1);
                let first = page.wrapping_shl(7);
                let Some(words) = self.words.get(first..first.wrapping_add(128)) else { continue };
                for (k, word) in words.iter().enumerate() {
                    let record = Record(word.load(Acquire));
                    if record.0 != 0 && record.is_block() {
                        let base = leaf.wrapping_shl(LEAF_SHIFT) | first.wrapping_add(k).wrapping_shl(5);
                        visit(base, record);
                    }
                }
            }
        }
    }

    /// The nearest word at or below word number `from` that holds a block, led by the summaries.
    fn below(&self, from: usize, admit: &dyn Fn(usize, Record) -> bool) -> Option<(usize, Record)> {
        let mut page = from >> 7;
        let mut last = from & 127;
        loop {
            let bits = self.pages.get(page >> 6)?.load(Acquire);
            if bits >> (page & 63) & 1 != 0 {
                let first = page.wrapping_shl(7);
                let words = self.words.get(first..=first.wrapping_add(last))?;
                for (k, word) in words.iter().enumerate().rev() {
                    let record = Record(word.load(Acquire));
                    let at = first.wrapping_add(k);
                    if record.0 != 0 && record.is_block() && admit(at, record) {
                        return Some((at, record));
                    }
                }
            }
            last = 127;
            // The next lower page whose bit is set: in this word of bits, then chunk by chunk.
            let lower = bits & 1u64.wrapping_shl(page as u32 & 63).wrapping_sub(1);
            if lower != 0 {
                page = page & !63 | 63u32.wrapping_sub(lower.leading_zeros()) as usize;
                continue;
            }
            page = self.page_before(page & !63)?;
        }
    }

    /// The last page before `end` (a multiple of 64) whose bit is set.
    fn page_before(&self, end: usize) -> Option<usize> {
        let chunks = self.chunks.load(Acquire);
        let mut word = end >> 6;
        while word > 0 {
            word = word.wrapping_sub(1);
            if chunks.wrapping_shr((word >> 3) as u32) & 1 == 0 {
                word &= !7; // the whole chunk is empty
                continue;
            }
            let bits = self.pages.get(word)?.load(Acquire);
            if bits != 0 {
                return Some(word.wrapping_shl(6) | 63u32.wrapping_sub(bits.leading_zeros()) as usize);
            }
        }
        None
    }
}

/// The nearest block that starts at or below `address`, at any distance, with its start.
pub(crate) fn nearest_at_or_below(address: usize) -> Option<(usize, Record)> {
    let mut leaf_number = address >> LEAF_SHIFT;
    if leaf_number >= LEAVES {
        return None;
    }
    let mut from = index(address);
    loop {
        if let Some(leaf) = leaf(leaf_number.wrapping_shl(LEAF_SHIFT)) {
            let base = leaf_number.wrapping_shl(LEAF_SHIFT);
            let start = |at: usize, r: Record| base.wrapping_add(at.wrapping_shl(5)).wrapping_add(r.offset());
            if let Some((at, record)) = leaf.below(from, &|at, r| start(at, r) <= address) {
                return Some((start(at, record), record));
            }
        }
        // The next lower leaf that holds anything.
        let mut word = leaf_number >> 6;
        let mut bits =
            TOP.get(word)?.load(Acquire) & 1u64.wrapping_shl(leaf_number as u32 & 63).wrapping_sub(1);
        while bits == 0 {
            word = word.checked_sub(1)?;
            bits = TOP.get(word)?.load(Acquire);
        }
        leaf_number = word.wrapping_shl(6) | 63u32.wrapping_sub(bits.leading_zeros()) as usize;
        from = WORDS.wrapping_sub(1);
    }
}

/// Visits every block's start and record. Other threads go on; a block that comes or goes meanwhile may be seen or not.
pub(crate) fn blocks(visit: &mut dyn FnMut(usize, Record)) {
    for (i, top) in TOP.iter().enumerate() {
        let mut bits = top.load(Acquire);
        while bits != 0 {
            let number = i.wrapping_shl(6) | bits.trailing_zeros() as usize;
            bits &= bits.wrapping_sub(1);
            if let Some(leaf) = leaf(number.wrapping_shl(LEAF_SHIFT)) {
                leaf.blocks(number, &mut |base, record| visit(base.wrapping_add(record.offset()), record));
            }
        }
    }
}

/// Clears the summaries of the pages that a block covers whole: nothing else can start there while it lives.
#[cold]
#[inline(never)]
pub(crate) fn cover(start: usize, size: usize) {
    let first = (start >> 12).wrapping_add(1);
    let end = start.wrapping_add(size) >> 12;
    let mut page = first;
    while page < end {
        let address = page.wrapping_shl(12);
        let Some(leaf) = leaf(address) else {
            page = (address >> LEAF_SHIFT).wrapping_add(1).wrapping_shl(LEAF_SHIFT - 12);
            continue;
        };
        let within = page & (PAGES - 1);
        let left = end.wrapping_sub(page);
        if within == 0 && left >= PAGES {
            if leaf.chunks.load(Relaxed) != 0 {
                leaf.chunks.store(0, Relaxed);
                for word in &leaf.pages {
                    word.store(0, Relaxed);
                }
            }
            let number = address >> LEAF_SHIFT;
            if let Some(top) = TOP.get(number >> 6) {
                top.fetch_and(!1u64.wrapping_shl(number as u32 & 63), AcqRel);
            }
            page = page.wrapping_add(PAGES);
            continue;
        }
        if within & 511 == 0 && left >= 512 {
            let bit = 1u32.wrapping_shl((within >> 9) as u32);
            if leaf.chunks.load(Relaxed) & bit != 0 {
                leaf.chunks.fetch_and(!bit, AcqRel);
                let word = within >> 6;
                for pages in leaf.pages.iter().skip(word).take(8) {
                    pages.store(0, Relaxed);
                }
            }
            page = page.wrapping_add(512);
            continue;
        }
        // Part of a word of bits.
        let bit = within & 63;
        let run = (64usize.wrapping_sub(bit)).min(left);
        let mask = if run == 64 { u64::MAX } else { 1u64.wrapping_shl(run as u32).wrapping_sub(1) };
        if let Some(pages) = leaf.pages.get(within >> 6)
            && pages.load(Relaxed) & mask.wrapping_shl(bit as u32) != 0
        {
            pages.fetch_and(!mask.wrapping_shl(bit as u32), AcqRel);
        }
        page = page.wrapping_add(run);
    }
}
