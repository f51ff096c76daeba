//! Allocation where stacks are small, or not the thread's own: an 8 KiB signal stack, a 16 KiB thread, `stacker`, a
//! coroutine; and how much stack a capture takes. Right or shorter, never a crash, and what is left out is counted.

mod support;

use std::alloc::Layout;
use std::hint::black_box;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed};

use birthmark::tracemalloc;
use support::{assert_stack, captures_dropped, in_every_mode, in_every_tracing_mode, tracing};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

#[inline(never)]
fn makes(n: usize) -> Vec<u8> {
    black_box(vec![5u8; n])
}

/// Traced with a right stack, or left out and counted.
#[track_caller]
fn right_or_counted(block: &[u8], names: &[&str], dropped_before: u64) {
    if !tracing() {
        return;
    }
    match tracemalloc::traceback_of(block) {
        Some(_) => assert_stack(block.as_ptr(), &names[..1]),
        None => assert!(captures_dropped() > dropped_before, "neither traced nor counted as dropped"),
    }
}

fn on_signal_stack(size: usize, handler: extern "C" fn(i32), raise: impl FnOnce()) {
    // SAFETY: a fresh mapping serves as the stack; the handler has the right type and takes nothing that the
    // interrupted code, a plain call of `raise`, could hold.
    unsafe {
        let stack = libc::mmap(
            std::ptr::null_mut(),
            size + 4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(stack, libc::MAP_FAILED);
        assert_eq!(libc::mprotect(stack, 4096, libc::PROT_NONE), 0); // overrunning it is a crash
        let new = libc::stack_t { ss_sp: stack.byte_add(4096), ss_flags: 0, ss_size: size };
        let mut old = std::mem::zeroed();
        assert_eq!(libc::sigaltstack(&new, &mut old), 0);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_ONSTACK;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
        raise();
        assert_eq!(libc::sigaltstack(&old, std::ptr::null_mut()), 0);
        libc::munmap(stack, size + 4096);
    }
}

const LAYOUT: Layout = Layout::new::<[u64; 30]>();
static LAST: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());

/// Without the many frames of an unoptimised `vec!`, which alone would fill a small stack.
#[inline(never)]
fn makes_plainly() -> *mut u8 {
    // SAFETY: the size isn't zero.
    black_box(unsafe { std::alloc::alloc(LAYOUT) })
}

extern "C" fn allocates_in_a_handler(_: i32) {
    let mut n = 0;
    while n < 40 {
        // SAFETY: just made.
        unsafe { std::alloc::dealloc(makes_plainly(), LAYOUT) };
        n += 1;
    }
    LAST.store(makes_plainly(), Relaxed);
}

/// The block that the handler left.
fn last() -> &'static [u8] {
    // SAFETY: made with this layout, and never freed in these tests.
    unsafe { std::slice::from_raw_parts(LAST.swap(std::ptr::null_mut(), Relaxed), LAYOUT.size()) }
}

/// (Unoptimised hooks alone take several KiB, so there the stack is larger, but still too small for a walk.)
#[test]
fn a_handler_on_an_8_kib_signal_stack_allocates() {
    in_every_mode("a_handler_on_an_8_kib_signal_stack_allocates", || {
        for _ in 0..3 {
            let before = captures_dropped();
            // SAFETY: raises a signal that has a handler.
            on_signal_stack(
                if cfg!(debug_assertions) { 20 << 10 } else { 8 << 10 },
                allocates_in_a_handler,
                || unsafe {
                    libc::raise(libc::SIGUSR1);
                },
            );
            let block = last();
            right_or_counted(block, &["makes_plainly"], before);
        }
        // With room enough nothing is left out.
        // SAFETY: as above.
        on_signal_stack(64 << 10, allocates_in_a_handler, || unsafe {
            libc::raise(libc::SIGUSR1);
        });
        let block = last();
        if tracing() {
            assert_stack(block.as_ptr(), &["makes_plainly"]);
            if tracemalloc::traceback_limit() >= 5 {
                assert_stack(block.as_ptr(), &["makes_plainly", "allocates_in_a_handler"]);
            }
        }
    });
}

