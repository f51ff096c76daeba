//! One fatal report at a time, and nobody ends the process while another's is on its way. No lock: every wait is bounded,
//! and what a fork's child inherits doesn't count.

use core::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire},
};

use crate::sys::{self, now_ms, sleep_ms};

/// Process id in the upper half, thread id in the lower; 0: nobody's.
static TURN: AtomicU64 = AtomicU64::new(0);
/// Process id in the upper half, how many threads are telling something in the lower.
static TELLING: AtomicU64 = AtomicU64::new(0);

/// This thread's turn to tell; given back when dropped.
pub(super) struct Turn {
    mine: bool,
}

impl Turn {
    /// Waits for the others, at most `limit_ms` milliseconds; then goes on without them. None inside a report of this
    /// very thread: a fault of the reporter's isn't told.
    pub(super) fn take(limit_ms: i64) -> Option<Self> {
        let me = process() | thread();
        let begin = now_ms();
        let mine = loop {
            let Err(other) = TURN.compare_exchange(0, me, AcqRel, Acquire) else { break true };
            if other == me {
                return None;
            }
            let stale = other & UPPER != me & UPPER; // our parent's, when we were forked
            if stale && TURN.compare_exchange(other, me, AcqRel, Acquire).is_ok() {
                break true;
            }
            if now_ms().saturating_sub(begin) > limit_ms {
                break false;
            }
            sleep_ms(2);
        };
        Some(Self { mine })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.mine {
            TURN.store(0, core::sync::atomic::Ordering::Release);
        }
    }
}

/// Counts this thread among those that tell something, until dropped.
pub(super) struct Telling;

impl Telling {
    pub(super) fn begin() -> Self {
        change(1);
        Self
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        change(-1);
    }
}

fn change(by: i32) {
    let me = process();
    let _ = TELLING.fetch_update(AcqRel, Acquire, |now| {
        let count = if now & UPPER == me { now as u32 } else { 0 };
        Some(me | u64::from(count.saturating_add_signed(by)))
    });
}

/// Waits until nobody tells anything any more, at most `limit_ms` milliseconds. Whether there was anybody.
pub(super) fn wait_for_others(limit_ms: i64) -> bool {
    let begin = now_ms();
    let telling = || {
        let now = TELLING.load(Acquire);
        now & UPPER == process() && now as u32 != 0
    };
    if !telling() {
        return false;
    }
    while telling() && now_ms().saturating_sub(begin) <= limit_ms {
        sleep_ms(2);
    }
    true
}

const UPPER: u64 = !0 << 32;

fn process() -> u64 {
    u64::from(sys::process_id()) << 32
}

fn thread() -> u64 {
    u64::from(sys::thread_number())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// The statics are the process's: one test at a time.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn turns_are_taken_one_after_the_other() {
        let _alone = ALONE.lock();
        let inside = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let _turn = Turn::take(60_000).unwrap();
                    assert_eq!(inside.fetch_add(1, AcqRel), 0);
                    sleep_ms(5);
                    inside.fetch_sub(1, AcqRel);
                });
            }
        });
    }

    #[test]
    fn a_fault_inside_a_report_of_the_same_thread_has_no_turn() {
        let _alone = ALONE.lock();
        let _turn = Turn::take(60_000).unwrap();
        assert!(Turn::take(60_000).is_none());
    }

    #[test]
    fn a_turn_that_is_never_given_back_is_waited_for_so_long_and_no_longer() {
        let _alone = ALONE.lock();
        let _turn = Turn::take(60_000).unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| Turn::take(20).map(|turn| turn.mine));
            assert_eq!(other.join().unwrap(), Some(false));
        });
    }

    #[test]
    fn the_turn_and_the_count_of_a_parent_are_not_waited_for() {
        let _alone = ALONE.lock();
        let parent = 1 << 32 | 77;
        TURN.store(parent, core::sync::atomic::Ordering::Release);
        TELLING.store(parent, core::sync::atomic::Ordering::Release);
        assert!(!wait_for_others(60_000));
        assert!(Turn::take(60_000).unwrap().mine);
        drop(Telling::begin());
        assert!(!wait_for_others(60_000));
    }

    #[test]
    fn who_ends_the_process_waits_for_those_that_tell() {
        let _alone = ALONE.lock();
        let telling = Telling::begin();
        let ended = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                assert!(wait_for_others(60_000));
                ended.load(Acquire)
            });
            sleep_ms(20);
            ended.store(1, core::sync::atomic::Ordering::Release);
            drop(telling);
            assert_eq!(waiting.join().unwrap(), 1);
        });
    }
}
