//! The words of damaged memory: which bytes, where they lie, and what stands there now. Pure; takes no heap.

use std::fmt;

use crate::block::facts::BlockFacts;
use crate::block::layout::front_zone;
use crate::block::pattern::Damage;

/// Which part of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Where {
    /// The block itself, which is freed.
    Within,
    /// The red zone behind it.
    Behind,
    /// The red zone before it.
    Before,
}

impl Where {
    /// For tools.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Within => "freed block",
            Self::Behind => "red zone behind",
            Self::Before => "red zone before",
        }
    }
}

/// Damage to one part of a block. As text: `3 bytes from +24 to +26: 61 62 63 "abc" in the red zone`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub place: Where,
    /// Offset of the part's first byte from the block's start.
    from: i64,
    /// The block's size.
    size: usize,
    damage: Damage,
}

/// The damaged parts of a block, the one that says most first.
pub(crate) fn parts(facts: &BlockFacts) -> impl Iterator<Item = Part> + use<> {
    let (size, align) = facts.block.map_or((0, 1), |block| (block.size, block.align));
    [
        (facts.within, Where::Within, 0),
        (facts.behind, Where::Behind, size as i64),
        (facts.before, Where::Before, (front_zone(align) as i64).wrapping_neg()),
    ]
    .into_iter()
    .filter_map(move |(damage, place, from)| damage.map(|damage| Part { place, from, size, damage }))
}

impl Part {
    /// Offset of the first damaged byte from the block's start.
    pub(super) fn first(&self) -> i64 {
        self.from.wrapping_add(self.damage.first as i64)
    }
    /// Of the last one.
    pub(super) fn last(&self) -> i64 {
        self.from.wrapping_add(self.damage.last as i64)
    }
    /// How many were damaged.
    pub(super) fn count(&self) -> usize {
        self.damage.count
    }
    fn span(&self) -> usize {
        self.damage.last.wrapping_sub(self.damage.first).wrapping_add(1)
    }
    /// What stands there now, with the bytes between that are whole: the first few.
    pub(super) fn bytes(&self) -> &[u8] {
        self.damage.bytes.get(..self.span()).unwrap_or(&self.damage.bytes)
    }
    fn changed(&self, at: usize) -> bool {
        self.damage.changed.wrapping_shr(at as u32) & 1 != 0
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last, count) = (self.first(), self.last(), self.count());
        if count == 1 {
            write!(f, "1 byte at {first:+}: {:#04x}", self.damage.bytes[0])?;
        } else {
            if self.span() == count {
                write!(f, "{count} bytes from {first:+} to {last:+}:")?;
            } else {
                write!(f, "{count} of the {} bytes from {first:+} to {last:+}:", self.span())?;
            }
            let shown = self.bytes().iter().enumerate().map(|(at, byte)| (*byte, self.changed(at)));
            for (byte, changed) in shown.clone() {
                // A byte between that is whole says nothing.
                if changed { write!(f, " {byte:02x}")? } else { f.write_str(" ..")? }
            }
            if self.span() > Damage::SHOWN {
                f.write_str(" ...")?;
            }
            let printable = |(byte, changed): (u8, bool)| changed && matches!(byte, b' '..=b'~');
            // Text, where most of it reads as such.
            if shown.clone().filter(|one| printable(*one)).count() > self.bytes().len() / 2 {
                f.write_str(" \"")?;
                for one in shown {
                    fmt::Write::write_char(f, if printable(one) { char::from(one.0) } else { '.' })?;
                }
                f.write_str("\"")?;
            }
        }
        f.write_str(if self.place == Where::Within { " in the freed block" } else { " in the red zone" })?;
        let past = first.wrapping_sub(self.size as i64);
        if self.place == Where::Behind && past > 0 {
            write!(f, ", {past} past the end")?;
        }
        Ok(())
    }
}

/// All damaged parts in one line; nothing where there are none.
pub(crate) struct DamageWords<'a>(pub &'a BlockFacts);

