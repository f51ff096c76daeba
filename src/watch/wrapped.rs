//! A future whose polls are timed exactly, on any executor.

use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::task::{Task, Tasked};
use super::unpolled::Unpolled;
use super::{poll, switch};

/// A future whose polls are timed exactly while async debug is on, and whose allocations in each of them are counted. Made by
/// [`watched`] and [`WatchExt::watched`].
#[derive(Debug)]
#[must_use = "a future does nothing until it is awaited"]
pub struct Watched<F> {
    made: &'static Location<'static>,
    /// Dropped before the future.
    unpolled: Unpolled,
    future: F,
    /// Dropped after the future.
    task: Tasked,
}

/// Watches the polls of `future`: one that takes longer than [`crate::set_slow_callback_duration`] says is told as a
/// `slow-callback`, with its exact time and the bytes that it allocated. While async debug is off a poll costs one
/// relaxed load more.
///
/// Dropped by the program's own code without ever having been polled it is told as `never-awaited`, in a build with line
/// tables at least: not where its owner was cancelled or a `select!` chose another branch, nor in a panic.
///
/// ```
/// # async fn work() {}
/// # async fn f() {
/// birthmark::watched(work()).await;
/// # }
/// ```
#[track_caller]
pub fn watched<F: Future>(future: F) -> Watched<F> {
    let made = Location::caller();
    let mut unpolled = Unpolled::default();
    if switch::on() {
        super::tokio::wrapped();
        unpolled = Unpolled::new(made, std::any::type_name::<F>());
    }
    Watched { made, unpolled, future, task: Tasked::default() }
}

/// As [`watched`], for a task, and what is kept of it while async debug is on: one that is aborted or shut down before its
/// first poll isn't forgotten.
#[track_caller]
pub(crate) fn for_a_task<F: Future>(future: F) -> (Watched<F>, Option<Arc<Task>>) {
    let made = Location::caller();
    let task = match switch::on() {
        true => Tasked::new(made, std::any::type_name::<F>()),
        false => Tasked::default(),
    };
    let known = task.task();
    (Watched { made, unpolled: Unpolled::default(), future, task }, known)
}

impl<F> Watched<F> {
    /// The task that polls this future may be dropped when its runtime ends, as Python's daemon threads: it isn't told as
    /// `task-destroyed`.
    ///
    /// ```
    /// use std::time::Duration;
    /// # birthmark::tokio::run(true, async {
    /// tokio::spawn(
    ///     birthmark::watched(async {
    ///         loop {
    ///             tokio::time::sleep(Duration::from_secs(60)).await; // nothing is lost when it ends
    ///         }
    ///     })
    ///     .daemon(),
    /// );
    /// # });
    /// ```
    pub fn daemon(mut self) -> Self {
        self.task.daemon(self.made, std::any::type_name::<F>());
        self
    }

    /// This future must run to its end: whenever it is dropped before, by an abort, a time-out or a lost `select!` too, that
    /// is told as `task-destroyed`, with the place that dropped it. A panic isn't: it is the news itself.
    ///
    /// ```
    /// # async fn pay() {}
    /// # async fn f() {
    /// birthmark::watched(pay()).must_complete().await;
    /// # }
    /// ```
    pub fn must_complete(mut self) -> Self {
        self.unpolled.settle();
        self.task.must_complete(self.made, std::any::type_name::<F>());
        self
    }
}

/// `.watched()` for every future.
pub trait WatchExt: Future + Sized {
    /// As [`watched`].
    ///
    /// ```
    /// use birthmark::WatchExt as _;
    /// # async fn work() {}
    /// # async fn f() {
    /// work().watched().await;
    /// # }
    /// ```
    #[track_caller]
    fn watched(self) -> Watched<Self> {
        watched(self)
    }
}

impl<F: Future> WatchExt for F {}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let made = self.made;
        // SAFETY: `future` is pinned with the whole: it is never moved out, and there is no `Drop` and no `Unpin` of our own on
        // the whole; `unpolled` and `task` aren't pinned with it.
        let (unpolled, future, task) = unsafe {
            let whole = self.get_unchecked_mut();
            (&mut whole.unpolled, Pin::new_unchecked(&mut whole.future), &whole.task)
        };
        task.poll(move || {
            if !switch::on() {
                return future.poll(cx);
            }
            unpolled.settle();
            let _entered = poll::enter(made, cx.waker().data());
            future.poll(cx)
        })
    }
}
