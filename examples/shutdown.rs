//! Work that is lost without a word: tasks that nobody waits for when their runtime ends, and a payment that a time-out cuts
//! short. Birthmark tells both; what may be lost and says so, or was aborted, is silent.
//!
//! ```sh
//! cargo run --example shutdown
//! ```
//!
//! prints (numbers of tasks may differ):
//!
//! ```text
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

fn main() {
    eprintln!("1. A runtime ends with tasks pending");
    birthmark::tokio::run(true, greet());

    eprintln!("\n2. A time-out drops a future that must complete");
    birthmark::tokio::run(true, order());

    warnings::check(); // with `BIRTHMARK_WARNINGS=error` each of them would end the program here
}
