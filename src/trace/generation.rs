//! A generation of traces: what `start`, `stop` and `clear_traces` begin anew, and the ids that it hands out.
//!
//! A generation is its first id. Ids only grow, so a block whose trace is older than the present generation's first id
//! counts as untraced, whoever made it and whenever. N, the first id and "on" are one word, read once when a hook begins;
//! an id is taken by a compare-and-swap on a word that holds the first id too, so a hook that began before a change gets
//! none. Runs inside an allocation.

use core::num::NonZeroU32;
use core::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

use super::id::TraceId;

/// Trace ids have 26 bits in a record.
pub(crate) const ID_BITS: u32 = 26;
const ID_MASK: u64 = (1 << ID_BITS) - 1;

/// N, the generation and whether tracing is on: one word, read once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Control(u64);

impl Control {
    const fn new(first: u32, limit: u16, on: bool, parity: bool) -> Self {
        Self(first as u64 | (limit as u64) << ID_BITS | (on as u64) << 42 | (parity as u64) << 43)
    }
    /// The generation's first id; older ones count as absent.
    #[inline(always)]
    pub(crate) fn first(self) -> u32 {
        (self.0 & ID_MASK) as u32
    }
    /// How many user frames a trace keeps.
    #[inline(always)]
    pub(crate) fn limit(self) -> u16 {
        (self.0 >> ID_BITS) as u16
    }
    /// Whether blocks are traced.
    #[inline(always)]
    pub(crate) fn on(self) -> bool {
        self.0 >> 42 & 1 != 0
    }
    /// Flips with each generation: which of a slot's two sets of counters belongs to it.
    #[inline(always)]
    pub(crate) fn parity(self) -> usize {
        (self.0 >> 43 & 1) as usize
    }
    /// Whether a record's trace belongs to this generation.
    #[inline(always)]
    pub(crate) fn holds(self, trace: u32) -> bool {
        self.on() && trace >= self.first()
    }
}

static CONTROL: AtomicU64 = AtomicU64::new(Control::new(1, 0, false, false).0);
/// First id of the generation, and the next id to hand out.
static TAKE: AtomicU64 = AtomicU64::new(1 | 1 << 32);

/// The present generation.
#[inline(always)]
pub(crate) fn control() -> Control {
    Control(CONTROL.load(Acquire))
}

/// Why a new stack got no id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoId {
    /// The hook began in an older generation.
    Stale,
    /// All 67 million are taken.
    Exhausted,
}

/// The next id of `control`'s generation.
pub(crate) fn take(control: Control) -> Result<TraceId, NoId> {
    let mut seen = TAKE.load(Relaxed);
    loop {
        let (first, next) = (seen as u32, (seen >> 32) as u32);
        if first != control.first() {
            return Err(NoId::Stale);
        }
        if u64::from(next) > ID_MASK {
            return Err(NoId::Exhausted);
        }
        let taken = u64::from(first) | u64::from(next.wrapping_add(1)) << 32;
        match TAKE.compare_exchange_weak(seen, taken, AcqRel, Relaxed) {
            Ok(_) => return NonZeroU32::new(next).map(TraceId).ok_or(NoId::Exhausted),
            Err(now) => seen = now,
        }
    }
}

/// Whether `control`'s generation still hands out ids. Asked after a look at an id: then that one isn't of a younger.
#[inline(always)]
pub(crate) fn lasts(control: Control) -> bool {
    TAKE.load(Acquire) as u32 == control.first()
}

/// Begins a new generation from what `change` makes of the old one's limit and switch; `None` leaves it as it is.
/// Ordinary code only; threads may race, the later one wins.
pub(crate) fn begin(change: impl Fn(Control) -> Option<(u16, bool)>) -> bool {
    loop {
        let old = control();
        let Some((limit, on)) = change(old) else { return false };
        let mut seen = TAKE.load(Acquire);
        let first = loop {
            let (first, next) = (seen as u32, (seen >> 32) as u32);
            // Two generations never share a first id, or a hook of the older would get ids of the younger.
            let fresh = if next == first { next.wrapping_add(1) } else { next };
            let fresh = if u64::from(fresh) > ID_MASK { ID_MASK as u32 } else { fresh };
            match TAKE.compare_exchange_weak(seen, u64::from(fresh) | u64::from(fresh) << 32, AcqRel, Acquire)
            {
                Ok(_) => break fresh,
                Err(now) => seen = now,
            }
        };
        let new = Control::new(first, limit, on, old.parity() == 0);
        if CONTROL.compare_exchange(old.0, new.0, AcqRel, Acquire).is_ok() {
            return true;
        }
        // Another thread began one meanwhile; hooks of its generation get no ids now, so begin again over it.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_first_id_and_switch_do_not_disturb_each_other() {
        let c = Control::new(0x3ff_fffe, 65_535, true, true);
        assert_eq!((c.first(), c.limit(), c.on(), c.parity()), (0x3ff_fffe, 65_535, true, 1));
        assert!(c.holds(0x3ff_ffff) && !c.holds(5));
        let c = Control::new(7, 1, false, false);
        assert_eq!((c.first(), c.limit(), c.on(), c.parity()), (7, 1, false, 0));
        assert!(!c.holds(9), "nothing is traced while tracing is off");
    }
}
