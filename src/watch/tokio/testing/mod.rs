//! The test wrapper: a runtime for one test, with a limit that tells why it was passed, and nothing left behind at the end.
//!
//! `limit` watches the time from a thread of its own; `leaks` finds the tasks that went on; what else arose in the test waits in
//! `trial`.

mod leaks;
mod limit;

use std::future::Future;
use std::panic::Location;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::tokio::runtime::{Builder, Runtime};

use super::super::tasks::registry::Role;
use super::super::trial::{self, Heard, Trial};
use super::super::warning::Kind;
use super::super::warnings::Warning;
use super::super::{heap, reporter, set_debug, wrapped};
use super::shutdown::{self, Guarded};
use super::{attach_builder, busy, watch};
use crate::config::Level;
use limit::Limit;

/// Runs a test's future to its end, with a time limit, and fails the test on what it leaves behind. In a plain `#[test]`, instead of
/// `#[tokio::test]`; on a multi-threaded runtime with everything enabled.
///
/// Async debug and tracing (5 frames) are switched on, unless `BIRTHMARK_ASYNC_DEBUG=0` or `TRACEMALLOC=0` forbids it, and stay on
/// for the tests that follow.
///
/// - *The limit passes:* instead of a bare time-out, what each thread is blocked in, the tasks, and the [`ResourceGuard`]s with work
///   undone go to the raw standard error, and the test panics with them. A test whose own thread doesn't come back for 2
///   seconds more ends the process with status 101: nothing else can end it.
/// - *The future is done:* tasks of the test that go on are told as `task-leak`, each with where it was spawned. Aborted ones, those
///   that end within 100 ms or whose poll is under way, and blocking jobs aren't. Those that a dependency spawned, and
///   `.daemon()`s, aren't either.
/// - *The runtime is down:* the test panics with its `task-leak`, `task-error` (panics that nobody read), `resource-warning`
///   (work lost on drop) and `task-destroyed` (a `must_complete()` that didn't) reports, and with those that a filter makes errors. What [`catch`](crate::warnings::catch) took and what
///   a filter ignores doesn't fail it.
///
/// A future that panics keeps its own message.
///
/// ```
/// use std::time::Duration;
///
/// // #[test]
/// fn answers() {
///     let answer = birthmark::tokio::test(Duration::from_secs(5), async {
///         birthmark::tokio::spawn(async { 6 * 7 }).await.unwrap()
///     });
///     assert_eq!(answer, 42);
/// }
/// # answers();
/// ```
///
/// # Panics
/// When the test fails, as above; when the future panics; when the runtime can't be built, or inside of another.
///
/// [`ResourceGuard`]: crate::ResourceGuard
#[track_caller]
pub fn test<F: Future>(limit: Duration, future: F) -> F::Output {
    test_on(Builder::new_multi_thread().enable_all(), limit, future)
}

/// [`test`](test()) on a runtime of your own making. The builder's `on_thread_start` is taken, to know which threads are the test's.
///
/// ```
/// use std::time::Duration;
/// use ::tokio::runtime::Builder;
///
/// let mut builder = Builder::new_current_thread();
/// let n = birthmark::tokio::test_on(builder.enable_all(), Duration::from_secs(5), async {
///     ::tokio::time::sleep(Duration::from_millis(1)).await;
///     7
/// });
/// assert_eq!(n, 7);
/// ```
///
/// # Panics
/// As [`test`](test()).
#[track_caller]
pub fn test_on<F: Future>(builder: &mut Builder, limit: Duration, future: F) -> F::Output {
    let end = Instant::now() + limit;
    switch_on();
    let trial = trial::begin(name(Location::caller()));
    let here = Here::enter(trial.number);
    let number = trial.number;
    builder.on_thread_start(move || trial::set_here(number));
    attach_builder(builder);
    let runtime = match builder.build() {
        Ok(runtime) => runtime,
        Err(error) => {
            trial.end();
            panic!("birthmark::tokio::test: the runtime can't be built: {error}");
        }
    };
    let (attached, guarded) = watch(runtime.handle());
    let owner = shutdown::owner(runtime.handle());
    let running = Running {
        attached,
        guarded,
        limit: Limit::begin(limit, Arc::clone(&trial), owner),
        trial: Arc::clone(&trial),
        runtime: Some(runtime),
    };
    let output = running.runtime().block_on(running.limit.over(wrapped::for_a_task(future, Role::Root)));
    if output.is_some() {
        leaks::tell(running.runtime(), &trial, owner, end);
    }
    let passed = running.end(end);
    drop(here);
    let heard = trial.end();
    if let Some(report) = passed {
        panic!("{report}");
    }
    let Some(output) = output else { unreachable!("it is done, or the limit has passed") };
    if let Some(words) = failed(&trial.name, heard) {
        reporter::take_errors(); // they are told here
        panic!("{words}");
    }
    output
}

