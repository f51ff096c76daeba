//! Runs a function in a copy of this process and hands back what it writes, or nothing if it fails or takes too long.
//!
//! A `clone` without `fork`'s handlers: the child keeps the thread id that the C library knows, so a loader lock held by
//! this thread recurses. It has memory and a stack of its own, no descriptor of the program's, and default signals. It
//! ends without a signal to us, so no SIGCHLD handler of the program's runs, and no `wait` of the program's takes it
//! away. No heap and no lock on this side.

use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr;

use super::arena::arena_alloc;
use crate::mode::{self, NAMING};
use crate::sys::{self, errno, now_ms, write_all};

/// The most that a child may write.
pub(super) const MOST: usize = 256 << 10;
/// The child's stack, mapped as touched.
const STACK: usize = 8 << 20;

/// What runs in the child: it writes its answer through the function that it is given. It may use the heap (an arena
/// there), and may crash.
pub(crate) type Work<'a> = dyn FnMut(&mut dyn FnMut(&[u8])) + 'a;

/// Calls `with` with what the child wrote, if it wrote all of it within `limit_ms` milliseconds. Whether it did.
pub(crate) fn ask(limit_ms: i64, work: &mut Work<'_>, with: &mut dyn FnMut(&[u8])) -> bool {
    let Some(buffer) = sys::map(MOST) else { return false };
    let length = answer(limit_ms, work, buffer.as_ptr());
    if let Some(length) = length {
        // SAFETY: the mapping has MOST bytes, of which the first `length` were read; nobody else knows of it.
        with(unsafe { core::slice::from_raw_parts(buffer.as_ptr(), length) });
    }
    // SAFETY: mapped above with this length, and no reference into it is left.
    unsafe { sys::unmap(buffer, MOST) };
    length.is_some()
}

fn answer(limit_ms: i64, work: &mut Work<'_>, buffer: *mut u8) -> Option<usize> {
    let mut ends = [0 as c_int; 2];
    // SAFETY: room for both descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return None;
    }
    let [from, to] = ends;
    let child = start(&mut Task { work, to });
    // SAFETY: our own descriptors; `from` is read only when it has something.
    unsafe {
        libc::close(to);
        libc::fcntl(from, libc::F_SETFL, libc::O_NONBLOCK);
    }
    let read = if child > 0 { collect(child, from, buffer, limit_ms) } else { None };
    // SAFETY: our own descriptor.
    unsafe { libc::close(from) };
    read
}

struct Task<'a, 'b> {
    work: &'a mut Work<'b>,
    to: c_int,
}

/// Begins the child with every signal blocked, so that no handler of the program's runs in it. Its id; negative where
/// there can be none.
fn start(task: &mut Task<'_, '_>) -> libc::pid_t {
    let Some(stack) = sys::map(STACK) else { return -1 };
    let mut all = MaybeUninit::<libc::sigset_t>::zeroed();
    let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: both sets are ours and filled by the calls. The clone shares nothing but file offsets: the child runs
    // `in_child` on its own copy of the new stack, with a pointer to its own copy of `task`, and never returns from it.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        let top = stack.as_ptr().add(STACK).cast::<c_void>();
        let child = libc::clone(in_child, top, 0, ptr::from_mut(task).cast());
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
        // The child has a copy of its own.
        sys::unmap(stack, STACK);
        child
    }
}

extern "C" fn in_child(task: *mut c_void) -> c_int {
    mode::set(NAMING);
    let _ = arena_alloc(core::alloc::Layout::new::<u64>());
    // SAFETY: `start` passed its task, of which this process has a copy with the same address; nobody else is here.
    let task = unsafe { &mut *task.cast::<Task<'_, '_>>() };
    // SAFETY: system calls in a process of one thread. A fault is the end of it: the signals are blocked, and those that
    // `abort` would let through have no handler. No core, and no longer than our parent.
    unsafe {
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGTRAP]
        {
            libc::signal(signal, libc::SIG_DFL);
        }
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &none);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
    let to = leave_descriptors(task.to);
    (task.work)(&mut |bytes| write_all(to, bytes));
    // The mark of a whole answer.
    write_all(to, b"\0");
    // SAFETY: ends the child without running anything of the program's.
    unsafe { libc::_exit(0) }
}

/// Closes what the program has open, so that nobody waits for us, and no message of a failure in here is printed. The
/// pipe's descriptor from now on.
fn leave_descriptors(to: c_int) -> c_int {
    const OURS: c_int = 3;
    // SAFETY: descriptors of this process alone.
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        // The pipe may lie at 0 to 2 where the program had closed them: first out of the way.
        let pipe = libc::fcntl(to, libc::F_DUPFD_CLOEXEC, 10);
        for standard in 0..OURS {
            if null < 0 || libc::dup2(null, standard) < 0 {
                libc::close(standard);
            }
        }
        if libc::dup2(pipe, OURS) < 0 {
            return pipe;
        }
        // Linux 5.9; before that they stay open until we end.
        libc::syscall(libc::SYS_close_range, OURS + 1, u32::MAX, 0);
        OURS
    }
}

/// Reads until the mark; how many bytes stand before it. The child is gone afterwards in any case.
fn collect(child: libc::pid_t, from: c_int, buffer: *mut u8, limit_ms: i64) -> Option<usize> {
    let begin = now_ms();
    let mut n = 0usize;
    let mut reaped = false;
    let whole = loop {
        let left = limit_ms.saturating_sub(now_ms().saturating_sub(begin));
        let mut wait = libc::pollfd { fd: from, events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor of our own.
        unsafe { libc::poll(&mut wait, 1, left.clamp(0, 50) as c_int) };
        // SAFETY: the buffer has MOST - n bytes left from n on. The descriptor doesn't block.
        let got = unsafe { libc::read(from, buffer.add(n).cast(), MOST.wrapping_sub(n)) };
        match usize::try_from(got) {
            Ok(0) => break false, // ended without the mark, or more than there is room for
            Ok(got) => {
                n = n.wrapping_add(got);
                // SAFETY: at least one byte was read.
                if unsafe { buffer.add(n.wrapping_sub(1)).read() } == 0 {
                    break true;
                }
            }
            // Somebody else may have inherited the pipe, so its end needn't show: the child's does.
            Err(_) if reaped || left <= 0 => break false,
            Err(_) => reaped = wait_for(child, libc::WNOHANG),
        }
    };
    if !reaped {
        // SAFETY: our own child, which nobody has waited for yet.
        unsafe { libc::kill(child, libc::SIGKILL) };
        wait_for(child, 0);
    }
    whole.then_some(n.wrapping_sub(1))
}

/// Waits for the child; `__WALL`, since it ends without a signal. Whether it is gone.
fn wait_for(child: libc::pid_t, options: c_int) -> bool {
    loop {
        // SAFETY: the status isn't asked for.
        let waited = unsafe { libc::waitpid(child, ptr::null_mut(), libc::__WALL | options) };
        if waited >= 0 || errno() != libc::EINTR {
            return waited != 0;
        }
    }
}
