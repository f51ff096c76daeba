//! What is too short for a process of its own: a wrapped poll, a look-up, a snapshot.

use std::alloc::Layout;
use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use birthmark::WatchExt as _;
use criterion::Criterion;

use crate::row::Row;

pub fn measure(rows: &mut Vec<Row>) {
    let mut criterion = Criterion::default().without_plots().measurement_time(Duration::from_secs(2));
    polls(&mut criterion, rows);
    birthmark::tracemalloc::start(5);
    if birthmark::tracemalloc::is_tracing() {
        snapshot(&mut criterion, rows);
        look_ups(&mut criterion, rows);
        birthmark::tracemalloc::stop();
    }
}

/// The least nanoseconds of one call.
fn least(criterion: &mut Criterion, name: &str, mut work: impl FnMut()) -> f64 {
    let mut least = f64::INFINITY;
    criterion.bench_function(name, |b| {
        b.iter_custom(|times| {
            let begin = Instant::now();
            for _ in 0..times {
                work();
            }
            let took = begin.elapsed();
            least = least.min(took.as_secs_f64() * 1e9 / times as f64);
            took
        })
    });
    least
}

fn poll(criterion: &mut Criterion, name: &str, future: impl Future) -> f64 {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    least(criterion, name, || {
        // From memory, as an executor does.
        black_box(black_box(&mut future).as_mut().poll(&mut context).is_pending());
    })
}

fn polls(criterion: &mut Criterion, rows: &mut Vec<Row>) {
    let pending = || std::future::poll_fn(|_| black_box(Poll::<()>::Pending));
    birthmark::set_debug(false);
    let plain = poll(criterion, "a plain poll", pending());
    let off = poll(criterion, "a wrapped poll, diagnostics off", pending().watched());
    birthmark::set_debug(true);
    let on = poll(criterion, "a wrapped poll, diagnostics on", pending().watched());
    birthmark::set_debug(false);
    rows.push(Row::new("a wrapped poll adds, diagnostics on", on - plain, "ns").at_most(25.0));
    rows.push(Row::new("a wrapped poll adds, diagnostics off", off - plain, "ns").at_most(1.0));
}

/// One of ten ways at each of four steps: 10,000 stacks.
type Way = fn(usize, u32) -> Box<[u8; 24]>;
const WAYS: [Way; 10] =
    [way::<0>, way::<1>, way::<2>, way::<3>, way::<4>, way::<5>, way::<6>, way::<7>, way::<8>, way::<9>];

#[inline(never)]
fn way<const K: usize>(rest: usize, steps: u32) -> Box<[u8; 24]> {
    let mut made = if steps == 0 {
        Box::new([rest as u8; 24])
    } else {
        black_box(WAYS)[rest % 10](rest / 10, steps - 1)
    };
    // A call that isn't the last thing keeps its frame, and `K` keeps the ten apart.
    made[K] = K as u8;
    black_box(made)
}

fn snapshot(criterion: &mut Criterion, rows: &mut Vec<Row>) {
    let blocks: Vec<Box<[u8; 24]>> = (0..1_000_000).map(|i| way::<0>(i % 10_000, 4)).collect();
    let taken = birthmark::snapshot();
    let stacks = taken.traces().size_hint().0;
    println!("{} blocks of {stacks} stacks, with what the bench holds itself", taken.count());
    assert!(taken.count() >= 1_000_000 && stacks >= 10_000, "each way is a stack of its own");
    drop(taken);
    let ns = least(criterion, "snapshot of a million live blocks in ten thousand traces", || {
        black_box(birthmark::snapshot());
    });
    rows.push(Row::new("snapshot of 1,000,000 live blocks in 10,000 traces", ns / 1e6, "ms").at_most(20.0));
    drop(blocks);
}

fn look_ups(criterion: &mut Criterion, rows: &mut Vec<Row>) {
    for (size, name) in [(4096usize, "4 KiB"), (1 << 20, "1 MiB"), (1 << 30, "1 GiB"), (16 << 30, "16 GiB")] {
        let layout = Layout::from_size_align(size, 16).unwrap();
        // SAFETY: the size isn't zero; the block is reserved, never touched.
        let block = unsafe { std::alloc::alloc(layout) };
        if block.is_null() {
            continue;
        }
        let middle = block.wrapping_add(size / 2 + 12);
        assert!(birthmark::tracemalloc::traceback_of_ptr(middle).is_some(), "the block is found");
        // Recorded and no longer traced: the look-up alone, without names.
        birthmark::tracemalloc::clear_traces();
        let mut worst: f64 = 0.0;
        for (place, far) in
            [("near its end", size - size / 1000 - 1), ("in its middle", middle as usize - block as usize)]
        {
            let inside = block.wrapping_add(far);
            let name = format!("look-up of an address {place}, block of {name}");
            worst = worst.max(least(criterion, &name, || {
                black_box(birthmark::tracemalloc::traceback_of_ptr(black_box(inside)));
            }));
        }
        // SAFETY: allocated above with this layout.
        unsafe { std::alloc::dealloc(block, layout) };
        rows.push(
            Row::new(format!("look-up of an interior address, block of {name}"), worst, "ns").at_most(1000.0),
        );
    }
}
