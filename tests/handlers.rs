//! Signal handlers that allocate and free at any moment, inside our hooks too, over an inner allocator that they may call.

mod support;

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize};

use birthmark::tracemalloc;
use support::{in_modes, tracing};

/// Small blocks from a pool of cells that are taken and given back by one atomic swap each, larger ones from a mapping that
/// only grows: callable at any moment.
struct Simple;

const CELL: usize = 256;
const CELLS: usize = 1 << 17; // more than looking names up ever takes: to search a full pool is slow
const SPACE: usize = 1 << 30;
static TAKEN: [AtomicBool; CELLS] = [const { AtomicBool::new(false) }; CELLS];
static HINT: AtomicUsize = AtomicUsize::new(0);
static BASE: AtomicUsize = AtomicUsize::new(0);
static USED: AtomicUsize = AtomicUsize::new(CELLS * CELL);

fn base() -> usize {
    let base = BASE.load(Relaxed);
    if base != 0 {
        return base;
    }
    // SAFETY: an anonymous mapping, reserved only.
    let p = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            SPACE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    } as usize;
    BASE.compare_exchange(0, p, Relaxed, Relaxed).map_or_else(|theirs| theirs, |_| p)
}

// SAFETY: a cell belongs to who swapped its mark until it is given back; the rest is handed out once.
unsafe impl GlobalAlloc for Simple {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let base = base();
        if layout.size() <= CELL && layout.align() <= 16 {
            let from = HINT.fetch_add(1, Relaxed);
            for i in 0..CELLS {
                let cell = from.wrapping_add(i) % CELLS;
                if !TAKEN[cell].load(Relaxed) && !TAKEN[cell].swap(true, Acquire) {
                    return (base + cell * CELL) as *mut u8;
                }
            }
        }
        let room = layout.size() + layout.align();
        let at = USED.fetch_add(room, Relaxed);
        if at + room > SPACE {
            return std::ptr::null_mut();
        }
        ((base + at + layout.align() - 1) & !(layout.align() - 1)) as *mut u8
    }
    unsafe fn dealloc(&self, p: *mut u8, _: Layout) {
        let cell = (p as usize - base()) / CELL;
        if cell < CELLS {
            TAKEN[cell].store(false, Release);
        }
    }
}

#[global_allocator]
static A: birthmark::DebugAlloc<Simple> = birthmark::DebugAlloc::over(Simple);

const KEPT: usize = 64;
static SHELF: [AtomicPtr<u8>; KEPT] = [const { AtomicPtr::new(std::ptr::null_mut()) }; KEPT];
static STARTED: AtomicUsize = AtomicUsize::new(0);
static RUNS: AtomicU64 = AtomicU64::new(0);
/// Live bytes of the handlers' and the threads' blocks, by their own count.
static LIVE: AtomicUsize = AtomicUsize::new(0);

const LAYOUT: Layout = match Layout::from_size_align(48, 16) {
    Ok(l) => l,
    Err(_) => panic!(),
};

/// Puts a fresh block on the shelf and frees the one that lay there, perhaps another thread's.
#[inline(never)]
fn exchange(at: usize) {
    // SAFETY: a valid layout.
    let p = unsafe { std::alloc::alloc(LAYOUT) };
    assert!(!p.is_null());
    LIVE.fetch_add(48, Relaxed);
    // SAFETY: ours until it is on the shelf.
    unsafe { p.write_bytes(9, 48) };
    let old = SHELF[at % KEPT].swap(p, AcqRel);
    if !old.is_null() {
        LIVE.fetch_sub(48, Relaxed);
        // SAFETY: taken off the shelf by us alone.
        unsafe {
            assert_eq!(old.add(47).read(), 9);
            std::alloc::dealloc(old, LAYOUT);
        }
    }
}

extern "C" fn handler(_: i32) {
    let n = STARTED.fetch_add(1, Relaxed);
    for k in 0..5 {
        exchange(n.wrapping_mul(7).wrapping_add(k));
    }
    RUNS.fetch_add(1, Relaxed);
}

#[inline(never)]
fn down(depth: usize, at: usize) {
    if depth == 0 {
        exchange(at);
    } else {
        down(depth - 1, at);
        black_box(depth);
    }
}

#[test]
fn handlers_that_allocate_inside_our_hooks_lose_nothing() {
    const MODES: [(&str, &str); 5] = [("1", "0"), ("5", "0"), ("25", "0"), ("0", "debug"), ("5", "debug")];
    in_modes("handlers_that_allocate_inside_our_hooks_lose_nothing", &MODES, || {
        // SAFETY: the handler touches atomics and this allocator only.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_RESTART | libc::SA_NODEFER; // handlers interrupt handlers too
            assert_eq!(libc::sigaction(libc::SIGRTMIN() + 1, &action, std::ptr::null_mut()), 0);
        }
        let stop = std::sync::atomic::AtomicBool::new(false);
        let settled = std::sync::Barrier::new(3);
        let ids = [const { AtomicU64::new(0) }; 2];
        std::thread::scope(|scope| {
            for w in 0..2 {
                let (stop, settled, ids) = (&stop, &settled, &ids);
                scope.spawn(move || {
                    // SAFETY: asks for this thread's own handle.
                    ids[w].store(unsafe { libc::pthread_self() }, Relaxed);
                    settled.wait();
                    let mut n = w * 1000;
                    while !stop.load(Relaxed) {
                        n += 1;
                        down(n % 30, n);
                    }
                    settled.wait();
                    settled.wait();
                });
            }
            settled.wait();
            // At most four at once: handlers interrupt handlers, and a stack has an end.
            let mut sent = 0;
            while sent < 3_000 {
                for t in &ids {
                    while sent >= RUNS.load(Relaxed) + 4 {
                        std::thread::yield_now();
                    }
                    // SAFETY: both threads run until `stop`.
                    unsafe { libc::pthread_kill(t.load(Relaxed), libc::SIGRTMIN() + 1) };
                    sent += 1;
                }
                for _ in 0..sent % 997 {
                    std::hint::spin_loop();
                }
            }
            while RUNS.load(Relaxed) < sent {
                std::thread::yield_now();
            }
            stop.store(true, Relaxed);
            settled.wait();
            settled.wait();
        });
        if tracing() {
            let snapshot = birthmark::snapshot();
            let mut bytes = 0;
            for t in snapshot.traces() {
                if t.traceback
                    .all_frames()
                    .iter()
                    .any(|f| f.function().is_some_and(|n| n.ends_with("exchange")))
                {
                    bytes += t.size;
                }
            }
            let untraced = snapshot.dropped().captures * 48;
            assert!(
                bytes as usize <= LIVE.load(Relaxed) && bytes + untraced >= LIVE.load(Relaxed) as u64,
                "{bytes} traced and at most {untraced} dropped of {} live",
                LIVE.load(Relaxed)
            );
            for place in SHELF.iter().take(KEPT) {
                let p = place.swap(std::ptr::null_mut(), Relaxed);
                if !p.is_null() {
                    // SAFETY: on the shelf, so live.
                    unsafe { std::alloc::dealloc(p, LAYOUT) };
                }
            }
            let (now, _) = tracemalloc::traced_memory();
            let told: u64 = birthmark::snapshot().traces().map(|t| t.size).sum();
            assert_eq!(now, told, "the counters and the table agree");
        }
    });
}
