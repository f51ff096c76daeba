//! Runs a function in a copy of this process and hands back what it writes, or nothing if it fails or takes too long.
//!
//! A raw `clone` without handlers: the child keeps the thread id that the C library knows, so a loader lock held by this
//! thread recurses; it has memory of its own, and signals as they are by default. No heap and no lock on this side.

use core::ffi::c_int;

use super::arena::arena_alloc;
use crate::mode::{self, NAMING};
use crate::sys;

const MOST: usize = 256 << 10;

/// What the child wrote, whole. `work` runs in the child; it may use the heap (an arena there), and may crash.
pub(crate) fn ask(limit_ms: i32, work: &mut dyn FnMut(&mut dyn FnMut(&[u8]))) -> Option<&'static [u8]> {
    let mut ends = [0 as c_int; 2];
    let buffer = sys::map(MOST)?;
    // SAFETY: plain system calls. The raw clone copies this process; in the child only this thread runs, on its copy of
    // this stack, and it ends by `_exit` below.
    let child = unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
            return None;
        }
        libc::syscall(libc::SYS_clone, 0usize, 0usize, 0usize, 0usize, 0usize) as libc::pid_t
    };
    if child == 0 {
        in_child(ends[1], work);
    }
    // SAFETY: our own descriptors.
    unsafe { libc::close(ends[1]) };
    let read = if child > 0 { collect(ends[0], buffer.as_ptr(), limit_ms) } else { None };
    // SAFETY: our own descriptor, our own child; `__WALL` since it ends without a signal.
    unsafe {
        libc::close(ends[0]);
        if child > 0 {
            libc::kill(child, libc::SIGKILL);
            let mut status = 0;
            while libc::waitpid(child, &mut status, libc::__WALL) < 0
                && *libc::__errno_location() == libc::EINTR
            {}
        }
    }
    let n = read?;
    // SAFETY: the mapping has MOST bytes, of which `n` were read.
    Some(unsafe { core::slice::from_raw_parts(buffer.as_ptr(), n) })
}

fn in_child(out: c_int, work: &mut dyn FnMut(&mut dyn FnMut(&[u8]))) -> ! {
    mode::set(NAMING);
    let _ = arena_alloc(core::alloc::Layout::new::<u64>());
    // SAFETY: system calls in a process of one thread that ends here.
    unsafe {
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGTRAP]
        {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &none);
    }
    work(&mut |bytes| super::raw::write_all(out, bytes));
    // The mark of a whole answer.
    super::raw::write_all(out, b"\0");
    // SAFETY: ends the child without running anything of the program's.
    unsafe { libc::_exit(0) }
}

/// Reads until the mark; how many bytes stand before it.
fn collect(from: c_int, buffer: *mut u8, limit_ms: i32) -> Option<usize> {
    let begin = now_ms();
    let mut n = 0usize;
    loop {
        let left = i64::from(limit_ms).saturating_sub(now_ms().saturating_sub(begin));
        if left <= 0 || n >= MOST {
            return None;
        }
        let mut wait = libc::pollfd { fd: from, events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor of our own, and a buffer with MOST - n bytes left.
        let got = unsafe {
            if libc::poll(&mut wait, 1, left as c_int) <= 0 {
                continue;
            }
            libc::read(from, buffer.add(n).cast(), MOST.wrapping_sub(n))
        };
        match usize::try_from(got) {
            Ok(0) => return None, // ended without the mark
            Ok(got) => n = n.wrapping_add(got),
            Err(_) => continue,
        }
        // SAFETY: `n >= 1` bytes were read.
        if unsafe { buffer.add(n.wrapping_sub(1)).read() } == 0 {
            return Some(n.wrapping_sub(1));
        }
    }
}

fn now_ms() -> i64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place for the time.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut t) };
    t.tv_sec.saturating_mul(1000).saturating_add(t.tv_nsec / 1_000_000)
}
