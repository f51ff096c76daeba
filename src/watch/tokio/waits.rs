//! Whether a thread waits for events or a notice, as its clock tells: that is one system call, where asking for what it sits in is three.

use std::time::{Duration, Instant};

use super::super::stuck::{At, at};
use super::cpu;

/// Within so long it is the same sample that asks.
const SAMPLE: Duration = Duration::from_millis(1);

/// What moves so often is asked for all the same: it may compute where it gets but a part of a processor.
const MOVES: u8 = 3;

/// What is known of one thread.
#[derive(Default)]
pub(super) struct Waits {
    /// What it had run when it was seen waiting: while it runs no further, it still is.
    waiting: Option<Duration>,
    read: Option<Read>,
    found: Found,
    /// How often it was found moving since it was asked for.
    moves: u8,
}

/// A reading of its clock.
#[derive(Clone, Copy)]
struct Read {
    ran: Duration,
    at: Instant,
    /// When it had run just as much, for the first time.
    since: Instant,
}

/// What its clock told, the least first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Found {
    /// It still waits.
    Waits,
    /// It runs a little and waits, again and again; where it sits in something now, the next reading tells.
    #[default]
    Moves,
    /// It computes, or sits in what nobody has asked for, or something has come for it after a longer wait.
    Unknown,
}

impl Waits {
    /// Reads its clock.
    pub(super) fn read(&mut self, tid: i32) -> Found {
        if self.read.is_none_or(|read| read.at.elapsed() >= SAMPLE) {
            self.saw(cpu::clock(tid), Instant::now());
        }
        self.found
    }

    fn saw(&mut self, ran: Option<Duration>, now: Instant) -> Found {
        let before = self.read;
        let since = before.filter(|before| ran == Some(before.ran)).map_or(now, |before| before.since);
        self.read = ran.map(|ran| Read { ran, at: now, since });
        self.found = if ran.is_some() && ran == self.waiting {
            Found::Waits
        } else if self.found == Found::Waits || self.moves == MOVES || is_unknown(ran, now, before) {
            Found::Unknown
        } else {
            self.moves += 1;
            Found::Moves
        };
        match self.found {
            Found::Waits => self.moves = 0,
            _ => self.waiting = None,
        }
        self.found
    }

    /// Asks what it sits in: whether it waits, as far as the kernel tells.
    pub(super) fn ask(&mut self, tid: i32) -> bool {
        let waits = matches!(at(tid), Some(At::Waits) | None);
        self.waiting = self.read.map(|read| read.ran).filter(|_| waits);
        self.found = if waits { Found::Moves } else { Found::Unknown };
        self.moves = 0;
        waits
    }

    /// For how long it hasn't run until now, as far as readings tell.
    pub(super) fn stood(&self, tid: i32) -> Duration {
        let read = self.read.filter(|read| cpu::clock(tid) == Some(read.ran));
        read.map_or(Duration::ZERO, |read| read.at - read.since)
    }
}

/// Whether a thread that had run so much by now, and `before` something else by then, may have had no wait in between.
fn is_unknown(ran: Option<Duration>, now: Instant, before: Option<Read>) -> bool {
    match (ran, before) {
        (Some(ran), Some(before)) => ran <= before.ran || (ran - before.ran) * 4 > now - before.at,
        (Some(_), None) => false,
        (None, _) => true, // the system has no such clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    struct Clock(Waits, Instant);

    impl Clock {
        fn new() -> Self {
            Self(Waits::default(), Instant::now())
        }
        /// What a reading tells that finds so many milliseconds run at that one.
        fn saw(&mut self, ran: u32, now: u32) -> Found {
            self.0.saw(Some(MS * ran), self.1 + MS * now)
        }
    }

    #[test]
    fn a_thread_is_unknown_where_its_clock_stands_still_or_goes_with_the_time() {
        let mut clock = Clock::new();
        assert_eq!(clock.saw(5, 0), Found::Moves);
        assert_eq!(clock.saw(6, 90), Found::Moves);
        assert_eq!(clock.saw(6, 180), Found::Unknown);
        assert_eq!(clock.saw(6, 190), Found::Unknown);
        let read = clock.0.read.unwrap();
        assert_eq!(read.at - read.since, MS * 100, "it has stood so long");
        assert_eq!(clock.saw(8, 270), Found::Moves);
        assert_eq!(clock.saw(80, 360), Found::Unknown);
        assert_eq!(clock.0.saw(None, clock.1 + MS * 450), Found::Unknown);
    }

    #[test]
    fn one_that_was_seen_waiting_waits_until_it_runs_and_is_then_asked_at_once_where_it_had_waited_long() {
        let mut clock = Clock::new();
        clock.saw(80, 0);
        clock.0.waiting = Some(MS * 80);
        assert_eq!(clock.saw(80, 90), Found::Waits);
        assert_eq!(clock.saw(80, 180), Found::Waits);
        assert_eq!(clock.saw(81, 270), Found::Unknown, "it woke");
        clock.0.found = Found::Moves;
        clock.0.waiting = Some(MS * 81);
        assert_eq!(clock.saw(82, 360), Found::Moves, "it goes on as before");
    }

    #[test]
    fn one_that_moves_again_and_again_is_asked_now_and_then() {
        let mut clock = Clock::new();
        let found: Vec<_> = (1..7).map(|n| clock.saw(n, n * 90)).collect();
        assert_eq!(found[..3], [Found::Moves; 3]);
        assert_eq!(found[3..], [Found::Unknown; 3], "until somebody asks");
    }
}
