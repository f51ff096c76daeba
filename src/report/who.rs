//! The threads of a fault, as a report names them; none where the program never had a second one. Takes no heap.

use crate::block::fault::Fault;
use crate::thread::names::{self, Name};

/// Who made the block, who freed it, and who found what is wrong.
#[derive(Clone, Copy, Default)]
pub(crate) struct Threads {
    pub allocated: Option<Name>,
    pub freed: Option<Name>,
    pub found: Option<Name>,
}

impl Threads {
    /// Those of a block.
    pub(crate) fn of(fault: &Fault) -> Self {
        let Some(block) = fault.facts.block.filter(|_| names::several()) else { return Self::default() };
        let freed = block.free.and_then(|free| Name::of(free.thread));
        Self { allocated: Name::of(block.thread), freed, found: None }
    }

    /// With the present one as the one that found it.
    pub(super) fn found_here(self) -> Self {
        Self { found: names::several().then(Name::present), ..self }
    }
}