fn with_small_thread(size: usize, body: extern "C" fn(*mut libc::c_void) -> *mut libc::c_void) {
    // SAFETY: an attribute object that lives for the calls; the body takes no argument and returns null.
    unsafe {
        let mut attributes = std::mem::zeroed();
        assert_eq!(libc::pthread_attr_init(&mut attributes), 0);
        assert_eq!(libc::pthread_attr_setstacksize(&mut attributes, size), 0);
        let mut thread = 0;
        assert_eq!(libc::pthread_create(&mut thread, &attributes, body, std::ptr::null_mut()), 0);
        libc::pthread_attr_destroy(&mut attributes);
        assert_eq!(libc::pthread_join(thread, std::ptr::null_mut()), 0);
    }
}

extern "C" fn small_thread(_: *mut libc::c_void) -> *mut libc::c_void {
    black_box(allocates_in_a_handler as extern "C" fn(i32))(0);
    std::ptr::null_mut()
}

#[test]
fn a_thread_with_a_16_kib_stack_allocates_and_is_not_blind() {
    in_every_mode("a_thread_with_a_16_kib_stack_allocates_and_is_not_blind", || {
        for _ in 0..3 {
            let before = captures_dropped();
            with_small_thread(16 << 10, small_thread);
            let block = last();
            if cfg!(debug_assertions) {
                right_or_counted(block, &["makes_plainly"], before);
            } else if tracing() {
                assert_stack(block.as_ptr(), &["makes_plainly"]);
                if tracemalloc::traceback_limit() >= 5 {
                    assert_stack(
                        block.as_ptr(),
                        &["makes_plainly", "allocates_in_a_handler", "small_thread"],
                    );
                }
            }
        }
    });
}

#[inline(never)]
fn deep_in_stacker(n: usize) -> Vec<u8> {
    stacker::maybe_grow(64 << 10, 256 << 10, || {
        let room = black_box([0u8; 4000]);
        if n == 0 { makes(333) } else { deep_in_stacker(n - 1 + usize::from(room[9])) }
    })
}

#[test]
fn a_block_made_on_a_stack_of_stackers_has_its_stack() {
    in_every_mode("a_block_made_on_a_stack_of_stackers_has_its_stack", || {
        std::thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(|| {
                for n in [1, 30, 200] {
                    for _ in 0..3 {
                        let block = deep_in_stacker(n);
                        if tracing() {
                            assert_stack(block.as_ptr(), &["makes"]);
                            if tracemalloc::traceback_limit() >= 5 {
                                assert_stack(block.as_ptr(), &["makes", "deep_in_stacker"]);
                            }
                        }
                    }
                }
            })
            .unwrap()
            .join()
            .unwrap();
    });
}

#[inline(never)]
fn inside_a_coroutine(n: usize) -> Vec<u8> {
    let before = makes(n);
    black_box(before.len());
    makes(n + 1)
}

#[test]
fn a_block_made_in_a_coroutine_has_its_stack_also_after_it_changed_threads() {
    use corosensei::{Coroutine, CoroutineResult};
    in_every_mode("a_block_made_in_a_coroutine_has_its_stack_also_after_it_changed_threads", || {
        struct Moves<T>(T);
        // SAFETY: the coroutine's body holds nothing of its thread's across a suspension.
        unsafe impl<T> Send for Moves<T> {}
        let check = |block: &[u8]| {
            if tracing() {
                assert_stack(block.as_ptr(), &["makes"]);
                if tracemalloc::traceback_limit() >= 5 {
                    assert_stack(block.as_ptr(), &["makes", "inside_a_coroutine"]);
                }
            }
        };
        for _ in 0..20 {
            let mut coroutines: Vec<Moves<Coroutine<(), Vec<u8>, ()>>> = (0..10)
                .map(|n| {
                    Moves(Coroutine::new(move |yielder, ()| {
                        for k in 0..5 {
                            yielder.suspend(inside_a_coroutine(n * 100 + k));
                        }
                    }))
                })
                .collect();
            for c in &mut coroutines {
                match c.0.resume(()) {
                    CoroutineResult::Yield(block) => check(&block),
                    CoroutineResult::Return(()) => unreachable!(),
                }
            }
            // On another thread; then that thread is gone.
            coroutines = std::thread::spawn(move || {
                for c in &mut coroutines {
                    if let CoroutineResult::Yield(block) = c.0.resume(()) {
                        check(&block);
                    }
                }
                coroutines
            })
            .join()
            .unwrap();
            for mut c in coroutines {
                while let CoroutineResult::Yield(block) = c.0.resume(()) {
                    check(&block);
                }
            }
        }
    });
}

