//! The words of a heap fault: from facts to sentence and rows. Pure, but for the stacks' names.

use std::fmt;

use super::record::{Report, Stack};
use super::who::Threads;
use crate::block::fault::{Facts, Found, Kind};
use crate::block::layout::{ZONE, front_zone};
use crate::block::pattern::{Damage, Pattern, looks_like};
use crate::config::{Level, Why, settings};
use crate::thread::names::Name;
use crate::trace::RawStack;
use crate::trace::frame::Traceback;

impl Kind {
    /// The field's own word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Overflow => "heap-buffer-overflow",
            Self::Underflow => "heap-buffer-underflow",
            Self::UseAfterFree => "use-after-free",
            Self::DoubleFree => "double-free",
            Self::InvalidFree => "invalid-free",
            Self::LayoutMismatch => "layout-mismatch",
        }
    }
}

impl Found {
    /// Goes before the function in which it was found.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Free => "at free in",
            Self::Realloc => "at realloc in",
            Self::Quarantine => "as the block left the quarantine",
            Self::Check => "by check_heap",
            Self::Exit => "at exit",
        }
    }
    fn has_place(self) -> bool {
        matches!(self, Self::Free | Self::Realloc)
    }
}

/// The sentence of a fault; takes no heap.
pub(crate) struct Sentence<'a>(pub &'a Facts, pub Found);

/// `1 byte`, `3 bytes`.
struct Bytes(usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} byte{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

/// What an address looks like that no block holds. A fill may have been moved by a field's offset or cut to an alignment,
/// so its low two bytes may differ.
fn looks(address: usize) -> &'static str {
    if address < 4096 {
        return "which was never allocated: null or dangling";
    }
    let near = [0usize, 1].iter().find_map(|carry| {
        let upper = (address >> 16).wrapping_add(*carry) << 16;
        [Pattern::New, Pattern::Freed, Pattern::Zone].into_iter().find(|pattern| {
            let fill = usize::from_ne_bytes([pattern.byte(0); size_of::<usize>()]);
            looks_like(fill) == Some(*pattern) && upper == fill >> 16 << 16
        })
    });
    match near {
        Some(Pattern::New) => "which was never allocated: the fill of memory that nobody has written yet",
        Some(Pattern::Freed) => "which was never allocated: the fill of freed memory",
        Some(Pattern::Zone) => "which was never allocated: the fill of a red zone",
        None => "which was never allocated",
    }
}

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(x, found) = self;
        let verb = if *found == Found::Realloc { "reallocated" } else { "freed" };
        let count = |damage: Option<Damage>| Bytes(damage.map_or(0, |damage| damage.count));
        match x.kind {
            Kind::Overflow => {
                let to_edge = x.behind.is_some_and(|d| d.last.wrapping_add(1) >= ZONE);
                let least = if to_edge { "at least " } else { "" };
                write!(f, "{least}{} written past the end of a {}-byte block", count(x.behind), x.size)?;
                if let Some(before) = x.before {
                    write!(f, ", and {} before it", before.count)?;
                }
                Ok(())
            }
            Kind::Underflow => {
                let least = if x.before.is_some_and(|d| d.first == 0) { "at least " } else { "" };
                write!(f, "{least}{} written before the start of a {}-byte block", count(x.before), x.size)
            }
            Kind::UseAfterFree if x.within.is_some() => {
                write!(f, "{} written to a {}-byte block after its free", count(x.within), x.size)
            }
            Kind::UseAfterFree => write!(f, "a {}-byte block was reallocated after its free", x.size),
            Kind::DoubleFree => write!(f, "a {}-byte block was freed twice", x.size),
            Kind::InvalidFree if x.start != 0 => write!(
                f,
                "{:#x} was {verb}, which lies {} inside a {}{}-byte block",
                x.pointer,
                Bytes(x.pointer.wrapping_sub(x.start)),
                if x.freed { "freed " } else { "" },
                x.size
            ),
            Kind::InvalidFree => write!(f, "{:#x} was {verb}, {}", x.pointer, looks(x.pointer)),
            Kind::LayoutMismatch => {
                let (size, align) = x.asked.unwrap_or((0, 1));
                write!(
                    f,
                    "a block of {}, alignment {}, was {verb} as {}, alignment {align}",
                    Bytes(x.size),
                    x.align,
                    Bytes(size)
                )
            }
        }
    }
}

