//! What the rest of the crate holds of a stored stack: a four-byte name, and its addresses as plain data.

use std::num::NonZeroU32;

/// One stored stack. Equal ids mean equal addresses; ids only grow, and a generation of traces is its first id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TraceId(pub(crate) NonZeroU32);

/// How many frames of the user's the whole stack had when it was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Depth {
    /// Exactly so many.
    Exactly(u32),
    /// The count was cut short: more than so many.
    MoreThan(u32),
}