const PAINT: u64 = 0x5151_a7a7_3c3c_9696;
static LOW: AtomicUsize = AtomicUsize::new(0);
static TOOK: AtomicUsize = AtomicUsize::new(0);

/// Paints the stack below, makes a block, and looks how far down the paint is gone.
#[inline(never)]
fn painted(size: usize) -> usize {
    let here = 0u64;
    let top = (&raw const here as usize - 512) & !7;
    let low = LOW.load(Relaxed);
    let mut at = low;
    while at < top {
        // SAFETY: this thread's own stack below all running frames (the loop's own calls are inlined or leave no trace
        // that matters: what they overwrite lies above `top`).
        unsafe { (at as *mut u64).write_volatile(PAINT) };
        at += 8;
    }
    // SAFETY: a valid layout.
    let p = black_box(unsafe { std::alloc::alloc(std::alloc::Layout::from_size_align_unchecked(size, 8)) });
    let mut at = low;
    // SAFETY: as above.
    while at < top && unsafe { (at as *const u64).read_volatile() } == PAINT {
        at += 8;
    }
    // SAFETY: made above.
    unsafe { std::alloc::dealloc(p, std::alloc::Layout::from_size_align_unchecked(size, 8)) };
    black_box(at);
    top + 512 - at
}

extern "C" fn measures(_: *mut libc::c_void) -> *mut libc::c_void {
    let here = 0u64;
    LOW.store(&raw const here as usize - (40 << 10), Relaxed);
    let first = painted(40); // the thread's slot, its arena
    let mut most = 0;
    for n in 0..200 {
        let took = painted(40);
        if n > 8 {
            most = most.max(took);
        }
    }
    println!("stack: the first allocation took {first}, a known stack {most}");
    TOOK.store(most, Relaxed);
    std::ptr::null_mut()
}

/// Each call stands elsewhere: its stack is new.
macro_rules! new_stacks {
    ($($n:literal)*) => {
        [$({
            #[inline(never)]
            fn one() -> usize { black_box(painted(40 + $n)) }
            one as fn() -> usize
        }),*]
    };
}

extern "C" fn measures_new_stacks(_: *mut libc::c_void) -> *mut libc::c_void {
    let here = 0u64;
    LOW.store(&raw const here as usize - (40 << 10), Relaxed);
    painted(40);
    painted(40);
    let mut most = 0;
    for f in black_box(new_stacks!(0 1 2 3 4 5 6 7 8 9)) {
        most = most.max(f());
    }
    println!("stack: a new stack took {most}");
    TOOK.store(most, Relaxed);
    std::ptr::null_mut()
}

/// What is measured includes the test's own frame, glibc's `malloc` and the shell.
#[test]
fn a_known_stack_takes_under_1_kib_of_stack_and_a_new_one_under_4_kib() {
    in_every_tracing_mode("a_known_stack_takes_under_1_kib_of_stack_and_a_new_one_under_4_kib", || {
        with_small_thread(64 << 10, measures);
        let hit = TOOK.load(Relaxed);
        with_small_thread(64 << 10, measures_new_stacks);
        let miss = TOOK.load(Relaxed);
        println!("stack: {hit} {miss}");
        if cfg!(debug_assertions) {
            return; // in this package's own dev profile hooks aren't optimised
        }
        assert!(hit < 1024 + 600, "a hit took {hit}");
        assert!(miss < 4096 + 600, "a miss took {miss}");
    });
}
