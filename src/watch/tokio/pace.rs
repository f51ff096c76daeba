//! How long the watchdog sleeps between two samples: a tenth of the limit while something is watched, longer while all is short, and
//! longest while nothing is polled, so that a program that waits isn't kept awake. Pure.

use std::time::Duration;

/// At rest no sleep is made longer than this.
const REST: Duration = Duration::from_millis(95);
/// A sample that is to find a poll over its limit comes so much later.
const AFTER: Duration = Duration::from_millis(1);

/// What the last sample found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pace {
    /// A poll is being proved, or something takes long.
    Long,
    /// Something is polled.
    #[default]
    Short,
    /// Nothing is.
    Rests,
}

/// A tenth of the limit, not under 5 ms.
pub(super) fn step_of(limit: Duration) -> Duration {
    (limit / 10).max(Duration::from_millis(5))
}

impl Pace {
    /// The sleep until the next sample. `due`: what the poll that is next to it still lacks to the limit.
    ///
    /// A poll's time counts from the first sample that finds it: one of 1.5 limits is always told, and one that begins while all rest,
    /// of two, where the limit is 20 ms or more.
    pub(super) fn pause(self, limit: Duration, due: Option<Duration>) -> Duration {
        let step = step_of(limit);
        let pause = match self {
            Self::Long => step,
            Self::Short => (limit * 38 / 100).max(step),
            Self::Rests => return (limit * 95 / 100).min(REST).max(step),
        };
        due.filter(|due| *due <= pause).map_or(pause, |due| (due + AFTER).max(step / 5))
    }
}

#[cfg(test)]
mod tests {
    use super::super::proof::{Seen, Track};
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
            track.see(now, pause, Seen { id: 7, budget: polls.then_some(budget) });
            if let Some(proof) = track.proof() {
                if proof.seen > limit {
                    return now - begins;
                }
                due = Some(limit - proof.seen);
            }
            if let Some(to) = track.raise() {
                track.raised(now, 7, to);
                pace = Pace::Long;
            }
        }
    }

    #[test]
    fn a_poll_of_1_5_limits_is_told_and_of_two_where_it_begins_at_rest() {
        for limit in [MS * 20, MS * 50, MS * 100, MS * 400, MS * 1000] {
            for n in 0..100 {
                let begins = limit * n / 100;
                let of = |pace| told_after(begins, pace, limit);
                assert!(of(Pace::Short) <= limit * 3 / 2, "{limit:?}");
                // A sample that saw the end of others' proofs, and raised none, may have come before.
                assert!(limit < MS * 50 || of(Pace::Short) + step_of(limit) <= limit * 3 / 2, "{limit:?}");
                assert!(of(Pace::Rests) <= limit * 2, "{limit:?}");
            }
        }
    }

    #[test]
    fn at_rest_there_are_few_samples_and_a_long_limit_has_none_more() {
        assert_eq!(Pace::Rests.pause(MS * 100, None), MS * 95);
        assert_eq!(Pace::Rests.pause(MS * 40, None), MS * 38);
        assert_eq!(Pace::Rests.pause(MS, None), MS * 5);
        assert_eq!(Pace::Rests.pause(MS * 1000, None), MS * 100);
    }

    #[test]
    fn where_a_poll_is_about_to_be_over_the_limit_the_sample_comes_in_time_and_not_at_once() {
        assert_eq!(Pace::Short.pause(MS * 100, Some(MS * 30)), MS * 31);
        assert_eq!(Pace::Short.pause(MS * 100, Some(MS * 90)), MS * 38);
        assert_eq!(Pace::Long.pause(MS * 100, Some(MS * 4)), MS * 5);
        assert_eq!(Pace::Long.pause(MS * 100, Some(MS * 10)), MS * 11);
        assert_eq!(Pace::Long.pause(MS * 100, Some(MS * 90)), MS * 10);
        assert_eq!(Pace::Long.pause(MS * 100, Some(Duration::ZERO)), MS * 2);
    }
}
