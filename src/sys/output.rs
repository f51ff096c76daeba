//! Bytes to a file descriptor, without ever waiting for ever. Unix. No heap, no lock.

use core::mem::MaybeUninit;
use core::ptr;

use super::{keep_errno, take_sigpipe};

/// What a pipe takes at once and undivided, and has room for when `poll` says that it has.
const PIPE_BUF: usize = 4096;

/// How long a full pipe is waited for.
const PATIENCE_MS: libc::c_int = 5000;

/// Writes all of `bytes`: in one `write` to a file, and to anything else up to 4096 bytes at once. Gives up on any
/// error but EINTR (a closed standard error is nothing that we could tell anybody about) and on a reader that takes
/// nothing for five seconds. A broken pipe raises no SIGPIPE. `errno` is put back.
pub(crate) fn write_all(fd: libc::c_int, bytes: &[u8]) {
    keep_errno(|| write(fd, bytes, PATIENCE_MS));
}

fn write(fd: libc::c_int, bytes: &[u8], patience_ms: libc::c_int) {
    let pipe_signal = hold_sigpipe();
    let mut rest = bytes;
    let once = if is_file(fd) { usize::MAX } else { PIPE_BUF };
    while fd >= 0 && !rest.is_empty() && takes_more(fd, patience_ms) {
        // SAFETY: the pointer and length are those of a live slice (the length no more than its own), which `write`
        // only reads.
        let written = unsafe { libc::write(fd, rest.as_ptr().cast(), rest.len().min(once)) };
        match usize::try_from(written) {
            Ok(0) => break,
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(_) if matches!(errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(_) => break,
        }
    }
    release_sigpipe(pipe_signal);
}

/// Waits until `fd` has room, or for what else is true of it; false when it had none for too long.
fn takes_more(fd: libc::c_int, patience_ms: libc::c_int) -> bool {
    loop {
        let mut wait = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
        // SAFETY: one live `pollfd`, as the count says.
        match unsafe { libc::poll(&mut wait, 1, patience_ms) } {
            0 => return false,
            // An interrupted wait begins again: a program that gets a signal every five seconds waits longer.
            -1 if errno() == libc::EINTR => {}
            _ => return true,
        }
    }
}

fn is_file(fd: libc::c_int) -> bool {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `fstat` fills the structure that we own, and it is read only where the call says that it did.
    unsafe {
        libc::fstat(fd, stat.as_mut_ptr()) == 0 && stat.assume_init().st_mode & libc::S_IFMT == libc::S_IFREG
    }
}

/// A signal set with SIGPIPE alone.
fn sigpipe() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `sigemptyset` initialises the set that we own, `sigaddset` adds a signal that exists.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
        set.assume_init()
    }
}

/// Blocks SIGPIPE on this thread. The mask before; none if SIGPIPE was pending already, and then stays so.
fn hold_sigpipe() -> Option<libc::sigset_t> {
    let mut pending = MaybeUninit::<libc::sigset_t>::zeroed();
    let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: both sets are ours, zeroed (a valid empty set) and only filled by the calls.
    unsafe {
        libc::sigpending(pending.as_mut_ptr());
        if libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1 {
            return None;
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &sigpipe(), before.as_mut_ptr());
        Some(before.assume_init())
    }
}

/// Takes away a SIGPIPE of ours and puts the mask back.
fn release_sigpipe(before: Option<libc::sigset_t>) {
    let Some(before) = before else { return };
    // SAFETY: live sets. The signal is blocked by `hold_sigpipe`, so what is pending is taken and nothing is delivered.
    unsafe {
        take_sigpipe(&sigpipe());
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
    }
}

/// This thread's `errno`.
pub(crate) fn errno() -> libc::c_int {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn more_than_a_pipe_holds_arrives_whole_where_somebody_reads() {
        let (mut from, to) = std::io::pipe().unwrap();
        let sent: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            from.read_to_end(&mut got).unwrap();
            got
        });
        write_all(to.as_raw_fd(), &sent);
        drop(to);
        assert!(reader.join().unwrap() == sent);
    }

    #[test]
    fn a_pipe_without_a_reader_and_a_closed_descriptor_are_given_up() {
        let (from, to) = std::io::pipe().unwrap();
        drop(from);
        write_all(to.as_raw_fd(), b"nobody reads");
        write_all(-1, b"nowhere");
    }

    #[test]
    fn a_full_pipe_is_given_up_after_a_while() {
        let (_from, to) = std::io::pipe().unwrap();
        write(to.as_raw_fd(), &[1; 100_000], 20); // a pipe holds 64 KiB
    }
}
