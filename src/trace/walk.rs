//! Walks a stack by rules, from a hook's caller outward, until N of the user's frames are found.
//!
//! Every word that the walk reads is noted with its place: the same words at the same places are the same walk, which is
//! what the memo proves. Runs inside an allocation.

use super::id::Depth;
use super::intern::{Hash, Tail};
use super::modules;
use super::rules::{self, Base, Rule, Whose};
use super::scratch::Pool;
use crate::sys;

/// Physical frames that one trace can hold.
pub(crate) const FRAMES: usize = 65_535;
/// So many plumbing frames in a row end a walk.
const PLUMBING: usize = 64;
/// Without symbols so many raw frames more are kept.
const WITHOUT_SYMBOLS: u32 = 16;
/// Further frames that are looked at for the true depth, and for how many stacks of a generation.
const DEEPER: u32 = 256;
const COUNTED: u32 = 16_384;
/// Words of saved frame pointers that a walk may note.
const PAIRS: usize = 96;
/// Later modules in which frames of a stack that the memo keeps may lie.
pub(crate) const LATER: usize = 2;

/// Where the number of a later module stands in a kept address: user addresses have at most 48 bits.
pub(crate) const TAG_SHIFT: u32 = 48;
/// The address alone.
pub(crate) const ADDRESS: usize = (1 << TAG_SHIFT) - 1;

/// Where a walk writes: room for `N` frames.
#[repr(C)]
pub(crate) struct Room<const N: usize> {
    /// Places of saved frame pointers that a rule used, and the values found there, as distances from the start in words.
    pairs: [(u32, u32); PAIRS],
    /// Places of the return addresses, as distances from the start in words.
    places: [u32; N],
    /// Return addresses, with the number of a module loaded after start in the upper 16 bits.
    frames: [usize; N],
}

/// Room for the longest walk, and a window of a stack that isn't the thread's own.
#[repr(C)]
pub(crate) struct Scratch {
    window: Window,
    room: Room<FRAMES>,
}

impl Scratch {
    pub(crate) fn parts(&mut self) -> (&mut Room<FRAMES>, &mut Window) {
        self.window.at = 0;
        (&mut self.room, &mut self.window)
    }
}

pub(crate) static SCRATCHES: Pool<Scratch> = Pool::new();

/// The registers with which a hook's caller called it.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    /// Points to the return address.
    pub sp: usize,
    pub fp: usize,
}

/// The words of a stack.
pub(crate) trait Words {
    /// Whether the walk notes what proves it, for the memo.
    const NOTES: bool;
    /// The word at `address`, if it lies in the stack. Aligned.
    fn word(&mut self, address: usize) -> Option<usize>;
    /// The same, where `address` lies above the start.
    #[inline(always)]
    fn word_above(&mut self, address: usize) -> Option<usize> {
        self.word(address)
    }
}

/// The thread's own stack from the hook's stack pointer on.
pub(crate) struct Own<const NOTES: bool> {
    low: usize,
    last: usize,
}

impl<const NOTES: bool> Own<NOTES> {
    /// # Safety
    /// The calling thread runs on this stack, `low` is at or above its stack pointer and `high` one past the stack's last
    /// byte.
    #[inline(always)]
    pub(crate) unsafe fn new(low: usize, high: usize) -> Self {
        Self { low, last: high.wrapping_sub(8) }
    }
}

impl<const NOTES: bool> Words for Own<NOTES> {
    const NOTES: bool = NOTES;
    #[inline(always)]
    fn word(&mut self, address: usize) -> Option<usize> {
        if address < self.low { None } else { self.word_above(address) }
    }
    #[inline(always)]
    fn word_above(&mut self, address: usize) -> Option<usize> {
        if address > self.last {
            return None;
        }
        // SAFETY: aligned, at or above the thread's stack pointer and below the end of its own stack (see `new`): mapped, and
        // words of running frames. Unaligned would be no more than slow.
        Some(unsafe { (address as *const usize).read_volatile() })
    }
}

/// Part of a foreign stack.
pub(crate) struct Window {
    at: usize,
    words: [usize; 32],
}

