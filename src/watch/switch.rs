//! What is on: async debug, its limit, and whether the watchdog may touch tokio's budget.

use std::sync::atomic::{
    AtomicU8, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use std::time::Duration;

use super::heap;

const UNREAD: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;

static DEBUG: AtomicU8 = AtomicU8::new(UNREAD);
/// Nanoseconds that a poll may take.
static LIMIT: AtomicU64 = AtomicU64::new(100_000_000);

/// Whether async debug is on: one relaxed load.
#[inline(always)]
pub(crate) fn on() -> bool {
    match DEBUG.load(Relaxed) {
        ON => true,
        OFF => false,
        _ => read(),
    }
}

#[cold]
#[inline(never)]
fn read() -> bool {
    let settings = heap::settings();
    let on = settings.debug == Some(true);
    LIMIT.store(nanos(settings.slow), Relaxed);
    if DEBUG.compare_exchange(UNREAD, if on { ON } else { OFF }, AcqRel, Acquire).is_ok() {
        changed(on);
    }
    DEBUG.load(Relaxed) == ON
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

fn changed(on: bool) {
    heap::count_threads(on);
    super::tasks::memory::switched(on);
    if on {
        #[cfg(feature = "tokio")]
        super::tokio::switched_on();
    } else {
        super::unpolled::switched_off();
        #[cfg(feature = "tokio")]
        super::quit::switched_off();
    }
}

/// Switches the async diagnostics on or off, as asyncio's debug mode: slow callbacks and resource warnings. The debug heap
/// and tracing have switches of their own. Objects made while it was off stay silent.
///
/// ```
/// birthmark::set_debug(true);
/// # birthmark::set_debug(false);
/// ```
#[doc(alias = "PYTHONASYNCIODEBUG")]
pub fn set_debug(on: bool) {
    self::on(); // the variable's limit first
    if DEBUG.swap(if on { ON } else { OFF }, AcqRel) != if on { ON } else { OFF } {
        changed(on);
    }
}

/// Sets how long a poll may take before it is told as a `slow-callback`: 100 ms unless `BIRTHMARK_ASYNC_DEBUG=1,slow=..` or this
/// says otherwise. Zero tells every poll of a wrapped future, as asyncio does, and under `--cfg tokio_unstable` of every task whose
/// hooks were claimed; polls of other tasks are sampled.
///
/// ```
/// birthmark::set_slow_callback_duration(std::time::Duration::from_millis(50));
/// ```
#[doc(alias = "slow_callback_duration")]
#[doc(alias = "slow_poll")]
pub fn set_slow_callback_duration(limit: Duration) {
    on();
    LIMIT.store(nanos(limit), Release);
    super::clock::limit_changed(limit);
}

/// How long a poll may take.
pub(crate) fn limit() -> Duration {
    Duration::from_nanos(LIMIT.load(Acquire))
}

/// Async debug as `run(true, ..)` wants it, until this is dropped. `BIRTHMARK_ASYNC_DEBUG=0` wins.
#[cfg(feature = "tokio")]
pub(crate) struct During(bool);

#[cfg(feature = "tokio")]
impl During {
    pub(crate) fn asked(debug: bool) -> Self {
        let turn = debug && !on() && heap::settings().debug != Some(false);
        if turn {
            set_debug(true);
        }
        Self(turn)
    }
}

#[cfg(feature = "tokio")]
impl Drop for During {
    fn drop(&mut self) {
        if self.0 {
            set_debug(false);
        }
    }
}
