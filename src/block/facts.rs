//! What is known of a block, or of a pointer that is none: addresses and numbers, no judgement and no words.
//!
//! Runs inside an allocation.

use super::pattern::Damage;
use super::quarantine::Entry;

/// What came across it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// The program frees it.
    Free,
    /// The program reallocates it.
    Realloc,
    /// It leaves the quarantine.
    Quarantine,
    /// `check_heap()`.
    Check,
    /// The sweep at exit.
    Exit,
}

impl Found {
    /// The program does something with it at this moment.
    pub(crate) fn by_the_program(self) -> bool {
        matches!(self, Self::Free | Self::Realloc)
    }
}

/// What the table says of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub start: usize,
    pub size: usize,
    pub align: usize,
    /// The stack that made it, 0: none kept.
    pub trace: u32,
    /// The thread that made it, by its number in `thread::names`, 0: not kept.
    pub thread: u32,
    /// Freed already, and its memory kept.
    pub freed: bool,
    /// That free, where it is still known.
    pub free: Option<Entry>,
    /// Made before a fork, by a parent of this process.
    pub inherited: bool,
}

/// Where a pointer lies, as seen from a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Start,
    /// So many bytes from its start.
    Inside(usize),
    /// So many bytes from its end.
    Behind(usize),
    /// So many bytes from its start.
    Before(usize),
}

impl Block {
    pub(crate) fn place(&self, pointer: usize) -> Place {
        let from = pointer.wrapping_sub(self.start);
        if pointer < self.start {
            Place::Before(self.start.wrapping_sub(pointer))
        } else if from == 0 {
            Place::Start
        } else if from < self.size {
            Place::Inside(from)
        } else {
            Place::Behind(from.wrapping_sub(self.size))
        }
    }
}

/// What an address belongs to that no block has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Memory {
    Unknown,
    /// The stack of the thread that gave it.
    Stack,
    /// Code or data of the program or of a library: a `static`.
    Module,
}

/// Everything that is known: plain data, from which a fault is judged and told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockFacts {
    pub found: Found,
    /// What the program gave; the block's start where the heap looks by itself.
    pub pointer: usize,
    /// Size and alignment in the layout that the program gave.
    pub asked: Option<(usize, usize)>,
    /// The block that holds the pointer, or in whose red zone it lies.
    pub block: Option<Block>,
    /// Where there is no block.
    pub memory: Memory,
    /// Every block is in the table; where it had no room once, a pointer that it doesn't know may be right.
    pub complete: bool,
    /// Damage to the zone before the block, offsets from the zone's first byte.
    pub before: Option<Damage>,
    /// Damage to the zone behind it.
    pub behind: Option<Damage>,
    /// Damage to the fill of the freed block itself.
    pub within: Option<Damage>,
}

impl BlockFacts {
    /// Nothing but a pointer.
    pub(crate) const fn of(found: Found, pointer: usize) -> Self {
        Self {
            found,
            pointer,
            asked: None,
            block: None,
            memory: Memory::Unknown,
            complete: true,
            before: None,
            behind: None,
            within: None,
        }
    }

    /// Whether any byte of the block's surroundings, or of a freed block itself, was written.
    pub(crate) fn damaged(&self) -> bool {
        self.before.is_some() || self.behind.is_some() || self.within.is_some()
    }
}
