//! A sleep that ends when something has come for a runtime that waits: what that begins is looked at soon.
//!
//! The kernel tells on which descriptor a thread waits for events, and that one can be waited on itself. It says that there is
//! something, and takes nothing away. One that was closed meanwhile, or is another file's by now, ends a sleep early, to no harm.

use std::time::{Duration, Instant};

/// More runtimes than these aren't waited on.
const MOST: usize = 8;
/// So often at most, so that a program that is never left in peace for long doesn't wake the watchdog each time.
const AGAIN: Duration = Duration::from_secs(1);

/// Sleeps that may end early.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// Since one did.
    since: Option<Instant>,
}

impl Events {
    /// Sleeps for so long, or until one of the descriptors has something; whether one has.
    pub(super) fn sleep(&mut self, time: Duration, descriptors: impl Iterator<Item = i32>) -> bool {
        let is_due = self.since.is_none_or(|since| since.elapsed() >= AGAIN);
        let came = wait(time, descriptors.filter(|_| is_due));
        if came {
            self.since = Some(Instant::now());
        }
        came
    }
}

#[cfg(native)]
fn wait(time: Duration, descriptors: impl Iterator<Item = i32>) -> bool {
    let begun = Instant::now();
    let mut polled = [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; MOST];
    let mut n = 0;
    for (polled, descriptor) in polled.iter_mut().zip(descriptors) {
        polled.fd = descriptor;
        n += 1;
    }
    if n != 0 {
        let timeout = libc::timespec {
            tv_sec: time.as_secs() as libc::time_t,
            tv_nsec: time.subsec_nanos() as libc::c_long,
        };
        // SAFETY: `n` initialised entries, and a time-out that lives as long as the call.
        unsafe { libc::ppoll(polled.as_mut_ptr(), n, &timeout, std::ptr::null()) };
        if polled.iter().any(|polled| polled.revents & libc::POLLIN != 0) {
            return true;
        }
    }
    // Refused, closed or interrupted: the rest of it.
    std::thread::sleep(time.saturating_sub(begun.elapsed()));
    false
}

/// Elsewhere nothing tells what a thread waits on.
#[cfg(not(native))]
fn wait(time: Duration, _descriptors: impl Iterator<Item = i32>) -> bool {
    std::thread::sleep(time);
    false
}

#[cfg(all(test, native))]
mod tests {
    use super::super::super::heap;
    use super::super::waits::{Found, Waits};
    use super::*;
    use std::sync::mpsc;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_sleep_ends_when_something_comes_for_a_thread_that_waits_and_then_not_again_at_once() {
        // As a runtime does: its driver waits for the events of a descriptor, to which another thread's notice belongs.
        // SAFETY: plain system calls with valid arguments.
        let (events, notice) =
            unsafe { (libc::epoll_create1(libc::EPOLL_CLOEXEC), libc::eventfd(0, libc::EFD_CLOEXEC)) };
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        // SAFETY: two descriptors that are open, and a live event.
        assert_eq!(unsafe { libc::epoll_ctl(events, libc::EPOLL_CTL_ADD, notice, &mut event) }, 0);
        let (tid_out, tid_in) = mpsc::channel();
        let driver = std::thread::spawn(move || {
            tid_out.send(heap::thread_id()).unwrap();
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            // SAFETY: room for one event.
            assert_eq!(unsafe { libc::epoll_wait(events, &mut event, 1, -1) }, 1);
        });
        let tid = tid_in.recv().unwrap();
        let mut waits = Waits::default();
        let found = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            (waits.read(tid) == Found::Unknown && waits.ask(tid)) && waits.descriptor().is_some()
        });
        assert!(found && waits.descriptor() == Some(events));
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(waits.read(tid), Found::Waits);

        let mut sleeps = Events::default();
        assert!(!sleeps.sleep(Duration::from_millis(20), waits.descriptor().into_iter()), "nothing came");
        let write = move || {
            // SAFETY: eight bytes, as this kind of descriptor takes them.
            assert_eq!(unsafe { libc::write(notice, 1u64.to_ne_bytes().as_ptr().cast(), 8) }, 8);
        };
        let begun = Instant::now();
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            write();
        });
        assert!(sleeps.sleep(LONG, waits.descriptor().into_iter()));
        assert!(begun.elapsed() < LONG);
        writer.join().unwrap();
        driver.join().unwrap();
        assert!(!sleeps.sleep(Duration::from_millis(20), waits.descriptor().into_iter()), "it is too soon");
        // SAFETY: both are ours.
        unsafe { (libc::close(events), libc::close(notice)) };
        assert!(!wait(Duration::from_millis(20), [events].into_iter()), "it is closed");
    }
}
