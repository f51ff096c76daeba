//! Many short-lived threads: slots change hands, counters outlive their threads.

mod support;

use std::hint::black_box;

use birthmark::tracemalloc;
use support::{in_every_mode, tracing};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

#[inline(never)]
fn of_a_thread(n: usize) -> Vec<u8> {
    let other = black_box(vec![1u8; n + 1]);
    black_box(vec![n as u8; 1000 + other.len()])
}

#[test]
fn two_hundred_short_lived_threads_lose_nothing() {
    in_every_mode("two_hundred_short_lived_threads_lose_nothing", || {
        let mut left: Vec<Vec<u8>> = Vec::with_capacity(200);
        for wave in 0..10 {
            let threads: Vec<_> =
                (0..20).map(|n| std::thread::spawn(move || of_a_thread(wave * 20 + n))).collect();
            left.extend(threads.into_iter().map(|t| t.join().unwrap()));
        }
        for (n, block) in left.iter().enumerate() {
            assert!(block.iter().all(|b| *b == n as u8) && block.len() == 1001 + n);
        }
        if tracing() {
            for block in &left[195..] {
                support::assert_stack(block.as_ptr(), &["of_a_thread"]);
            }
            let sum: usize = left.iter().map(Vec::len).sum();
            let before = tracemalloc::traced_memory().0;
            assert!(before >= sum as u64);
            left.clear();
            assert_eq!(tracemalloc::traced_memory().0, before - sum as u64);
        }
    });
}

struct AtTheEnd;

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        let block = of_a_thread(7);
        LAST.lock().unwrap().push(block);
    }
}

static LAST: std::sync::Mutex<Vec<Vec<u8>>> = std::sync::Mutex::new(Vec::new());

thread_local!(static END: AtTheEnd = const { AtTheEnd });

#[test]
fn a_block_made_in_a_thread_locals_destructor_has_its_stack() {
    in_every_mode("a_block_made_in_a_thread_locals_destructor_has_its_stack", || {
        for _ in 0..20 {
            std::thread::spawn(|| END.with(|_| ())).join().unwrap();
        }
        let last = LAST.lock().unwrap();
        assert_eq!(last.len(), 20);
        if tracing() {
            support::assert_stack(last[3].as_ptr(), &["of_a_thread"]);
            if tracemalloc::traceback_limit() >= 5 {
                support::assert_stack(last[3].as_ptr(), &["of_a_thread", "AtTheEnd"]);
            }
        }
    });
}

/// A key whose destructor runs after ours has given the thread's slot back, and makes and frees blocks then.
unsafe extern "C" fn late(value: *mut libc::c_void) {
    let n = value as usize;
    for k in 0..50 {
        drop(of_a_thread(k));
    }
    LAST.lock().unwrap().push(of_a_thread(n));
}

#[test]
fn blocks_made_and_freed_after_the_threads_slot_is_gone_are_counted() {
    in_every_mode("blocks_made_and_freed_after_the_threads_slot_is_gone_are_counted", || {
        let mut key = 0;
        // SAFETY: a place for the key, and a destructor of the right type.
        assert_eq!(unsafe { libc::pthread_key_create(&mut key, Some(late)) }, 0);
        LAST.lock().unwrap().reserve(1000);
        let threads: Vec<_> = (1..=40)
            .map(|n| {
                std::thread::spawn(move || {
                    // SAFETY: the key exists; the value is a number.
                    unsafe { libc::pthread_setspecific(key, n as *mut libc::c_void) };
                    drop(of_a_thread(n));
                })
            })
            .collect();
        for t in threads {
            t.join().unwrap();
        }
        let mut last = LAST.lock().unwrap();
        assert_eq!(last.len(), 40);
        if tracing() {
            // Of more than 16 walks at once some are left out: right, or counted.
            let traced = |block: &&Vec<u8>| tracemalloc::traceback_of(&block[0]).is_some();
            let known: Vec<_> = last.iter().filter(traced).collect();
            assert!(known.len() == 40 || support::captures_dropped() > 0);
            for block in known.iter().take(3) {
                support::assert_stack(block.as_ptr(), &["of_a_thread"]);
            }
            let sum: usize = known.iter().map(|block| block.len()).sum();
            drop(known);
            let before = tracemalloc::traced_memory().0;
            last.clear();
            assert_eq!(tracemalloc::traced_memory().0, before - sum as u64);
        }
    });
}
