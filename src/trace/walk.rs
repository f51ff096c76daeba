//! Walks a stack by rules, from a hook's caller outward, until N of the user's frames are found.
//!
//! Every word that the walk reads is noted with its place: the same words at the same places are the same walk, which is
//! what the memo proves. Runs inside an allocation.

use core::mem::MaybeUninit;
use core::sync::atomic::{
    AtomicPtr, AtomicU32,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use super::id::Depth;
use super::intern::Tail;
use super::modules;
use super::rules::{self, Base, Context, Whose};
use crate::block::fork;
use crate::sys;

/// Physical frames that one trace can hold.
pub(crate) const FRAMES: usize = 65_535;
/// So many plumbing frames in a row end a walk.
const PLUMBING: u32 = 64;
/// Without symbols so many raw frames more are kept.
const WITHOUT_SYMBOLS: u32 = 16;
/// Further frames that are looked at for the true depth, and for how many stacks of a generation.
const DEEPER: u32 = 256;
const COUNTED: u32 = 16_384;
/// Words of saved frame pointers that a walk may note.
const PAIRS: usize = 96;

/// Where the number of a later module stands in a kept address: user addresses have 47 bits.
pub(crate) const TAG_SHIFT: u32 = 48;
/// The address alone.
pub(crate) const ADDRESS: usize = (1 << TAG_SHIFT) - 1;

/// A walk's buffers, in memory of our own.
#[repr(C)]
pub(crate) struct Scratch {
    /// Number + 1 of the process in which a capture uses it: a fork's child finds what other threads used free.
    taken: AtomicU32,
    ready: bool,
    context: MaybeUninit<Context>,
    /// Places of saved frame pointers that a rule used, and the values found there, as distances from the start in words.
    pub pairs: [(u32, u32); PAIRS],
    /// A window of a stack that isn't the thread's own.
    window: [usize; 32],
    window_at: usize,
    /// Places of the return addresses, as distances from the start in words.
    pub places: [u32; FRAMES],
    /// Return addresses, with the number of a module loaded after start in the upper 16 bits.
    pub frames: [usize; FRAMES],
}

const SCRATCHES: usize = 64;
static POOL: [AtomicPtr<Scratch>; SCRATCHES] = [const { AtomicPtr::new(core::ptr::null_mut()) }; SCRATCHES];

/// A scratch for this capture alone; given back when dropped.
pub(crate) struct Lent(&'static mut Scratch);

impl core::ops::Deref for Lent {
    type Target = Scratch;
    fn deref(&self) -> &Scratch {
        self.0
    }
}
impl core::ops::DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Scratch {
        self.0
    }
}
impl Drop for Lent {
    fn drop(&mut self) {
        self.0.taken.store(0, Release);
    }
}

/// A scratch that nobody uses; nothing where 64 captures run at once or memory ran out.
pub(crate) fn lend() -> Option<Lent> {
    let mine = (fork::number() as u32).wrapping_add(1);
    for place in &POOL {
        let mut p = place.load(Acquire);
        if p.is_null() {
            let fresh = sys::map(size_of::<Scratch>())?;
            match place.compare_exchange(core::ptr::null_mut(), fresh.as_ptr().cast(), AcqRel, Acquire) {
                Ok(_) => p = fresh.as_ptr().cast(),
                Err(theirs) => {
                    // SAFETY: ours was never published.
                    unsafe { sys::unmap(fresh, size_of::<Scratch>()) };
                    p = theirs;
                }
            }
        }
        // SAFETY: a published scratch stays mapped, and zeroes are valid in all its fields.
        let taken = unsafe { &(*p).taken };
        let seen = taken.load(Relaxed);
        if seen != mine && taken.compare_exchange(seen, mine, AcqRel, Relaxed).is_ok() {
            // SAFETY: the mark makes us its only user until `Lent` is dropped.
            return Some(Lent(unsafe { &mut *p }));
        }
    }
    None
}

/// The registers with which a hook's caller called it.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    /// Points to the return address.
    pub sp: usize,
    pub fp: usize,
}

