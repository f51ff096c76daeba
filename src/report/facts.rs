//! What the debug heap saw of one block, in numbers: no pointers to follow, no words.

/// One look at one block, or at an address that should have been one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockFacts {
    /// What was going on when it was looked at.
    pub when: When,
    /// The address that the program passed; in a sweep, the block's first byte.
    pub address: usize,
    /// What the address table holds there.
    pub place: Place,
    /// The layout that the program passed, in `dealloc` and `realloc`.
    pub asked: Option<Shape>,
    /// The bytes that new and freed memory is filled with here.
    pub fills: Fills,
}

/// What was going on when a block was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// `dealloc`.
    Free,
    /// `realloc`.
    Realloc,
    /// `check_heap()`.
    Check,
    /// A block left the quarantine.
    Eviction,
    /// The sweep at the program's end.
    Exit,
}

impl When {
    /// As a report's row says it, before the function.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Free => "at free in",
            Self::Realloc => "at realloc in",
            Self::Check => "at check_heap in",
            Self::Eviction => "leaving the quarantine in",
            Self::Exit => "at exit in",
        }
    }
}

/// Where an address lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In no block that we know.
    Nowhere,
    /// Some bytes into a block (1 or more).
    Inside(Block, usize),
    /// At the start of a block.
    Start(Block),
}

impl Place {
    /// The block, where there is one.
    pub(crate) fn block(&self) -> Option<&Block> {
        match self {
            Self::Nowhere => None,
            Self::Inside(block, _) | Self::Start(block) => Some(block),
        }
    }
}

/// A block and the damage found in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// As it was allocated.
    pub shape: Shape,
    /// Freed before, and still in the quarantine.
    pub freed: bool,
    /// Made before a fork, by our parent.
    pub before_fork: bool,
    /// In the red zone before it.
    pub front: Option<Damage>,
    /// In the red zone after it.
    pub tail: Option<Damage>,
    /// In its own bytes, after it was freed.
    pub body: Option<Damage>,
}

/// A size and an alignment, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Bytes asked for.
    pub size: usize,
    /// A power of two.
    pub align: usize,
}

/// Bytes that don't hold the pattern they should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The first changed byte, counted from the block's start; negative: before it.
    pub at: isize,
    /// How many bytes changed.
    pub bytes: usize,
    /// How far apart the first and the last of them are, both included.
    pub reach: usize,
    /// What the first of them hold now, from `at` on.
    pub sample: [u8; 8],
    /// Whether the damage goes up to where checking ends, so that there may be more.
    pub to_edge: bool,
}

/// The bytes that new and freed memory is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fills {
    /// New memory that nobody wrote to yet.
    pub new: u8,
    /// Freed memory.
    pub freed: u8,
}
