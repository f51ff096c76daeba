//! `fork` under load: the child allocates, frees its parent's blocks and exits.

mod support;

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use birthmark::{GroupBy, tracemalloc};
use support::{Random, churn, in_every_mode, in_modes, tracing};

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

/// Forks, runs `body` in the child, which must end well within 60 seconds, and waits for it.
#[track_caller]
fn in_a_child(body: impl FnOnce()) {
    // SAFETY: the child uses what this thread has, and ends by `_exit`; glibc's heap works in it. A child that takes too
    // long is killed by a signal.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: as above.
        unsafe { libc::alarm(60) };
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_ok();
        // SAFETY: as above.
        unsafe { libc::_exit(i32::from(!ended)) };
    }
    assert!(pid > 0);
    let mut status = 0;
    // SAFETY: waits for our own child.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!(status, 0, "signal {} or status {}", status & 127, status >> 8);
}

#[test]
fn a_child_has_the_whole_quarantine_and_frees_what_its_parents_threads_left() {
    const NAME: &str = "a_child_has_the_whole_quarantine_and_frees_what_its_parents_threads_left";
    const BOUND: u64 = 1 << 20;
    in_modes(NAME, &[("5", "debug,quarantine=1M"), ("0", "debug,quarantine=1M")], || {
        let (ready, go) = (Barrier::new(41), Barrier::new(41));
        std::thread::scope(|scope| {
            for n in 0..40 {
                let (ready, go) = (&ready, &go);
                scope.spawn(move || {
                    // Each has its part of the bound, 25 KiB; every other one fills it.
                    for _ in 0..if n % 2 == 0 { 100 } else { 1 } {
                        drop(of_the_parent(1000));
                    }
                    ready.wait();
                    go.wait();
                    drop(of_the_parent(10));
                });
            }
            ready.wait();
            let parent = birthmark::doctor();
            assert!(parent.quarantined < BOUND * 6 / 10, "{parent}");
            let churn = || {
                for _ in 0..3000 {
                    drop(of_the_child(1000));
                }
            };
            in_a_child(|| {
                churn();
                let child = birthmark::doctor();
                assert!(child.quarantined > BOUND * 9 / 10 && child.quarantined <= BOUND, "{child}");
                if tracing() {
                    assert!(child.mapped < parent.mapped, "memos are given back: {parent}\n{child}");
                }
                // Its own threads take the slots, and their shares add up to the bound.
                std::thread::scope(|scope| {
                    for _ in 0..50 {
                        scope.spawn(churn);
                    }
                });
                churn();
                assert!(birthmark::doctor().quarantined <= BOUND, "{}", birthmark::doctor());
                assert!(birthmark::check_heap().is_ok());
                in_a_child(churn);
            });
            go.wait();
        });
    });
}

fn work(n: usize) {
    let (mut random, mut kept) = (Random(n as u64 + 1), Vec::new());
    for _ in 0..30 {
        let depth = random.below(10);
        churn(&mut random, &mut kept, depth);
    }
}

/// Works on threads made as C does: a child of a process with threads may not make std's, since another thread may have
/// held one of std's locks at the fork.
fn on_threads_of_c(threads: usize, seed: usize) {
    extern "C" fn run(n: *mut libc::c_void) -> *mut libc::c_void {
        work(n as usize);
        std::ptr::null_mut()
    }
    let mut all = [0; 8];
    for (n, thread) in all.iter_mut().enumerate().take(threads) {
        let argument = (seed + n) as *mut libc::c_void;
        // SAFETY: a valid place for the thread's id, default attributes, and a function that takes a number for its argument.
        assert_eq!(unsafe { libc::pthread_create(thread, std::ptr::null(), run, argument) }, 0);
    }
    for thread in all.iter().take(threads) {
        // SAFETY: made above and joined once.
        assert_eq!(unsafe { libc::pthread_join(*thread, std::ptr::null_mut()) }, 0);
    }
}

#[test]
fn children_of_a_parent_whose_threads_come_and_go_take_their_slots() {
    in_every_mode("children_of_a_parent_whose_threads_come_and_go_take_their_slots", || {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for n in 0..3 {
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(Relaxed) {
                        std::thread::spawn(move || work(n)).join().unwrap();
                    }
                });
            }
            for round in 0..60 {
                let inherited = of_the_parent(1 + round);
                in_a_child(|| {
                    drop(inherited);
                    on_threads_of_c(4, round);
                    assert!(!matches!(
                        birthmark::check_heap(),
                        Err(e) if !matches!(e[..], [birthmark::HeapError::NotChecking])
                    ));
                    if round % 4 == 0 {
                        in_a_child(|| work(round));
                    }
                });
            }
            stop.store(true, Relaxed);
        });
    });
}

/// Prints the top ten, as ordinary code of a child does.
fn top_ten() {
    let text = birthmark::snapshot().statistics(GroupBy::Line).to_string();
    assert!(
        text.lines().count() > 3 && text.contains("of_the_parent") || text.contains("forks.rs"),
        "{text}"
    );
}

#[test]
fn children_of_a_parent_that_looks_names_up_show_their_top_ten() {
    const NAME: &str = "children_of_a_parent_that_looks_names_up_show_their_top_ten";
    in_modes(NAME, &[("5", "0"), ("5", "debug")], || {
        let kept: Vec<Vec<u8>> = (1..200).map(of_the_parent).collect();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(Relaxed) {
                        black_box(birthmark::snapshot().statistics(GroupBy::Traceback));
                    }
                });
            }
            // Looking names up is slow where it isn't optimised.
            for _ in 0..if cfg!(debug_assertions) { 50 } else { 120 } {
                in_a_child(top_ten);
            }
            stop.store(true, Relaxed);
        });
        drop(kept);
    });
}

#[test]
fn a_child_whose_parent_held_the_loaders_lock_shows_its_top_ten() {
    unsafe extern "C" fn slow(_: *mut libc::dl_phdr_info, _: usize, _: *mut libc::c_void) -> i32 {
        std::thread::sleep(std::time::Duration::from_millis(1));
        0
    }
    const NAME: &str = "a_child_whose_parent_held_the_loaders_lock_shows_its_top_ten";
    in_modes(NAME, &[("5", "debug")], || {
        let kept: Vec<Vec<u8>> = (1..200).map(of_the_parent).collect();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    // SAFETY: the callback has the right type and doesn't unwind.
                    unsafe { libc::dl_iterate_phdr(Some(slow), std::ptr::null_mut()) };
                }
            });
            std::thread::sleep(std::time::Duration::from_millis(20));
            in_a_child(top_ten);
            stop.store(true, Relaxed);
        });
        drop(kept);
    });
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
