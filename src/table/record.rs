//! What the table knows of one block, in one word.
//!
//! ```text
//! bit  0..3   state      absent, live, quarantined, held (live, quarantined, or freed meanwhile), guarded, size
//!      3..5   fork       the process that made it, modulo 4
//!      5..10  offset     where in its 32 bytes the block starts
//!     10..15  align      log2 of the layout's alignment
//!     15..38  size       bytes; all ones: the next word holds them
//!     38..64  trace      id of the stack that made it, 0: none
//! ```
//! Runs inside an allocation.

/// Bytes of heap that one word stands for.
pub(crate) const GRANULE: usize = 32;

/// What a word says of its block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub(crate) enum State {
    Absent = 0,
    /// In the program's hands.
    Live = 1,
    /// Freed, its memory kept and filled.
    Quarantined = 2,
    /// Live, and a sweeper looks at it.
    HeldLive = 3,
    /// Quarantined, and a sweeper looks at it.
    HeldQuarantined = 4,
    /// Freed while a sweeper looked at it: the sweeper finishes the free.
    HeldFreed = 5,
    /// Behind a guard page: kept for `guard_pages=`, which isn't built yet; no block has it.
    Guarded = 6,
    /// Not a block: the size of the block whose word is the one before.
    Size = 7,
}

/// One word of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record(pub(crate) u64);

const SIZE_BITS: u32 = 23;
/// Sizes from here on stand in the next word.
pub(crate) const HUGE: usize = (1 << SIZE_BITS) - 1;

impl Record {
    pub(crate) const ABSENT: Self = Self(0);

    /// The state and fork number of a live block that this process made.
    pub(crate) const fn mark(fork: u64) -> u64 {
        State::Live as u64 | (fork & 3) << 3
    }
    /// A live block of `size` bytes at `address`.
    #[inline(always)]
    pub(crate) fn live(address: usize, size: usize, align: usize, trace: u32, fork: u64) -> Self {
        Self::marked(address, size, align, trace, Self::mark(fork))
    }
    /// The same, of the process whose [`mark`](Self::mark) this is.
    #[inline(always)]
    pub(crate) fn marked(address: usize, size: usize, align: usize, trace: u32, mark: u64) -> Self {
        let size = if size < HUGE { size } else { HUGE };
        Self(
            mark | (address as u64 & 31) << 5
                | u64::from(align.trailing_zeros() & 31) << 10
                | (size as u64) << 15
                | u64::from(trace) << 38,
        )
    }
    /// The word beside a huge block's: its size.
    #[inline(always)]
    pub(crate) fn huge_size(size: usize) -> Self {
        Self(State::Size as u64 | (size as u64) << 3)
    }
    #[inline(always)]
    pub(crate) fn state(self) -> State {
        match self.0 & 7 {
            0 => State::Absent,
            1 => State::Live,
            2 => State::Quarantined,
            3 => State::HeldLive,
            4 => State::HeldQuarantined,
            5 => State::HeldFreed,
            6 => State::Guarded,
            _ => State::Size,
        }
    }
    #[inline(always)]
    pub(crate) fn with_state(self, state: State) -> Self {
        Self(self.0 & !7 | state as u64)
    }
    /// Of the process with this number from now on.
    #[inline(always)]
    pub(crate) fn with_fork(self, fork: u64) -> Self {
        Self(self.0 & !(3 << 3) | (fork & 3) << 3)
    }
    #[inline(always)]
    pub(crate) fn is_block(self) -> bool {
        !matches!(self.state(), State::Absent | State::Size)
    }
    #[inline(always)]
    pub(crate) fn fork(self) -> u64 {
        self.0 >> 3 & 3
    }
    #[inline(always)]
    pub(crate) fn offset(self) -> usize {
        (self.0 >> 5 & 31) as usize
    }
    #[inline(always)]
    pub(crate) fn align(self) -> usize {
        1usize.wrapping_shl((self.0 >> 10 & 31) as u32)
    }
    /// The size, or [`HUGE`]: then the next word has it.
    #[inline(always)]
    pub(crate) fn size_field(self) -> usize {
        (self.0 >> 15) as usize & HUGE
    }
    #[inline(always)]
    pub(crate) fn trace(self) -> u32 {
        (self.0 >> 38) as u32
    }
    #[inline(always)]
    pub(crate) fn with_trace(self, trace: u32) -> Self {
        Self(self.0 & ((1 << 38) - 1) | u64::from(trace) << 38)
    }
    /// The size that a [`State::Size`] word holds.
    #[inline(always)]
    pub(crate) fn huge(self) -> Option<usize> {
        matches!(self.state(), State::Size).then_some((self.0 >> 3) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_a_record_reads_back_at_its_limits() {
        for (address, size, align, trace, fork) in [
            (0x7fff_ffff_ffff, HUGE - 1, 1 << 30, (1 << 26) - 1, 3),
            (32, 0, 1, 0, 0),
            (33, 1, 1, 1, 1),
            (63, 17, 16, 12345, 2),
        ] {
            let r = Record::live(address, size, align, trace, fork);
            assert_eq!(
                (r.state(), r.offset(), r.size_field(), r.align(), r.trace(), r.fork()),
                (State::Live, address & 31, size, align, trace, fork)
            );
            let q = r.with_state(State::Quarantined);
            assert_eq!((q.state(), q.size_field(), q.trace()), (State::Quarantined, size, trace));
            assert_eq!(r.with_fork(fork + 5).fork(), (fork + 1) & 3);
            assert_eq!(r.with_fork(fork + 5).with_fork(fork), r);
            assert_eq!(Record::marked(address, size, align, trace, Record::mark(fork)), r);
            assert_eq!(r.with_trace(9).trace(), 9);
            assert_eq!(r.with_trace(9).size_field(), size);
        }
    }

    #[test]
    fn a_block_of_16_gib_has_its_size_in_the_next_word() {
        let r = Record::live(64, 16 << 30, 8, 1, 0);
        assert_eq!(r.size_field(), HUGE);
        assert_eq!(Record::huge_size(16 << 30).huge(), Some(16 << 30));
        assert!(!Record::huge_size(16 << 30).is_block());
        assert_eq!(r.huge(), None);
    }
}
