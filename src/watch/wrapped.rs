//! A future whose polls are timed exactly, on any executor.

use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::tasks::registry::Registered;
#[cfg(feature = "tokio")]
use super::tasks::registry::{Role, Ticket};
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
    /// Dropped after the future, which is a row in the list of tasks until then.
    registered: Registered,
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
    let registered = if switch::on() {
        #[cfg(feature = "tokio")]
        super::tokio::wrapped();
        #[cfg(not(feature = "tokio"))]
        super::clock::begin();
        unpolled = Unpolled::new(made, std::any::type_name::<F>());
        Registered::new::<F>(made)
    } else {
        Registered::unseen()
    };
    Watched { made, unpolled, future, registered }
}

/// As [`watched`], for a task: one that is aborted or shut down before its first poll isn't forgotten.
#[cfg(feature = "tokio")]
#[track_caller]
pub(crate) fn for_a_task<F: Future>(future: F, role: Role) -> Watched<F> {
    let mut watched = watched(future);
    watched.unpolled.settle();
    watched.registered.set_role(role);
    watched
}

#[cfg(feature = "tokio")]
impl<F> Watched<F> {
    /// By which its task can be told to the list of tasks before it is polled.
    pub(crate) fn ticket(&self) -> Option<Ticket> {
        self.registered.ticket()
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
        // the whole; `unpolled` and `registered` aren't pinned with it.
        let (unpolled, registered, future) = unsafe {
            let whole = self.get_unchecked_mut();
            (&mut whole.unpolled, &whole.registered, Pin::new_unchecked(&mut whole.future))
        };
        if !switch::on() {
            return future.poll(cx);
        }
        unpolled.settle();
        let entered = poll::enter(made, cx.waker().data(), registered.place());
        let polled = future.poll(cx);
        if polled.is_ready() {
            registered.done();
        }
        drop(entered);
        polled
    }
}