/// What stands in damaged memory, and where it does; nothing where no damage is known. Takes no heap.
pub(crate) struct DamageWords<'a>(pub &'a Facts);

impl fmt::Display for DamageWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let x = self.0;
        let parts = [
            (x.within, 0, "in the freed block"),
            (x.behind, x.size as i64, "in the red zone"),
            (x.before, (front_zone(x.align) as i64).wrapping_neg(), "in the red zone"),
        ];
        let mut first = true;
        for (damage, from, place) in parts {
            let Some(d) = damage else { continue };
            let at = |offset: usize| from.wrapping_add(offset as i64);
            f.write_str(if first { "" } else { "; " })?;
            first = false;
            if d.count == 1 {
                write!(f, "1 byte at {:+}: {:#04x} {place}", at(d.first), d.byte)?;
            } else {
                let (n, first, last) = (Bytes(d.count), at(d.first), at(d.last));
                write!(f, "{n} from {first:+} to {last:+}, first {:#04x} {place}", d.byte)?;
            }
        }
        Ok(())
    }
}

/// The stacks of a fault, as addresses.
#[derive(Clone, Default)]
pub(crate) struct Stacks {
    pub allocated: Option<RawStack>,
    pub freed: Option<RawStack>,
    pub found: Option<RawStack>,
}

