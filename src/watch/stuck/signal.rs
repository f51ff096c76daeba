//! A thread that runs: SIGURG makes it copy its registers and its stack, and nothing else.
//!
//! SIGURG is ignored unless a program asks for it; with `SA_RESTART` a system call that can be goes on, `nanosleep` and futex
//! waits are taken up again by std. A handler of the program's is called for every signal that we didn't send.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::Once;
use std::sync::atomic::{
    AtomicI32, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use std::time::{Duration, Instant};

use super::{Registers, call};

const IDLE: u32 = 0;
const ASKED: u32 = 1;
const COPYING: u32 = 2;
const DONE: u32 = 3;

static STATE: AtomicU32 = AtomicU32::new(IDLE);
static WHOM: AtomicI32 = AtomicI32::new(0);
static INSTALLED: Once = Once::new();
/// The handler that was there before, and whether it takes three arguments.
static BEFORE: AtomicUsize = AtomicUsize::new(0);
static BEFORE_TAKES_THREE: AtomicU32 = AtomicU32::new(0);

const WORDS: usize = call::COPY / 8;

struct Copy {
    registers: UnsafeCell<Registers>,
    words: UnsafeCell<[usize; WORDS]>,
    n: AtomicUsize,
    polls: AtomicU64,
}

// SAFETY: written by the one handler that moved STATE to COPYING, read by the asker once it is DONE.
unsafe impl Sync for Copy {}

static COPY: Copy = Copy {
    registers: UnsafeCell::new(Registers {
        pc: 0,
        sp: 0,
        fp: 0,
        #[cfg(target_arch = "aarch64")]
        lr: 0,
    }),
    words: UnsafeCell::new([0; WORDS]),
    n: AtomicUsize::new(0),
    polls: AtomicU64::new(0),
};

unsafe extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    crate::sys::keep_errno(|| {
        if STATE.load(Acquire) != ASKED
            || WHOM.load(Relaxed) != crate::sys::thread_id()
            || STATE.compare_exchange(ASKED, COPYING, AcqRel, Acquire).is_err()
        {
            pass_on(signal, info, context);
            return;
        }
        // SAFETY: the kernel passes the interrupted thread's context to an SA_SIGINFO handler.
        let machine = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext };
        #[cfg(target_arch = "x86_64")]
        let registers = {
            let of = |r: i32| machine.gregs[r as usize] as u64;
            Registers { pc: of(libc::REG_RIP), sp: of(libc::REG_RSP), fp: of(libc::REG_RBP) }
        };
        #[cfg(target_arch = "aarch64")]
        let registers =
            Registers { pc: machine.pc, sp: machine.sp, fp: machine.regs[29], lr: machine.regs[30] };
        // SAFETY: STATE is COPYING by our own exchange, so nobody else touches the copy.
        unsafe {
            COPY.registers.get().write(registers);
            COPY.n.store(call::copy(registers.sp as usize, &mut *COPY.words.get()), Relaxed);
        }
        COPY.polls.store(super::super::tokio::words::own_id(), Relaxed);
        STATE.store(DONE, Release);
    });
}

fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let before = BEFORE.load(Acquire);
    if before == libc::SIG_DFL || before == libc::SIG_IGN {
        return;
    }
    // SAFETY: the address was a handler of this kind when ours replaced it.
    unsafe {
        if BEFORE_TAKES_THREE.load(Relaxed) != 0 {
            let f: unsafe extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                std::mem::transmute(before);
            f(signal, info, context);
        } else {
            let f: unsafe extern "C" fn(i32) = std::mem::transmute(before);
            f(signal);
        }
    }
}

/// Installs the handler, once a process.
pub(super) fn install() {
    INSTALLED.call_once(|| {
        // SAFETY: a zeroed `sigaction` with a handler of the SA_SIGINFO kind; the old one is kept for `pass_on`.
        unsafe {
            let mut ours = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
            let mut before = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
            libc::sigaction(libc::SIGURG, std::ptr::null(), &mut before);
            BEFORE_TAKES_THREE.store(u32::from(before.sa_flags & libc::SA_SIGINFO != 0), Relaxed);
            BEFORE.store(before.sa_sigaction, Release);
            ours.sa_sigaction = handler as *const () as usize;
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
            libc::sigemptyset(&mut ours.sa_mask);
            libc::sigaction(libc::SIGURG, &ours, std::ptr::null_mut());
        }
    });
}

/// Asks thread `tid` for its registers, the words of its stack and the id of the task that it polls; nothing where it doesn't answer in time.
pub(super) fn ask(tid: i32, until: Duration) -> Option<(Registers, Vec<usize>, u64)> {
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE.try_lock().ok()?;
    STATE.store(IDLE, Release); // a fork may have left something else
    WHOM.store(tid, Relaxed);
    STATE.store(ASKED, Release);
    // SAFETY: a signal to a thread of this process; one that has ended is refused by the kernel.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, libc::SIGURG) } == 0;
    let end = Instant::now() + until;
    while sent && STATE.load(Acquire) != DONE && Instant::now() < end {
        std::thread::sleep(Duration::from_micros(50));
    }
    match STATE.compare_exchange(ASKED, IDLE, AcqRel, Acquire) {
        Ok(_) => return None,
        Err(COPYING) => {
            // The handler is at it; it ends by itself.
            while STATE.load(Acquire) == COPYING {
                std::thread::yield_now();
            }
        }
        Err(_) => {}
    }
    // SAFETY: STATE is DONE: the handler has written the copy and won't again before somebody asks, which is us alone.
    let copy = unsafe {
        let n = COPY.n.load(Acquire).min(WORDS);
        let words = (&*COPY.words.get()).get(..n).unwrap_or_default().to_vec();
        (COPY.registers.get().read(), words, COPY.polls.load(Relaxed))
    };
    STATE.store(IDLE, Release);
    Some(copy)
}