/// A walk in progress.
pub(crate) struct Walk<'s> {
    pub scratch: &'s mut Scratch,
    start: Start,
    /// One past the stack's last byte; 0: not the thread's own stack, words are read by system call.
    high: usize,
    /// The callee's frame address: the stack pointer of the function that is looked at.
    sp: usize,
    fp: usize,
    fp_from: From,
    /// Return addresses found.
    pub n: usize,
    pub pairs: usize,
    pub user: u32,
    /// Whether the frame pointer at the start had a part in it.
    pub uses_fp: bool,
    /// Whether the words that were read prove the walk: only then may the memo keep it.
    pub provable: bool,
    /// Whether a frame had no usable tables.
    pub cut: bool,
    /// The rule of the last frame kept, where the stack goes on behind it.
    behind: Option<rules::Rule>,
}

/// Where the frame pointer's present value comes from.
#[derive(Clone, Copy)]
enum From {
    /// The register as it was at the start.
    Start,
    /// This place on the stack.
    Saved(usize),
    /// A place that is noted already.
    Noted,
}

impl<'s> Walk<'s> {
    pub(crate) fn new(scratch: &'s mut Scratch, start: Start, high: usize) -> Self {
        if !scratch.ready {
            scratch.context.write(Context::new_in());
            scratch.ready = true;
        }
        scratch.window_at = 0;
        Self {
            scratch,
            start,
            high,
            sp: start.sp,
            fp: start.fp,
            fp_from: From::Start,
            n: 0,
            pairs: 0,
            user: 0,
            uses_fp: false,
            provable: high != 0,
            cut: false,
            behind: None,
        }
    }

    /// The word at `address`, if it lies in the stack.
    #[inline(always)]
    fn read(&mut self, address: usize) -> Option<usize> {
        if address & 7 != 0 || address < self.start.sp {
            return None;
        }
        if self.high != 0 {
            // SAFETY: aligned, at or above the hook's stack pointer and below the end of the thread's own stack: mapped,
            // and words of running frames.
            return (address <= self.high.wrapping_sub(8))
                .then(|| unsafe { (address as *const usize).read_volatile() });
        }
        self.read_foreign(address)
    }

    /// As [`Self::read`], on a stack that isn't the thread's own.
    #[cold]
    #[inline(never)]
    fn read_foreign(&mut self, address: usize) -> Option<usize> {
        let within = address.wrapping_sub(self.scratch.window_at) / 8;
        if self.scratch.window_at != 0
            && address >= self.scratch.window_at
            && let Some(&word) = self.scratch.window.get(within)
        {
            return Some(word);
        }
        // The stack may end right behind this word: first a window, then the word alone.
        let mut bytes = [0u8; 256];
        if sys::read_unsure(address, &mut bytes) {
            for (word, bytes) in self.scratch.window.iter_mut().zip(bytes.chunks_exact(8)) {
                *word = usize::from_ne_bytes(bytes.try_into().unwrap_or_default());
            }
            self.scratch.window_at = address;
            return self.scratch.window.first().copied();
        }
        let mut one = [0u8; 8];
        sys::read_unsure(address, &mut one).then(|| usize::from_ne_bytes(one))
    }

    /// One physical frame further: its return address, where that lay, and whose it is.
    #[inline(always)]
    fn step(&mut self, place: usize) -> Option<(usize, rules::Rule)> {
        let address = self.read(place).unwrap_or(0);
        if address == 0 {
            self.provable = false;
            return None;
        }
        // SAFETY: written in `new`, once for each scratch.
        let context = unsafe { self.scratch.context.assume_init_mut() };
        let Some(rule) = rules::rule(address, context) else {
            self.provable = false; // in no module
            return None;
        };
        Some((address, rule))
    }

    /// Where the next return address lies, by `rule`.
    #[inline(always)]
    fn next_place(&mut self, rule: rules::Rule) -> Option<usize> {
        let base = match rule.base() {
            Base::End => return None,
            Base::None => {
                self.cut = true;
                return None;
            }
            Base::Stack => self.sp,
            Base::Frame => {
                self.note_fp();
                self.fp
            }
        };
        let frame = base.wrapping_add(rule.distance());
        // Frames lie one above the other; anything else is a damaged stack.
        // A return address lies below its frame's address and above the callee's frame.
        if frame <= self.sp || frame & 7 != 0 {
            self.cut = true;
            self.provable = false;
            return None;
        }
        if let Some(below) = rule.saved() {
            let place = frame.wrapping_sub(below);
            self.fp = self.read(place)?;
            self.fp_from = From::Saved(place);
        }
        self.sp = frame;
        Some(frame.wrapping_sub(8))
    }

