//! How long the watchdog sleeps between two samples: a tenth of the limit, and longer while nothing is polled, so that a program that
//! waits isn't kept awake. Pure.

use std::time::Duration;

/// At rest no sleep is made longer than this.
const REST: Duration = Duration::from_millis(40);
/// A sample that is to find a poll over its limit comes so much later.
const AFTER: Duration = Duration::from_millis(1);

/// What the last sample found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pace {
    /// Something is under way.
    #[default]
    Works,
    /// Something is under way that may have begun long before, since all rested at the sample before.
    Begins,
    /// Nothing is.
    Rests,
}

/// A tenth of the limit, not under 5 ms: with two looks at a poll before its time counts, one of 1.3 limits is always told, and one
/// that begins while all rest, of 1.5, where the limit is 50 ms or more.
pub(super) fn step_of(limit: Duration) -> Duration {
    (limit / 10).max(Duration::from_millis(5))
}

impl Pace {
    pub(super) fn after(self, at_rest: bool) -> Self {
        match self {
            _ if at_rest => Self::Rests,
            Self::Rests => Self::Begins,
            _ => Self::Works,
        }
    }

    /// The sleep until the next sample. `due`: what the poll that is next to it still lacks to the limit.
    pub(super) fn pause(self, limit: Duration, due: Option<Duration>) -> Duration {
        let step = step_of(limit);
        match self {
            Self::Rests => (limit * 4 / 10).min(REST).max(step),
            Self::Begins => step / 5,
            Self::Works => due.map_or(step, |due| (due + AFTER).clamp(step / 5, step)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::proof::{Act, Seen, Track};
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// When a poll that begins then, and doesn't end, is over the limit as samples prove it.
    fn told_after(begins: Duration, pace: Pace, limit: Duration) -> Duration {
        let (mut track, mut pace, mut now, mut due) = (Track::default(), pace, Duration::ZERO, None);
        loop {
            let pause = pace.pause(limit, due);
            now += pause;
            let polls = now >= begins;
            let budget = if track.proof().is_some() { 255 } else { 128 };
            let seen = Seen { id: 7, budget: polls.then_some(budget) };
            if let Act::Raise(to) = track.see(now, pause, seen, false) {
                track.raised(now, 7, to);
            }
            if let Some(proof) = track.proof() {
                if proof.seen > limit {
                    return now - begins;
                }
                due = Some(limit - proof.seen);
            }
            pace = if pace == Pace::Works { pace } else { pace.after(!polls) };
        }
    }

    #[test]
    fn a_poll_of_1_3_limits_is_told_and_of_1_5_where_it_begins_at_rest() {
        for limit in [MS * 50, MS * 100, MS * 400, MS * 1000] {
            for n in 0..100 {
                let begins = limit * n / 100;
                let (works, rests) =
                    (told_after(begins, Pace::Works, limit), told_after(begins, Pace::Rests, limit));
                assert!(works <= limit * 13 / 10, "{works:?} of {limit:?}");
                assert!(rests <= limit * 15 / 10, "{rests:?} of {limit:?}");
            }
        }
    }

    #[test]
    fn at_rest_there_are_few_samples_and_a_long_limit_has_none_more() {
        assert_eq!(Pace::Rests.pause(MS * 100, None), MS * 40);
        assert_eq!(Pace::Rests.pause(MS * 50, None), MS * 20);
        assert_eq!(Pace::Rests.pause(MS * 10, None), MS * 5);
        assert_eq!(Pace::Rests.pause(MS * 1000, None), MS * 100);
    }

    #[test]
    fn where_a_poll_is_about_to_be_over_the_limit_the_sample_comes_in_time_and_not_at_once() {
        assert_eq!(Pace::Works.pause(MS * 100, Some(MS * 4)), MS * 5);
        assert_eq!(Pace::Works.pause(MS * 100, Some(Duration::ZERO)), MS * 2);
        assert_eq!(Pace::Works.pause(MS * 100, Some(MS * 90)), MS * 10);
    }
}
