//! Runs a future as a task wherever Birthmark looks at tasks: both flavours of tokio, a `LocalSet`, and an executor that isn't tokio.
#![allow(dead_code)]

use std::future::Future;

use tokio::runtime::Builder;
use tokio::task::LocalSet;

pub const EVERYWHERE: [&str; 4] = ["mt", "ct", "local", "smol"];

/// On tokio by `run(true, ..)`, with a plain `spawn`.
pub fn run_as_a_task(how: &str, future: impl Future<Output = ()> + Send + 'static) {
    match how {
        "mt" => birthmark::tokio::run(true, async { tokio::spawn(future).await.unwrap() }),
        "ct" => birthmark::tokio::run_on(Builder::new_current_thread().enable_all(), true, async {
            tokio::spawn(future).await.unwrap();
        }),
        _ => run_as_a_local_task(how, future),
    }
}

/// Where it needn't be `Send`. With smol async debug is switched on.
pub fn run_as_a_local_task(how: &str, future: impl Future<Output = ()> + 'static) {
    match how {
        "local" => birthmark::tokio::run(true, async {
            LocalSet::new().run_until(async { tokio::task::spawn_local(future).await.unwrap() }).await;
        }),
        "smol" => {
            birthmark::set_debug(true);
            let executor = smol::LocalExecutor::new();
            smol::block_on(executor.run(executor.spawn(future)));
        }
        other => panic!("no executor {other}"),
    }
}