    /// A rule hangs on the frame pointer: its value had a part in the walk.
    #[inline(always)]
    fn note_fp(&mut self) {
        match self.fp_from {
            From::Start => self.uses_fp = true,
            From::Noted => {}
            From::Saved(place) => {
                let pair = (self.words(place), self.words(self.fp));
                match (pair, self.scratch.pairs.get_mut(self.pairs)) {
                    ((Some(place), Some(value)), Some(slot)) if self.fp & 7 == 0 => {
                        *slot = (place, value);
                        self.pairs = self.pairs.wrapping_add(1);
                    }
                    _ => self.provable = false,
                }
                self.fp_from = From::Noted;
            }
        }
    }

    /// Distance from the start, in words.
    #[inline(always)]
    fn words(&self, address: usize) -> Option<u32> {
        u32::try_from(address.checked_sub(self.start.sp)? / 8).ok()
    }

    /// Walks until `limit` of the user's frames are kept.
    pub(crate) fn run(&mut self, limit: u32) {
        let mut place = self.start.sp;
        let (mut unknown, mut plumbing) = (0u32, 0u32);
        self.sp = self.start.sp.wrapping_add(8);
        while let Some((address, rule)) = self.step(place) {
            self.provable &= rule.tag() == 0;
            let kept = address | usize::from(rule.tag()).wrapping_shl(TAG_SHIFT);
            let distance = self.words(place).unwrap_or(u32::MAX);
            match (self.scratch.frames.get_mut(self.n), self.scratch.places.get_mut(self.n)) {
                (Some(frame), Some(place)) => (*frame, *place) = (kept, distance),
                _ => {
                    self.cut = true;
                    return;
                }
            }
            self.n = self.n.wrapping_add(1);
            match rule.whose() {
                Whose::Entry => return,
                Whose::Plumbing => plumbing = plumbing.wrapping_add(1),
                Whose::User => {
                    plumbing = 0;
                    self.user = self.user.wrapping_add(1);
                }
                Whose::Unknown => {
                    plumbing = 0;
                    unknown = unknown.wrapping_add(1);
                }
            }
            let enough = if unknown == 0 { limit } else { limit.wrapping_add(WITHOUT_SYMBOLS) };
            if self.user.wrapping_add(unknown) >= enough || plumbing >= PLUMBING {
                self.behind = Some(rule);
                break;
            }
            match self.next_place(rule) {
                Some(next) => place = next,
                None => break,
            }
        }
        self.user = self.user.wrapping_add(unknown.min(limit.saturating_sub(self.user)));
    }

    /// What is told of the frames behind the last one kept, for the `nth` stack of its generation.
    pub(crate) fn tail(&mut self, nth: u32) -> Tail {
        let user_frames = u16::try_from(self.user).unwrap_or(u16::MAX);
        let Some(mut rule) = self.behind.take() else {
            return Tail { user_frames, depth: Depth::Exactly(self.user) };
        };
        if nth >= COUNTED {
            return Tail { user_frames, depth: Depth::MoreThan(self.user) };
        }
        // Looks only: what is kept, and whether it is proved, was settled before.
        let (provable, pairs, uses_fp, cut) = (self.provable, self.pairs, self.uses_fp, self.cut);
        let mut user = self.user;
        let mut depth = None;
        for _ in 0..DEEPER {
            let next = self.next_place(rule).and_then(|place| self.step(place));
            let Some((_, further)) = next else {
                depth = Some(Depth::Exactly(user));
                break;
            };
            match further.whose() {
                Whose::Entry => {
                    depth = Some(Depth::Exactly(user));
                    break;
                }
                Whose::Plumbing => {}
                Whose::User | Whose::Unknown => user = user.wrapping_add(1),
            }
            rule = further;
        }
        (self.provable, self.pairs, self.uses_fp, self.cut) = (provable, pairs, uses_fp, cut);
        Tail { user_frames, depth: depth.unwrap_or(Depth::MoreThan(user)) }
    }
}

/// The address of a kept frame, without the number of its module.
pub(crate) fn address(kept: usize) -> usize {
    kept & ADDRESS
}

/// Whether the module in which a kept frame lay is the one that is loaded there now. Ordinary code.
#[allow(dead_code)]
pub(crate) fn names_still_hold(kept: usize) -> bool {
    modules::still_loaded((kept >> TAG_SHIFT) as u16, address(kept))
}
