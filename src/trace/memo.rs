//! A thread's memo of whole stacks: look first, walk only what is new.
//!
//! A walk by tables is a function of the stack pointer, the return address and the frame pointer at its start, and of
//! the stack words that it reads. An entry keeps the places of all those words; their values are the trace's own frames,
//! or stand in the entry. When every place still holds its value it is the same walk, by induction from the first frame
//! outward: proved, not guessed. Only stacks of the thread's own, whose every rule is "register plus offset" and whose
//! modules were there at start, are kept. Used by the slot's owner only. Runs inside an allocation.

use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed, compiler_fence};

use super::generation::Control;
use super::intern;
use super::walk::{Start, Walk};
use crate::{dropped, sys};

const WAYS: usize = 4;
/// Offsets that fit into an entry; longer lists lie in a page of their own.
const INLINE: usize = 44;
/// Words of the longest stack that is kept.
const LONGEST: usize = 256;
const LONG: usize = 128;
/// Entries at first, and at most.
const FIRST_SETS: usize = 16;
const MOST_SETS: usize = 384;
const ENTRIES: usize = MOST_SETS * WAYS;
const LONG_BYTES: usize = LONG * LONGEST * 2;
const BYTES: usize = ENTRIES * size_of::<Entry>() + LONG_BYTES;
/// For all slots together.
const MOST_BYTES: usize = 64 << 20;
static TAKEN: AtomicUsize = AtomicUsize::new(0);

#[repr(C, align(128))]
struct Entry {
    /// Stack pointer at the start; 0: empty.
    sp: usize,
    /// The second return address.
    second: usize,
    frames: *const usize,
    /// Compared with the frame pointer at the start where the mask says so.
    fp: u64,
    trace: u32,
    n: u16,
    pairs: u16,
    /// All ones where a rule used the start's frame pointer.
    fp_mask: u64,
    /// `n` places of return addresses, then `pairs` of (place, value); or the number of the long list.
    offsets: [u16; INLINE - 4],
}
const _: () = assert!(size_of::<Entry>() == 128);

/// The memo of one slot.
pub(crate) struct Memo {
    entries: *mut Entry,
    sets: usize,
    generation: u32,
    turn: u32,
    long_turn: u32,
    /// Looks and misses since the last judgement of whether noting pays.
    looks: u32,
    misses: u32,
    /// Notes only each n-th new stack that was looked for.
    sparse: u32,
    spared: u32,
    /// Owner of each long list: entry number + 1.
    owners: [u16; LONG],
    /// No memory for one: this thread walks.
    refused: bool,
}

/// What a look found.
pub(crate) enum Look {
    Hit(u32),
    /// Not there; the key under which [`Memo::note`] may keep it.
    Miss(Key),
    /// This start can't be kept.
    Never,
}

#[derive(Clone, Copy)]
pub(crate) struct Key {
    second: usize,
    set: usize,
}

impl Memo {
    pub(crate) const fn new() -> Self {
        Self {
            entries: null_mut(),
            sets: 0,
            generation: 0,
            turn: 0,
            long_turn: 0,
            looks: 0,
            misses: 0,
            sparse: 1,
            spared: 0,
            owners: [0; LONG],
            refused: false,
        }
    }

    #[cold]
    #[inline(never)]
    fn renew(&mut self, control: Control) -> bool {
        if self.refused {
            return false;
        }
        if self.entries.is_null() {
            if TAKEN.fetch_add(BYTES, Relaxed) > MOST_BYTES {
                TAKEN.fetch_sub(BYTES, Relaxed);
                self.refused = true;
                dropped::MEMOS.add(1);
                return false;
            }
            let Some(fresh) = sys::map(BYTES) else {
                TAKEN.fetch_sub(BYTES, Relaxed);
                self.refused = true;
                dropped::MEMOS.add(1);
                return false;
            };
            self.entries = fresh.as_ptr().cast();
            self.sets = FIRST_SETS;
        } else {
            self.empty();
        }
        self.generation = control.first();
        (self.looks, self.misses, self.sparse) = (0, 0, 1);
        true
    }

