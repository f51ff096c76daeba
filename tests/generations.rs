//! `start`, `stop` and `clear_traces` under load: no crash, no hang, and the counters are at zero in the end.

mod support;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use birthmark::tracemalloc;
use support::{Random, churn, in_modes};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

const OFF: [(&str, &str); 2] = [("", "0"), ("", "debug")];
const NAME: &str = "start_stop_and_clear_under_load_leave_the_counters_at_zero";

fn body() {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|n| {
                let over = &over;
                scope.spawn(move || {
                    let mut random = Random(n + 1);
                    let mut kept = Vec::new();
                    while !over.load(Relaxed) {
                        let depth = random.below(20);
                        churn(&mut random, &mut kept, depth);
                    }
                })
            })
            .collect();
        let switchers: Vec<_> = (0..2)
            .map(|n| {
                scope.spawn(move || {
                    let mut random = Random(100 + n);
                    for _ in 0..3000 {
                        match random.below(5) {
                            0 | 1 => tracemalloc::start(1 + random.below(30) as u16),
                            2 => tracemalloc::stop(),
                            3 => tracemalloc::clear_traces(),
                            _ => {
                                let (now, peak) = tracemalloc::traced_memory();
                                assert!(peak >= now || peak == 0);
                                tracemalloc::reset_peak();
                            }
                        }
                    }
                })
            })
            .collect();
        for s in switchers {
            s.join().unwrap();
        }
        // A last generation, begun under load: all that is counted in it must be counted out.
        tracemalloc::stop();
        tracemalloc::start(5);
        std::thread::sleep(std::time::Duration::from_millis(50));
        over.store(true, Relaxed);
        for w in workers {
            w.join().unwrap();
        }
    });
    // What this thread made since the last start is still there (the scope's bookkeeping was made before).
    let held = tracemalloc::traced_memory().0;
    let snapshot = birthmark::snapshot();
    let told: u64 = snapshot.traces().map(|t| t.size).sum();
    assert_eq!(
        held,
        told,
        "the counters and the table agree: {}",
        snapshot.statistics(birthmark::GroupBy::Line).top(5)
    );
    assert!(
        !snapshot.traces().any(|t| t
            .traceback
            .all_frames()
            .iter()
            .any(|f| f.function() == Some("generations::support::churn"))),
        "all of the workers' blocks were freed"
    );
    tracemalloc::clear_traces();
    assert_eq!(tracemalloc::traced_memory(), (0, 0));
    tracemalloc::stop();
    assert_eq!(tracemalloc::traced_memory(), (0, 0));
    assert_eq!(tracemalloc::traceback_limit(), 1);
    // And tracing still works.
    tracemalloc::start(3);
    let before = tracemalloc::traced_memory().0;
    let block = black_box(vec![0u8; 12_345]);
    assert_eq!(tracemalloc::traced_memory().0, before + 12_345);
    assert!(tracemalloc::traceback_of(&block[777]).is_some());
    drop(block);
    assert_eq!(tracemalloc::traced_memory().0, before);
}

#[test]
fn start_stop_and_clear_under_load_leave_the_counters_at_zero() {
    in_modes(NAME, &OFF, body);
}

#[test]
fn a_block_freed_while_tracing_is_off_does_not_hide_a_later_one_around_its_place() {
    in_modes("a_block_freed_while_tracing_is_off_does_not_hide_a_later_one_around_its_place", &OFF, || {
        tracemalloc::start(2);
        // Many small blocks close together, recorded; freed with tracing off.
        let small: Vec<Box<[u8; 40]>> = (0..20_000).map(|_| Box::new([1; 40])).collect();
        tracemalloc::stop();
        drop(small);
        tracemalloc::start(2);
        // Large ones over the same memory.
        for _ in 0..200 {
            let large = black_box(vec![0u8; 3000]);
            for at in [0, 50, 500, 1500, 2999] {
                assert!(tracemalloc::traceback_of(&large[at]).is_some(), "interior address {at}");
            }
            std::mem::forget(large);
        }
    });
}

#[test]
fn a_start_that_races_with_a_stop_is_not_lost() {
    in_modes("a_start_that_races_with_a_stop_is_not_lost", &OFF, || {
        for _ in 0..2000 {
            std::thread::scope(|scope| {
                scope.spawn(tracemalloc::stop);
                scope.spawn(|| tracemalloc::start(1));
            });
            let block = black_box(vec![0u8; 100]);
            assert_eq!(tracemalloc::traceback_of(&block[0]).is_some(), tracemalloc::is_tracing());
        }
    });
}
