//! `tokio::net` with a look-up of names that tells when it is slow: a changed `use` line. With the feature `tokio-net`. Everything
//! else of `tokio::net` is here under its own name.
//!
//! tokio asks the system's resolver (`getaddrinfo`) on a thread of the blocking pool. While async debug is on
//! ([`crate::set_debug`]) a [`lookup_host`] that takes longer than a poll may ([`crate::set_slow_callback_duration`]) is told as
//! `slow-lookup`: which name, how long, from which line. Python's asyncio logs the same of its own.
//!
//! Not counted is the time until the task is polled again, nor a process that is stopped. What `TcpStream::connect` looks up
//! itself isn't seen.

use std::fmt::Debug;
use std::future::Future;
use std::io::Result;
use std::net::SocketAddr;
use std::panic::Location;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

pub use ::tokio::net::*;

use super::super::warning::{Kind, Row, Warning};
use super::super::{heap, reporter, switch};
use super::watchdog::Stopwatch;
use super::words_of_time;

/// As [`tokio::net::lookup_host`](::tokio::net::lookup_host), and tells when it is slow: see [the module](self).
///
/// ```
/// # birthmark::tokio::run(false, async {
/// let addresses = birthmark::tokio::net::lookup_host("127.0.0.1:80").await?;
/// assert_eq!(addresses.count(), 1);
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
///
/// # Errors
/// As tokio's.
#[doc(alias = "getaddrinfo")]
#[track_caller]
pub fn lookup_host<T>(host: T) -> impl Future<Output = Result<impl Iterator<Item = SocketAddr>>>
where
    T: ToSocketAddrs + Debug,
{
    let at = Location::caller();
    let watch = switch::on().then(|| {
        let _ours = heap::ours();
        super::wrapped();
        let host = format!("{host:?}");
        let host = host.strip_prefix('"').and_then(|h| h.strip_suffix('"')).unwrap_or(&host).to_owned();
        Box::new(Watch { host, at, state: State::New })
    });
    Lookup { watch, inner: ::tokio::net::lookup_host(host) }
}

struct Lookup<F> {
    watch: Option<Box<Watch>>,
    inner: F,
}

struct Watch {
    host: String,
    at: &'static Location<'static>,
    state: State,
}

enum State {
    New,
    /// Polled first, and whom it wakes.
    Asked(Arc<Woken>),
    Done,
}

/// Notes when the answer came: its task may be polled much later.
struct Woken {
    since: Stopwatch,
    inner: Mutex<(Waker, Option<Duration>)>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        let took = self.since.passed();
        let waker = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.1 = Some(took);
            inner.0.clone()
        };
        waker.wake();
    }
}

impl Woken {
    fn took(&self) -> Duration {
        let answered = self.inner.lock().unwrap_or_else(PoisonError::into_inner).1;
        answered.unwrap_or_else(|| self.since.passed())
    }
}

impl<F, I> Future for Lookup<F>
where
    F: Future<Output = Result<I>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: `inner` is pinned with the whole and never moved out of it; `watch` isn't pinned, and `Drop` is its own.
        let (watch, inner) = unsafe {
            let whole = self.get_unchecked_mut();
            (&mut whole.watch, Pin::new_unchecked(&mut whole.inner))
        };
        let Some(watch) = watch else { return inner.poll(cx) };
        let woken = match &watch.state {
            State::Asked(woken) => {
                let mut inner = woken.inner.lock().unwrap_or_else(PoisonError::into_inner);
                inner.0.clone_from(cx.waker());
                drop(inner);
                Arc::clone(woken)
            }
            _ => {
                let _ours = heap::ours();
                let inner = Mutex::new((cx.waker().clone(), None));
                let woken = Arc::new(Woken { since: Stopwatch::begin(), inner });
                watch.state = State::Asked(Arc::clone(&woken));
                woken
            }
        };
        let result = inner.poll(&mut Context::from_waker(&Waker::from(woken)));
        if let Poll::Ready(result) = &result {
            watch.end(if result.is_ok() { "took" } else { "failed after" });
        }
        result
    }
}

impl Watch {
    fn end(&mut self, how: &str) {
        if let State::Asked(woken) = std::mem::replace(&mut self.state, State::Done)
            && switch::on()
        {
            let (took, limit) = (woken.took(), switch::limit());
            let _ours = heap::ours();
            if took > limit {
                reporter::tell(words(&self.host, how, took, limit, self.at));
            } else if heap::tells_debug() {
                let sentence = format!("the look-up of `{}` {how} {}", self.host, words_of_time(took));
                let warning = Warning::new(Kind::Lookup, sentence, vec![Row::place("looked up", self.at)]);
                reporter::tell(Warning { every: true, ..warning });
            }
        }
    }
}

/// One that nobody waits for any longer, after a time-out for one.
impl Drop for Watch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end("was given up after");
        }
    }
}

fn words(host: &str, how: &str, took: Duration, limit: Duration, at: &Location<'_>) -> Warning {
    let (took, limit) = (words_of_time(took), words_of_time(limit));
    let sentence = format!("the look-up of `{host}` {how} {took}, limit {limit}");
    let help = "look a name up once and keep its address, or keep the connection; a wait for a thread of the blocking pool counts";
    let rows = vec![
        Row::place("looked up", at),
        Row::words("by", heap::this_thread()),
        Row::words("help", help.into()),
    ];
    Warning::new(Kind::SlowLookup, sentence, rows)
}