/// A stack that isn't the thread's own: nobody knows where it ends, so the kernel reads it.
pub(crate) struct Foreign<'s> {
    pub low: usize,
    pub window: &'s mut Window,
}

impl Words for Foreign<'_> {
    const NOTES: bool = false;
    #[cold]
    #[inline(never)]
    fn word(&mut self, address: usize) -> Option<usize> {
        if address < self.low {
            return None;
        }
        let within = address.wrapping_sub(self.window.at) / 8;
        if self.window.at != 0
            && address >= self.window.at
            && let Some(&word) = self.window.words.get(within)
        {
            return Some(word);
        }
        // The stack may end right behind this word: first a window, then the word alone.
        let mut bytes = [0u8; 256];
        if sys::read_unsure(address, &mut bytes) {
            for (word, bytes) in self.window.words.iter_mut().zip(bytes.chunks_exact(8)) {
                *word = usize::from_ne_bytes(bytes.try_into().unwrap_or_default());
            }
            self.window.at = address;
            return self.window.words.first().copied();
        }
        let mut one = [0u8; 8];
        sys::read_unsure(address, &mut one).then(|| usize::from_ne_bytes(one))
    }
}

/// Which frame a walk looks at.
#[derive(Clone, Copy)]
struct Cursor {
    /// Where its return address lies.
    place: usize,
    /// The callee's frame address: the stack pointer of the function that is looked at.
    sp: usize,
    fp: usize,
    /// The place that the frame pointer's value was read from; 0: it is the register of the start; 1: noted already.
    fp_from: usize,
}

const START: usize = 0;
const NOTED: usize = 1;

/// Where a step outward ended.
enum Up {
    Frame,
    /// The stack's outermost frame.
    End,
    /// No tables.
    Cut,
    /// Frames lie one above the other; anything else is a damaged stack.
    Damaged,
}

/// What a walk read beside return addresses.
struct Noted<'s> {
    pairs: &'s mut [(u32, u32)],
    n: usize,
    /// Whether the frame pointer at the start had a part in it.
    uses_fp: bool,
    /// Whether all that was read is noted.
    whole: bool,
}

impl Noted<'_> {
    /// A rule hangs on the frame pointer: its value had a part in the walk.
    #[inline(always)]
    fn fp(&mut self, cursor: &mut Cursor, start: usize) {
        let from = core::mem::replace(&mut cursor.fp_from, NOTED);
        if from > NOTED {
            let (place, value) = (words(from, start), words(cursor.fp, start));
            if let Some(slot) = self.pairs.get_mut(self.n)
                && cursor.fp & 7 == 0
                && place < FAR
                && value < FAR
            {
                *slot = (place as u32, value as u32);
                self.n = self.n.wrapping_add(1);
            } else {
                self.whole = false;
            }
        } else if from == START {
            self.uses_fp = true;
        }
    }
}

const FAR: usize = u32::MAX as usize;

/// Distance from the start, in words; far off below it.
#[inline(always)]
fn words(address: usize, start: usize) -> usize {
    address.wrapping_sub(start) >> 3
}

impl Cursor {
    /// On to the caller's frame, by the `rule` of this one's return address.
    #[inline(always)]
    fn up<W: Words>(&mut self, rule: Rule, words: &mut W, noted: &mut Noted<'_>, start: usize) -> Up {
        let (frame, saved) = if rule.is_frame_pointer() {
            // What nearly every frame says in a build with frame pointers: written with constants, so that the next load waits
            // for the last one only and not for the rule.
            if W::NOTES {
                noted.fp(self, start);
            }
            (self.fp.wrapping_add(16), Some(16))
        } else {
            if rule.ends() {
                return if rule.base() == Base::End { Up::End } else { Up::Cut };
            }
            let mut from = self.sp;
            if rule.hangs_on_frame_pointer() {
                if W::NOTES {
                    noted.fp(self, start);
                }
                from = self.fp;
            }
            (from.wrapping_add(rule.distance()), rule.saved())
        };
        if frame <= self.sp || frame & 7 != 0 {
            return Up::Damaged;
        }
        if let Some(below) = saved {
            let place = frame.wrapping_sub(below);
            // A frame pointer points at or above the callee's frame here, since the frame above it does.
            let fp = if below == 16 && rule.is_frame_pointer() {
                words.word_above(place)
            } else {
                words.word(place)
            };
            let Some(fp) = fp else { return Up::Damaged };
            (self.fp, self.fp_from) = (fp, place);
        }
        self.sp = frame;
        self.place = frame.wrapping_sub(8);
        Up::Frame
    }

