//! `tokio::sync::oneshot` that tells where a sender was dropped with nothing sent: a changed `use` line.
//!
//! Who waits for a [`Receiver`] then gets a `RecvError`, which doesn't say who let go of the other end. While async debug is on
//! ([`crate::set_debug`]) that is told as a `resource-warning` once the receiver sees the error: where the channel was made
//! (with tracing on), where its sender was dropped, and where somebody waited.
//!
//! Silent are a receiver that nobody awaits any more, or that is dropped or closed before it sees the error (a runtime's end, a
//! time-out), a sender dropped by a panic, and a channel whose values have no size (`oneshot::channel::<()>()`): there a drop
//! is a signal as good as a value.
//!
//! ```
//! use birthmark::tokio::sync::oneshot;
//!
//! # birthmark::tokio::run(false, async {
//! let (answer, waiting) = oneshot::channel();
//! birthmark::tokio::spawn(async move { answer.send(6 * 7) });
//! assert_eq!(waiting.await, Ok(42));
//! # });
//! ```

use std::any::type_name;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use ::tokio::sync::oneshot as tokio_oneshot;

pub use tokio_oneshot::error;

use super::super::super::warning::{Kind, Row, Warning};
use super::super::super::{heap, reporter, switch};
use error::{RecvError, TryRecvError};

/// A channel for one value: [`tokio::sync::oneshot::channel`](::tokio::sync::oneshot::channel).
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = tokio_oneshot::channel();
    let shared = (switch::on() && size_of::<T>() != 0).then(|| Arc::new(Shared::default()));
    let fate = Fate(shared.clone());
    (Sender { fate, inner: sender }, Receiver { shared, inner: receiver })
}

/// What both ends know; its block's trace is where the channel was made.
#[derive(Debug, Default)]
struct Shared {
    dropped: OnceLock<Dropped>,
}

/// Where the sender was dropped with nothing sent.
#[derive(Debug)]
struct Dropped {
    stack: Vec<usize>,
    thread: String,
}

/// As [`tokio::sync::oneshot::Sender`](::tokio::sync::oneshot::Sender).
#[derive(Debug)]
pub struct Sender<T> {
    /// Dropped first: before the receiver is woken.
    fate: Fate,
    inner: tokio_oneshot::Sender<T>,
}

/// Notes the drop of a sender that wasn't used.
#[derive(Debug)]
struct Fate(Option<Arc<Shared>>);

impl Drop for Fate {
    #[inline]
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            unsent(&shared);
        }
    }
}

#[cold]
#[inline(never)]
fn unsent(shared: &Arc<Shared>) {
    // The receiver's half of it is gone when nobody can wait; of a drop by a panic the panic is the news.
    if Arc::strong_count(shared) > 1 && switch::on() && !std::thread::panicking() {
        let _ours = heap::ours();
        let _ = shared.dropped.set(Dropped { stack: heap::stack_here(), thread: heap::this_thread() });
    }
}

impl<T> Sender<T> {
    /// Sends the value.
    ///
    /// # Errors
    /// The value, when the receiver is gone.
    pub fn send(self, value: T) -> Result<(), T> {
        let Self { mut fate, inner } = self;
        fate.0 = None;
        inner.send(value)
    }

    /// Waits until the receiver is gone.
    pub async fn closed(&mut self) {
        self.inner.closed().await;
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    /// [`Sender::closed`] as a poll.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.inner.poll_closed(cx)
    }
}

/// As [`tokio::sync::oneshot::Receiver`](::tokio::sync::oneshot::Receiver).
#[derive(Debug)]
#[must_use = "futures do nothing unless you `.await` or poll them"]
pub struct Receiver<T> {
    /// Nothing where it is off, and once its end is known.
    shared: Option<Arc<Shared>>,
    inner: tokio_oneshot::Receiver<T>,
}

impl<T> Receiver<T> {
    /// Keeps the sender from sending. What was sent before can still be received.
    pub fn close(&mut self) {
        // Who closes waits no more.
        self.shared = None;
        self.inner.close();
    }

