//! Threads that poll nothing, and workers that are all parked: while that goes on most samples of the watchdog's ask only whether any
//! of them ran, or look at each one's words alone. After a long sleep of the processor it is code and data that were touched which cost.

use super::super::heap::{self, ThreadInfo};
use super::proof::Seen;
use super::turns::Turns;
use super::waits::Found;
use super::words;

/// What was so at the last sample that looked at all.
#[derive(Default)]
pub(super) struct Rest {
    threads: Vec<(ThreadInfo, Option<Seen>)>,
    /// Samples since it began, and those of them in which threads had run.
    samples: u32,
    moves: u32,
}

/// Every so many samples all is looked at, and every so many where no thread runs at all: what one had in hand when it was looked at may
/// have come between two looks, and a thread may be seen late.
const RESTS: u32 = 3;
const STANDS: u32 = 10;

impl Rest {
    pub(super) fn begin(&mut self, mut threads: Vec<(ThreadInfo, Option<Seen>)>) {
        // What a thread polls isn't known: there are only counters to look at.
        if threads.iter().any(|(_, seen)| seen.is_none()) {
            threads.clear();
        }
        *self = Self { threads, samples: 1, moves: 1 };
    }

    /// Whether the same threads still poll nothing and wait, as far as their clocks tell, and it isn't time yet to look at all: whether
    /// they wait as they did, or have moved. `leave_out` says which don't count.
    pub(super) fn goes_on(
        &mut self,
        turns: &mut Turns,
        leave_out: &dyn Fn(&ThreadInfo) -> bool,
    ) -> Option<Found> {
        if self.threads.is_empty() || self.samples == STANDS {
            return None;
        }
        self.samples += 1;
        match turns.read(self.threads.iter().map(|(info, _)| info.tid)) {
            Found::Waits => Some(Found::Waits), // none ran: nothing has changed
            Found::Moves if self.moves < RESTS => {
                self.moves += 1;
                self.is_same(leave_out).then_some(Found::Moves)
            }
            _ => None,
        }
    }

    /// Whether the same threads poll nothing.
    fn is_same(&self, leave_out: &dyn Fn(&ThreadInfo) -> bool) -> bool {
        let mut known = self.threads.iter();
        let mut same = true;
        heap::threads(&mut |info| {
            if !same || leave_out(&info) {
                return;
            }
            same = known.next().is_some_and(|(before, seen)| {
                (before.slot, before.tid) == (info.slot, info.tid)
                    && heap::hold(&info).is_some_and(|held| {
                        held.published().current().is_none() && words::read(&held) == *seen
                    })
            });
        });
        same && known.next().is_none()
    }
}
