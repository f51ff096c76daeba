//! `check_heap` beside threads that go on freeing: it finds nothing where nothing is wrong, and keeps nobody waiting.

mod support;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use support::{Random, in_modes};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

const MODES: [(&str, &str); 4] =
    [("", "debug"), ("5", "debug"), ("5", "debug,quarantine=16K"), ("", "debug,quarantine=16M")];
const NAME: &str = "a_sweep_beside_threads_that_free_finds_nothing_wrong";

fn body() {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for n in 0..3u64 {
            let over = &over;
            scope.spawn(move || {
                let mut random = Random(n + 1);
                let mut kept = Vec::new();
                // Few blocks, so that a sweep meets one in the hands of a free again and again.
                while !over.load(Relaxed) {
                    let most = if random.below(50) == 0 { 200_000 } else { 3000 };
                    let size = 1 + random.below(most);
                    kept.push(black_box(vec![n as u8; size]));
                    if kept.len() > 8 {
                        kept.swap_remove(random.below(8));
                    }
                }
            });
        }
        let mut sweeps = Ok(());
        for _ in 0..60 {
            sweeps = birthmark::check_heap();
            if sweeps.is_err() {
                break;
            }
        }
        over.store(true, Relaxed);
        assert!(sweeps.is_ok(), "{sweeps:?}");
    });
}

#[test]
fn a_sweep_beside_threads_that_free_finds_nothing_wrong() {
    in_modes(NAME, &MODES, body);
}
