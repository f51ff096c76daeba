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
    /// A sample at `now`, of which `credit` since the sample before is sure to have passed in the poll that is proved.
    pub(crate) fn see(&mut self, now: Duration, credit: Duration, seen: Seen) -> Act {
        let last = self.last.replace(seen);
        if self.goes_on(seen) {
            let Some(proof) = &mut self.proof else { return Act::Nothing };
            let value = seen.budget.unwrap_or_default();
            proof.seen += credit;
            proof.fell |= value < proof.value;
            return Act::Judge;
        }
        if let Some(proof) = self.proof.take() {
            let exact = seen.id != proof.id || seen.budget.is_none();
            // Nothing was counted until now, and then exactly what the raise had added: a new tick.
            self.fresh = Some(exact || !proof.fell && seen.budget == Some(FULL));
            return Act::Over { exact };
        }
        let new_tick = last.is_some_and(|last| {
            seen.id != last.id
                || match (last.budget, seen.budget) {
                    (Some(before), Some(after)) => after >= before.saturating_add(2),
                    _ => true,
                }
        });
        if new_tick || (!self.told && now >= self.raised_at + PAUSE) {
            self.fresh = Some(true);
        }
        Act::Nothing
    }

    /// Whether the poll that is proved is the one that is seen.
    pub(crate) fn goes_on(&self, seen: Seen) -> bool {
        self.proof.is_some_and(|proof| proof.id == seen.id && seen.budget.is_some_and(|value| value > FULL))
    }

    /// To which value to raise the budget of the poll that was seen last, where that may be done and isn't. Then [`Track::raised`] or
    /// [`Track::missed`] is called.
    pub(crate) fn raise(&self) -> Option<u8> {
        if self.proof.is_some() {
            return None;
        }
        match self.last?.budget? {
            value @ 2..=FULL => self.fresh.unwrap_or(true).then_some(value + (FULL - 1)),
            // The same tick as of a poll that was raised, since none begins so: this one's end is as sure to be seen.
            value => (value > FULL).then_some(value),
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
        /// A sample, and the value that it raised to.
        fn see(&mut self, s: Seen) -> (Act, Option<u8>) {
            self.1 += STEP;
            let act = self.0.see(self.1, STEP, s);
            let to = self.0.raise();
            if let Some(to) = to {
                self.0.raised(self.1, s.id, to);
            }
            (act, to)
        }
    }

    #[test]
    fn a_poll_is_raised_when_it_is_seen_and_proved_from_then_on() {
        let mut r = Run::new();
        assert_eq!(r.see(seen(7, 128)), (Act::Nothing, Some(255)));
        for n in 1..=5 {
            assert_eq!(r.see(seen(7, 255)), (Act::Judge, None));
            assert_eq!(r.0.proof().unwrap().seen, STEP * n);
            assert!(!r.0.proof().unwrap().fell);
        }
        assert_eq!(r.see(NONE), (Act::Over { exact: true }, None));
        assert!(r.0.proof().is_none());
    }

    #[test]
    fn a_changed_id_ends_the_proof_and_the_next_may_begin() {
        let mut r = Run::new();
        assert_eq!(r.see(seen(7, 100)).1, Some(227));
        assert_eq!(r.see(seen(8, 128)), (Act::Over { exact: true }, Some(255)));
    }

    #[test]
    fn a_poll_that_comes_by_anothers_raised_budget_in_the_same_tick_is_proved_as_it_is() {
        let mut r = Run::new();
        assert_eq!(r.see(seen(7, 128)).1, Some(255));
        assert_eq!(r.see(seen(8, 254)), (Act::Over { exact: true }, Some(254)));
        assert_eq!(r.see(seen(8, 254)), (Act::Judge, None));
        assert_eq!(r.0.proof().unwrap().seen, STEP);
        assert!(!r.0.proof().unwrap().fell);
        assert_eq!(r.see(NONE), (Act::Over { exact: true }, None), "in `block_in_place`, for one");
        assert_eq!(r.see(seen(8, 254)), (Act::Nothing, Some(254)));
    }

    #[test]
    fn a_value_back_at_the_full_budget_or_below_ends_the_proof_only() {
        let mut r = Run::new();
        r.see(seen(7, 128));
        assert_eq!(r.see(seen(7, 200)).0, Act::Judge);
        assert!(r.0.proof().unwrap().fell);
        assert_eq!(r.see(seen(7, 100)), (Act::Over { exact: false }, None));
    }

    #[test]
    fn a_task_that_is_always_seen_at_the_full_budget_is_raised_again() {
        let mut r = Run::new();
        assert_eq!(r.see(seen(7, 128)).1, Some(255));
        assert_eq!(r.see(seen(7, 255)), (Act::Judge, None));
        assert_eq!(r.see(seen(7, 128)), (Act::Over { exact: false }, Some(255)));
        assert_eq!(
            r.see(seen(7, 128)),
            (Act::Over { exact: false }, Some(255)),
            "though its end was seen late"
        );
    }

    #[test]
    fn a_recv_loop_is_raised_once_and_then_not_before_a_new_tick_is_seen() {
        let mut r = Run::new();
        assert_eq!(r.see(seen(7, 95)).1, Some(222));
        assert_eq!(r.see(seen(7, 180)).0, Act::Judge);
        assert_eq!(r.see(seen(7, 128)), (Act::Over { exact: false }, None));
        assert_eq!(r.see(seen(7, 90)), (Act::Nothing, None));
        assert_eq!(r.see(seen(7, 60)), (Act::Nothing, None));
        assert_eq!(r.see(seen(7, 125)), (Act::Nothing, Some(252)), "the value rose: a new tick");
    }

    #[test]
    fn where_nothing_was_told_a_thread_is_raised_again_after_a_second() {
        let mut r = Run::new();
        assert_eq!(r.see(seen(7, 100)).1, Some(227));
        assert_eq!(r.see(seen(7, 100)).0, Act::Over { exact: false });
        let again = (1..200).find(|_| r.see(seen(7, 100)).1.is_some()).unwrap();
        assert!((90..=110).contains(&again), "{again}");
    }

    #[test]
    fn a_budget_of_none_or_one_is_never_raised() {
        let mut r = Run::new();
        for _ in 0..5 {
            assert_eq!(r.see(NONE), (Act::Nothing, None));
        }
        for _ in 0..5 {
            assert_eq!(r.see(seen(7, 1)), (Act::Nothing, None));
        }
    }
}