impl fmt::Display for DamageWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, part) in parts(self.0).enumerate() {
            write!(f, "{}{part}", if i > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

/// The damaged parts for tools: a JSON array, with what stands there in hexadecimal digits.
pub(super) fn json(parts: impl Iterator<Item = Part>, out: &mut dyn fmt::Write) -> fmt::Result {
    out.write_char('[')?;
    for (i, part) in parts.enumerate() {
        write!(
            out,
            "{}{{\"where\":\"{}\",\"first\":{},\"last\":{},\"count\":{},\"bytes\":\"",
            if i > 0 { "," } else { "" },
            part.place.word(),
            part.first(),
            part.last(),
            part.count()
        )?;
        for byte in part.bytes() {
            write!(out, "{byte:02x}")?;
        }
        out.write_str("\"}")?;
    }
    out.write_char(']')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::facts::{Block, Found};

    fn facts() -> BlockFacts {
        let block = Block {
            start: 64,
            size: 24,
            align: 8,
            trace: 0,
            thread: 0,
            freed: false,
            free: None,
            inherited: false,
        };
        BlockFacts { block: Some(block), ..BlockFacts::of(Found::Free, 64) }
    }
    fn hit(at: usize, bytes: &[u8]) -> Option<Damage> {
        let places: Vec<_> = bytes.iter().enumerate().map(|(i, byte)| (at + i, *byte)).collect();
        Some(Damage::of(&places))
    }
    fn words(facts: BlockFacts) -> String {
        DamageWords(&facts).to_string()
    }

    #[test]
    fn one_byte_is_told_with_its_place_and_its_value() {
        assert_eq!(
            words(BlockFacts { behind: hit(0, b"!"), ..facts() }),
            "1 byte at +24: 0x21 in the red zone"
        );
        assert_eq!(
            words(BlockFacts { before: hit(15, b"!"), ..facts() }),
            "1 byte at -1: 0x21 in the red zone"
        );
    }

    #[test]
    fn bytes_past_the_end_say_how_far_past_it_they_begin() {
        assert_eq!(
            words(BlockFacts { behind: hit(6, b"!"), ..facts() }),
            "1 byte at +30: 0x21 in the red zone, 6 past the end"
        );
    }

    #[test]
    fn several_bytes_are_shown_in_hex_and_as_text_where_they_are_some() {
        assert_eq!(
            words(BlockFacts { behind: hit(0, b"end\0"), ..facts() }),
            "4 bytes from +24 to +27: 65 6e 64 00 \"end.\" in the red zone"
        );
        assert_eq!(
            words(BlockFacts { within: hit(8, &7u64.to_le_bytes()), ..facts() }),
            "8 bytes from +8 to +15: 07 00 00 00 00 00 00 00 in the freed block"
        );
    }

    #[test]
    fn whole_bytes_between_damaged_ones_are_left_out() {
        let holes = Some(Damage::of(&[(0, 1), (3, 2), (4, 3)]));
        assert_eq!(
            words(BlockFacts { behind: holes, ..facts() }),
            "3 of the 5 bytes from +24 to +28: 01 .. .. 02 03 in the red zone"
        );
    }

    #[test]
    fn of_many_bytes_the_first_sixteen_are_shown() {
        let text = words(BlockFacts { within: hit(0, &[b'x'; 24]), ..facts() });
        assert_eq!(
            text,
            format!(
                "24 bytes from +0 to +23:{} ... \"{}\" in the freed block",
                " 78".repeat(16),
                "x".repeat(16)
            )
        );
    }

    #[test]
    fn damage_on_both_sides_is_two_parts() {
        let both = BlockFacts { before: hit(15, b"!"), behind: hit(0, b"!!!"), ..facts() };
        assert_eq!(
            words(both),
            "3 bytes from +24 to +26: 21 21 21 \"!!!\" in the red zone; 1 byte at -1: 0x21 in the red zone"
        );
        let mut line = String::new();
        json(parts(&both), &mut line).unwrap();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value[0]["bytes"], &value[1]["bytes"]), (&"212121".into(), &"21".into()));
        assert_eq!((&value[0]["first"], &value[1]["first"]), (&24.into(), &(-1).into()));
        assert_eq!(value[1]["where"], "red zone before");
    }

    #[test]
    fn without_damage_there_are_no_words() {
        assert_eq!(words(facts()), "");
    }
}