    /// The return address at the cursor as it is kept, and its rule, if it lies in a module.
    #[inline(always)]
    fn look<W: Words>(&self, words: &mut W) -> Option<(usize, Rule)> {
        // Never below the start: frames lie one above the other.
        let address = words.word_above(self.place)?;
        match rules::at_hand(address) {
            Some(rule) => Some((address, rule)),
            None => Self::look_further(address),
        }
    }

    #[cold]
    #[inline(never)]
    fn look_further(address: usize) -> Option<(usize, Rule)> {
        let rule = rules::look_up(address)?;
        Some((address | usize::from(rule.tag()).wrapping_shl(TAG_SHIFT), rule))
    }
}

/// A walk: what it found, and how it went on.
pub(crate) struct Walk<'s, W, const N: usize> {
    words: W,
    /// Until the walk has run.
    room: Option<&'s mut [usize; N]>,
    /// The return addresses found, most recent first.
    pub frames: &'s [usize],
    places: &'s mut [u32; N],
    noted: Noted<'s>,
    start: Start,
    cursor: Cursor,
    /// The user's frames among them.
    pub user: u32,
    pub hash: Hash,
    /// Whether the words that were read prove the walk: only then may the memo keep it.
    provable: bool,
    /// Numbers of the later modules in which frames lie, 0: none.
    pub later: [u16; LATER],
    /// Whether a frame had no usable tables.
    pub cut: bool,
    /// The rule of the last frame kept, where the stack goes on behind it.
    behind: Option<Rule>,
}

/// The room was too small: it holds the stack's nearer part.
pub(crate) struct Full;

impl<'s, W: Words, const N: usize> Walk<'s, W, N> {
    #[inline(always)]
    pub(crate) fn new(room: &'s mut Room<N>, words: W, start: Start) -> Self {
        let cursor = Cursor { place: start.sp, sp: start.sp.wrapping_add(8), fp: start.fp, fp_from: START };
        Self {
            words,
            room: Some(&mut room.frames),
            frames: &[],
            places: &mut room.places,
            noted: Noted { pairs: &mut room.pairs, n: 0, uses_fp: false, whole: true },
            start,
            cursor,
            user: 0,
            hash: Hash::new(),
            provable: W::NOTES && start.sp & 7 == 0,
            later: [0; LATER],
            cut: false,
            behind: None,
        }
    }

    /// Walks until `limit` of the user's frames are kept.
    #[inline(always)]
    pub(crate) fn run(&mut self, limit: u32) -> Result<(), Full> {
        let Some(frames) = self.room.take() else { return Ok(()) };
        let mut full = false;
        let (mut cursor, mut hash, mut n) = (self.cursor, self.hash, 0usize);
        // Frames that count, how many of them are enough, and how many frames there were at the last one that is no plumbing.
        let (mut count, mut enough, mut last) = (0u32, limit, 0usize);
        loop {
            let Some((kept, rule)) = cursor.look(&mut self.words) else {
                self.provable = false; // in no module, or a damaged stack
                break;
            };
            if W::NOTES && kept > ADDRESS {
                self.meets(rule.tag());
            }
            let (Some(frame), Some(place)) = (frames.get_mut(n), self.places.get_mut(n)) else {
                (full, self.cut, self.provable) = (true, true, false);
                break;
            };
            *frame = kept;
            if W::NOTES {
                *place = words(cursor.place, self.start.sp).min(FAR) as u32;
            }
            hash.add(kept);
            n = n.wrapping_add(1);
            if rule.stands_out() {
                if rule.whose() == Whose::Entry {
                    break;
                }
                enough = limit.wrapping_add(WITHOUT_SYMBOLS);
            }
            // Sums and not branches: whose frame is whose can't be foretold.
            count = count.wrapping_add(u32::from(rule.counts()));
            last = if rule.counts() { n } else { last };
            if count >= enough || n.wrapping_sub(last) >= PLUMBING {
                self.behind = Some(rule);
                break;
            }
            match cursor.up(rule, &mut self.words, &mut self.noted, self.start.sp) {
                Up::Frame => {}
                Up::End => break,
                Up::Cut => {
                    self.cut = true;
                    break;
                }
                Up::Damaged => {
                    (self.cut, self.provable) = (true, false);
                    break;
                }
            }
        }
        (self.cursor, self.hash, self.user) = (cursor, hash, count.min(limit));
        self.frames = frames.get(..n).unwrap_or_default();
        if full { Err(Full) } else { Ok(()) }
    }