    fn empty(&mut self) {
        for i in 0..self.sets.wrapping_mul(WAYS) {
            // SAFETY: `sets` sets of WAYS entries lie in the mapping.
            unsafe { (*self.entries.add(i)).sp = 0 };
        }
    }

    /// Gives the memory back: the thread ends, and the next owner's stack may be shorter.
    pub(crate) fn let_go(&mut self) {
        if let Some(p) = NonNull::new(self.entries) {
            // SAFETY: our own mapping of this size; the owner is here, so nobody reads it.
            unsafe { sys::unmap(p.cast(), BYTES) };
            TAKEN.fetch_sub(BYTES, Relaxed);
        }
        *self = Self::new();
    }

    fn long(&self, number: usize) -> *mut u16 {
        // SAFETY: the long lists lie behind the entries in the same mapping; `number` is below LONG.
        unsafe { self.entries.add(ENTRIES).cast::<u16>().add((number & (LONG - 1)).wrapping_mul(LONGEST)) }
    }

    /// Whether this look isn't worth its time: nearly every stack of this thread is new.
    #[inline(always)]
    pub(crate) fn skips(&mut self) -> bool {
        self.sparse > 1 && {
            self.turn = self.turn.wrapping_add(1);
            self.turn & 7 != 0
        }
    }

