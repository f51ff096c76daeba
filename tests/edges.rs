//! Before `main`, in `atexit`, a panic while tracing, an address space too small for the table, a block of 16 GiB.

mod support;

use std::alloc::{Layout, alloc, dealloc};
use std::hint::black_box;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use birthmark::tracemalloc;
use support::{assert_stack, child, in_every_mode, is_child, tracing};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

static BEFORE_MAIN: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());

#[inline(never)]
fn of_early_code() -> Vec<u8> {
    black_box(vec![3u8; 444])
}

extern "C" fn early() {
    BEFORE_MAIN.store(of_early_code().leak().as_mut_ptr(), Relaxed);
}

#[used]
#[unsafe(link_section = ".init_array")]
static EARLY: extern "C" fn() = early;

#[test]
fn a_block_made_before_main_has_its_stack() {
    in_every_mode("a_block_made_before_main_has_its_stack", || {
        let p = BEFORE_MAIN.load(Relaxed);
        assert!(!p.is_null());
        if tracing() {
            assert_stack(p, &["of_early_code"]);
            if tracemalloc::traceback_limit() >= 5 {
                assert_stack(p, &["of_early_code", "early"]);
            }
        }
        // SAFETY: leaked as a slice of 444 bytes.
        drop(unsafe { Vec::from_raw_parts(p, 444, 444) });
        assert!(tracemalloc::traceback_of_ptr(p).is_none());
    });
}

extern "C" fn at_exit() {
    let block = of_early_code();
    let traced = tracemalloc::traceback_of(&block[5]).is_some();
    let mut text = String::from("at exit: ");
    text += if traced == tracing() { "right" } else { "wrong" };
    drop(block);
    println!("{text}");
}

#[test]
fn a_block_made_in_atexit_has_its_stack() {
    const NAME: &str = "a_block_made_in_atexit_has_its_stack";
    if is_child(NAME) {
        // SAFETY: a function without arguments.
        assert_eq!(unsafe { libc::atexit(at_exit) }, 0);
        // Others go on allocating while the process ends.
        for n in 0..2 {
            std::thread::spawn(move || {
                loop {
                    black_box(vec![n; 100]);
                }
            });
        }
        std::process::exit(0);
    }
    for (trace, malloc) in support::MODES {
        let outcome = child(NAME, &[("TRACEMALLOC", trace), ("BIRTHMARK_MALLOC", malloc)]);
        assert!(outcome.status.success() && outcome.stdout.contains("at exit: right"), "{}", outcome.told());
    }
}

#[inline(never)]
fn panics(n: usize) -> usize {
    let kept = black_box(vec![n; 10]);
    if n == 0 {
        panic!("planted, with {} numbers", kept.len());
    }
    panics(n - 1) + kept[3]
}

#[test]
fn a_panic_while_tracing_unwinds_and_everything_is_freed() {
    in_every_mode("a_panic_while_tracing_unwinds_and_everything_is_freed", || {
        std::panic::set_hook(Box::new(|_| {}));
        // The first one fills std's own caches.
        for _ in 0..2 {
            assert!(std::panic::catch_unwind(|| panics(3)).is_err());
        }
        let before = tracemalloc::traced_memory().0;
        for n in 0..50 {
            assert!(std::panic::catch_unwind(|| panics(n)).is_err());
        }
        assert_eq!(tracemalloc::traced_memory().0, before);
        let block = of_early_code();
        assert_eq!(tracemalloc::traceback_of(&block[0]).is_some(), tracing());
    });
}

fn limit_address_space(more: u64) {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().next().unwrap().parse().unwrap();
    let limit = libc::rlimit { rlim_cur: pages * 4096 + more, rlim_max: pages * 4096 + more };
    // SAFETY: sets this process's limit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}

#[test]
fn an_address_space_too_small_for_the_table_loses_traces_and_counts_them() {
    in_every_mode("an_address_space_too_small_for_the_table_loses_traces_and_counts_them", || {
        let mut blocks: Vec<(*mut u8, Layout)> = Vec::with_capacity(2000);
        limit_address_space(6 << 20); // a leaf of the table has 16 MiB
        // Large ones are mapped each for itself, where no leaf may be yet.
        let layouts = [100, 200_000].map(|size| Layout::from_size_align(size, 8).unwrap());
        let mut refused = 0;
        for n in 0..2000 {
            let layout = layouts[n % 2];
            // SAFETY: sizes aren't zero.
            let p = unsafe { alloc(layout) };
            if p.is_null() {
                refused += 1;
                continue;
            }
            // SAFETY: within the block.
            unsafe { p.write(7) };
            blocks.push((p, layout));
        }
        assert!(refused > 0, "the limit had no effect");
        let live: usize = blocks.iter().map(|(_, layout)| layout.size()).sum();
        let counted = tracemalloc::traced_memory().0;
        for (p, layout) in blocks.drain(..) {
            // SAFETY: a live block of this layout.
            unsafe {
                assert_eq!(p.read(), 7);
                dealloc(p, layout);
            }
        }
        // Each is counted out as it was counted in.
        let left = tracemalloc::traced_memory().0;
        assert!(counted - left <= live as u64, "{counted} then {left}, of {live}");
        if tracing() && counted - left < live as u64 {
            assert!(support::captures_dropped() > 0, "what is missing is counted");
        }
    });
}

#[test]
fn an_address_inside_a_block_of_16_gib_leads_to_it() {
    in_every_mode("an_address_inside_a_block_of_16_gib_leads_to_it", || {
        const SIZE: usize = 16 << 30;
        // Neighbours below and above, and one made while it lives.
        let below = of_early_code();
        let layout = Layout::from_size_align(SIZE, 16).unwrap();
        // SAFETY: a valid layout. Reserved by the system, not touched by us.
        let p = black_box(unsafe { alloc(layout) });
        if p.is_null() {
            println!("no 16 GiB of address space to be had here");
            return;
        }
        let above = of_early_code();
        for at in [0, 1, 31, 32, 4095, 1 << 21, (64 << 20) - 1, 1 << 30, (5 << 30) + 77, SIZE - 1] {
            let found = tracemalloc::traceback_of_ptr(p.wrapping_add(at)).is_some();
            assert_eq!(found, tracing(), "at {at:#x}");
        }
        assert!(tracemalloc::traceback_of_ptr(p.wrapping_add(SIZE)).is_none(), "one past its end");
        assert_eq!(tracemalloc::traceback_of(&below[9]).is_some(), tracing());
        assert_eq!(tracemalloc::traceback_of(&above[443]).is_some(), tracing());
        let before = tracemalloc::traced_memory().0;
        // SAFETY: made above.
        unsafe { dealloc(p, layout) };
        if tracing() {
            assert_eq!(tracemalloc::traced_memory().0, before - SIZE as u64);
        }
        assert!(tracemalloc::traceback_of_ptr(p.wrapping_add(1 << 30)).is_none(), "freed");
    });
}
