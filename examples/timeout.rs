//! Tests that say why they hang, and what they leave behind: `birthmark::tokio::test` instead of `#[tokio::test]`. Here three tests
//! that must fail are run by hand; in a program of yours each is a plain `#[test]`.
//!
//! ```sh
//! cargo run --example timeout
//! ```
//!
//! prints (times, and numbers of tasks and threads, differ from run to run):
//!
//! ```text
//! 1. Two tasks wait for each other
//! birthmark: timeout: test `examples/timeout.rs:118` isn't done after its limit of 500 ms
//!   tasks      2 tasks: 1 idle, 1 waiting
//!                task     state    age     polls  busy    held     peak     cell   future                          spawned at               waits at
//!                root     waiting  499 ms  2      835 us  1.8 KiB  1.8 KiB  192 B  timeout::asks_all_then_listens  examples/timeout.rs:118  examples/timeout.rs:91 Sender<T>::send
//!                task 49  idle     499 ms  3      401 us  0 B      0 B      384 B  timeout::worker                 examples/timeout.rs:89   examples/timeout.rs:79 Sender<T>::send
//!
//! 2. A task blocks its worker
//! birthmark: slow-callback: task 82 `timeout::reads_a_pipe::{{closure}}` has been in one poll for 102 ms, limit 100 ms, and is still stuck (#1)
//!   stuck in   timeout::reads_a_pipe::{{closure}}::{{closure}}  examples/timeout.rs:98  via libc.so.6 clock_nanosleep  thread tokio-rt-worker
//!   state      in clock_nanosleep; 0 B allocated meanwhile
//!   watched    examples/timeout.rs:98
//!   spawned    timeout::reads_a_pipe::{{closure}}  examples/timeout.rs:98
//!              timeout::pipe                       examples/timeout.rs:123
//!              timeout::main                       examples/timeout.rs:137
//!   test       examples/timeout.rs:123
//!   help       use `tokio::fs`, `spawn_blocking` or `block_in_place` for what blocks
//! birthmark: timeout: test `examples/timeout.rs:123` isn't done after its limit of 500 ms
//!   busy in    timeout::reads_a_pipe::{{closure}}::{{closure}}  examples/timeout.rs:98  via libc.so.6 clock_nanosleep  thread tokio-rt-worker, task 82, in clock_nanosleep
//!   tasks      2 tasks: 1 running, 1 waiting
//!                task     state    age     polls  busy    held   peak   cell   future                 spawned at               waits at
//!                root     waiting  500 ms  2      471 us  352 B  352 B  128 B  timeout::reads_a_pipe  examples/timeout.rs:123  examples/timeout.rs:100 JoinHandle<T>
//!                task 82  running  500 ms  1      500 ms  0 B    0 B    256 B  timeout::reads_a_pipe  examples/timeout.rs:98
//!
//! 3. A test passes, and leaves much behind
//! birthmark: task-error: task 110 panicked and nobody read it: "assertion `left == right` failed\n  left: 42\n right: 43" at examples/timeout.rs:110
//!   panicked   timeout::leaves_much_behind::{{closure}}::{{closure}}  examples/timeout.rs:110  thread tokio-rt-worker
//!   spawned    timeout::leaves_much_behind::{{closure}}  examples/timeout.rs:110
//!              timeout::tidy                             examples/timeout.rs:128
//!              timeout::main                             examples/timeout.rs:139
//!   test       examples/timeout.rs:128
//!   help       await its `JoinHandle`, or look into the `JoinError`
//! birthmark: resource-warning: BufWriter was dropped with 7 bytes unflushed: they are lost
//!   allocated  timeout::leaves_much_behind::{{closure}}  examples/timeout.rs:111
//!              timeout::tidy                             examples/timeout.rs:128
//!              timeout::main                             examples/timeout.rs:139
//!   touched    timeout::leaves_much_behind::{{closure}}  examples/timeout.rs:112
//!              timeout::tidy                             examples/timeout.rs:128
//!              timeout::main                             examples/timeout.rs:139
//!   dropped    timeout::leaves_much_behind::{{closure}}  examples/timeout.rs:114  thread main
//!              timeout::tidy                             examples/timeout.rs:128
//!              timeout::main                             examples/timeout.rs:139
//!   test       examples/timeout.rs:128
//!   help       call `flush().await` or `shutdown().await` before it is dropped
//! birthmark: task-leak: task 109 `timeout::leaves_much_behind` went on when its test was done
//!   spawned    timeout::leaves_much_behind::{{closure}}  examples/timeout.rs:105
//!              timeout::tidy                             examples/timeout.rs:128
//!              timeout::main                             examples/timeout.rs:139
//!   state      idle, polled once
//!   test       examples/timeout.rs:128
//!   help       await its `JoinHandle`, or abort it, before the test ends
//! birthmark: 4 warnings in this test run: 1 slow-callback, 1 resource-warning, 1 task-error, 1 task-leak
//! ```

use std::panic::{catch_unwind, set_hook};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::time::sleep;

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

const MS: Duration = Duration::from_millis(1);

async fn worker(mut jobs: mpsc::Receiver<u32>, done: mpsc::Sender<u32>) {
    while let Some(job) = jobs.recv().await {
        if done.send(job * 2).await.is_err() {
            break; // nobody listens any more
        }
    }
}

/// The answers have room for one, and nobody takes them before all questions are asked: neither side goes on.
async fn asks_all_then_listens() -> u32 {
    let (ask, jobs) = mpsc::channel(1);
    let (done, mut answers) = mpsc::channel(1);
    birthmark::tokio::spawn(worker(jobs, done));
    for job in 0..5 {
        ask.send(job).await.unwrap();
    }
    answers.recv().await.unwrap()
}

/// A worker in the middle of something that blocks.
async fn reads_a_pipe() {
    let reader = birthmark::tokio::spawn(async { std::thread::sleep(MS * 1500) });
    sleep(MS * 10).await;
    reader.await.unwrap();
}

/// It passes, and leaves a task, a panic and a writer behind.
async fn leaves_much_behind() {
    birthmark::tokio::spawn(async {
        loop {
            sleep(MS * 1000).await;
        }
    });
    drop(tokio::spawn(async { assert_eq!(6 * 7, 43) }));
    let mut out = birthmark::tokio::io::BufWriter::new(tokio::io::sink());
    out.write_all(b"the end").await.unwrap();
    sleep(MS * 20).await;
}

// #[test]
fn answers() {
    birthmark::tokio::test(MS * 500, asks_all_then_listens());
}

// #[test]
fn pipe() {
    birthmark::tokio::test(MS * 500, reads_a_pipe());
}

// #[test]
fn tidy() {
    birthmark::tokio::test(MS * 5000, leaves_much_behind());
}

fn main() {
    // Each test panics with what was told once more, as its message in libtest's list of failures.
    set_hook(Box::new(|_| ()));
    eprintln!("1. Two tasks wait for each other");
    assert!(catch_unwind(answers).is_err());
    eprintln!("\n2. A task blocks its worker");
    assert!(catch_unwind(pipe).is_err());
    eprintln!("\n3. A test passes, and leaves much behind");
    assert!(catch_unwind(tidy).is_err());
}
