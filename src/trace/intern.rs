//! Stores each stack once and hands out a four-byte name for it.
//!
//! A hash table of levels, each used where the buckets of the one before are full; memory for frames in segments that
//! never move. Frames are written first and published by one compare-and-swap, so nobody ever waits for another's
//! half-made entry. Stacks are compared by their frames, not by their hash alone. Runs inside an allocation.

use core::sync::atomic::{
    AtomicPtr, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use super::generation::{self, Control, ID_BITS, NoId};
use super::id::Depth;
use crate::{dropped, sys};

/// log2 of each level's slots.
const LEVELS: [u32; 5] = [12, 16, 20, 23, 26];
const BUCKET: usize = 8;
static TABLE: [AtomicPtr<AtomicU64>; 5] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 5];

/// Where each trace's frames lie: address, and their number in the upper 16 bits; 65,536 ids a segment.
const INDEX_SHIFT: u32 = 16;
static INDEX: [AtomicPtr<AtomicU64>; 1 << (ID_BITS - INDEX_SHIFT)] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; 1 << (ID_BITS - INDEX_SHIFT)];

/// Segments of frames: 16 of 1 MiB, then of 16 MiB.
const SEGMENTS: usize = 1024;
static ARENA: [AtomicPtr<u64>; SEGMENTS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; SEGMENTS];
/// Segment in the upper half, words used of it in the lower.
static NEXT: AtomicU64 = AtomicU64::new(0);
/// The same, at the beginning of the present generation: what lies before may be given back.
static BEGAN: AtomicU64 = AtomicU64::new(0);
static STACKS: AtomicUsize = AtomicUsize::new(0);

fn segment_words(segment: usize) -> usize {
    if segment < 16 { 1 << 17 } else { 1 << 21 }
}

const PLACE: u64 = (1 << 48) - 1;

#[inline(always)]
fn map_at<T>(place: &AtomicPtr<T>, bytes: usize) -> Option<*mut T> {
    let p = place.load(Acquire);
    if p.is_null() { map_new(place, bytes) } else { Some(p) }
}

#[cold]
#[inline(never)]
fn map_new<T>(place: &AtomicPtr<T>, bytes: usize) -> Option<*mut T> {
    let fresh = sys::map(bytes)?;
    match place.compare_exchange(core::ptr::null_mut(), fresh.as_ptr().cast(), AcqRel, Acquire) {
        Ok(_) => Some(fresh.as_ptr().cast()),
        Err(theirs) => {
            // SAFETY: ours was never published.
            unsafe { sys::unmap(fresh, bytes) };
            Some(theirs)
        }
    }
}

/// Room for `words` words that nobody else has or ever will.
fn reserve(words: usize) -> Option<*mut u64> {
    let mut seen = NEXT.load(Relaxed);
    loop {
        let (mut segment, mut used) = ((seen >> 32) as usize, seen as u32 as usize);
        if used.wrapping_add(words) > segment_words(segment) {
            (segment, used) = (segment.wrapping_add(1), 0);
        }
        let place = ARENA.get(segment)?;
        let base = map_at(place, segment_words(segment).wrapping_mul(8))?;
        let next = (segment as u64) << 32 | used.wrapping_add(words) as u64;
        match NEXT.compare_exchange_weak(seen, next, AcqRel, Relaxed) {
            // SAFETY: `used + words` lies within the segment's length.
            Ok(_) => return Some(unsafe { base.add(used) }),
            Err(now) => seen = now,
        }
    }
}

/// The hash of a stack's frames, added one by one while they are found.
#[derive(Clone, Copy)]
pub(crate) struct Hash(u64);

