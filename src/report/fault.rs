//! Names what is wrong with a block from its facts alone: no pointers, no printing; then the sentence for it.

use core::fmt::{self, Display};

use super::facts::{BlockFacts, Damage, Fills, Place, Shape, When};
use super::record::Kind;

/// What is wrong with a block, or with what the program asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Written past the end of a live block.
    HeapBufferOverflow(Damage),
    /// Written before the start of a live block.
    HeapBufferUnderflow(Damage),
    /// Written to after it was freed.
    UseAfterFree(Damage),
    /// Freed again, or reallocated after it was freed.
    DoubleFree,
    /// Freed, but no block begins there.
    InvalidFree(NoBlock),
    /// Freed with another size or alignment than it was allocated with.
    LayoutMismatch {
        /// As it was allocated.
        allocated: Shape,
        /// As the program says.
        asked: Shape,
    },
}

/// What an address that is no block's start looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoBlock {
    /// Null, or so near that it is a dangling pointer of some alignment.
    Dangling,
    /// The fill of new memory: a pointer that was never written.
    LooksUninitialised,
    /// The fill of freed memory: a pointer read from a freed block.
    LooksFreed,
    /// Nothing we know.
    NeverAllocated,
    /// Inside a block.
    Inside {
        /// Bytes from its start.
        offset: usize,
        /// Its size.
        size: usize,
        /// Whether that block is freed.
        freed: bool,
    },
}

/// The fault that the facts show, the worst first; none for a block in order.
///
/// Of several, damage comes before a wrong layout (the red zones are placed by what was allocated, so damage is sure),
/// and the end before the start.
pub(crate) fn diagnose(facts: &BlockFacts) -> Option<Fault> {
    let by_program = matches!(facts.when, When::Free | When::Realloc);
    let block = match facts.place {
        Place::Nowhere if by_program => return Some(Fault::InvalidFree(looks(facts.address, facts.fills))),
        Place::Inside(block, offset) if by_program => {
            let (size, freed) = (block.shape.size, block.freed);
            return Some(Fault::InvalidFree(NoBlock::Inside { offset, size, freed }));
        }
        Place::Nowhere => return None,
        Place::Start(block) | Place::Inside(block, _) => block,
    };
    if block.freed {
        if by_program {
            return Some(Fault::DoubleFree);
        }
        return block.body.or(block.tail).or(block.front).map(Fault::UseAfterFree);
    }
    if let Some(damage) = block.tail {
        return Some(Fault::HeapBufferOverflow(damage));
    }
    if let Some(damage) = block.front {
        return Some(Fault::HeapBufferUnderflow(damage));
    }
    let asked = facts.asked.filter(|asked| by_program && *asked != block.shape)?;
    Some(Fault::LayoutMismatch { allocated: block.shape, asked })
}

/// What an unknown address looks like. A fill may have been moved by an offset or cut to an alignment, so its low
/// two bytes may differ.
fn looks(address: usize, fills: Fills) -> NoBlock {
    let filled = |fill: u8| address | 0xffff == usize::from_ne_bytes([fill; size_of::<usize>()]) | 0xffff;
    match address {
        0..4096 => NoBlock::Dangling,
        _ if filled(fills.new) => NoBlock::LooksUninitialised,
        _ if filled(fills.freed) => NoBlock::LooksFreed,
        _ => NoBlock::NeverAllocated,
    }
}

impl Fault {
    /// Its kind.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::HeapBufferOverflow(_) => Kind::HeapBufferOverflow,
            Self::HeapBufferUnderflow(_) => Kind::HeapBufferUnderflow,
            Self::UseAfterFree(_) => Kind::UseAfterFree,
            Self::DoubleFree => Kind::DoubleFree,
            Self::InvalidFree(_) => Kind::InvalidFree,
            Self::LayoutMismatch { .. } => Kind::LayoutMismatch,
        }
    }
}

/// The one sentence of a fault, without its kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sentence<'a>(pub &'a BlockFacts, pub &'a Fault);

