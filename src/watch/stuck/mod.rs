//! The stack of another thread that is stuck: first without a signal, else by one whose handler only copies.

use std::time::Duration;

#[cfg(native)]
mod call;
#[cfg(native)]
mod modules;
#[cfg(native)]
mod signal;
#[cfg(native)]
mod walk;

/// What was seen of a stuck thread.
#[derive(Clone, Debug)]
pub(crate) struct Stuck {
    /// Return addresses, most recent first; the first is one past the instruction that runs.
    pub stack: Vec<usize>,
    /// The words of its stack, from the stack pointer up.
    pub words: Vec<usize>,
    /// Whether the stack reaches the thread's entry.
    pub complete: bool,
    /// The number of the system call that it sits in, if it does.
    pub call: Option<i64>,
    /// The id of the task that it polled at this moment, where it told so itself.
    pub polls: Option<u64>,
}

impl Stuck {
    /// The stack as reports show it: some instructions belong to no line, those of a loop's end for one, and a thread that computes
    /// is found at them, too. Looks names up.
    pub(crate) fn shown(&self) -> Vec<usize> {
        let mut stack = self.stack.clone();
        if let (Some(first), None) = (stack.first_mut(), self.call) {
            *first = super::heap::nearest_line(*first);
        }
        stack
    }

    /// `in futex`, the system call that it sits in; else `computing`.
    pub(crate) fn doing(&self) -> String {
        match self.call {
            Some(call) => format!("in {}", call_name(call)),
            None => "computing".into(),
        }
    }
}

/// Registers at the top of a stack.
#[cfg(native)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    pub pc: u64,
    pub sp: u64,
    /// 1 where it isn't known.
    pub fp: u64,
    #[cfg(target_arch = "aarch64")]
    pub lr: u64,
}

/// Looks at threads. One for each watching thread: it keeps the unwinder's cache.
#[cfg(native)]
pub(crate) struct Looker {
    walker: walk::Walker,
}

#[cfg(native)]
impl Looker {
    pub(crate) fn new() -> Self {
        signal::install();
        Self { walker: walk::Walker::new() }
    }

    /// The stack of thread `tid`, which must not be the caller. `until`: how long to wait for an answer to the signal.
    pub(crate) fn look(&mut self, tid: i32, until: Duration) -> Option<Stuck> {
        let seen = call::registers(tid);
        let call = seen.and_then(|(call, _)| call);
        if let Some((_, registers)) = seen {
            let words = call::stack(registers.sp as usize);
            let (stack, complete) = self.walker.walk(registers, &words);
            // Still where it was? Else the words may be of another moment.
            let same =
                call::registers(tid).is_some_and(|(_, now)| (now.pc, now.sp) == (registers.pc, registers.sp));
            if complete && same {
                return Some(Stuck { stack, words, complete, call, polls: None });
            }
        }
        let (registers, words, polls) = signal::ask(tid, until)?;
        let (stack, complete) = self.walker.walk(registers, &words);
        Some(Stuck { stack, words, complete, call, polls: Some(polls) })
    }
}

/// Elsewhere stacks of other threads can't be had.
#[cfg(not(native))]
pub(crate) struct Looker;

#[cfg(not(native))]
impl Looker {
    pub(crate) fn new() -> Self {
        Self
    }
    pub(crate) fn look(&mut self, _tid: i32, _until: Duration) -> Option<Stuck> {
        None
    }
}

/// Where a thread is.
#[cfg_attr(not(native), allow(dead_code))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Running,
    /// It has been interrupted, outside of any system call.
    Ready,
    /// In a wait for events, or for a notice.
    Waits,
    /// In another system call.
    Call,
}

/// Where thread `tid` is now; nothing where the kernel doesn't tell.
pub(crate) fn at(_tid: i32) -> Option<At> {
    #[cfg(native)]
    return call::at(_tid);
    #[cfg(not(native))]
    None
}

/// Whether threads that have nothing to do wait in this system call: for events, or for a notice.
pub(crate) fn is_wait(_call: i64) -> bool {
    #[cfg(native)]
    {
        let is = |waits: &[libc::c_long]| waits.contains(&_call);
        #[cfg(target_arch = "x86_64")]
        if is(&[libc::SYS_epoll_wait]) {
            return true;
        }
        is(&[libc::SYS_futex, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2])
    }
    #[cfg(not(native))]
    false
}

