//! SIGQUIT tells what goes on, as a JVM does: the tasks and what each thread is blocked in, also with every worker stuck; and the
//! program goes on.
//!
//! Only while async debug is on, and only where nobody handles SIGQUIT: another handler is never replaced, nor is "ignored". The
//! handler only wakes the reporter's thread.

use std::mem::MaybeUninit;
use std::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{AcqRel, Acquire, Release},
};

use super::{reporter, tokio as runtime};
use crate::report::sink;

/// Somebody asked.
static ASKED: AtomicBool = AtomicBool::new(false);
/// The process that installed the handler, 0: none did.
static OF: AtomicU32 = AtomicU32::new(0);

extern "C" fn handler(signal: libc::c_int) {
    crate::sys::keep_errno(|| {
        // A fork's child has no reporter: it ends, as it would have without us.
        if OF.load(Acquire) == crate::sys::process_id() {
            ASKED.store(true, Release);
            reporter::poke();
            return;
        }
        // SAFETY: both may be called in a handler; the signal comes as soon as this returns.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    });
}

/// What handles the signal now.
fn present() -> usize {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a valid buffer of the right type, zeroed; asks only.
    unsafe {
        libc::sigaction(libc::SIGQUIT, std::ptr::null(), now.as_mut_ptr());
        now.assume_init().sa_sigaction
    }
}

fn ours() -> usize {
    handler as *const () as usize
}

/// Async debug is on. Ordinary code.
pub(super) fn switched_on() {
    let me = crate::sys::process_id();
    let before = OF.load(Acquire);
    let free = present() == libc::SIG_DFL || before != 0 && before != me && present() == ours();
    if before == me && present() == ours() || !free {
        return;
    }
    reporter::stand_by();
    OF.store(me, Release);
    // SAFETY: a zeroed `sigaction` with a handler that only does what handlers may.
    unsafe {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        action.sa_sigaction = ours();
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(libc::SIGQUIT, &action, std::ptr::null_mut());
    }
}

/// Async debug is off: the signal does what it did.
pub(super) fn switched_off() {
    if OF.swap(0, AcqRel) != 0 && present() == ours() {
        // SAFETY: back to what it was when our handler came.
        unsafe { libc::signal(libc::SIGQUIT, libc::SIG_DFL) };
    }
}

/// Tells what goes on, if somebody asked. On the reporter's thread.
pub(super) fn answer() {
    if ASKED.swap(false, AcqRel) {
        sink::send(runtime::situation("tasks", "what goes on now, since SIGQUIT came").as_bytes());
    }
}

/// Whether somebody asked and isn't answered.
pub(super) fn is_asked() -> bool {
    ASKED.load(Acquire)
}