impl Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(facts, fault) = self;
        let size = facts.place.block().map_or(0, |block| block.shape.size);
        let verb = if facts.when == When::Realloc { "reallocated" } else { "freed" };
        match fault {
            Fault::HeapBufferOverflow(damage) => {
                write!(f, "{} written past the end of a {size}-byte block", Written(damage))?;
            }
            Fault::HeapBufferUnderflow(damage) => {
                write!(f, "{} written before the start of a {size}-byte block", Written(damage))?;
            }
            Fault::UseAfterFree(damage) => {
                let to = match usize::try_from(damage.at) {
                    Err(_) => "before the start of",
                    Ok(at) if at >= size => "past the end of",
                    Ok(_) => "into",
                };
                write!(f, "{} written {to} a {size}-byte block after it was freed", Written(damage))?;
            }
            Fault::DoubleFree if facts.when == When::Realloc => {
                write!(f, "a {size}-byte block reallocated after it was freed")?;
            }
            Fault::DoubleFree => write!(f, "a {size}-byte block freed a second time")?,
            Fault::InvalidFree(NoBlock::Inside { offset, size, freed }) => {
                let block = if *freed { "freed block" } else { "block" };
                let bytes = if *offset == 1 { "byte" } else { "bytes" };
                write!(
                    f,
                    "{verb} {:#x}, which is {offset} {bytes} inside a {size}-byte {block}",
                    facts.address
                )?;
            }
            Fault::InvalidFree(looks) => {
                let what = match looks {
                    NoBlock::Dangling => "a dangling pointer and no block",
                    NoBlock::LooksUninitialised => "not a block: it looks like memory that was never written",
                    NoBlock::LooksFreed => "not a block: it looks like it was read from freed memory",
                    NoBlock::NeverAllocated | NoBlock::Inside { .. } => "not a block that was ever allocated",
                };
                write!(f, "{verb} {:#x}, which is {what}", facts.address)?;
            }
            Fault::LayoutMismatch { allocated, asked } => {
                write!(f, "a block of {} {verb} as one of {}", Measures(allocated), Measures(asked))?;
            }
        }
        if facts.place.block().is_some_and(|block| block.before_fork) {
            f.write_str(" (made before the fork, may be the parent's)")?;
        }
        Ok(())
    }
}

/// How many bytes, and whether there may be more.
struct Written<'a>(&'a Damage);

impl Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let least = if self.0.to_edge { "at least " } else { "" };
        write!(f, "{least}{}", Bytes(self.0.bytes))
    }
}

struct Bytes(usize);

impl Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} byte{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

struct Measures<'a>(&'a Shape);

impl Display for Measures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (align {})", Bytes(self.0.size), self.0.align)
    }
}

/// The words of the row `damage`: every damaged part of the block, each on its own line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DamageWords<'a>(pub &'a BlockFacts);

impl DamageWords<'_> {
    fn parts(&self) -> impl Iterator<Item = (Damage, &'static str)> {
        let block = self.0.place.block();
        let (body, tail, front) = block.map_or((None, None, None), |it| (it.body, it.tail, it.front));
        [(body, "in freed memory"), (tail, "in the red zone"), (front, "in the red zone")]
            .into_iter()
            .filter_map(|(damage, place)| Some((damage?, place)))
    }

    /// Whether there is any.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts().next().is_none()
    }
}

