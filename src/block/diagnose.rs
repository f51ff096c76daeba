//! The judgement: what is wrong, by the facts alone. Pure.
//!
//! Runs inside an allocation.

use super::facts::{BlockFacts, Found, Place};

/// The kind of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Overflow,
    Underflow,
    UseAfterFree,
    DoubleFree,
    InvalidFree,
    LayoutMismatch,
}

/// A judgement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Diagnosis {
    pub kind: Kind,
    /// The block was made before a fork: the deed may be the parent's.
    pub maybe_the_parents: bool,
}

/// What is wrong; nothing where all is well, or where it isn't this process's to tell.
///
/// What the program does at this moment stands before what it did earlier: of a block that is freed twice the damage is no
/// news, and a wrong layout is told before the damage, for both of which the same block is asked again.
pub(crate) fn diagnose(facts: &BlockFacts) -> Option<Diagnosis> {
    let Some(block) = &facts.block else {
        let wild = facts.found.by_the_program() && facts.complete;
        return wild.then_some(Diagnosis { kind: Kind::InvalidFree, maybe_the_parents: false });
    };
    if facts.found.by_the_program() {
        let kind = if block.place(facts.pointer) != Place::Start {
            Some(Kind::InvalidFree)
        } else if block.freed {
            Some(if facts.found == Found::Free { Kind::DoubleFree } else { Kind::UseAfterFree })
        } else if facts.asked.is_some_and(|asked| asked != (block.size, block.align)) {
            Some(Kind::LayoutMismatch)
        } else {
            None
        };
        if let Some(kind) = kind {
            return Some(Diagnosis { kind, maybe_the_parents: false });
        }
    } else if block.inherited {
        return None; // a child doesn't look for its parent's faults
    }
    // Of a freed block the bytes themselves say most; behind the end is where most overflows go, and both are told in one.
    let kind = if facts.within.is_some() {
        Kind::UseAfterFree
    } else if facts.behind.is_some() {
        Kind::Overflow
    } else if facts.before.is_some() {
        Kind::Underflow
    } else {
        return None;
    };
    Some(Diagnosis { kind, maybe_the_parents: block.inherited })
}

#[cfg(test)]
mod tests {
    use super::super::facts::Block;
    use super::super::pattern::Damage;
    use super::*;

    const START: usize = 0x1000;
    const LIVE: Block = Block {
        start: START,
        size: 24,
        align: 8,
        trace: 7,
        thread: 0,
        freed: false,
        free: None,
        inherited: false,
    };
    const FREED: Block = Block { freed: true, ..LIVE };
    const INHERITED: Block = Block { inherited: true, ..LIVE };
    const ALL: [Found; 5] = [Found::Free, Found::Realloc, Found::Quarantine, Found::Check, Found::Exit];

    fn at(found: Found, pointer: usize, block: Block) -> BlockFacts {
        let asked = found.by_the_program().then_some((24, 8));
        BlockFacts { asked, block: Some(block), ..BlockFacts::of(found, pointer) }
    }
    fn hit() -> Option<Damage> {
        Some(Damage::of(&[(0, 0x21)]))
    }
    fn kind(facts: BlockFacts) -> Option<Kind> {
        diagnose(&facts).map(|diagnosis| diagnosis.kind)
    }

    #[test]
    fn a_whole_block_is_no_fault_whoever_looks() {
        for found in ALL {
            assert_eq!(diagnose(&at(found, START, LIVE)), None, "{found:?}");
        }
        for found in [Found::Quarantine, Found::Check, Found::Exit] {
            assert_eq!(diagnose(&at(found, START, FREED)), None, "{found:?}");
        }
    }

    #[test]
    fn damage_behind_is_an_overflow_before_an_underflow_and_in_a_freed_block_a_use_after_free() {
        for found in ALL {
            let whole = at(found, START, LIVE);
            assert_eq!(kind(BlockFacts { behind: hit(), ..whole }), Some(Kind::Overflow));
            assert_eq!(kind(BlockFacts { before: hit(), ..whole }), Some(Kind::Underflow));
        }
        for found in [Found::Quarantine, Found::Check, Found::Exit] {
            let freed = at(found, START, FREED);
            assert_eq!(kind(BlockFacts { within: hit(), ..freed }), Some(Kind::UseAfterFree));
            assert_eq!(kind(BlockFacts { behind: hit(), ..freed }), Some(Kind::Overflow));
            assert_eq!(kind(BlockFacts { before: hit(), ..freed }), Some(Kind::Underflow));
        }
    }

    #[test]
    fn of_several_damages_the_freed_block_leads_then_the_zone_behind() {
        let both = BlockFacts { before: hit(), behind: hit(), ..at(Found::Free, START, LIVE) };
        assert_eq!(kind(both), Some(Kind::Overflow));
        let freed = at(Found::Exit, START, FREED);
        for (before, behind) in [(hit(), None), (None, hit()), (hit(), hit())] {
            assert_eq!(kind(BlockFacts { before, behind, within: hit(), ..freed }), Some(Kind::UseAfterFree));
        }
    }