/// The whole report.
pub(crate) fn report(
    facts: &Facts,
    found: Found,
    stacks: &Stacks,
    threads: &Threads,
    name: &dyn Fn(&RawStack) -> Traceback,
) -> Report {
    let mut report = Report::new(facts.kind.word(), Level::Error, Sentence(facts, found).to_string());
    let damage = DamageWords(facts).to_string();
    if !damage.is_empty() {
        report = report.row("damage", damage);
    }
    let stack = |label, before: &str, raw: &RawStack, thread: Option<Name>| Stack {
        label,
        before: before.to_owned(),
        traceback: name(raw),
        thread: thread.map_or(String::new(), |thread| thread.to_string()),
        behind: String::new(),
    };
    if let Some(raw) = &stacks.allocated {
        report = report.stack(stack("allocated", "", raw, threads.allocated));
    }
    if let Some(raw) = &stacks.freed {
        report = report.stack(stack("freed", "", raw, threads.freed));
    }
    match &stacks.found {
        Some(raw) if found.has_place() => {
            report = report.stack(stack("found", found.words(), raw, threads.found));
        }
        _ => report = report.row("found", found.words()),
    }
    if facts.inherited {
        report = report.row("note", "made before the fork, may be the parent's");
    }
    if facts.start != 0 && stacks.allocated.is_none() {
        if crate::trace::generation::control().on() {
            report.help("the block was made before tracing began");
        } else {
            report.help("TRACEMALLOC=5 tells where the block was allocated and freed");
        }
    }
    if settings().heap.is_some_and(|h| h.why == Why::DebugAssertions) {
        report.help("the debug heap is on because of debug_assertions; BIRTHMARK_MALLOC=0 turns it off");
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(facts: Facts) -> String {
        format!("{}: {}", facts.kind.word(), Sentence(&facts, Found::Free))
    }
    fn damage(facts: &Facts) -> String {
        DamageWords(facts).to_string()
    }
    fn hit(first: usize, count: usize) -> Option<Damage> {
        Some(Damage { first, last: first + count - 1, count, byte: 0x21 })
    }

    #[test]
    fn a_byte_written_just_past_the_end_is_an_overflow_by_one() {
        let facts = Facts { behind: hit(0, 1), ..Facts::of(Kind::Overflow, 64, 24, 8) };
        assert_eq!(said(facts), "heap-buffer-overflow: 1 byte written past the end of a 24-byte block");
        assert_eq!(damage(&facts), "1 byte at +24: 0x21 in the red zone");
    }

    #[test]
    fn bytes_before_the_start_are_an_underflow() {
        let facts = Facts { before: hit(15, 1), ..Facts::of(Kind::Underflow, 64, 24, 8) };
        assert_eq!(said(facts), "heap-buffer-underflow: 1 byte written before the start of a 24-byte block");
        assert_eq!(damage(&facts), "1 byte at -1: 0x21 in the red zone");
    }

    #[test]
    fn damage_on_both_sides_is_one_report_with_both() {
        let facts = Facts { before: hit(15, 1), behind: hit(0, 3), ..Facts::of(Kind::Overflow, 64, 24, 8) };
        assert_eq!(
            said(facts),
            "heap-buffer-overflow: 3 bytes written past the end of a 24-byte block, and 1 before it"
        );
        assert_eq!(
            damage(&facts),
            "3 bytes from +24 to +26, first 0x21 in the red zone; 1 byte at -1: 0x21 in the red zone"
        );
    }

    #[test]
    fn a_write_after_the_free_tells_its_offset() {
        let facts = Facts { within: hit(8, 8), freed: true, ..Facts::of(Kind::UseAfterFree, 64, 24, 8) };
        assert_eq!(said(facts), "use-after-free: 8 bytes written to a 24-byte block after its free");
        assert_eq!(damage(&facts), "8 bytes from +8 to +15, first 0x21 in the freed block");
    }

    #[test]
    fn each_wrong_free_has_its_own_sentence() {
        assert_eq!(
            said(Facts::of(Kind::DoubleFree, 64, 24, 8)),
            "double-free: a 24-byte block was freed twice"
        );
        let inside = Facts { pointer: 72, ..Facts::of(Kind::InvalidFree, 64, 24, 8) };
        assert_eq!(said(inside), "invalid-free: 0x48 was freed, which lies 8 bytes inside a 24-byte block");
        let wild = Facts { pointer: 0x7f00_1000, ..Facts::of(Kind::InvalidFree, 0, 0, 1) };
        assert_eq!(said(wild), "invalid-free: 0x7f001000 was freed, which was never allocated");
        let fill = usize::from_ne_bytes([Pattern::New.byte(0); 8]);
        let unset = Facts { pointer: fill, ..Facts::of(Kind::InvalidFree, 0, 0, 1) };
        assert!(said(unset).ends_with("never allocated: the fill of memory that nobody has written yet"));
    }

    #[test]
    fn an_address_that_no_block_holds_is_told_by_its_looks() {
        let fill = |pattern: Pattern| usize::from_ne_bytes([pattern.byte(0); size_of::<usize>()]);
        for (pointer, end) in [
            (0, "never allocated: null or dangling"),
            (8, "never allocated: null or dangling"),
            (0x7fff_1234_5678, "which was never allocated"),
            (fill(Pattern::New), "the fill of memory that nobody has written yet"),
            (fill(Pattern::New).wrapping_sub(16), "the fill of memory that nobody has written yet"),
            (fill(Pattern::Freed).wrapping_add(8), "the fill of freed memory"),
        ] {
            let facts = Facts { pointer, ..Facts::of(Kind::InvalidFree, 0, 0, 1) };
            assert!(said(facts).ends_with(end), "{}", said(facts));
        }
    }

    #[test]
    fn a_realloc_is_told_as_one() {
        let wild = Facts { pointer: 0x7f00_1000, ..Facts::of(Kind::InvalidFree, 0, 0, 1) };
        let layout = Facts { asked: Some((1, 8)), ..Facts::of(Kind::LayoutMismatch, 64, 24, 8) };
        assert!(Sentence(&wild, Found::Realloc).to_string().starts_with("0x7f001000 was reallocated, "));
        assert!(
            Sentence(&layout, Found::Realloc).to_string().ends_with("was reallocated as 1 byte, alignment 8")
        );
    }

    #[test]
    fn damage_up_to_where_checking_ends_is_at_least_so_much() {
        let over = Facts { behind: hit(0, ZONE), ..Facts::of(Kind::Overflow, 64, 24, 8) };
        assert!(said(over).contains(": at least 16 bytes written past the end"), "{}", said(over));
        let under = Facts { before: hit(0, 2), ..Facts::of(Kind::Underflow, 64, 24, 8) };
        assert!(said(under).contains(": at least 2 bytes written before"), "{}", said(under));
    }

    #[test]
    fn a_wrong_layout_tells_both() {
        let facts = Facts { asked: Some((32, 8)), ..Facts::of(Kind::LayoutMismatch, 64, 24, 8) };
        assert_eq!(
            said(facts),
            "layout-mismatch: a block of 24 bytes, alignment 8, was freed as 32 bytes, alignment 8"
        );
    }
}