impl Display for DamageWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (damage, place)) in self.parts().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{} at {:+}", Bytes(damage.bytes), damage.at)?;
            if damage.reach > damage.bytes {
                let last = damage.at.saturating_add_unsigned(damage.reach.saturating_sub(1));
                write!(f, " to {last:+}")?;
            }
            let sample = damage.sample.get(..damage.reach.min(damage.sample.len())).unwrap_or_default();
            for (index, byte) in sample.iter().enumerate() {
                write!(f, "{} {byte:#04x}", if index == 0 { ":" } else { "" })?;
            }
            if damage.reach > damage.sample.len() {
                f.write_str(" ..")?;
            }
            if sample.len() > 3 && sample.iter().all(|byte| matches!(byte, b' '..=b'~')) {
                write!(f, " \"{}\"", sample.escape_ascii())?;
            }
            write!(f, " {place}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::facts::Block;
    use super::*;

    const SHAPE: Shape = Shape { size: 24, align: 8 };
    const FILLS: Fills = Fills { new: 0xab, freed: 0xef };
    const LIVE: Block =
        Block { shape: SHAPE, freed: false, before_fork: false, front: None, tail: None, body: None };
    const FREED: Block = Block { freed: true, ..LIVE };

    fn damage(at: isize, bytes: usize) -> Option<Damage> {
        let sample = [0x21, 0x22, 0x23, 0, 0, 0, 0, 0];
        Some(Damage { at, bytes, reach: bytes, sample, to_edge: false })
    }

    fn at(when: When, place: Place) -> BlockFacts {
        let asked = matches!(when, When::Free | When::Realloc).then_some(SHAPE);
        BlockFacts { when, address: 0x7000_1000, place, asked, fills: FILLS }
    }

    #[track_caller]
    fn told(facts: &BlockFacts, kind: Kind, sentence: &str) {
        let fault = diagnose(facts).unwrap();
        assert_eq!(fault.kind(), kind);
        assert_eq!(Sentence(facts, &fault).to_string(), sentence);
    }

    #[test]
    fn a_byte_written_just_past_the_end_is_an_overflow_by_one() {
        let facts = at(When::Free, Place::Start(Block { tail: damage(24, 1), ..LIVE }));
        told(&facts, Kind::HeapBufferOverflow, "1 byte written past the end of a 24-byte block");
        assert_eq!(DamageWords(&facts).to_string(), "1 byte at +24: 0x21 in the red zone");
    }

    #[test]
    fn damage_up_to_the_end_of_the_red_zone_is_at_least_so_much() {
        let tail = damage(24, 16).map(|damage| Damage { to_edge: true, ..damage });
        let facts = at(When::Check, Place::Start(Block { tail, ..LIVE }));
        told(&facts, Kind::HeapBufferOverflow, "at least 16 bytes written past the end of a 24-byte block");
        assert!(
            DamageWords(&facts).to_string().ends_with(" 0x23 0x00 0x00 0x00 0x00 0x00 .. in the red zone")
        );
    }

    #[test]
    fn a_byte_written_before_the_start_is_an_underflow() {
        let facts = at(When::Exit, Place::Start(Block { front: damage(-1, 1), ..LIVE }));
        told(&facts, Kind::HeapBufferUnderflow, "1 byte written before the start of a 24-byte block");
        assert_eq!(DamageWords(&facts).to_string(), "1 byte at -1: 0x21 in the red zone");
    }

    #[test]
    fn damage_on_both_sides_is_one_overflow_with_both_places() {
        let facts = at(When::Free, Place::Start(Block { front: damage(-2, 2), tail: damage(24, 3), ..LIVE }));
        told(&facts, Kind::HeapBufferOverflow, "3 bytes written past the end of a 24-byte block");
        assert_eq!(
            DamageWords(&facts).to_string(),
            "3 bytes at +24: 0x21 0x22 0x23 in the red zone\n2 bytes at -2: 0x21 0x22 in the red zone"
        );
    }

    #[test]
    fn bytes_written_apart_tell_the_first_and_the_last_place() {
        let tail = damage(26, 2).map(|damage| Damage { reach: 5, ..damage });
        let facts = at(When::Free, Place::Start(Block { tail, ..LIVE }));
        assert!(DamageWords(&facts).to_string().starts_with("2 bytes at +26 to +30: 0x21 "));
    }

    #[test]
    fn a_write_into_a_freed_block_is_a_use_after_free() {
        for when in [When::Check, When::Eviction, When::Exit] {
            let facts = at(when, Place::Start(Block { body: damage(8, 3), ..FREED }));
            told(&facts, Kind::UseAfterFree, "3 bytes written into a 24-byte block after it was freed");
            assert_eq!(DamageWords(&facts).to_string(), "3 bytes at +8: 0x21 0x22 0x23 in freed memory");
        }
        let past = at(When::Exit, Place::Start(Block { tail: damage(24, 1), ..FREED }));
        told(&past, Kind::UseAfterFree, "1 byte written past the end of a 24-byte block after it was freed");
    }

    #[test]
    fn text_written_into_freed_memory_is_shown_as_text() {
        let body = damage(0, 5).map(|damage| Damage { sample: *b"hello\0\0\0", ..damage });
        let facts = at(When::Exit, Place::Start(Block { body, ..FREED }));
        assert!(DamageWords(&facts).to_string().contains("0x6f \"hello\" in freed memory"));
    }

    #[test]
    fn a_second_free_is_a_double_free_whatever_else_is_wrong() {
        let facts = at(When::Free, Place::Start(Block { body: damage(0, 1), ..FREED }));
        told(&facts, Kind::DoubleFree, "a 24-byte block freed a second time");
        let facts = at(When::Realloc, Place::Start(FREED));
        told(&facts, Kind::DoubleFree, "a 24-byte block reallocated after it was freed");
    }

    #[test]
    fn a_pointer_that_no_block_holds_is_told_by_its_looks() {
        let fill = |byte: u8| usize::from_ne_bytes([byte; size_of::<usize>()]);
        for (address, looks) in [
            (0, NoBlock::Dangling),
            (8, NoBlock::Dangling),
            (0x7fff_1234_5678, NoBlock::NeverAllocated),
            (fill(0xab), NoBlock::LooksUninitialised),
            (fill(0xab).wrapping_sub(16), NoBlock::LooksUninitialised),
            (fill(0xef), NoBlock::LooksFreed),
            (fill(0xcd), NoBlock::NeverAllocated),
        ] {
            let facts = BlockFacts { address, ..at(When::Free, Place::Nowhere) };
            assert_eq!(diagnose(&facts), Some(Fault::InvalidFree(looks)), "{address:#x}");
        }
        let facts = BlockFacts { address: 0xdead_beef, ..at(When::Free, Place::Nowhere) };
        told(&facts, Kind::InvalidFree, "freed 0xdeadbeef, which is not a block that was ever allocated");
    }

    #[test]
    fn a_free_inside_a_block_names_the_block_and_the_offset() {
        told(
            &at(When::Free, Place::Inside(LIVE, 8)),
            Kind::InvalidFree,
            "freed 0x70001000, which is 8 bytes inside a 24-byte block",
        );
        told(
            &at(When::Realloc, Place::Inside(FREED, 1)),
            Kind::InvalidFree,
            "reallocated 0x70001000, which is 1 byte inside a 24-byte freed block",
        );
    }

    #[test]
    fn another_size_or_alignment_is_a_layout_mismatch_with_both_layouts() {
        for asked in [
            Shape { size: 23, ..SHAPE },
            Shape { size: 0, ..SHAPE },
            Shape { align: 4, ..SHAPE },
            Shape { size: 48, align: 16 },
        ] {
            let facts = BlockFacts { asked: Some(asked), ..at(When::Free, Place::Start(LIVE)) };
            assert_eq!(diagnose(&facts), Some(Fault::LayoutMismatch { allocated: SHAPE, asked }));
        }
        let asked = Some(Shape { size: 1, align: 1 });
        told(
            &BlockFacts { asked, ..at(When::Free, Place::Start(LIVE)) },
            Kind::LayoutMismatch,
            "a block of 24 bytes (align 8) freed as one of 1 byte (align 1)",
        );
    }

    #[test]
    fn damage_is_told_before_a_wrong_layout() {
        let facts = at(When::Free, Place::Start(Block { tail: damage(24, 1), ..LIVE }));
        let facts = BlockFacts { asked: Some(Shape { size: 25, align: 8 }), ..facts };
        assert!(matches!(diagnose(&facts), Some(Fault::HeapBufferOverflow(_))));
    }

    #[test]
    fn a_block_in_order_is_no_fault() {
        for when in [When::Free, When::Realloc, When::Check, When::Exit] {
            assert_eq!(diagnose(&at(when, Place::Start(LIVE))), None);
        }
        for when in [When::Check, When::Eviction, When::Exit] {
            assert_eq!(diagnose(&at(when, Place::Start(FREED))), None);
        }
    }

    #[test]
    fn a_block_from_before_the_fork_is_told_as_maybe_the_parent_s() {
        let facts = at(When::Free, Place::Start(Block { before_fork: true, tail: damage(24, 1), ..LIVE }));
        let fault = diagnose(&facts).unwrap();
        let sentence = Sentence(&facts, &fault).to_string();
        assert!(
            sentence.ends_with("24-byte block (made before the fork, may be the parent's)"),
            "{sentence}"
        );
    }
}
