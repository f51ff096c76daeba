//! The words of a heap fault: from facts to sentence and rows. Pure, but for the stacks' names.

use std::fmt;

use super::damage;
use super::record::{Report, Stack};
use super::who::Threads;
use crate::block::diagnose::Kind;
use crate::block::facts::{BlockFacts, Found, Memory, Place};
use crate::block::fault::Fault;
use crate::block::layout::ZONE;
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
}

/// The sentence of a fault; takes no heap.
pub(crate) struct Sentence<'a>(pub &'a Fault);

/// `1 byte`, `3 bytes`.
struct Bytes(usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} byte{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

const UNKNOWN: &str =
    "which is no block: never allocated by this allocator, or freed so long ago that it left the quarantine";

/// What an address is that no block has. A fill may have been moved by a field's offset or cut to an alignment, so its low
/// two bytes may differ.
fn wild(address: usize, memory: Memory) -> &'static str {
    let near = [0usize, 1].iter().find_map(|carry| {
        let upper = (address >> 16).wrapping_add(*carry) << 16;
        [Pattern::New, Pattern::Freed, Pattern::Zone].into_iter().find(|pattern| {
            let fill = usize::from_ne_bytes([pattern.byte(0); size_of::<usize>()]);
            looks_like(fill) == Some(*pattern) && upper == fill >> 16 << 16
        })
    });
    match (near, memory) {
        _ if address < 4096 => "which was never allocated: null or dangling",
        (Some(Pattern::New), _) => {
            "which was never allocated: the fill of memory that nobody has written yet"
        }
        (Some(Pattern::Freed), _) => "which was never allocated: the fill of freed memory",
        (Some(Pattern::Zone), _) => "which was never allocated: the fill of a red zone",
        (None, Memory::Stack) => "which was never allocated: it lies on this thread's stack",
        (None, Memory::Module) => {
            "which was never allocated: it lies in the program's or a library's own data"
        }
        // The upper half of the addresses is the kernel's, and between the halves there are none.
        _ if address as u64 >> crate::sys::ADDRESS_BITS != 0 => {
            "which was never allocated: no program has such an address"
        }
        _ => UNKNOWN,
    }
}

