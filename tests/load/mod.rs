//! Keeps processors busy.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Runs `body` beside so many threads a core that never rest.
pub fn with_every_core_busy(threads_a_core: usize, body: impl FnOnce()) {
    /// Also when `body` panics, so that the threads end.
    struct Stops<'s>(&'s AtomicBool);
    impl Drop for Stops<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        let _stops = Stops(&stop);
        for _ in 0..cores * threads_a_core {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    std::hint::black_box(7u64.wrapping_mul(31));
                }
            });
        }
        body();
    });
}
