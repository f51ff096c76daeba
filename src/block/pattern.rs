//! The bytes of new, freed and forbidden memory, as functions of the address. The only file that knows them.
//!
//! Runs inside an allocation.

/// What a pattern stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pattern {
    /// Memory that the program hasn't written yet.
    New,
    /// Memory that was freed.
    Freed,
    /// A red zone.
    Zone,
}

impl Pattern {
    /// The byte at `address`.
    #[inline(always)]
    pub(crate) const fn byte(self, _address: usize) -> u8 {
        match self {
            Self::New => 0xCD,
            Self::Freed => 0xDD,
            Self::Zone => 0xFD,
        }
    }
    #[inline(always)]
    const fn word(self) -> u64 {
        u64::from_ne_bytes([self.byte(0); 8])
    }
}

/// Fills `n` bytes.
///
/// # Safety
/// `p` is valid for writes of `n` bytes that nobody else uses.
#[inline(always)]
pub(crate) unsafe fn fill(p: *mut u8, n: usize, pattern: Pattern) {
    // SAFETY: the caller's.
    unsafe { p.write_bytes(pattern.byte(p as usize), n) };
}

/// Keeps the stores before from being taken for dead, although the memory goes back to the inner allocator next.
#[inline(always)]
pub(crate) fn keep(p: *mut u8) {
    // SAFETY: no instruction; the compiler must take the bytes behind `p` for read.
    unsafe { core::arch::asm!("/* {0} */", in(reg) p, options(nostack, preserves_flags)) };
}

/// Whether all `n` bytes still have the pattern.
///
/// # Safety
/// `p` is valid for reads of `n` bytes, and of 8 if `n` is less: a block is followed by its zone.
#[inline(always)]
pub(crate) unsafe fn intact(p: *const u8, n: usize, pattern: Pattern) -> bool {
    let word = pattern.word();
    let eight = |at: usize| {
        // SAFETY: every place asked for below lies in the caller's bytes, 8 of them from `at` on. A raw read, since a
        // program at fault may write meanwhile.
        unsafe { p.add(at).cast::<u64>().read_unaligned() ^ word }
    };
    if n < 8 {
        return n == 0 || eight(0).to_le() << (64 - 8 * n) == 0;
    }
    if n < 16 {
        return eight(0) | eight(n - 8) == 0;
    }
    if n <= 32 {
        return (eight(0) | eight(8)) | (eight(n - 16) | eight(n - 8)) == 0;
    }
    // The last 32 bytes, and some of them twice.
    let mut differ = [eight(n - 32), eight(n - 24), eight(n - 16), eight(n - 8)];
    let mut i = 0;
    while i + 32 < n {
        for (k, d) in differ.iter_mut().enumerate() {
            *d |= eight(i + 8 * k);
        }
        i += 32;
    }
    (differ[0] | differ[1]) | (differ[2] | differ[3]) == 0
}

/// Offsets of the first and the last byte that lost the pattern, how many did, and the first one's value.
///
/// # Safety
/// As [`intact`].
#[cold]
pub(crate) unsafe fn damage(p: *const u8, n: usize, pattern: Pattern) -> Option<Damage> {
    let mut found: Option<Damage> = None;
    for i in 0..n {
        // SAFETY: within the caller's `n` bytes.
        let byte = unsafe { p.add(i).read_volatile() };
        if byte != pattern.byte((p as usize).wrapping_add(i)) {
            match &mut found {
                Some(d) => (d.last, d.count) = (i, d.count.wrapping_add(1)),
                None => found = Some(Damage { first: i, last: i, count: 1, byte }),
            }
        }
    }
    found
}

/// Bytes that lost their pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Damage {
    pub first: usize,
    pub last: usize,
    pub count: usize,
    /// What stands at `first` now.
    pub byte: u8,
}

/// Whether `word` is eight bytes of one pattern: a pointer that was never set, or that was read after a free.
pub(crate) fn looks_like(word: usize) -> Option<Pattern> {
    [Pattern::New, Pattern::Freed, Pattern::Zone].into_iter().find(|p| p.word() == word as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_found_at_every_place_of_every_length() {
        for n in 0..130usize {
            let mut bytes = vec![0u8; n + 11];
            let p = bytes[3..].as_mut_ptr();
            // SAFETY: `n` bytes of the vector from its fourth on, and 8 more.
            unsafe {
                fill(p, n, Pattern::Freed);
                assert!(intact(p, n, Pattern::Freed));
                assert_eq!(damage(p, n, Pattern::Freed), None);
                for i in 0..n {
                    p.add(i).write(1);
                    assert!(!intact(p, n, Pattern::Freed), "{i} of {n}");
                    assert_eq!(
                        damage(p, n, Pattern::Freed),
                        Some(Damage { first: i, last: i, count: 1, byte: 1 })
                    );
                    fill(p.add(i), 1, Pattern::Freed);
                }
            }
        }
    }

    #[test]
    fn a_pointer_made_of_fill_is_recognised() {
        assert_eq!(looks_like(Pattern::New.word() as usize), Some(Pattern::New));
        assert_eq!(looks_like(Pattern::Freed.word() as usize), Some(Pattern::Freed));
        assert_eq!(looks_like(0x7fff_1234_5678), None);
    }
}