/// The name of a system call that threads get stuck in, else its number.
fn call_name(number: i64) -> String {
    #[cfg(native)]
    {
        let known = [
            (libc::SYS_read, "read"),
            (libc::SYS_write, "write"),
            (libc::SYS_pread64, "pread64"),
            (libc::SYS_pwrite64, "pwrite64"),
            (libc::SYS_readv, "readv"),
            (libc::SYS_writev, "writev"),
            (libc::SYS_futex, "futex"),
            (libc::SYS_clock_nanosleep, "clock_nanosleep"),
            (libc::SYS_nanosleep, "nanosleep"),
            (libc::SYS_ppoll, "ppoll"),
            (libc::SYS_pselect6, "pselect6"),
            (libc::SYS_wait4, "wait4"),
            (libc::SYS_waitid, "waitid"),
            (libc::SYS_fsync, "fsync"),
            (libc::SYS_fdatasync, "fdatasync"),
            (libc::SYS_openat, "openat"),
            (libc::SYS_flock, "flock"),
            (libc::SYS_connect, "connect"),
            (libc::SYS_accept4, "accept4"),
            (libc::SYS_recvfrom, "recvfrom"),
            (libc::SYS_recvmsg, "recvmsg"),
            (libc::SYS_sendto, "sendto"),
            (libc::SYS_sendmsg, "sendmsg"),
            (libc::SYS_epoll_pwait, "epoll_pwait"),
            (libc::SYS_clone, "clone"),
            (libc::SYS_clone3, "clone3"),
            (libc::SYS_execve, "execve"),
            (libc::SYS_close, "close"),
            (libc::SYS_ioctl, "ioctl"),
            (libc::SYS_fcntl, "fcntl"),
            (libc::SYS_getdents64, "getdents64"),
            (libc::SYS_statx, "statx"),
            (libc::SYS_newfstatat, "newfstatat"),
            (libc::SYS_ftruncate, "ftruncate"),
            (libc::SYS_fallocate, "fallocate"),
            (libc::SYS_unlinkat, "unlinkat"),
            (libc::SYS_renameat2, "renameat2"),
            (libc::SYS_mkdirat, "mkdirat"),
            (libc::SYS_linkat, "linkat"),
            (libc::SYS_mmap, "mmap"),
            (libc::SYS_munmap, "munmap"),
            (libc::SYS_mprotect, "mprotect"),
            (libc::SYS_madvise, "madvise"),
            (libc::SYS_msync, "msync"),
            (libc::SYS_sync, "sync"),
            (libc::SYS_syncfs, "syncfs"),
            (libc::SYS_sync_file_range, "sync_file_range"),
            (libc::SYS_sendfile, "sendfile"),
            (libc::SYS_splice, "splice"),
            (libc::SYS_copy_file_range, "copy_file_range"),
            (libc::SYS_preadv, "preadv"),
            (libc::SYS_pwritev, "pwritev"),
            (libc::SYS_accept, "accept"),
            (libc::SYS_shutdown, "shutdown"),
            (libc::SYS_sendmmsg, "sendmmsg"),
            (libc::SYS_recvmmsg, "recvmmsg"),
            (libc::SYS_io_uring_enter, "io_uring_enter"),
            (libc::SYS_semtimedop, "semtimedop"),
            (libc::SYS_msgrcv, "msgrcv"),
            (libc::SYS_rt_sigtimedwait, "rt_sigtimedwait"),
            (libc::SYS_getrandom, "getrandom"),
            #[cfg(target_arch = "x86_64")]
            (libc::SYS_vfork, "vfork"),
            #[cfg(target_arch = "x86_64")]
            (libc::SYS_unlink, "unlink"),
            #[cfg(target_arch = "x86_64")]
            (libc::SYS_rename, "rename"),
            #[cfg(target_arch = "x86_64")]
            (libc::SYS_poll, "poll"),
            #[cfg(target_arch = "x86_64")]
            (libc::SYS_select, "select"),
            #[cfg(target_arch = "x86_64")]
            (libc::SYS_epoll_wait, "epoll_wait"),
            #[cfg(target_arch = "x86_64")]
            (libc::SYS_open, "open"),
        ];
        if let Some((_, name)) = known.iter().find(|(n, _)| *n == number) {
            return (*name).into();
        }
    }
    format!("system call {number}")
}

#[cfg(all(test, native))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};
    use std::sync::{Arc, mpsc};

    fn functions(stuck: &Stuck) -> Vec<String> {
        super::super::heap::names(&stuck.stack).into_iter().filter_map(|n| n.function).collect()
    }

    #[test]
    fn a_thread_in_a_system_call_is_walked_to_its_entry() {
        let (send, waits) = mpsc::channel::<()>();
        let (tid_out, tid_in) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            tid_out.send(super::super::heap::thread_id()).unwrap();
            waiting_here(&waits);
        });
        let tid = tid_in.recv().unwrap();
        let mut looker = Looker::new();
        let found = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            looker.look(tid, Duration::from_secs(1)).is_some_and(|s| {
                s.complete && s.call.is_some() && functions(&s).iter().any(|f| f.contains("waiting_here"))
            })
        });
        drop(send);
        thread.join().unwrap();
        assert!(found);
    }

    #[inline(never)]
    fn waiting_here(waits: &mpsc::Receiver<()>) {
        let _ = waits.recv();
        std::hint::black_box(());
    }

    #[test]
    fn a_computing_thread_is_walked_by_the_signals_copy() {
        let stop = Arc::new(AtomicBool::new(false));
        let tid = Arc::new(AtomicI32::new(0));
        let thread = std::thread::spawn({
            let (stop, tid) = (Arc::clone(&stop), Arc::clone(&tid));
            move || {
                tid.store(super::super::heap::thread_id(), SeqCst);
                computing_here(&stop)
            }
        });
        while tid.load(SeqCst) == 0 {
            std::thread::yield_now();
        }
        let mut looker = Looker::new();
        let found = (0..200).any(|_| {
            looker
                .look(tid.load(SeqCst), Duration::from_secs(1))
                .is_some_and(|s| s.complete && functions(&s).iter().any(|f| f.contains("computing_here")))
        });
        stop.store(true, SeqCst);
        thread.join().unwrap();
        assert!(found);
    }

    #[inline(never)]
    fn computing_here(stop: &AtomicBool) -> u64 {
        let mut n = 0u64;
        while !stop.load(SeqCst) {
            n = std::hint::black_box(n.wrapping_mul(31).wrapping_add(7));
        }
        n
    }
}
