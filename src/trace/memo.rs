//! A thread's memo of whole stacks: look first, walk only what is new.
//!
//! A walk by tables is a function of the stack pointer, the return address and the frame pointer at its start, and of
//! the stack words that it reads. An entry keeps the places of all those words; their values are the trace's own frames,
//! or stand in the entry. When every place still holds its value it is the same walk, by induction from the first frame
//! outward: proved, not guessed. A module loaded after start must be there still, as the loader says at each hit. Only stacks
//! of the thread's own, whose every rule is "register plus offset", are kept. Used by the slot's owner only. Runs inside an allocation.

use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed, compiler_fence};

use super::generation::Control;
use super::intern;
use super::modules;
use super::walk::{self, LATER, Room, Start, Walk, Words};
use crate::{dropped, sys};

const WAYS: usize = 4;
/// Offsets that fit into an entry; longer lists lie in a page of their own.
const INLINE: usize = 39;
/// Words of the longest stack that is kept.
const LONGEST: usize = 256;
const LONG: usize = 128;
/// So many words are compared before it is asked whether the rest is worth it.
const NEAR: usize = 4;
/// Entries at first, and at most.
const FIRST_SETS: usize = 16;
const MOST_SETS: usize = 384;
const ENTRIES: usize = MOST_SETS * WAYS;
const LONG_BYTES: usize = LONG * LONGEST * 2;
const BYTES: usize = ENTRIES * size_of::<Entry>() + LONG_BYTES + size_of::<Desk>();
/// Where the owner's walks write: nearly all are shorter.
pub(crate) type Desk = Room<96>;
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
    /// Whether frames lie in modules loaded after start, whose numbers stand beside these frames.
    later: bool,
    /// `n` places of return addresses, then `pairs` of (place, value); or the number of the long list.
    offsets: [u16; INLINE],
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

    /// The thread ends, and the next owner's stack may be shorter: forgets all. A memo that grew gives its memory back; a small one
    /// stays with the slot, since threads may be many and short.
    pub(crate) fn let_go(&mut self) {
        let mut entries = self.entries;
        if self.sets > FIRST_SETS
            && let Some(p) = NonNull::new(entries)
        {
            // SAFETY: our own mapping of this size; the owner is here, so nobody reads it.
            unsafe { sys::unmap(p.cast(), BYTES) };
            TAKEN.fetch_sub(BYTES, Relaxed);
            entries = null_mut();
        }
        // No generation is 0: the next owner's first look empties what is left.
        *self = Self { entries, sets: if entries.is_null() { 0 } else { FIRST_SETS }, ..Self::new() };
    }

    /// Where the owner's walks write, once the first look made room for it.
    #[inline(always)]
    pub(crate) fn desk<'a>(&self) -> Option<&'a mut Desk> {
        if self.entries.is_null() {
            return None;
        }
        // SAFETY: behind entries and long lists lies room for one, mapped until `let_go`; numbers only, so zeroes are valid.
        // The owner runs one capture at a time (`capture`'s mark), which asks once, and nothing here looks into the desk.
        Some(unsafe {
            &mut *self.entries.cast::<u8>().add(BYTES.wrapping_sub(size_of::<Desk>())).cast::<Desk>()
        })
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
            let owner = self.owners.get(long).copied().unwrap_or(0);
            if usize::from(owner) != number.wrapping_add(1) {
                return false;
            }
            offsets = self.long(long);
        }
        if entry.later {
            // SAFETY: the caller's; the list is this entry's.
            return unsafe { self.same_later(entry, offsets, sp) };
        }
        let base = sp as *const usize;
        let mut differ = 0;
        for i in 0..n {
            // Stacks of one function differ soon, if they do.
            if i == NEAR && differ != 0 {
                return false;
            }
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

    /// As [`Self::same`], where frames lie in modules loaded after start: the loader must say that these are there still.
    ///
    /// # Safety
    /// As [`Self::same`]; `offsets` is the entry's list.
    #[cold]
    #[inline(never)]
    unsafe fn same_later(&self, entry: &Entry, offsets: *const u16, sp: usize) -> bool {
        let (n, pairs) = (usize::from(entry.n), usize::from(entry.pairs));
        let word = |place: u16| sp.wrapping_add(usize::from(place).wrapping_mul(8)) as *const usize;
        let mut known = [0; LATER];
        // First all words: only then does code of these modules stand on this thread's stack, so that they can't go.
        for i in 0..n {
            // SAFETY: as in `same`.
            let (found, kept) =
                unsafe { (word(*offsets.add(i)).read_volatile(), entry.frames.add(i).read_volatile()) };
            if found != walk::address(kept) {
                return false;
            }
            if walk::tag(kept) != 0 && !known.iter().any(|k| walk::tag(*k) == walk::tag(kept)) {
                let Some(free) = known.iter_mut().find(|k| **k == 0) else { return false };
                *free = kept;
            }
        }
        for i in 0..pairs {
            // SAFETY: as in `same`.
            let [place, value] = unsafe { offsets.add(n).cast::<[u16; 2]>().add(i).read() };
            // SAFETY: as in `same`.
            if unsafe { word(place).read_volatile() } != word(value) as usize {
                return false;
            }
        }
        known.iter().all(|&kept| kept == 0 || modules::still_loaded(walk::tag(kept), walk::address(kept)))
    }

    /// Grows where entries push each other out, notes sparsely where nearly every stack is new.
    #[cold]
    #[inline(never)]
    fn judge(&mut self) {
        let (looks, misses) = (self.looks, self.misses);
        (self.looks, self.misses) = (0, 0);
        if misses.wrapping_mul(2) > looks && self.sets >= MOST_SETS {
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
    pub(crate) fn note<W: Words, const N: usize>(
        &mut self,
        key: Key,
        start: Start,
        walk: &Walk<'_, W, N>,
        trace: u32,
    ) {
        self.turn = self.turn.wrapping_add(1);
        if self.sparse > 1 {
            self.spared = self.spared.wrapping_add(1);
            if !self.spared.is_multiple_of(self.sparse) {
                return;
            }
        }
        let Some(proof) = walk.proof() else { return };
        let list = proof.places.len().wrapping_add(proof.pairs.len().wrapping_mul(2));
        let mut widest = 0;
        for n in proof.places {
            widest |= n;
        }
        for (place, value) in proof.pairs {
            widest |= place | value;
        }
        if list > LONGEST || widest > u32::from(u16::MAX) {
            return;
        }
        let (frames, n) = intern::place(trace);
        if n != proof.places.len() {
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
            if let Some(owner) = self.owners.get_mut(long) {
                *owner = number.wrapping_add(1) as u16;
            }
            entry.offsets[0] = long as u16;
            to = self.long(long);
        }
        // SAFETY: `list` numbers fit the inline list or the long one, as chosen above.
        unsafe {
            for (i, place) in proof.places.iter().enumerate() {
                to.add(i).write(*place as u16);
            }
            let to = to.add(n).cast::<[u16; 2]>();
            for (i, (place, value)) in proof.pairs.iter().enumerate() {
                to.add(i).write([*place as u16, *value as u16]);
            }
        }
        entry.second = key.second;
        entry.frames = frames;
        (entry.n, entry.pairs) = (n as u16, proof.pairs.len() as u16);
        entry.trace = trace;
        entry.later = proof.later[0] != 0;
        (entry.fp, entry.fp_mask) = proof.fp.map_or((0, 0), |fp| (fp as u64, u64::MAX));
        compiler_fence(core::sync::atomic::Ordering::SeqCst);
        entry.sp = start.sp;
    }
}
