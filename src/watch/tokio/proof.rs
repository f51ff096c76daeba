//! One poll or many: what samples of a thread's two words prove. Pure.
//!
//! tokio begins every tick with a budget of 128 and ends it with none. A value that was raised above 128 and is still above it
//! belongs to the same tick, whatever runs in it.

use std::time::Duration;

/// What tokio begins a tick with.
pub(crate) const FULL: u8 = 128;
/// Where nothing was told, a thread isn't raised again for so long.
const PAUSE: Duration = Duration::from_secs(1);

/// One look at a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The id of the task that it polls, 0: none.
    pub id: u64,
    /// What is left of the tick's budget; nothing outside of ticks and where nothing is counted.
    pub budget: Option<u8>,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Nothing,
    /// Raise the budget to this value, then call [`Track::raised`].
    Raise(u8),
    /// The same poll still runs: judge it.
    Judge,
    /// The poll that was proved is over, or can't be proved any further.
    Over {
        /// It is over; otherwise only its proof is.
        exact: bool,
    },
}

/// A poll that is known to be one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proof {
    pub id: u64,
    /// How long it has run since the raise, gaps between samples counted as far as they are sure.
    pub seen: Duration,
    /// Ready operations were counted since.
    pub fell: bool,
    value: u8,
}

/// What is known of one thread.
#[derive(Debug, Default)]
pub(crate) struct Track {
    last: Option<Seen>,
    proof: Option<Proof>,
    /// Since the last raise a new tick was seen.
    fresh: Option<bool>,
    raised_at: Duration,
    told: bool,
}

impl Track {
    /// A sample at `now`, of which `credit` since the sample before is sure to have passed. `keep_off`: the poll isn't to be
    /// raised.
    pub(crate) fn see(&mut self, now: Duration, credit: Duration, seen: Seen, keep_off: bool) -> Act {
        let last = self.last.replace(seen);
        if let Some(proof) = &mut self.proof {
            let same = seen.id == proof.id;
            if let Some(value) = seen.budget
                && same
                && value > FULL
            {
                proof.seen += credit;
                proof.fell |= value < proof.value;
                return Act::Judge;
            }
            let exact = !same || seen.budget.is_none();
            self.fresh = Some(exact);
            self.proof = None;
            return Act::Over { exact };
        }
        let Some(last) = last else { return Act::Nothing };
        let new_tick = seen.id != last.id
            || match (last.budget, seen.budget) {
                (Some(before), Some(after)) => after >= before.saturating_add(2),
                _ => true,
            };
        if new_tick || (!self.told && now >= self.raised_at + PAUSE) {
            self.fresh = Some(true);
        }
        match (last.budget, seen.budget) {
            (Some(_), Some(value @ 2..=FULL))
                if last.id == seen.id && !keep_off && self.fresh.unwrap_or(true) =>
            {
                Act::Raise(value + (FULL - 1))
            }
            _ => Act::Nothing,
        }
    }

    /// The budget was raised to `value` at `now`, and the same task was seen right after.
    pub(crate) fn raised(&mut self, now: Duration, id: u64, value: u8) {
        self.proof = Some(Proof { id, seen: Duration::ZERO, fell: false, value });
        self.raised_at = now;
        self.fresh = Some(false);
        self.told = false;
    }

    /// The write was lost, or another poll was hit.
    pub(crate) fn missed(&mut self, now: Duration) {
        self.raised_at = now;
        self.fresh = Some(false);
        self.told = false;
    }

    /// A report was made of the present proof.
    pub(crate) fn told(&mut self) {
        self.told = true;
    }

    /// The proof under way.
    pub(crate) fn proof(&self) -> Option<&Proof> {
        self.proof.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(10);

    fn seen(id: u64, budget: u8) -> Seen {
        Seen { id, budget: Some(budget) }
    }
    const NONE: Seen = Seen { id: 1, budget: None };

    struct Run(Track, Duration);
    impl Run {
        fn new() -> Self {
            Self(Track::default(), Duration::ZERO)
        }
        fn see(&mut self, s: Seen) -> Act {
            self.1 += STEP;
            let act = self.0.see(self.1, STEP, s, false);
            if let Act::Raise(v) = act {
                self.0.raised(self.1, s.id, v);
            }
            act
        }
    }

    #[test]
    fn a_poll_is_raised_at_its_second_sight_and_proved_from_then_on() {
        let mut r = Run::new();
        assert_eq!(r.see(seen(7, 128)), Act::Nothing);
        assert_eq!(r.see(seen(7, 128)), Act::Raise(255));
        for n in 1..=5 {
            assert_eq!(r.see(seen(7, 255)), Act::Judge);
            assert_eq!(r.0.proof().unwrap().seen, STEP * n);
            assert!(!r.0.proof().unwrap().fell);
        }
        assert_eq!(r.see(NONE), Act::Over { exact: true });
        assert!(r.0.proof().is_none());
    }

    #[test]
    fn a_changed_id_begins_again() {
        let mut r = Run::new();
        r.see(seen(7, 100));
        assert_eq!(r.see(seen(8, 128)), Act::Nothing);
        assert_eq!(r.see(seen(8, 120)), Act::Raise(247));
        assert_eq!(r.see(seen(9, 247)), Act::Over { exact: true });
        assert_eq!(
            r.see(seen(9, 247)),
            Act::Nothing,
            "a value above the full budget is somebody's raise, not ours"
        );
    }

    #[test]
    fn a_value_back_at_the_full_budget_or_below_ends_the_proof_only() {
        let mut r = Run::new();
        r.see(seen(7, 128));
        r.see(seen(7, 128));
        assert_eq!(r.see(seen(7, 200)), Act::Judge);
        assert!(r.0.proof().unwrap().fell);
        assert_eq!(r.see(seen(7, 128)), Act::Over { exact: false });
    }

    #[test]
    fn a_recv_loop_is_raised_once_and_then_not_before_a_new_tick_is_seen() {
        let mut r = Run::new();
        r.see(seen(7, 120));
        assert_eq!(r.see(seen(7, 95)), Act::Raise(222));
        assert_eq!(r.see(seen(7, 180)), Act::Judge);
        assert_eq!(r.see(seen(7, 110)), Act::Over { exact: false });
        assert_eq!(r.see(seen(7, 90)), Act::Nothing);
        assert_eq!(r.see(seen(7, 60)), Act::Nothing);
        assert_eq!(r.see(seen(7, 125)), Act::Raise(252), "the value rose: a new tick");
    }

    #[test]
    fn where_nothing_was_told_a_thread_is_raised_again_after_a_second() {
        let mut r = Run::new();
        r.see(seen(7, 100));
        assert_eq!(r.see(seen(7, 100)), Act::Raise(227));
        assert_eq!(r.see(seen(7, 100)), Act::Over { exact: false });
        let mut again = 0;
        for n in 1..200 {
            if matches!(r.see(seen(7, 100)), Act::Raise(_)) {
                again = n;
                break;
            }
        }
        assert!((90..=110).contains(&again), "{again}");
    }

    #[test]
    fn a_budget_of_none_or_one_is_never_raised() {
        let mut r = Run::new();
        for _ in 0..5 {
            assert_eq!(r.see(NONE), Act::Nothing);
        }
        let mut r = Run::new();
        for _ in 0..5 {
            assert_eq!(r.see(seen(7, 1)), Act::Nothing);
        }
        let mut t = Track::default();
        for n in 1..5 {
            assert_eq!(t.see(STEP * n, STEP, seen(7, 128), true), Act::Nothing, "a wrapped poll is kept off");
        }
    }
}
