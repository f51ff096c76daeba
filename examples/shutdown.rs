//! Work that is lost without a word: tasks that nobody waits for when their runtime ends, a payment that a time-out cuts
//! short, an error that nobody reads. Birthmark tells each; what may be lost and says so, or was aborted, is silent.
//!
//! ```sh
//! cargo run --example shutdown
//! ```
//!
//! prints (numbers of tasks may differ):
//!
//! ```text
//! 1. A runtime ends with tasks pending
//! birthmark: task-destroyed: 4 tasks were still pending when their runtime was shut down
//!   spawned    3 tasks in shutdown::greet::{{closure}}  examples/shutdown.rs:61
//!              shutdown::main                           examples/shutdown.rs:88
//!   spawned    task 50 `shutdown::flush_metrics` in shutdown::greet::{{closure}}  examples/shutdown.rs:63
//!              shutdown::main  examples/shutdown.rs:88
//!   help       await or abort them before that; mark tasks that may be lost: `birthmark::watched(..).daemon()`
//!
//! 2. A time-out drops a future that must complete
//! birthmark: task-destroyed: future `shutdown::pay` must complete and was dropped before it did
//!   created    shutdown::order::{{closure}}  examples/shutdown.rs:72
//!              shutdown::main                examples/shutdown.rs:91
//!   dropped    shutdown::order::{{closure}}  examples/shutdown.rs:73  thread main
//!              shutdown::main                examples/shutdown.rs:91
//!   help       a time-out, a lost `select!`, an abort or its runtime's end drops a future: let what must complete run in a task that is awaited
//!
//! 3. A task fails and nobody reads it
//! birthmark: task-error: task 100 `shutdown::load` failed and nobody read it: Os { code: 2, kind: NotFound, message: "No such file or directory" }
//!   spawned    shutdown::start::{{closure}}  examples/shutdown.rs:82
//!              shutdown::main                examples/shutdown.rs:94
//!   help       await its handle, which was dropped while the task ran, and look into the `Err`
//! ```

use std::time::Duration;

use birthmark::warnings;

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new().tracemalloc(2);

/// Sends one mail, slowly.
async fn send_mail(_to: &'static str) {
    tokio::time::sleep(Duration::from_secs(2)).await;
}

/// Writes what was counted, every minute.
async fn flush_metrics() {
    loop {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

async fn pay() {
    tokio::time::sleep(Duration::from_secs(2)).await; // the money is taken
    tokio::time::sleep(Duration::from_secs(2)).await; // the order is written
}

/// Mistake 1: the program ends while its mails are still being sent.
async fn greet() {
    for to in ["ada", "grace", "barbara"] {
        tokio::spawn(send_mail(to));
    }
    birthmark::tokio::spawn(flush_metrics());
    // Not mistakes: nothing is lost of a heartbeat, and what was aborted was aborted on purpose.
    tokio::spawn(birthmark::watched(flush_metrics()).daemon());
    tokio::spawn(send_mail("nobody")).abort();
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Mistake 2: a time-out around something that must not stop half way.
async fn order() {
    let payment = birthmark::watched(pay()).must_complete();
    let _ = tokio::time::timeout(Duration::from_millis(20), payment).await;
}

/// Mistake 3: nobody looks whether it could be read.
async fn load(path: &'static str) -> std::io::Result<Vec<u8>> {
    tokio::fs::read(path).await
}

async fn start() {
    drop(birthmark::tokio::spawn_fallible(load("no/such/settings.toml")));
    tokio::time::sleep(Duration::from_millis(200)).await;
}

fn main() {
    eprintln!("1. A runtime ends with tasks pending");
    birthmark::tokio::run(true, greet());

    eprintln!("\n2. A time-out drops a future that must complete");
    birthmark::tokio::run(true, order());

    eprintln!("\n3. A task fails and nobody reads it");
    birthmark::tokio::run(true, start());

    warnings::check(); // with `BIRTHMARK_WARNINGS=error` each of them would end the program here
}