    /// Looks for the stack that begins at `start`; `second` is the place of its second return address.
    ///
    /// # Safety
    /// `start.sp` and `second` lie in the calling thread's own stack, at or above its stack pointer, and the memo is its own.
    #[inline(always)]
    pub(crate) unsafe fn look(&mut self, control: Control, start: Start, second: usize) -> Look {
        if self.generation != control.first() && !self.renew(control) {
            return Look::Never;
        }
        // SAFETY: the caller says that the word lies in the thread's own stack.
        let second = unsafe { (second as *const usize).read() };
        let hash = ((start.sp >> 3) ^ second.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let set = (hash.wrapping_mul(self.sets)) >> 32;
        for way in 0..WAYS {
            let number = set.wrapping_mul(WAYS).wrapping_add(way);
            // SAFETY: `set` is below `sets`, whose entries lie in the mapping.
            let entry = unsafe { &*self.entries.add(number) };
            if entry.sp == start.sp
                && entry.second == second
                && (entry.fp ^ start.fp as u64) & entry.fp_mask == 0
                // SAFETY: see `same`.
                && unsafe { self.same(entry, number, start.sp) }
            {
                self.looks = self.looks.wrapping_add(1);
                return Look::Hit(entry.trace);
            }
        }
        self.looks = self.looks.wrapping_add(1);
        self.misses = self.misses.wrapping_add(1);
        if self.looks >= 512 {
            self.judge();
        }
        Look::Miss(Key { second, set })
    }

    /// Whether every word that made the entry's walk is still there.
    ///
    /// # Safety
    /// `sp` is the entry's, in the calling thread's own stack.
    #[inline(always)]
    unsafe fn same(&self, entry: &Entry, number: usize, sp: usize) -> bool {
        let (n, pairs) = (usize::from(entry.n), usize::from(entry.pairs));
        let mut offsets = entry.offsets.as_ptr();
        if n.wrapping_add(pairs.wrapping_mul(2)) > entry.offsets.len() {
            let long = usize::from(entry.offsets[0]) & (LONG - 1);
            if usize::from(self.owners[long]) != number.wrapping_add(1) {
                return false;
            }
            offsets = self.long(long);
        }
        let base = sp as *const usize;
        let mut differ = 0;
        for i in 0..n {
            // SAFETY: an entry is noted only when each of its places lay between the stack pointer and the end of this
            // thread's stack, which is mapped as long as the thread runs; the memo is emptied when the slot changes
            // hands. `frames` has `n` words in a mapping that stays (zeroes after `stop`: then it isn't the same).
            unsafe {
                differ |= base.add(usize::from(*offsets.add(i))).read_volatile()
                    ^ entry.frames.add(i).read_volatile();
            }
        }
        if pairs != 0 {
            for i in 0..pairs {
                // SAFETY: as above; the list has `n + 2 * pairs` numbers.
                unsafe {
                    let at = offsets.add(n.wrapping_add(i.wrapping_mul(2)));
                    let value = sp.wrapping_add(usize::from(*at.add(1)).wrapping_mul(8));
                    differ |= base.add(usize::from(*at)).read_volatile() ^ value;
                }
            }
        }
        differ == 0
    }

    /// Grows where entries push each other out, notes sparsely where nearly every stack is new.
    #[cold]
    #[inline(never)]
    fn judge(&mut self) {
        let (looks, misses) = (self.looks, self.misses);
        (self.looks, self.misses) = (0, 0);
        if misses.wrapping_mul(8) > looks.wrapping_mul(7) && self.sets >= MOST_SETS {
            self.sparse = 4;
        } else {
            self.sparse = 1;
            if misses.wrapping_mul(64) > looks && self.sets < MOST_SETS {
                self.empty();
                self.sets = self.sets.wrapping_mul(3).min(MOST_SETS);
            }
        }
    }

    /// Keeps a stack that was just walked.
    pub(crate) fn note(&mut self, key: Key, start: Start, walk: &Walk<'_>, trace: u32) {
        self.turn = self.turn.wrapping_add(1);
        if self.sparse > 1 {
            self.spared = self.spared.wrapping_add(1);
            if !self.spared.is_multiple_of(self.sparse) {
                return;
            }
        }
        let list = walk.n.wrapping_add(walk.pairs.wrapping_mul(2));
        if !walk.provable || list > LONGEST || walk.n == 0 {
            return;
        }
        let places = walk.scratch.places.get(..walk.n).unwrap_or_default();
        let pairs = walk.scratch.pairs.get(..walk.pairs).unwrap_or_default();
        let far = |n: &u32| *n > u32::from(u16::MAX);
        if places.iter().any(far) || pairs.iter().any(|(p, v)| far(p) || far(v)) {
            return;
        }
        let (frames, n) = intern::place(trace);
        if n != walk.n {
            return;
        }
        let number = key.set.wrapping_mul(WAYS).wrapping_add(self.turn as usize & (WAYS - 1));
        // SAFETY: `key.set` was below `sets`, which only grows.
        let entry = unsafe { &mut *self.entries.add(number) };
        // A handler that jumps away leaves a half-written entry: empty first, and the key last.
        entry.sp = 0;
        compiler_fence(core::sync::atomic::Ordering::SeqCst);
        let mut to = entry.offsets.as_mut_ptr();
        if list > entry.offsets.len() {
            self.long_turn = self.long_turn.wrapping_add(1);
            let long = self.long_turn as usize & (LONG - 1);
            self.owners[long] = number.wrapping_add(1) as u16;
            entry.offsets[0] = long as u16;
            to = self.long(long);
        }
        let numbers = places.iter().copied().chain(pairs.iter().flat_map(|(p, v)| [*p, *v]));
        for (i, number) in numbers.enumerate() {
            // SAFETY: `list` numbers fit the inline list or the long one, as chosen above.
            unsafe { to.add(i).write(number as u16) };
        }
        entry.second = key.second;
        entry.frames = frames;
        (entry.n, entry.pairs) = (walk.n as u16, walk.pairs as u16);
        entry.trace = trace;
        (entry.fp, entry.fp_mask) = if walk.uses_fp { (start.fp as u64, u64::MAX) } else { (0, 0) };
        compiler_fence(core::sync::atomic::Ordering::SeqCst);
        entry.sp = start.sp;
    }
}
