//! Whether a poll was slow: a pure function of what was seen of it.

use std::time::Duration;

/// What is known of one poll.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PollFacts {
    /// How long it is known to have run.
    pub seen: Duration,
    /// Of that, spent waiting for a processor.
    pub waited: Duration,
    /// Ready operations were counted meanwhile, so that two polls of the same task may lie in what was seen (a task that
    /// wakes itself within one tick of tokio's): at most two.
    pub maybe_two: bool,
    /// How far apart samples lie.
    pub step: Duration,
}

/// A poll that took longer than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlowCallback {
    /// At least so long.
    pub took: Duration,
}

impl SlowCallback {
    /// The judgement. A poll exactly at the limit is not slow, except at limit zero.
    pub(crate) fn judge(facts: &PollFacts, limit: Duration) -> Option<Self> {
        let took = facts.seen.saturating_sub(facts.waited);
        let bar = if facts.maybe_two { limit * 2 + facts.step } else { limit };
        (took > bar || limit.is_zero()).then_some(Self { took })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn facts(seen: u32, waited: u32, maybe_two: bool) -> PollFacts {
        PollFacts { seen: MS * seen, waited: MS * waited, maybe_two, step: MS * 10 }
    }

    #[test]
    fn a_poll_exactly_at_the_limit_is_not_slow() {
        assert_eq!(SlowCallback::judge(&facts(100, 0, false), MS * 100), None);
        assert_eq!(
            SlowCallback::judge(&facts(101, 0, false), MS * 100),
            Some(SlowCallback { took: MS * 101 })
        );
    }

    #[test]
    fn time_spent_waiting_for_a_processor_is_not_the_polls() {
        assert_eq!(SlowCallback::judge(&facts(300, 220, false), MS * 100), None);
        assert_eq!(
            SlowCallback::judge(&facts(300, 150, false), MS * 100),
            Some(SlowCallback { took: MS * 150 })
        );
        assert_eq!(SlowCallback::judge(&facts(100, 400, false), MS * 100), None);
    }

    #[test]
    fn where_two_polls_may_lie_within_only_twice_the_limit_and_a_step_is_slow() {
        assert_eq!(SlowCallback::judge(&facts(210, 0, true), MS * 100), None);
        assert_eq!(
            SlowCallback::judge(&facts(211, 0, true), MS * 100),
            Some(SlowCallback { took: MS * 211 })
        );
    }

    #[test]
    fn at_limit_zero_every_poll_is_told() {
        assert!(SlowCallback::judge(&facts(0, 0, false), Duration::ZERO).is_some());
    }
}
