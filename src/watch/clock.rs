//! A clock that a wrapped poll can afford: the processor's counter where it runs evenly, else the system's.
//!
//! Its rate is measured against the system's clock whenever a duration is asked for, over the time since [`begin`]; anew where
//! the two don't agree, as when the machine was suspended.

use std::sync::OnceLock;
#[cfg(feature = "tokio")]
use std::sync::atomic::Ordering::Release;
use std::sync::atomic::{
    AtomicPtr, AtomicU64,
    Ordering::{Acquire, Relaxed},
};
use std::time::{Duration, Instant};

/// A rate that was measured for so long is right.
const SETTLED: Duration = Duration::from_millis(5);

struct Base {
    ticks: u64,
    instant: Instant,
}

static FIRST: OnceLock<Base> = OnceLock::new();
/// The one after it; null: none. What it pointed to before stays, for readers.
static LATER: AtomicPtr<Base> = AtomicPtr::new(std::ptr::null_mut());

fn base() -> Option<&'static Base> {
    // SAFETY: null or a leaked box.
    unsafe { LATER.load(Acquire).as_ref() }.or_else(|| FIRST.get())
}

/// Nanoseconds that may not have passed for this process, as the watchdog found: it was stopped, or the machine suspended.
static UNSURE: AtomicU64 = AtomicU64::new(0);
/// When the watchdog looks next, in ticks: what passes after that isn't sure. All ones where there is none.
static NEXT: AtomicU64 = AtomicU64::new(u64::MAX);
/// Ticks under which a poll is surely quick: a little less than the limit. All ones before [`begin`].
static QUICK: AtomicU64 = AtomicU64::new(u64::MAX);

#[cfg(target_arch = "x86_64")]
fn even() -> bool {
    use std::arch::x86_64::__cpuid;
    static EVEN: OnceLock<bool> = OnceLock::new();
    *EVEN.get_or_init(|| __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & 1 << 8 != 0)
}

/// Now, in ticks since some moment.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn ticks() -> u64 {
    if EVEN.load(Relaxed) == 1 {
        // SAFETY: the instruction exists on every x86-64 and has no operands.
        unsafe { std::arch::x86_64::_rdtsc() }
    } else {
        nanos()
    }
}
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(crate) fn ticks() -> u64 {
    nanos()
}

/// 1 once the counter is known to run evenly.
#[cfg(target_arch = "x86_64")]
static EVEN: AtomicU64 = AtomicU64::new(0);

fn nanos() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Starts measuring. Before the first poll that is timed.
#[inline]
pub(crate) fn begin() {
    if FIRST.get().is_none() {
        begin_now();
    }
}

#[cold]
#[inline(never)]
fn begin_now() {
    FIRST.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        EVEN.store(u64::from(even()), Relaxed);
        let base = Base::now();
        base.limit(super::switch::limit()); // whoever sees the base finds a limit
        base
    });
    limit_changed(super::switch::limit()); // it may have changed meanwhile
}

/// Nanoseconds that may not have passed for this process until now, in ticks: for [`unsure_since`], later.
#[inline(always)]
pub(crate) fn unsure(now: u64) -> u64 {
    // In this order: where the watchdog looks just now this is too little, and the difference too much.
    let unsure = UNSURE.load(Acquire);
    let next = NEXT.load(Acquire);
    if now <= next { unsure } else { unsure.saturating_add(late(now, next)) }
}

#[cold]
#[inline(never)]
fn late(now: u64, next: u64) -> u64 {
    u64::try_from(span(now.saturating_sub(next)).as_nanos()).unwrap_or(u64::MAX)
}

/// How much may not have passed for this process since [`unsure`] said this.
#[cfg(feature = "tokio")]
pub(crate) fn unsure_since(before: u64) -> Duration {
    let next = NEXT.load(Acquire);
    let unsure = UNSURE.load(Acquire).saturating_add(late(ticks(), next));
    Duration::from_nanos(unsure.saturating_sub(before))
}

/// The watchdog found that so much more isn't sure, and looks again when this time has passed since those ticks.
#[cfg(feature = "tokio")]
pub(crate) fn looked(unsure: Duration, since: u64, time: Duration) {
    UNSURE.fetch_add(unsure.as_nanos() as u64, Relaxed);
    // Where the rate isn't known yet: no counter is faster than this.
    let passes = base().and_then(|base| base.ticks_in(time)).unwrap_or(time.as_nanos() * 10);
    NEXT.store(since.saturating_add(u64::try_from(passes).unwrap_or(u64::MAX)), Release);
}