/// What a test needs.
fn switch_on() {
    if heap::settings().debug != Some(false) {
        set_debug(true);
    }
    if heap::installed() {
        crate::tracemalloc::start(5);
    }
}

/// libtest names a test's thread after it; on one thread it runs them all on `main`.
fn name(caller: &Location<'_>) -> String {
    match std::thread::current().name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => format!("{}:{}", caller.file(), caller.line()),
    }
}

/// This thread works for a test, until this is dropped.
struct Here(u64);

impl Here {
    fn enter(number: u64) -> Self {
        let before = trial::here();
        trial::set_here(number);
        Self(before)
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        trial::set_here(self.0);
    }
}

/// The runtime and what watches it.
struct Running {
    runtime: Option<Runtime>,
    attached: u64,
    /// What would tell of tasks that the end of the runtime takes: they are told as leaks before.
    guarded: Option<Arc<Guarded>>,
    limit: Limit,
    trial: Arc<Trial>,
}

impl Running {
    fn runtime(&self) -> &Runtime {
        let Some(runtime) = &self.runtime else { unreachable!("taken at the end alone") };
        runtime
    }

    fn silence(&self) {
        self.guarded.as_ref().inspect(|guarded| guarded.silence());
    }

    /// Shuts down, in what is left of the time; the report where the limit has passed.
    fn end(mut self, end: Instant) -> Option<String> {
        busy::forget(self.attached);
        self.silence();
        if let Some(runtime) = self.runtime.take() {
            if self.limit.has_passed() {
                runtime.shutdown_background();
            } else {
                // A little longer than the limit: then it is the one that tells.
                runtime.shutdown_timeout(end.saturating_duration_since(Instant::now()) + limit::MARGIN);
            }
        }
        let passed = self.limit.end();
        reporter::flush(Duration::from_secs(2));
        passed
    }
}

/// By a panic of the test's: its message is the news, and nothing may keep it from being told.
impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            busy::forget(self.attached);
            self.silence();
            self.limit.end();
            runtime.shutdown_background();
            self.trial.end();
        }
    }
}

/// What the test fails with, if it does.
fn failed(name: &str, heard: Heard) -> Option<String> {
    let fails = |warning: &Warning| {
        warning.level() == Level::Error
            || matches!(
                warning.kind(),
                Kind::TaskLeak | Kind::TaskError | Kind::TaskDestroyed | Kind::ResourceWarning
            )
    };
    let (all, more) = (heard.kept, heard.more);
    let fatal: Vec<Warning> = all.into_iter().filter(fails).collect();
    if fatal.is_empty() {
        return None;
    }
    let n = fatal.len() + more;
    let mut words = format!("test `{name}` left {n} thing{} behind", if n == 1 { "" } else { "s" });
    for warning in fatal {
        words += &format!("\n{warning}");
    }
    if more > 0 {
        words += &format!("\nand {more} more");
    }
    Some(words)
}