    #[test]
    fn a_second_free_is_a_double_free_and_a_realloc_after_it_a_use_after_free() {
        assert_eq!(kind(at(Found::Free, START, FREED)), Some(Kind::DoubleFree));
        assert_eq!(kind(at(Found::Realloc, START, FREED)), Some(Kind::UseAfterFree));
    }

    #[test]
    fn a_second_free_leads_over_its_damage_and_its_layout() {
        let freed = BlockFacts {
            asked: Some((8, 4)),
            before: hit(),
            behind: hit(),
            within: hit(),
            ..at(Found::Free, START, FREED)
        };
        assert_eq!(kind(freed), Some(Kind::DoubleFree));
    }

    #[test]
    fn a_pointer_beside_a_blocks_start_is_an_invalid_free_whether_it_lives_or_not() {
        for block in [LIVE, FREED] {
            for found in [Found::Free, Found::Realloc] {
                for pointer in [START - 16, START - 1, START + 1, START + 23, START + 24, START + 39] {
                    assert_eq!(kind(at(found, pointer, block)), Some(Kind::InvalidFree), "{pointer:#x}");
                }
            }
        }
    }

    #[test]
    fn a_pointer_beside_a_blocks_start_leads_over_its_layout_and_its_damage() {
        let inside = BlockFacts { asked: Some((1, 1)), behind: hit(), ..at(Found::Free, START + 8, LIVE) };
        assert_eq!(kind(inside), Some(Kind::InvalidFree));
    }

    #[test]
    fn a_pointer_on_no_block_is_an_invalid_free_unless_the_table_lost_some() {
        for found in [Found::Free, Found::Realloc] {
            let wild = BlockFacts { asked: Some((24, 8)), ..BlockFacts::of(found, START) };
            assert_eq!(kind(wild), Some(Kind::InvalidFree));
            assert_eq!(kind(BlockFacts { complete: false, ..wild }), None);
        }
        let inside = BlockFacts { complete: false, ..at(Found::Free, START + 8, LIVE) };
        assert_eq!(kind(inside), Some(Kind::InvalidFree), "what the table has, it knows");
    }

    #[test]
    fn a_wrong_size_a_wrong_alignment_and_both_are_a_layout_mismatch() {
        for found in [Found::Free, Found::Realloc] {
            for asked in [(23, 8), (25, 8), (48, 8), (0, 8), (24, 4), (24, 16), (8, 64)] {
                let facts = BlockFacts { asked: Some(asked), ..at(found, START, LIVE) };
                assert_eq!(kind(facts), Some(Kind::LayoutMismatch), "{asked:?}");
                let damaged = BlockFacts { behind: hit(), before: hit(), ..facts };
                assert_eq!(kind(damaged), Some(Kind::LayoutMismatch), "it leads over damage: {asked:?}");
            }
        }
    }

    #[test]
    fn damage_of_an_inherited_block_is_told_by_what_the_child_does_alone_and_may_be_the_parents() {
        for found in ALL {
            let facts = BlockFacts { behind: hit(), ..at(found, START, INHERITED) };
            let told = Some(Diagnosis { kind: Kind::Overflow, maybe_the_parents: true });
            assert_eq!(diagnose(&facts), if found.by_the_program() { told } else { None }, "{found:?}");
        }
        let freed = Block { inherited: true, ..FREED };
        assert_eq!(diagnose(&BlockFacts { within: hit(), ..at(Found::Exit, START, freed) }), None);
    }

    #[test]
    fn a_wrong_free_of_an_inherited_block_is_the_childs_own() {
        let freed = Block { inherited: true, ..FREED };
        for (facts, kind) in [
            (at(Found::Free, START, freed), Kind::DoubleFree),
            (at(Found::Free, START + 8, INHERITED), Kind::InvalidFree),
            (BlockFacts { asked: Some((1, 8)), ..at(Found::Free, START, INHERITED) }, Kind::LayoutMismatch),
        ] {
            assert_eq!(diagnose(&facts), Some(Diagnosis { kind, maybe_the_parents: false }));
        }
    }

    #[test]
    fn an_empty_block_has_a_start_and_nothing_inside() {
        let empty = Block { size: 0, ..LIVE };
        assert_eq!(empty.place(START), Place::Start);
        assert_eq!(empty.place(START + 1), Place::Behind(1));
    }

    #[test]
    fn a_place_is_counted_from_the_nearer_edge() {
        assert_eq!(LIVE.place(START - 16), Place::Before(16));
        assert_eq!(LIVE.place(START + 23), Place::Inside(23));
        assert_eq!(LIVE.place(START + 24), Place::Behind(0));
        assert_eq!(LIVE.place(START + 30), Place::Behind(6));
    }
}
