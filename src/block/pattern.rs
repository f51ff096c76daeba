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
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    // SAFETY: no instruction; the compiler must take the bytes behind `p` for read.
    unsafe {
        core::arch::asm!("/* {0} */", in(reg) p, options(nostack, preserves_flags))
    };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    core::hint::black_box(p); // the same, and a store
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
    let last = |bytes: usize| eight(n.wrapping_sub(bytes));
    if n < 8 {
        return n == 0 || eight(0).to_le().wrapping_shl(64u32.wrapping_sub((n as u32).wrapping_mul(8))) == 0;
    }
    if n < 16 {
        return eight(0) | last(8) == 0;
    }
    if n <= 32 {
        return (eight(0) | eight(8)) | (last(16) | last(8)) == 0;
    }
    // The last 32 bytes, and some of them twice.
    let mut differ = [last(32), last(24), last(16), last(8)];
    let mut i = 0usize;
    while i.wrapping_add(32) < n {
        for (d, at) in differ.iter_mut().zip([0usize, 8, 16, 24]) {
            *d |= eight(i.wrapping_add(at));
        }
        i = i.wrapping_add(32);
    }
    differ == [0; 4]
}

/// Which bytes lost the pattern, if any did.
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
                Some(damage) => damage.add(i, byte),
                None => found = Some(Damage::at(i, byte)),
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
    /// What stands there now, from `first` on.
    pub bytes: [u8; Damage::SHOWN],
    /// Which of `bytes` lost the pattern: the lowest bit is the first's. The others are not looked at.
    pub changed: u16,
}

impl Damage {
    /// So many bytes are kept.
    pub(crate) const SHOWN: usize = 16;

    /// One byte.
    pub(crate) fn at(at: usize, byte: u8) -> Self {
        let mut bytes = [0; Self::SHOWN];
        bytes[0] = byte;
        Self { first: at, last: at, count: 1, bytes, changed: 1 }
    }

    /// One more, further on.
    pub(crate) fn add(&mut self, at: usize, byte: u8) {
        let from = at.wrapping_sub(self.first);
        if let Some(place) = self.bytes.get_mut(from) {
            *place = byte;
            self.changed |= 1u16.wrapping_shl(from as u32);
        }
        (self.last, self.count) = (at, self.count.wrapping_add(1));
    }

    /// Of memory that goes on `by` bytes behind this one's.
    pub(crate) fn moved(self, by: usize) -> Self {
        Self { first: self.first.wrapping_add(by), last: self.last.wrapping_add(by), ..self }
    }

    /// Together with what is damaged further on.
    pub(crate) fn and(self, later: Self) -> Self {
        Self { last: later.last, count: self.count.wrapping_add(later.count), ..self }
    }

    #[cfg(test)]
    pub(crate) fn of(bytes: &[(usize, u8)]) -> Self {
        let mut damage = Self::at(bytes[0].0, bytes[0].1);
        bytes[1..].iter().for_each(|(at, byte)| damage.add(*at, *byte));
        damage
    }
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
                    assert_eq!(damage(p, n, Pattern::Freed), Some(Damage::at(i, 1)));
                    fill(p.add(i), 1, Pattern::Freed);
                }
            }
        }
    }

    #[test]
    fn damage_tells_which_bytes_were_changed_and_keeps_the_first_ones() {
        let mut bytes = [0u8; 40];
        let p = bytes.as_mut_ptr();
        // SAFETY: all of the array.
        let found = unsafe {
            fill(p, 40, Pattern::Zone);
            p.add(3).write(b'a');
            p.add(5).write(b'b');
            p.add(30).write(b'c');
            damage(p, 40, Pattern::Zone).unwrap()
        };
        assert_eq!((found.first, found.last, found.count, found.changed), (3, 30, 3, 0b101));
        assert_eq!((found.bytes[0], found.bytes[2]), (b'a', b'b'));
        let whole = found.and(Damage::at(1, 7).moved(100));
        assert_eq!((whole.first, whole.last, whole.count), (3, 101, 4));
    }

    #[test]
    fn a_pointer_made_of_fill_is_recognised() {
        assert_eq!(looks_like(Pattern::New.word() as usize), Some(Pattern::New));
        assert_eq!(looks_like(Pattern::Freed.word() as usize), Some(Pattern::Freed));
        assert_eq!(looks_like(0x7fff_1234_5678), None);
    }
}