impl Hash {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self(0)
    }
    #[inline(always)]
    pub(crate) fn add(&mut self, frame: usize) {
        self.0 = (self.0.rotate_left(23) ^ frame as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    #[inline(always)]
    fn mixed(self) -> u64 {
        let h = (self.0 ^ self.0 >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        h ^ h >> 32
    }
}

/// Where a trace's frames lie, for the memo: null where the id has none.
pub(crate) fn place(id: u32) -> (*const usize, usize) {
    let entry = INDEX.get((id >> INDEX_SHIFT) as usize).map_or(core::ptr::null_mut(), |p| p.load(Acquire));
    if entry.is_null() {
        return (core::ptr::null(), 0);
    }
    // SAFETY: an index segment has 65,536 entries and is never unmapped.
    let packed = unsafe { (*entry.add(id as usize & 0xffff)).load(Acquire) };
    let header = (packed & PLACE) as *const u64;
    if header.is_null() {
        return (core::ptr::null(), 0);
    }
    // SAFETY: the header is followed by the frames, in a segment that stays mapped.
    (unsafe { header.add(1) }.cast(), (packed >> 48) as usize)
}

fn same(id: u32, frames: &[usize]) -> bool {
    let (p, n) = place(id);
    if n != frames.len() {
        return false;
    }
    let mut differ = 0;
    for (i, f) in frames.iter().enumerate() {
        // SAFETY: `n` frames were published under this id in a mapping that stays; after `stop` they read as zeroes,
        // never as a hole. Volatile: another thread may give the pages back meanwhile.
        differ |= unsafe { p.add(i).read_volatile() } ^ f;
    }
    differ == 0
}

/// In each stack's header: one without a frame of the user's would else read as given back.
const STORED: u64 = 1 << 49;

/// How the frames end that are kept: for a new stack only, since it takes a longer walk.
pub(crate) struct Tail {
    pub user_frames: u16,
    pub depth: Depth,
}

const TAGS: u64 = !((1 << ID_BITS) - 1);

/// The id of these frames in `control`'s generation, if they are stored in the first level: the ordinary case.
#[inline(always)]
pub(crate) fn find(control: Control, frames: &[usize], hash: Hash) -> Option<u32> {
    let hash = hash.mixed();
    let slots = TABLE[0].load(Acquire);
    if slots.is_null() {
        return None;
    }
    let bucket = (hash as usize).wrapping_mul(BUCKET) & (1usize << LEVELS[0]).wrapping_sub(1);
    for k in 0..BUCKET {
        // SAFETY: a level has 2^bits slots, a multiple of the bucket's, and is never unmapped.
        let seen = unsafe { &*slots.add(bucket.wrapping_add(k)) }.load(Acquire);
        let id = (seen & !TAGS) as u32;
        if id < control.first() {
            return None;
        }
        if (seen ^ hash) & TAGS == 0 && same(id, frames) {
            // An id of a younger generation would be counted out there without having been counted in.
            return generation::lasts(control).then_some(id);
        }
    }
    None
}

/// The id of these frames in `control`'s generation, stored if they are new. `tail` is asked for new ones only.
#[cold]
#[inline(never)]
pub(crate) fn intern(
    control: Control,
    frames: &[usize],
    hash: Hash,
    tail: &mut dyn FnMut(u32) -> Tail,
) -> Option<u32> {
    let hash = hash.mixed();
    let tag = hash & TAGS;
    let mut made: Option<u32> = None;
    for (level, bits) in LEVELS.iter().enumerate() {
        let Some(slots) = TABLE.get(level).and_then(|p| map_at(p, 8usize << bits)) else { break };
        let bucket = (hash as usize).wrapping_mul(BUCKET) & (1usize << bits).wrapping_sub(1);
        let mut k = 0;
        while k < BUCKET {
            // SAFETY: a level has 2^bits slots, a multiple of the bucket's, and is never unmapped.
            let slot = unsafe { &*slots.add(bucket.wrapping_add(k)) };
            let seen = slot.load(Acquire);
            let id = (seen & !TAGS) as u32;
            if id >= control.first() {
                if seen & TAGS == tag && same(id, frames) {
                    // An id of a younger generation would be counted out there without having been counted in.
                    return generation::lasts(control).then_some(id);
                }
                k = k.wrapping_add(1);
                continue;
            }
            // Empty, or left by an older generation.
            let id = match made {
                Some(id) => id,
                None => {
                    let id = store(control, frames, tail)?;
                    made = Some(id);
                    id
                }
            };
            if slot.compare_exchange(seen, tag | u64::from(id), AcqRel, Acquire).is_ok() {
                return Some(id);
            }
            // Another thread took the slot, perhaps for these very frames: look at it again.
        }
    }
    dropped::TRACES.add(1);
    None
}

#[cold]
#[inline(never)]
fn store(control: Control, frames: &[usize], tail: &mut dyn FnMut(u32) -> Tail) -> Option<u32> {
    let words = frames.len().wrapping_add(1);
    let Some(header) = reserve(words) else {
        dropped::TRACES.add(1);
        return None;
    };
    let nth = STACKS.load(Relaxed);
    let Tail { user_frames, depth } = tail(nth as u32);
    let (depth, more) = match depth {
        Depth::Exactly(n) => (n, 0),
        Depth::MoreThan(n) => (n, 1),
    };
    // SAFETY: `reserve` gave these words to us alone.
    unsafe {
        header.write(u64::from(user_frames) | u64::from(depth) << 16 | more << 48 | STORED);
        header.add(1).cast::<usize>().copy_from_nonoverlapping(frames.as_ptr(), frames.len());
    }
    let id = match generation::take(control) {
        Ok(id) => id.0.get(),
        Err(NoId::Stale) => return None,
        Err(NoId::Exhausted) => {
            dropped::TRACES.add(1);
            return None;
        }
    };
    let entries = INDEX.get((id >> INDEX_SHIFT) as usize).and_then(|p| map_at(p, 8 << INDEX_SHIFT));
    let Some(entries) = entries else {
        dropped::TRACES.add(1);
        return None;
    };
    // SAFETY: an index segment has 65,536 entries; this id is ours alone.
    let entry = unsafe { &*entries.add(id as usize & 0xffff) };
    entry.store(header as u64 & PLACE | (frames.len() as u64) << 48, Release);
    STACKS.fetch_add(1, Relaxed);
    Some(id)
}

/// Copies a trace's addresses into `out` (as many as fit): how many it has, of them the user's, and the true depth.
pub(crate) fn copy(id: u32, out: &mut [usize]) -> Option<(usize, u32, Depth)> {
    let (p, n) = place(id);
    if n == 0 {
        return None;
    }
    // SAFETY: as in `same`; the header lies right before the frames.
    let header = unsafe { p.sub(1).cast::<u64>().read_volatile() };
    if header == 0 {
        return None; // given back by `stop`
    }
    for (i, o) in out.iter_mut().enumerate().take(n) {
        // SAFETY: as in `same`.
        *o = unsafe { p.add(i).read_volatile() };
    }
    let depth = (header >> 16) as u32;
    let depth = if header >> 48 & 1 != 0 { Depth::MoreThan(depth) } else { Depth::Exactly(depth) };
    Some((n, header as u16 as u32, depth))
}

/// How many frames a trace has.
pub(crate) fn length(id: u32) -> usize {
    place(id).1
}

/// Where the frames of a new generation will begin at the earliest, on a page of their own. Asked before it begins, so that
/// none of its frames lies below.
pub(crate) fn edge() -> u64 {
    let mut seen = NEXT.load(Acquire);
    loop {
        let (segment, used) = (seen >> 32, (seen as u32).next_multiple_of(512));
        let next = segment << 32 | u64::from(used);
        match NEXT.compare_exchange_weak(seen, next, AcqRel, Acquire) {
            Ok(_) => return next,
            Err(other) => seen = other,
        }
    }
}

/// A new generation has begun: gives back the memory of traces below its [`edge`]. Ordinary code.
pub(crate) fn forget_below(now: u64) {
    let before = BEGAN.fetch_max(now, AcqRel);
    STACKS.store(0, Relaxed);
    let (last, end) = ((now >> 32) as usize, now as u32 as usize);
    let (mut segment, mut from) = ((before >> 32) as usize, before as u32 as usize);
    while segment <= last {
        let to = if segment == last { end } else { segment_words(segment) };
        let base = ARENA.get(segment).map_or(core::ptr::null_mut(), |p| p.load(Acquire));
        if !base.is_null() && from < to {
            // SAFETY: whole pages of a mapping that stays; readers take zeroes for "no trace".
            unsafe { sys::discard(base.add(from).cast(), to.saturating_sub(from).wrapping_mul(8)) };
        }
        (segment, from) = (segment.wrapping_add(1), 0);
    }
    for (place, bits) in TABLE.iter().zip(LEVELS) {
        let slots = place.load(Acquire);
        if !slots.is_null() && bits > 12 {
            // SAFETY: as above; an empty slot is a valid one.
            unsafe { sys::discard(slots.cast(), 8 << bits) };
        }
    }
}

/// Bytes that stored stacks take now: frames and their index.
pub(crate) fn bytes() -> usize {
    let (now, began) = (NEXT.load(Relaxed), BEGAN.load(Relaxed));
    let mut words = 0usize;
    let (mut segment, mut from) = ((began >> 32) as usize, began as u32 as usize);
    while segment <= (now >> 32) as usize {
        let to = if segment == (now >> 32) as usize { now as u32 as usize } else { segment_words(segment) };
        words = words.wrapping_add(to.saturating_sub(from));
        (segment, from) = (segment.wrapping_add(1), 0);
    }
    words.wrapping_add(STACKS.load(Relaxed).wrapping_mul(2)).wrapping_mul(8)
}
