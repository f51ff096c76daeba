//! What holds up a runtime: a handler that blocks its worker, one that computes, another executor's `block_on`, a waker that blocks
//! the driver, jobs that hold every thread of the blocking pool. Birthmark tells each while it lasts, with its stack, and again when
//! it is over. Nothing is wrapped but the second task.
//!
//! ```sh
//! cargo run --example stuck
//! ```
//!
//! prints (times and numbers of tasks differ from run to run):
//!
//! ```text
//! 1. A handler blocks its worker
//! birthmark: slow-callback: task 47 `stuck::handle` has been in one poll for at least 109 ms, limit 100 ms, and is still stuck (#1)
//!   stuck in   stuck::handle::{{closure}}  examples/stuck.rs:70  via libc.so.6 clock_nanosleep  thread tokio-rt-worker
//!   state      in clock_nanosleep; 0 B allocated meanwhile
//!   spawned    stuck::main::{{closure}}  examples/stuck.rs:121
//!              stuck::main               examples/stuck.rs:117
//!   help       use `tokio::fs`, `spawn_blocking` or `block_in_place` for what blocks
//! birthmark: slow-callback: the poll of task 47 ended after at least 379 ms, limit 100 ms (#1)
//!
//! 2. A wrapped task computes
//! birthmark: slow-callback: task 49 `stuck::render` has been in one poll for 103 ms, limit 100 ms, and is still stuck (#2)
//!   stuck in   stuck::render::{{closure}}  examples/stuck.rs:77  thread tokio-rt-worker
//!   state      computing; 0 B allocated meanwhile
//!   watched    examples/stuck.rs:125
//!   spawned    stuck::main::{{closure}}  examples/stuck.rs:125
//!              stuck::main               examples/stuck.rs:117
//!   help       use `spawn_blocking` for what computes long, or `tokio::task::yield_now` in between
//! birthmark: slow-callback: one poll of task 49 took 442 ms, limit 100 ms; it allocated 0 B (#2): ended
//!
//! 3. Another executor's block_on
//! birthmark: slow-callback: task 50 `stuck::ask` has been in one poll for at least 109 ms, limit 100 ms, and is still stuck (#3)
//!   stuck in   stuck::ask::{{closure}}  examples/stuck.rs:85  via pollster-0.4.0 pollster::block_on  thread tokio-rt-worker
//!   state      in futex; 0 B allocated meanwhile
//!   spawned    stuck::main::{{closure}}  examples/stuck.rs:129
//!              stuck::main               examples/stuck.rs:117
//!   help       `pollster::block_on` inside a task blocks its thread, and with it the tasks that it may wait for: use `.await`, or `block_in_place` around it
//! birthmark: slow-callback: the poll of task 50 ended after at least 379 ms, limit 100 ms (#3)
//!
//! 4. A waker blocks the driver
//! birthmark: slow-driver: the runtime's driver hasn't come back to its events for at least 109 ms, limit 100 ms: it is stuck in a waker (#4)
//!   stuck in   <stuck::Notifies as alloc::task::Wake>::wake  examples/stuck.rs:93  via libc.so.6 clock_nanosleep  thread tokio-rt-worker
//!   state      in clock_nanosleep
//!   help       a waker should only note that it was called and return; all I/O and timers of the runtime wait for it
//! birthmark: slow-driver: the driver came back after at least 379 ms, limit 100 ms (#4)
//!
//! 5. Jobs hold the blocking pool
//! birthmark: pool-starved: the blocking pool hasn't begun a new job for at least 109 ms, limit 100 ms: 2 jobs that don't end hold its threads (#5)
//!   held by    stuck::import::{{closure}}::{{closure}}  examples/stuck.rs:107  via libc.so.6 clock_nanosleep  2 threads, in clock_nanosleep
//!   help       files, look-ups of names and `spawn_blocking` wait for it: give jobs that last a thread of their own, bound how many run at once, or raise `max_blocking_threads`
//! birthmark: pool-starved: the blocking pool began a job after at least 671 ms, limit 100 ms (#5)
//! ```

use std::future::Future as _;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::thread::sleep;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::task::spawn_blocking;

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new().tracemalloc(2);

const MS: Duration = Duration::from_millis(1);

/// Mistake 1: the system's own file and lock calls block, and so does this.
async fn handle() {
    sleep(MS * 400);
}

/// Mistake 2: no `.await` for a long while.
async fn render() -> u64 {
    let (mut page, mut pixel) = (0, 0_u64);
    while pixel < 600_000_000 {
        pixel += 1;
        page ^= pixel >> 3;
    }
    page
}

/// Mistake 3: a way out of async that leads back into it.
async fn ask() {
    pollster::block_on(async { tokio::time::sleep(MS * 400).await });
}

/// Mistake 4: a waker should note that it was called, and return.
struct Notifies;

impl Wake for Notifies {
    fn wake(self: Arc<Self>) {
        sleep(MS * 400);
    }
}

async fn subscribe() {
    let waker = Waker::from(Arc::new(Notifies));
    let mut timer = Box::pin(tokio::time::sleep(MS * 20));
    assert!(timer.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    tokio::time::sleep(MS * 200).await;
}

/// Mistake 5: jobs without an end in a pool for short ones.
async fn import() {
    for _ in 0..2 {
        drop(spawn_blocking(|| sleep(MS * 800)));
    }
    let read = tokio::fs::read("Cargo.toml").await;
    assert!(read.is_ok());
}

fn main() {
    let mut builder = Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).max_blocking_threads(2).enable_all().build().unwrap();
    birthmark::set_debug(true);
    runtime.block_on(async {
        birthmark::tokio::attach(&Handle::current());

        eprintln!("1. A handler blocks its worker");
        tokio::spawn(handle()).await.unwrap();
        shown().await;

        eprintln!("\n2. A wrapped task computes");
        birthmark::tokio::spawn(render()).await.unwrap();
        shown().await;

        eprintln!("\n3. Another executor's block_on");
        tokio::spawn(ask()).await.unwrap();
        shown().await;

        eprintln!("\n4. A waker blocks the driver");
        tokio::spawn(subscribe()).await.unwrap();
        shown().await;

        eprintln!("\n5. Jobs hold the blocking pool");
        tokio::spawn(import()).await.unwrap();
        shown().await;
    });
}

/// Waits until all was told.
async fn shown() {
    tokio::time::sleep(MS * 100).await;
    birthmark::warnings::check();
}
