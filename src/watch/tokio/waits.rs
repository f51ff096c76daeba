//! Whether a thread waits for events or a notice, as its clock tells: that is one system call, where asking for what it sits in is three.

use std::time::{Duration, Instant};

use super::super::stuck::{At, at};
use super::cpu;

/// Within so long it is the same sample that asks.
const SAMPLE: Duration = Duration::from_millis(1);

/// What is known of one thread.
#[derive(Default)]
pub(super) struct Waits {
    /// What it had run when it was seen waiting: while it runs no further, it still is.
    since: Option<Duration>,
    /// What it waits on for events.
    descriptor: Option<i32>,
    read: Option<Read>,
    found: Found,
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
        self.found = if ran.is_some() && ran == self.since {
            Found::Waits
        } else if self.found == Found::Waits || is_unknown(ran, now, before) {
            Found::Unknown
        } else {
            Found::Moves
        };
        if self.found != Found::Waits {
            self.since = None;
        }
        self.found
    }

    /// Asks what it sits in: whether it waits, as far as the kernel tells.
    pub(super) fn ask(&mut self, tid: i32) -> bool {
        let (waits, descriptor) = match at(tid) {
            Some(At::Waits(descriptor)) => (true, descriptor),
            at => (at.is_none(), None),
        };
        self.since = self.read.map(|read| read.ran).filter(|_| waits);
        self.descriptor = descriptor;
        self.found = if waits { Found::Moves } else { Found::Unknown };
        waits
    }

    /// For how long it hasn't run, as far as readings tell.
    pub(super) fn stood(&self) -> Duration {
        self.read.map_or(Duration::ZERO, |read| read.at - read.since)
    }

    /// What it waits on for events, as far as is known.
    pub(super) fn descriptor(&self) -> Option<i32> {
        self.descriptor.filter(|_| self.since.is_some())
    }
}

/// Whether a thread that had run so much by now, and `before` something else by then, may have had no wait in between.
fn is_unknown(ran: Option<Duration>, now: Instant, before: Option<Read>) -> bool {
    match (ran, before) {
        (Some(ran), Some(before)) => ran <= before.ran || (ran - before.ran) * 2 > now - before.at,
        (Some(_), None) => false,
        (None, _) => true, // the system has no such clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_thread_is_asked_about_where_its_clock_stands_still_or_goes_with_the_time() {
        let start = Instant::now();
        let mut waits = Waits::default();
        let mut saw = |ran: u32, now: u32| waits.saw(Some(MS * ran), start + MS * now);
        assert_eq!(saw(5, 0), Found::Moves);
        assert_eq!(saw(6, 90), Found::Moves);
        assert_eq!(saw(6, 180), Found::Unknown);
        assert_eq!(saw(6, 190), Found::Unknown);
        assert_eq!(waits.stood(), MS * 100);
        let mut saw = |ran: u32, now: u32| waits.saw(Some(MS * ran), start + MS * now);
        assert_eq!(saw(8, 270), Found::Moves);
        assert_eq!(saw(80, 360), Found::Unknown);
        waits.since = Some(MS * 80);
        let mut saw = |ran: u32, now: u32| waits.saw(Some(MS * ran), start + MS * now);
        assert_eq!(saw(80, 450), Found::Waits);
        assert_eq!(saw(81, 540), Found::Unknown, "it woke");
        assert_eq!(saw(82, 630), Found::Moves);
        waits.since = Some(MS * 82);
        let mut saw = |ran: u32, now: u32| waits.saw(Some(MS * ran), start + MS * now);
        assert_eq!(saw(83, 700), Found::Moves, "asked once it was found waiting, and it goes on as before");
        assert_eq!(waits.saw(None, start + MS * 720), Found::Unknown);
    }
}
