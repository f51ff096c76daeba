//! The watchdog's sleep, which tells where the process was stopped in it: what passed meanwhile is no poll's.
//!
//! A plain sleep goes on after a stop as if nothing had been. A wait for signals of which there are none doesn't: the kernel ends it
//! when the process continues, or is thawed.

use std::time::Duration;

/// Sleeps for so long, or until the process was stopped and goes on: whether it was.
#[cfg(native)]
pub(super) fn nap(time: Duration) -> bool {
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos() as libc::c_long,
    };
    // SAFETY: a set that the first call makes, and a time-out, which live as long as the second.
    let (result, error) = unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        let result = libc::sigtimedwait(&none, std::ptr::null_mut(), &timeout);
        (result, *libc::__errno_location())
    };
    match (result, error) {
        (-1, libc::EINTR) => true,
        (-1, libc::EAGAIN) => false,
        _ => {
            std::thread::sleep(time); // the call is forbidden here
            false
        }
    }
}

/// Elsewhere nothing tells.
#[cfg(not(native))]
pub(super) fn nap(time: Duration) -> bool {
    std::thread::sleep(time);
    false
}

#[cfg(all(test, native))]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_nap_lasts_as_long_as_asked_where_nothing_stops_the_process() {
        let time = Duration::from_millis(30);
        let begun = Instant::now();
        let was_stopped = nap(time);
        assert!(was_stopped || begun.elapsed() >= time, "{:?}", begun.elapsed());
        assert!(!nap(Duration::ZERO));
    }
}