/// Whether nothing is known of a pointer, so that it may be a block's that was freed long ago.
fn is_unknown(facts: &BlockFacts) -> bool {
    facts.block.is_none() && wild(facts.pointer, facts.memory) == UNKNOWN
}

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let x = &self.0.facts;
        let verb = if x.found == Found::Realloc { "reallocated" } else { "freed" };
        let count = |damage: Option<Damage>| Bytes(damage.map_or(0, |damage| damage.count));
        let (size, freed) = x.block.map_or((0, false), |block| (block.size, block.freed));
        // Its zones were whole when it was freed.
        let later = if freed { " after its free" } else { "" };
        match self.0.diagnosis.kind {
            Kind::Overflow => {
                let to_edge = x.behind.is_some_and(|d| d.last.wrapping_add(1) >= ZONE);
                let least = if to_edge { "at least " } else { "" };
                write!(f, "{least}{} written past the end of a {size}-byte block{later}", count(x.behind))?;
                if let Some(before) = x.before {
                    write!(f, ", and {} before it", before.count)?;
                }
                Ok(())
            }
            Kind::Underflow => {
                let least = if x.before.is_some_and(|d| d.first == 0) { "at least " } else { "" };
                write!(f, "{least}{} written before the start of a {size}-byte block{later}", count(x.before))
            }
            Kind::UseAfterFree if x.found == Found::Realloc => {
                write!(f, "a {size}-byte block was reallocated after its free")
            }
            Kind::UseAfterFree => {
                write!(f, "{} written to a {size}-byte block after its free", count(x.within))
            }
            Kind::DoubleFree => write!(f, "a {size}-byte block was freed twice"),
            Kind::InvalidFree => match &x.block {
                None => write!(f, "{:#x} was {verb}, {}", x.pointer, wild(x.pointer, x.memory)),
                Some(block) => {
                    write!(f, "{:#x} was {verb}, which lies ", x.pointer)?;
                    match block.place(x.pointer) {
                        Place::Start => f.write_str("at the start of")?,
                        Place::Inside(n) => write!(f, "{} inside", Bytes(n))?,
                        Place::Behind(0) => f.write_str("at the end of")?,
                        Place::Behind(n) => write!(f, "{} past the end of", Bytes(n))?,
                        Place::Before(n) => write!(f, "{} before", Bytes(n))?,
                    }
                    write!(f, " a {}{size}-byte block", if freed { "freed " } else { "" })
                }
            },
            Kind::LayoutMismatch => {
                let (asked, asked_align) = x.asked.unwrap_or((0, 1));
                write!(
                    f,
                    "a block of {}, alignment {}, was {verb} as {}, alignment {asked_align}",
                    Bytes(size),
                    x.block.map_or(1, |block| block.align),
                    Bytes(asked)
                )
            }
        }
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
    fault: &Fault,
    stacks: &Stacks,
    threads: &Threads,
    name: &dyn Fn(&RawStack) -> Traceback,
) -> Report {
    let (facts, found) = (&fault.facts, fault.facts.found);
    let mut report = Report::new(fault.diagnosis.kind.word(), Level::Error, Sentence(fault).to_string());
    if facts.damaged() {
        report = report.damage(damage::parts(facts).collect());
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
        Some(raw) if found.by_the_program() => {
            report = report.stack(stack("found", found.words(), raw, threads.found));
        }
        _ => report = report.row("found", found.words()),
    }
    if fault.diagnosis.maybe_the_parents {
        report = report.row("note", "made before the fork, may be the parent's");
    }
    if facts.damaged() && matches!(found, Found::Quarantine | Found::Exit) {
        report.help(
            "it was written some time before: `birthmark::check_heap()` here and there narrows down when",
        );
    }
    if is_unknown(facts) {
        report.help("BIRTHMARK_MALLOC=debug,quarantine=64M keeps freed blocks longer, and with them where they were freed");
    }
    if facts.block.is_some() && stacks.allocated.is_none() {
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
    use crate::block::facts::Block;

    const LIVE: Block = Block {
        start: 64,
        size: 24,
        align: 8,
        trace: 0,
        thread: 0,
        freed: false,
        free: None,
        inherited: false,
    };
    const FREED: Block = Block { freed: true, ..LIVE };

    fn at(found: Found, pointer: usize, block: Block) -> BlockFacts {
        BlockFacts { block: Some(block), ..BlockFacts::of(found, pointer) }
    }
    fn said(facts: BlockFacts) -> String {
        let fault = Fault::of(facts).expect("a fault");
        format!("{}: {}", fault.diagnosis.kind.word(), Sentence(&fault))
    }
    fn hit(first: usize, count: usize) -> Option<Damage> {
        Some(Damage::of(&(first..first + count).map(|at| (at, 0x21)).collect::<Vec<_>>()))
    }

    #[test]
    fn a_byte_written_just_past_the_end_is_an_overflow_by_one() {
        assert_eq!(
            said(BlockFacts { behind: hit(0, 1), ..at(Found::Free, 64, LIVE) }),
            "heap-buffer-overflow: 1 byte written past the end of a 24-byte block"
        );
    }

    #[test]
    fn bytes_before_the_start_are_an_underflow() {
        assert_eq!(
            said(BlockFacts { before: hit(15, 1), ..at(Found::Free, 64, LIVE) }),
            "heap-buffer-underflow: 1 byte written before the start of a 24-byte block"
        );
    }

    #[test]
    fn damage_on_both_sides_is_one_report_with_both() {
        assert_eq!(
            said(BlockFacts { before: hit(15, 1), behind: hit(0, 3), ..at(Found::Free, 64, LIVE) }),
            "heap-buffer-overflow: 3 bytes written past the end of a 24-byte block, and 1 before it"
        );
    }

    #[test]
    fn a_write_after_the_free_says_so_wherever_it_went() {
        let freed = at(Found::Exit, 64, FREED);
        assert_eq!(
            said(BlockFacts { within: hit(8, 8), ..freed }),
            "use-after-free: 8 bytes written to a 24-byte block after its free"
        );
        assert_eq!(
            said(BlockFacts { behind: hit(0, 1), ..freed }),
            "heap-buffer-overflow: 1 byte written past the end of a 24-byte block after its free"
        );
        assert_eq!(
            said(BlockFacts { before: hit(15, 1), ..freed }),
            "heap-buffer-underflow: 1 byte written before the start of a 24-byte block after its free"
        );
    }

    #[test]
    fn a_second_free_and_a_realloc_after_a_free_have_sentences_of_their_own() {
        assert_eq!(said(at(Found::Free, 64, FREED)), "double-free: a 24-byte block was freed twice");
        assert_eq!(
            said(at(Found::Realloc, 64, FREED)),
            "use-after-free: a 24-byte block was reallocated after its free"
        );
    }

    #[test]
    fn a_pointer_near_a_block_says_where_it_lies() {
        for (pointer, block, words) in [
            (72, LIVE, "0x48 was freed, which lies 8 bytes inside a 24-byte block"),
            (72, FREED, "0x48 was freed, which lies 8 bytes inside a freed 24-byte block"),
            (88, LIVE, "0x58 was freed, which lies at the end of a 24-byte block"),
            (89, LIVE, "0x59 was freed, which lies 1 byte past the end of a 24-byte block"),
            (48, LIVE, "0x30 was freed, which lies 16 bytes before a 24-byte block"),
        ] {
            assert_eq!(said(at(Found::Free, pointer, block)), format!("invalid-free: {words}"));
        }
    }

    #[test]
    fn a_pointer_on_no_block_says_what_it_is() {
        let fill = |pattern: Pattern| usize::from_ne_bytes([pattern.byte(0); size_of::<usize>()]);
        for (pointer, memory, words) in [
            (0, Memory::Unknown, "null or dangling"),
            (8, Memory::Unknown, "null or dangling"),
            (fill(Pattern::New), Memory::Unknown, "memory that nobody has written yet"),
            (fill(Pattern::New) & !0xff, Memory::Unknown, "memory that nobody has written yet"),
            (fill(Pattern::Freed).wrapping_add(32), Memory::Unknown, "the fill of freed memory"),
            (fill(Pattern::Zone), Memory::Unknown, "the fill of a red zone"),
            (0x7f00_1000, Memory::Stack, "it lies on this thread's stack"),
            (0x7f00_1000, Memory::Module, "it lies in the program's or a library's own data"),
            (0x1234_5678_9abc_def0, Memory::Unknown, "no program has such an address"),
            (0x7f00_1000, Memory::Unknown, "or freed so long ago that it left the quarantine"),
        ] {
            let text = said(BlockFacts { memory, ..BlockFacts::of(Found::Free, pointer) });
            assert!(text.starts_with("invalid-free: ") && text.ends_with(words), "{text}");
        }
    }

    #[test]
    fn damage_up_to_where_checking_ends_is_at_least_so_much() {
        let over = said(BlockFacts { behind: hit(0, ZONE), ..at(Found::Free, 64, LIVE) });
        assert!(over.contains(": at least 16 bytes written past the end"), "{over}");
        let under = said(BlockFacts { before: hit(0, 2), ..at(Found::Free, 64, LIVE) });
        assert!(under.contains(": at least 2 bytes written before"), "{under}");
    }

    #[test]
    fn a_wrong_layout_tells_both_and_what_was_done() {
        let wrong = |found, asked| said(BlockFacts { asked: Some(asked), ..at(found, 64, LIVE) });
        assert_eq!(
            wrong(Found::Free, (32, 8)),
            "layout-mismatch: a block of 24 bytes, alignment 8, was freed as 32 bytes, alignment 8"
        );
        assert!(wrong(Found::Realloc, (1, 8)).ends_with("was reallocated as 1 byte, alignment 8"));
    }

    #[test]
    fn damage_that_may_be_the_parents_has_a_note_and_other_damage_has_none() {
        for inherited in [false, true] {
            let facts = BlockFacts { behind: hit(0, 1), ..at(Found::Free, 64, Block { inherited, ..LIVE }) };
            let fault = Fault::of(facts).expect("a fault");
            let nameless = |_: &RawStack| Traceback::new(Vec::new(), 0, crate::trace::Depth::Exactly(0));
            let report = report(&fault, &Stacks::default(), &Threads::default(), &nameless);
            let text = crate::report::text::body(&report, crate::report::text::Style::default());
            assert_eq!(text.contains("made before the fork, may be the parent's"), inherited, "{text}");
        }
    }
}
