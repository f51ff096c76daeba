//! `fork` under load: the child allocates, frees its parent's blocks and exits.

mod support;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use birthmark::tracemalloc;
use support::{Random, in_every_mode, tracing};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

#[inline(never)]
fn of_the_parent(n: usize) -> Vec<u8> {
    black_box(vec![n as u8; n])
}

#[inline(never)]
fn of_the_child(n: usize) -> Vec<u8> {
    black_box(vec![n as u8; n])
}

#[inline(never)]
fn churn(random: &mut Random, kept: &mut Vec<Vec<u8>>, depth: usize) {
    if depth > 0 {
        churn(random, kept, depth - 1);
        black_box(depth);
        return;
    }
    if kept.len() > 40 {
        kept.swap_remove(random.below(40));
    }
    kept.push(black_box(vec![1u8; 1 + random.below(4000)]));
}

/// What the child does; its exit status tells.
fn child_body(inherited: Vec<Vec<u8>>) -> i32 {
    let before = tracemalloc::traced_memory().0;
    for (n, block) in inherited.iter().enumerate() {
        if block.iter().any(|b| *b != (n + 1) as u8) {
            return 1;
        }
        if tracing() && n < 3 && tracemalloc::traceback_of(&block[0]).is_none() {
            return 2;
        }
    }
    let bytes: usize = inherited.iter().map(Vec::len).sum();
    let own: Vec<Vec<u8>> = (1..300).map(|n| of_the_child(n * 7)).collect();
    drop(inherited);
    drop(own);
    if tracing() {
        let after = tracemalloc::traced_memory().0;
        if before - after < bytes as u64 {
            return 3;
        }
        let block = of_the_child(99);
        if tracemalloc::traceback_of(&block[98]).is_none() {
            return 4;
        }
    }
    match birthmark::check_heap() {
        Ok(()) => 0,
        Err(e) if matches!(e[..], [birthmark::HeapError::NotChecking]) => 0,
        Err(_) => 5,
    }
}

#[test]
fn a_child_forked_under_load_allocates_frees_its_parents_blocks_and_exits() {
    in_every_mode("a_child_forked_under_load_allocates_frees_its_parents_blocks_and_exits", || {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for n in 0..3 {
                let stop = &stop;
                scope.spawn(move || {
                    let (mut random, mut kept) = (Random(n + 1), Vec::new());
                    while !stop.load(Relaxed) {
                        let depth = random.below(30);
                        churn(&mut random, &mut kept, depth);
                    }
                });
            }
            for round in 0..12 {
                let blocks: Vec<Vec<u8>> = (1..200).map(of_the_parent).collect();
                // SAFETY: the child uses this thread's data only, and ends by `_exit`; glibc's heap works in it.
                let pid = unsafe { libc::fork() };
                if pid == 0 {
                    let status = child_body(blocks);
                    if round % 8 == 0 {
                        std::process::exit(status); // with destructors and the sweep at exit
                    }
                    // SAFETY: ends the process.
                    unsafe { libc::_exit(status) };
                }
                assert!(pid > 0);
                drop(blocks);
                let mut status = 0;
                // SAFETY: waits for our own child.
                assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
                assert_eq!(status, 0, "round {round}: signal {} or status {}", status & 127, status >> 8);
            }
            stop.store(true, Relaxed);
        });
    });
}
