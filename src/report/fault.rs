//! The words of a heap fault: from facts to sentence and rows. Pure, but for the stacks' names.

use std::fmt;

use super::record::{Report, Stack};
use crate::block::fault::{Facts, Found, Kind};
use crate::block::pattern::{Damage, Pattern, looks_like};
use crate::config::{Level, Why, settings};
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
    fn words(self) -> &'static str {
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
pub(crate) struct Sentence<'a>(pub &'a Facts);

fn bytes(n: usize) -> (usize, &'static str) {
    (n, if n == 1 { "byte" } else { "bytes" })
}

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let x = self.0;
        let count = |d: Option<Damage>| bytes(d.map_or(0, |d| d.count));
        match x.kind {
            Kind::Overflow => {
                let (n, word) = count(x.behind);
                write!(f, "{n} {word} written past the end of a {}-byte block", x.size)?;
                if let Some(before) = x.before {
                    write!(f, ", and {} before it", before.count)?;
                }
                Ok(())
            }
            Kind::Underflow => {
                let (n, word) = count(x.before);
                write!(f, "{n} {word} written before the start of a {}-byte block", x.size)
            }
            Kind::UseAfterFree if x.within.is_some() => {
                let (n, word) = count(x.within);
                write!(f, "{n} {word} written to a {}-byte block after its free", x.size)
            }
            Kind::UseAfterFree => write!(f, "a {}-byte block was reallocated after its free", x.size),
            Kind::DoubleFree => write!(f, "a {}-byte block was freed twice", x.size),
            Kind::InvalidFree if x.start != 0 => write!(
                f,
                "{:#x} was freed, which lies {} bytes inside a {}{}-byte block",
                x.pointer,
                x.pointer.wrapping_sub(x.start),
                if x.freed { "freed " } else { "" },
                x.size
            ),
            Kind::InvalidFree => {
                write!(f, "{:#x} was freed, which was never allocated", x.pointer)?;
                match looks_like(x.pointer) {
                    Some(Pattern::New) => f.write_str(": the fill of memory that nobody has written yet"),
                    Some(Pattern::Freed) => f.write_str(": the fill of freed memory"),
                    Some(Pattern::Zone) => f.write_str(": the fill of a red zone"),
                    None => Ok(()),
                }
            }
            Kind::LayoutMismatch => {
                let (size, align) = x.asked.unwrap_or((0, 1));
                write!(
                    f,
                    "a block of {} bytes, alignment {}, was freed as {size} bytes, alignment {align}",
                    x.size, x.align
                )
            }
        }
    }
}

/// What stands in damaged memory, and where it does.
fn damage(x: &Facts) -> Option<String> {
    let row = |d: Damage, from: i64, place: &str| {
        let (n, word) = bytes(d.count);
        let at = from + d.first as i64;
        if n == 1 {
            format!("1 byte at {at:+}: {:#04x} {place}", d.byte)
        } else {
            format!("{n} {word} from {at:+} to {:+}, first {:#04x} {place}", from + d.last as i64, d.byte)
        }
    };
    let zone = crate::block::layout::front_zone(x.align) as i64;
    let rows: Vec<String> = [
        x.within.map(|d| row(d, 0, "in the freed block")),
        x.behind.map(|d| row(d, x.size as i64, "in the red zone")),
        x.before.map(|d| row(d, -zone, "in the red zone")),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!rows.is_empty()).then(|| rows.join("; "))
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
    thread: &str,
    name: &dyn Fn(&RawStack) -> Traceback,
) -> Report {
    let mut report = Report::new(facts.kind.word(), Level::Error, Sentence(facts).to_string());
    if let Some(damage) = damage(facts) {
        report = report.row("damage", damage);
    }
    let stack = |label, before: &str, raw: &RawStack, behind: String| Stack {
        label,
        before: before.to_owned(),
        traceback: name(raw),
        behind,
    };
    if let Some(raw) = &stacks.allocated {
        report = report.stack(stack("allocated", "", raw, String::new()));
    }
    if let Some(raw) = &stacks.freed {
        report = report.stack(stack("freed", "", raw, String::new()));
    }
    match &stacks.found {
        Some(raw) if found.has_place() => {
            report = report.stack(stack("found", found.words(), raw, format!("thread {thread}")));
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
        format!("{}: {}", facts.kind.word(), Sentence(&facts))
    }
    fn hit(first: usize, count: usize) -> Option<Damage> {
        Some(Damage { first, last: first + count - 1, count, byte: 0x21 })
    }

    #[test]
    fn a_byte_written_just_past_the_end_is_an_overflow_by_one() {
        let facts = Facts { behind: hit(0, 1), ..Facts::of(Kind::Overflow, 64, 24, 8) };
        assert_eq!(said(facts), "heap-buffer-overflow: 1 byte written past the end of a 24-byte block");
        assert_eq!(damage(&facts).unwrap(), "1 byte at +24: 0x21 in the red zone");
    }

    #[test]
    fn bytes_before_the_start_are_an_underflow() {
        let facts = Facts { before: hit(15, 1), ..Facts::of(Kind::Underflow, 64, 24, 8) };
        assert_eq!(said(facts), "heap-buffer-underflow: 1 byte written before the start of a 24-byte block");
        assert_eq!(damage(&facts).unwrap(), "1 byte at -1: 0x21 in the red zone");
    }

    #[test]
    fn damage_on_both_sides_is_one_report_with_both() {
        let facts = Facts { before: hit(15, 1), behind: hit(0, 3), ..Facts::of(Kind::Overflow, 64, 24, 8) };
        assert_eq!(
            said(facts),
            "heap-buffer-overflow: 3 bytes written past the end of a 24-byte block, and 1 before it"
        );
        assert_eq!(
            damage(&facts).unwrap(),
            "3 bytes from +24 to +26, first 0x21 in the red zone; 1 byte at -1: 0x21 in the red zone"
        );
    }

    #[test]
    fn a_write_after_the_free_tells_its_offset() {
        let facts = Facts { within: hit(8, 8), freed: true, ..Facts::of(Kind::UseAfterFree, 64, 24, 8) };
        assert_eq!(said(facts), "use-after-free: 8 bytes written to a 24-byte block after its free");
        assert_eq!(damage(&facts).unwrap(), "8 bytes from +8 to +15, first 0x21 in the freed block");
    }

    #[test]
    fn each_wrong_free_has_its_own_sentence() {
        assert_eq!(
            said(Facts::of(Kind::DoubleFree, 64, 24, 8)),
            "double-free: a 24-byte block was freed twice"
        );
        let inside = Facts { pointer: 72, ..Facts::of(Kind::InvalidFree, 64, 24, 8) };
        assert_eq!(said(inside), "invalid-free: 0x48 was freed, which lies 8 bytes inside a 24-byte block");
        let wild = Facts { pointer: 0x1000, ..Facts::of(Kind::InvalidFree, 0, 0, 1) };
        assert_eq!(said(wild), "invalid-free: 0x1000 was freed, which was never allocated");
        let fill = usize::from_ne_bytes([Pattern::New.byte(0); 8]);
        let unset = Facts { pointer: fill, ..Facts::of(Kind::InvalidFree, 0, 0, 1) };
        assert!(said(unset).ends_with("never allocated: the fill of memory that nobody has written yet"));
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
