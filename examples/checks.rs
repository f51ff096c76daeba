//! Rules that the compiler can't check: a client used in another runtime than its own, a window drawn by another thread, a call that
//! blocks inside of a task, a lock held while its task waits, a future that nobody awaits. While async debug is on the first three
//! panic at the call, with both places, as asyncio's debug mode raises; the others are told.
//!
//! ```sh
//! cargo run --example checks
//! ```
//!
//! prints (numbers of tasks and threads differ from run to run):
//!
//! ```text
//! 1. A client of one runtime, used in the next
//!
//! thread 'main' (25154) panicked at examples/checks.rs:149:78:
//! birthmark: wrong-runtime: what belongs to runtime 3, which ended 3 ms ago, was used in runtime 4
//!   made       checks::Client::connect  examples/checks.rs:78                 thread main
//!              checks::client           examples/checks.rs:99
//!   used       checks::Client::request                 examples/checks.rs:83  thread main
//!              checks::main::{{closure}}::{{closure}}  examples/checks.rs:149
//!              checks::main::{{closure}}               examples/checks.rs:149
//!              checks::main                            examples/checks.rs:149
//!   help       make one in each runtime, not one in a `static`, or keep one runtime for all that share it
//!
//! 2. A window, drawn by another thread
//!
//! thread 'painter' (25163) panicked at examples/checks.rs:121:42:
//! birthmark: wrong-thread: what belongs to thread main was used on thread painter
//!   made       checks::Window::open  examples/checks.rs:108
//!              checks::render        examples/checks.rs:119
//!   used       checks::Window::draw         examples/checks.rs:113
//!              checks::render::{{closure}}  examples/checks.rs:121
//!   help       make it on the thread that uses it, or send messages to the one that made it
//!
//! 3. A call that blocks, in a task
//!
//! thread 'tokio-rt-worker' (25165) panicked at examples/checks.rs:126:23:
//! birthmark: blocking-call: `Client::request_blocking` blocks its thread, and was called in a poll of task 98 `checks::report`
//!   called     checks::Client::request_blocking  examples/checks.rs:90  thread tokio-rt-worker, task 98
//!              checks::report::{{closure}}       examples/checks.rs:126
//!   spawned    checks::main::{{closure}}  examples/checks.rs:156
//!              checks::main               examples/checks.rs:156
//!   help       call `Client::request` instead, or `Client::request_blocking` inside of `spawn_blocking`
//!
//! 4. A lock, held while its task waits
//! birthmark: lock-across-await: the root future holds a Mutex while it waits
//!   locked     checks::count::{{closure}}  examples/checks.rs:132
//!              checks::main                examples/checks.rs:159
//!   run        examples/checks.rs:159
//!   help       drop the guard before the `.await`, or use `tokio::sync::Mutex`: whoever locks it meanwhile blocks its worker
//!
//! 5. A future that nobody awaits
//! birthmark: never-awaited: future `checks::send_mail` was dropped and had never been polled
//!   created    checks::greet::{{closure}}  examples/checks.rs:139
//!              checks::main                examples/checks.rs:162
//!   dropped    checks::greet::{{closure}}  examples/checks.rs:139  thread main
//!              checks::main                examples/checks.rs:162
//!   help       a future does nothing until it is awaited: add `.await`, or spawn it
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::time::Duration;

use birthmark::sync::Mutex;
use birthmark::tokio::RuntimeBound;
use birthmark::{ThreadBound, WatchExt as _};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new().tracemalloc(2);

/// Its connections are tasks of the runtime in which it was made.
struct Client {
    runtime: RuntimeBound<()>,
}

impl Client {
    fn connect() -> Self {
        Self { runtime: RuntimeBound::new(()) }
    }

    #[track_caller]
    fn request(&self) -> usize {
        self.runtime.check();
        42
    }

    /// For callers that aren't async.
    #[track_caller]
    fn request_blocking(&self) -> usize {
        birthmark::blocking_call("Client::request_blocking", "Client::request");
        std::thread::sleep(Duration::from_millis(1));
        42
    }
}

/// Mistake 1: kept in a `static`, it outlives its runtime.
fn client() -> &'static Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    CLIENT.get_or_init(Client::connect)
}

struct Window {
    thread: ThreadBound<()>,
}

impl Window {
    fn open() -> Self {
        Self { thread: ThreadBound::new(()) }
    }

    #[track_caller]
    fn draw(&self) {
        self.thread.check();
    }
}

/// Mistake 2: a window is drawn by the thread that opened it.
fn render() {
    let window = Window::open();
    let painter = std::thread::Builder::new().name("painter".into());
    let _ = painter.spawn(move || window.draw()).unwrap().join();
}

/// Mistake 3: deep inside of async code, a call for code that isn't.
async fn report() -> usize {
    Client::connect().request_blocking()
}

/// Mistake 4: whoever else wants the lock blocks a worker meanwhile. Of futures that must be `Send` the compiler says so, not of `main`'s
/// and those of a `LocalSet`.
async fn count(visits: &Mutex<u64>) {
    let mut visits = visits.lock().unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    *visits += 1;
}

/// Mistake 5: without an `.await` nothing is sent.
async fn greet() {
    drop(send_mail("ada").watched());
}

async fn send_mail(_to: &'static str) {}

fn main() {
    birthmark::set_debug(true);

    eprintln!("1. A client of one runtime, used in the next");
    for _ in 0..2 {
        let _ = catch_unwind(|| birthmark::tokio::run(true, async { client().request() }));
    }

    eprintln!("\n2. A window, drawn by another thread");
    render();

    eprintln!("\n3. A call that blocks, in a task");
    birthmark::tokio::run(true, async { drop(tokio::spawn(report()).await) });

    eprintln!("\n4. A lock, held while its task waits");
    birthmark::tokio::run(true, count(&Mutex::new(0)));

    eprintln!("\n5. A future that nobody awaits");
    birthmark::tokio::run(true, greet());
    let _ = catch_unwind(AssertUnwindSafe(birthmark::warnings::check));
}