    /// Whether it was awaited to its end.
    pub fn is_terminated(&self) -> bool {
        self.inner.is_terminated()
    }

    /// Whether there is nothing to receive now.
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    /// The value, if it is there.
    ///
    /// # Errors
    /// When it isn't there yet, and when it won't ever be.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        let result = self.inner.try_recv();
        if !matches!(result, Err(TryRecvError::Empty)) {
            self.ended(result.is_err());
        }
        result
    }

    /// Waits for the value, and blocks this thread meanwhile.
    ///
    /// # Errors
    /// When the sender was dropped with nothing sent.
    ///
    /// # Panics
    /// In async code, as tokio's.
    #[track_caller]
    pub fn blocking_recv(self) -> Result<T, RecvError> {
        let Self { shared, inner } = self;
        let result = inner.blocking_recv();
        if let Some(shared) = shared.filter(|_| result.is_err()) {
            left_waiting(&shared, type_name::<T>());
        }
        result
    }

    #[inline]
    fn ended(&mut self, nothing: bool) {
        if let Some(shared) = self.shared.take()
            && nothing
        {
            left_waiting(&shared, type_name::<T>());
        }
    }
}

impl<T> Future for Receiver<T> {
    type Output = Result<T, RecvError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.inner).poll(cx);
        if let Poll::Ready(result) = &result {
            this.ended(result.is_err());
        }
        result
    }
}

/// The receiver saw the error.
#[cold]
#[inline(never)]
fn left_waiting(shared: &Arc<Shared>, value: &str) {
    if let Some(dropped) = shared.dropped.get()
        && switch::on()
        && !std::thread::panicking()
    {
        let allocated = heap::trace_of(Arc::as_ptr(shared) as usize);
        let _ours = heap::ours();
        let waited = Row::stack("waited", heap::stack_here()).noted(heap::this_thread());
        reporter::tell(words(value, allocated, dropped, waited));
    }
}

fn words(value: &str, allocated: Option<Vec<usize>>, dropped: &Dropped, waited: Row) -> Warning {
    let mut help = String::from("send a value in every case, an `Err` for one, or drop the receiver first");
    if allocated.is_none() {
        help += "; TRACEMALLOC=5 adds where it was allocated";
    }
    let allocated = allocated.map(|stack| Row::stack("allocated", stack));
    let dropped = Row::stack("dropped", dropped.stack.clone()).noted(dropped.thread.clone());
    let rows = allocated.into_iter().chain([dropped, waited, Row::words("help", help)]).collect();
    let sentence =
        format!("oneshot::Sender<{value}> was dropped with nothing sent while its receiver waited");
    Warning::new(Kind::ResourceWarning, sentence, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_names_the_value_and_without_a_trace_the_switch() {
        let dropped = Dropped { stack: vec![1], thread: "thread main".into() };
        let w = words("u8", None, &dropped, Row::stack("waited", vec![2]));
        assert_eq!(w.sentence, "oneshot::Sender<u8> was dropped with nothing sent while its receiver waited");
        assert_eq!(w.rows[0].label, "dropped");
        assert!(w.rows[2].words.as_deref().unwrap().contains("TRACEMALLOC=5"));
        let w = words("u8", Some(vec![3]), &dropped, Row::stack("waited", vec![2]));
        assert_eq!(w.rows[0].label, "allocated");
        assert!(!w.rows[3].words.as_deref().unwrap().contains("TRACEMALLOC"));
    }

    #[test]
    fn switched_off_a_channel_is_as_small_as_tokios_and_a_word() {
        assert_eq!(size_of::<Sender<u64>>(), size_of::<tokio_oneshot::Sender<u64>>() + size_of::<usize>());
        assert_eq!(
            size_of::<Receiver<u64>>(),
            size_of::<tokio_oneshot::Receiver<u64>>() + size_of::<usize>()
        );
    }
}