    /// A frame lies in a module that was loaded after start.
    #[cold]
    fn meets(&mut self, tag: u16) {
        if self.later.contains(&tag) {
            return;
        }
        match self.later.iter_mut().find(|known| **known == 0) {
            Some(free) if tag != modules::UNKNOWN => *free = tag,
            _ => self.provable = false,
        }
    }

    /// All that the memo must compare, if that proves the walk: places of return addresses, pairs of (place, value) of saved
    /// frame pointers, and whether the start's frame pointer had a part.
    pub(crate) fn proof(&self) -> Option<Proof<'_>> {
        (self.provable && self.noted.whole && !self.frames.is_empty()).then_some(Proof {
            places: self.places.get(..self.frames.len())?,
            pairs: self.noted.pairs.get(..self.noted.n)?,
            fp: self.noted.uses_fp.then_some(self.start.fp),
            later: self.later,
        })
    }

    /// What is told of the frames behind the last one kept, for the `nth` stack of its generation.
    pub(crate) fn tail(&mut self, nth: u32) -> Tail {
        let user_frames = u16::try_from(self.user).unwrap_or(u16::MAX);
        let Some(mut rule) = self.behind else {
            return Tail { user_frames, depth: Depth::Exactly(self.user) };
        };
        if nth >= COUNTED {
            return Tail { user_frames, depth: Depth::MoreThan(self.user) };
        }
        // Looks only: what is kept, and what proves it, was settled before.
        let mut cursor = self.cursor;
        let mut nothing = Noted { pairs: &mut [], n: 0, uses_fp: false, whole: false };
        let mut user = self.user;
        for _ in 0..DEEPER {
            let next = match cursor.up(rule, &mut self.words, &mut nothing, self.start.sp) {
                Up::Frame => cursor.look(&mut self.words),
                _ => None,
            };
            let Some((_, further)) = next else {
                return Tail { user_frames, depth: Depth::Exactly(user) };
            };
            match further.whose() {
                Whose::Entry => return Tail { user_frames, depth: Depth::Exactly(user) },
                Whose::Plumbing => {}
                Whose::User | Whose::Unknown => user = user.wrapping_add(1),
            }
            rule = further;
        }
        Tail { user_frames, depth: Depth::MoreThan(user) }
    }
}

/// What makes a walk the same again.
pub(crate) struct Proof<'a> {
    pub places: &'a [u32],
    pub pairs: &'a [(u32, u32)],
    pub fp: Option<usize>,
    pub later: [u16; LATER],
}

/// The address of a kept frame, without the number of its module.
pub(crate) fn address(kept: usize) -> usize {
    kept & ADDRESS
}

/// The number of the later module in which a kept frame lay, 0: a module that was there at start.
pub(crate) fn tag(kept: usize) -> u16 {
    (kept >> TAG_SHIFT) as u16
}

/// Whether the module in which a kept frame lay is the one that is loaded there now. Ordinary code.
pub(crate) fn names_still_hold(kept: usize) -> bool {
    modules::still_loaded(tag(kept), address(kept))
}