/// Nobody looks any more.
#[cfg(feature = "tokio")]
pub(crate) fn unwatched() {
    NEXT.store(u64::MAX, Release);
}

/// One moment by both clocks.
#[cfg(feature = "tokio")]
pub(crate) fn moment() -> (Instant, u64) {
    for _ in 0..3 {
        let (before, instant, after) = (ticks(), Instant::now(), ticks());
        if span(after.saturating_sub(before)) < Duration::from_millis(1) {
            return (instant, after);
        }
    }
    (Instant::now(), ticks())
}

/// How much may have passed between two moments. The system's clock leaves out what the machine was suspended, in which ticks may go
/// on, or begin anew: where the two don't agree that is anything, and the rate is measured anew. The watchdog's alone.
#[cfg(feature = "tokio")]
pub(crate) fn between(before: (Instant, u64), now: (Instant, u64)) -> Duration {
    let clock = now.0.saturating_duration_since(before.0);
    let ticked = span(now.1.saturating_sub(before.1));
    if now.1 >= before.1 && ticked.abs_diff(clock) <= clock / 10 + Duration::from_millis(20) {
        return clock;
    }
    LATER.store(Box::into_raw(Box::new(Base::now())), Release);
    ANYTHING
}

/// No suspended machine is worth a longer one.
#[cfg(feature = "tokio")]
const ANYTHING: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The span of so many ticks.
pub(crate) fn span(ticks_passed: u64) -> Duration {
    let Some((ticks, nanos)) = base().map(Base::rate) else { return Duration::ZERO };
    let nanos = u128::from(ticks_passed) * nanos / ticks;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Whether a poll of so many ticks is surely under the limit: one load and a comparison.
#[inline(always)]
pub(crate) fn quick(ticks_passed: u64) -> bool {
    ticks_passed < QUICK.load(Relaxed)
}

/// Works out [`quick`] for a limit. Again once the rate is known better.
pub(crate) fn limit_changed(limit: Duration) {
    if let Some(base) = base() {
        base.limit(limit);
    }
}

impl Base {
    fn now() -> Self {
        Self { ticks: ticks(), instant: Instant::now() }
    }

    /// Ticks, not 0, and nanoseconds that passed in the same time: roughly, where it began just now.
    fn rate(&self) -> (u128, u128) {
        let (ticks, clock) = (ticks().saturating_sub(self.ticks).max(1), self.instant.elapsed());
        (u128::from(ticks), clock.as_nanos())
    }

    /// So many ticks pass in this time; nothing while the rate isn't known yet.
    fn ticks_in(&self, time: Duration) -> Option<u128> {
        let (ticks, nanos) = self.rate();
        (nanos >= SETTLED.as_nanos()).then(|| time.as_nanos() * ticks / nanos)
    }

    fn limit(&self, limit: Duration) {
        // Where the rate isn't known yet: no counter is slower than this.
        let quick = self.ticks_in(limit).map_or(limit.as_nanos() / 100, |ticks| ticks * 98 / 100);
        QUICK.store(u64::try_from(quick).unwrap_or(u64::MAX), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "tokio")]
    #[test]
    fn between_moments_lies_what_both_clocks_say_and_anything_where_they_dont_agree() {
        begin();
        std::thread::sleep(SETTLED * 2);
        let before = moment();
        std::thread::sleep(Duration::from_millis(30));
        let now = moment();
        assert_eq!(between(before, now), now.0 - before.0);
        // As on x86-64: the counter went on, or began anew.
        let hour = now.1.wrapping_sub(before.1).wrapping_mul(100_000);
        assert_eq!(between(before, (now.0, now.1 + hour)), ANYTHING);
        assert_eq!(between((before.0, now.1 + hour), now), ANYTHING);
    }

    #[test]
    fn a_span_agrees_with_the_systems_clock() {
        begin();
        let (t, i) = (ticks(), Instant::now());
        std::thread::sleep(Duration::from_millis(30));
        let span = span(ticks() - t);
        let real = i.elapsed();
        assert!(
            span > Duration::from_millis(25) && span < real + Duration::from_millis(20),
            "{span:?} {real:?}"
        );
    }
}
