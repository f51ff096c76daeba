//! A clock that a wrapped poll can afford: the processor's counter where it runs evenly, else the system's.
//!
//! Its rate is measured against the system's clock whenever a duration is asked for, over the time since [`begin`].

use std::sync::OnceLock;
#[cfg(feature = "tokio")]
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

struct Base {
    ticks: u64,
    instant: Instant,
}

static BASE: OnceLock<Base> = OnceLock::new();
/// Nanoseconds that may not have passed for this process, as the watchdog found: it was stopped, or the machine suspended.
static UNSURE: AtomicU64 = AtomicU64::new(0);
/// When the watchdog looks next, in ticks: what passes after that isn't sure.
#[cfg(feature = "tokio")]
static NEXT: AtomicU64 = AtomicU64::new(0);
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
    if BASE.get().is_none() {
        begin_now();
    }
}

#[cold]
#[inline(never)]
fn begin_now() {
    BASE.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        EVEN.store(u64::from(even()), Relaxed);
        let base = Base { ticks: ticks(), instant: Instant::now() };
        base.limit(super::switch::limit()); // whoever sees the base finds a limit
        base
    });
    limit_changed(super::switch::limit()); // it may have changed meanwhile
}

/// Nanoseconds that may not have passed for this process, as far as the watchdog has found: for [`unsure_since`], later.
#[inline(always)]
pub(crate) fn unsure() -> u64 {
    UNSURE.load(Relaxed)
}

/// How much may not have passed for this process since [`unsure`] said this: all since a watchdog has ended.
#[cfg(feature = "tokio")]
pub(crate) fn unsure_since(before: u64) -> Duration {
    let next = NEXT.load(Acquire); // first, so that nothing is left out where the watchdog looks just now
    let late = span(ticks().saturating_sub(next));
    Duration::from_nanos(unsure().saturating_sub(before)) + late
}

/// The watchdog found that so much more isn't sure, and will look again after `pause`.
#[cfg(feature = "tokio")]
pub(crate) fn looked(unsure: Duration, pause: Duration) {
    UNSURE.fetch_add(unsure.as_nanos() as u64, Relaxed);
    // Where the rate isn't known yet: no counter is faster than this.
    let passes = BASE.get().and_then(|base| base.ticks_in(pause)).unwrap_or(pause.as_nanos() * 10);
    NEXT.store(ticks().saturating_add(u64::try_from(passes).unwrap_or(u64::MAX)), Release);
}

/// The span of so many ticks.
pub(crate) fn span(ticks_passed: u64) -> Duration {
    let Some(base) = BASE.get() else { return Duration::ZERO };
    let (ticks, clock) = (ticks().saturating_sub(base.ticks).max(1), base.instant.elapsed());
    Duration::from_nanos((u128::from(ticks_passed) * clock.as_nanos() / u128::from(ticks)) as u64)
}

/// Whether a poll of so many ticks is surely under the limit: one load and a comparison.
#[inline(always)]
pub(crate) fn quick(ticks_passed: u64) -> bool {
    ticks_passed < QUICK.load(Relaxed)
}

/// Works out [`quick`] for a limit. Again once the rate is known better.
pub(crate) fn limit_changed(limit: Duration) {
    if let Some(base) = BASE.get() {
        base.limit(limit);
    }
}

impl Base {
    /// So many ticks pass in this time; nothing while the rate isn't known yet.
    fn ticks_in(&self, time: Duration) -> Option<u128> {
        let (ticks, clock) = (ticks().saturating_sub(self.ticks), self.instant.elapsed());
        (clock >= Duration::from_millis(5)).then(|| time.as_nanos() * u128::from(ticks) / clock.as_nanos())
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
