//! Room for a fatal report, with a stack: the thread that is at fault may have little of its own left, and a heap is out of
//! the question.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};

use super::stack::Stack;
use crate::sys;
use crate::trace::{Depth, RawStack, capture, intern};

/// Addresses of a stack that a report looks at.
const FRAMES: usize = 192;
/// Bytes of text: a raw report's body.
const TEXT: usize = 16 << 10;

/// A stack's addresses.
pub(super) struct Addresses {
    frames: [usize; FRAMES],
    n: usize,
    user: u32,
    depth: Depth,
}

impl Addresses {
    const NONE: Self = Self { frames: [0; FRAMES], n: 0, user: 0, depth: Depth::Exactly(0) };

    /// Nothing.
    fn clear(&mut self) {
        (self.n, self.user, self.depth) = (0, 0, Depth::Exactly(0));
    }

    /// The stored stack of this id; nothing for 0, and where it was given back.
    pub(super) fn stored(&mut self, id: u32) {
        if id != 0
            && let Some((n, user, depth)) = intern::copy(id, &mut self.frames)
        {
            (self.n, self.user, self.depth) = (n.min(FRAMES), user, depth);
        }
    }

    /// The present stack from these registers on.
    pub(super) fn present(&mut self, start: capture::Start) {
        (self.n, self.user) = capture::addresses_from(start, &mut self.frames);
        self.depth = Depth::Exactly(self.user);
    }

    pub(super) fn get(&self) -> &[usize] {
        self.frames.get(..self.n).unwrap_or_default()
    }

    /// In ordinary memory: in the naming child alone.
    pub(super) fn raw(&self) -> Option<RawStack> {
        (self.n > 0).then(|| RawStack {
            addresses: self.get().into(),
            user_frames: self.user,
            depth: self.depth,
        })
    }
}

/// The room.
pub(super) struct Scratch {
    /// The report is made on it.
    pub stack: Stack,
    pub paper: Paper,
}

/// What is filled in on the way.
pub(super) struct Paper {
    pub allocated: Addresses,
    pub freed: Addresses,
    pub found: Addresses,
    pub text: [u8; TEXT],
}

impl Scratch {
    const EMPTY: Self = Self {
        stack: Stack::NEW,
        paper: Paper {
            allocated: Addresses::NONE,
            freed: Addresses::NONE,
            found: Addresses::NONE,
            text: [0; TEXT],
        },
    };
}

struct Room(UnsafeCell<Scratch>);

// SAFETY: used only through the one `Lent` that turned LENT on.
unsafe impl Sync for Room {}

static ROOM: Room = Room(UnsafeCell::new(Scratch::EMPTY));
static LENT: AtomicBool = AtomicBool::new(false);

/// The room, given back when dropped.
pub(super) struct Lent {
    room: NonNull<Scratch>,
    mapped: bool,
}

/// Lends the room: the process's own, or pages of the system's where another thread has that.
pub(super) fn lend() -> Option<Lent> {
    let (room, mapped) = if LENT.swap(true, Acquire) {
        let pages = sys::map(size_of::<Scratch>())?.cast::<Scratch>();
        // SAFETY: fresh zeroed pages, aligned and large enough. Numbers may be zero; the three depths, which may not be any
        // bytes, are written before anybody reads them.
        unsafe {
            for part in [
                &raw mut (*pages.as_ptr()).paper.allocated,
                &raw mut (*pages.as_ptr()).paper.freed,
                &raw mut (*pages.as_ptr()).paper.found,
            ] {
                (&raw mut (*part).depth).write(Depth::Exactly(0));
            }
        }
        (pages, true)
    } else {
        (NonNull::from(&ROOM.0).cast::<Scratch>(), false)
    };
    let mut lent = Lent { room, mapped };
    lent.paper.allocated.clear();
    lent.paper.freed.clear();
    lent.paper.found.clear();
    Some(lent)
}

impl Deref for Lent {
    type Target = Scratch;
    fn deref(&self) -> &Scratch {
        // SAFETY: `lend` gave this value alone the room, whole and initialised.
        unsafe { self.room.as_ref() }
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Scratch {
        // SAFETY: as in `deref`.
        unsafe { self.room.as_mut() }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.mapped {
            // SAFETY: mapped in `lend` with this length; this value was its only user.
            unsafe { sys::unmap(self.room.cast(), size_of::<Scratch>()) };
        } else {
            LENT.store(false, Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_at_once_have_rooms_of_their_own_and_find_them_empty() {
        let mut one = lend().unwrap();
        let mut two = lend().unwrap();
        (one.paper.found.n, one.paper.text[0]) = (3, 7);
        (two.paper.found.n, two.paper.text[0]) = (4, 8);
        assert_eq!((one.paper.found.get().len(), one.paper.text[0]), (3, 7));
        drop((one, two));
        let (one, two) = (lend().unwrap(), lend().unwrap());
        assert!(one.paper.found.get().is_empty() && two.paper.found.get().is_empty());
    }
}
