//! The time limit of a test, watched by a thread of its own, so that it fires whatever the test's threads are blocked in.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::super::super::reporter::spawn_ours;
use super::super::super::trial::Trial;
use super::super::situation::{self, Only};
use super::super::words_of_time;
use crate::report::sink;

/// How much later than the limit the end waits for the report.
pub(super) const MARGIN: Duration = Duration::from_millis(200);
/// How long after its limit a test's own thread may take to come back.
const GRACE: Duration = Duration::from_secs(2);

struct Shared {
    limit: Duration,
    trial: Arc<Trial>,
    owner: Option<u64>,
    state: Mutex<State>,
    changed: Condvar,
    passed: AtomicBool,
}

#[derive(Default)]
struct State {
    /// The test is over, or its thread has come back.
    over: bool,
    /// The limit has passed, and this is what was told.
    report: Option<String>,
    waker: Option<Waker>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the test is over, for at most so long: whether it is.
    fn wait(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut state = self.state();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if state.over || left.is_zero() {
                return state.over;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The watching thread.
    fn watch(&self) {
        if self.wait(self.limit) {
            return;
        }
        // From here on the test has failed, whatever it does meanwhile; its thread waits for the report.
        self.passed.store(true, Release);
        let sentence =
            format!("test `{}` isn't done after its limit of {}", self.trial.name, words_of_time(self.limit));
        let only = Only { test: self.trial.number, owner: self.owner };
        let report = situation::look(Some(only)).report("timeout", &sentence);
        sink::send(report.as_bytes());
        let waker = {
            let mut state = self.state();
            state.report = Some(report);
            self.changed.notify_all();
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        if self.wait(GRACE) {
            return;
        }
        let words = format!(
            "birthmark: test `{}`: its thread doesn't come back, and nothing can stop it: the process ends with status 101\n",
            self.trial.name
        );
        sink::send(words.as_bytes());
        std::process::exit(101);
    }
}

/// The limit of a test that runs.
pub(super) struct Limit(Arc<Shared>);

impl Limit {
    /// Watches from now on.
    pub(super) fn begin(limit: Duration, trial: Arc<Trial>, owner: Option<u64>) -> Self {
        let shared = Arc::new(Shared {
            limit,
            trial,
            owner,
            state: Mutex::default(),
            changed: Condvar::new(),
            passed: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let watched = spawn_ours("birthmark-limit", move || theirs.watch());
        assert!(watched, "birthmark::tokio::test: the system has no thread to watch the limit");
        Self(shared)
    }

    /// The future's output, unless the limit passes first.
    pub(super) fn over<F: Future>(&self, future: F) -> impl Future<Output = Option<F::Output>> {
        Limited { future, shared: Arc::clone(&self.0) }
    }

    pub(super) fn has_passed(&self) -> bool {
        self.0.passed.load(Acquire)
    }

    /// The test is over. Where the limit has passed: the report, once it is told.
    pub(super) fn end(&self) -> Option<String> {
        let mut state = self.0.state();
        if self.has_passed() {
            let end = Instant::now() + Duration::from_secs(20);
            while state.report.is_none() && Instant::now() < end {
                let wait = Duration::from_millis(100);
                state = self.0.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        state.over = true;
        self.0.changed.notify_all();
        if !self.has_passed() {
            return None;
        }
        Some(state.report.take().unwrap_or_else(|| format!("test `{}` passed its limit", self.0.trial.name)))
    }
}

struct Limited<F> {
    future: F,
    shared: Arc<Shared>,
}

impl<F: Future> Future for Limited<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: `future` is pinned with the whole and never moved out; `shared` isn't pinned.
        let (future, shared) = unsafe {
            let whole = self.get_unchecked_mut();
            (Pin::new_unchecked(&mut whole.future), &whole.shared)
        };
        {
            let mut state = shared.state();
            if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                state.waker = Some(cx.waker().clone());
            }
        }
        if shared.passed.load(Acquire) {
            return if shared.state().report.is_some() { Poll::Ready(None) } else { Poll::Pending };
        }
        match future.poll(cx) {
            // Done, but too late.
            Poll::Ready(_) if shared.passed.load(Acquire) => Poll::Ready(None),
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => Poll::Pending,
        }
    }
}
