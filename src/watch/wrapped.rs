//! A future whose polls are timed exactly, on any executor.

use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};

#[cfg(feature = "tokio")]
use super::tasks::registry::Ticket;
use super::tasks::registry::{Place, Registered, Role};
#[cfg(feature = "tokio")]
use super::tasks::spotted::{DAEMON, MUST_COMPLETE};
use super::tasks::waits::{self, Waking};
use super::unpolled::Unpolled;
use super::{locks, poll, switch};

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
/// relaxed load more. Where other tasks are polled inside of it, as those of a `LocalSet` are by its owner, what it takes isn't its
/// own: each of them is judged by itself.
///
/// Dropped by the program's own code without ever having been polled it is told as `never-awaited`, in a build with line
/// tables at least: not where its owner was cancelled, a `select!` chose another branch, or another crate held it (an executor, a
/// `FuturesUnordered`), nor in a panic.
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
        Registered::new::<F>(Role::Future, made)
    } else {
        Registered::unseen()
    };
    Watched { made, unpolled, future, registered }
}

/// As [`watched`], for a task or a root future: one that is aborted or shut down before its first poll isn't forgotten.
#[cfg(feature = "tokio")]
#[inline]
#[track_caller]
pub(crate) fn for_a_task<F: Future>(future: F, role: Role) -> Watched<F> {
    let made = Location::caller();
    let registered = if switch::on() {
        super::tokio::wrapped();
        Registered::new::<F>(role, made)
    } else {
        Registered::unseen()
    };
    Watched { made, unpolled: Unpolled::default(), future, registered }
}

#[cfg(feature = "tokio")]
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
        if switch::on() {
            self.registered.mark::<F>(DAEMON, self.made);
        }
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
        if switch::on() {
            self.registered.mark::<F>(MUST_COMPLETE, self.made);
        }
        self
    }

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
        let (unpolled, future, registered) = unsafe {
            let whole = self.get_unchecked_mut();
            (&mut whole.unpolled, Pin::new_unchecked(&mut whole.future), &whole.registered)
        };
        let Some(place) = registered.place() else {
            return poll_unregistered(made, unpolled, future, cx);
        };
        let unwinds = Unwinds(place);
        let polled = if switch::on() {
            unpolled.settle();
            let entered = poll::enter(made, waits::executors(cx.waker()), Some(place));
            let before = locks::last();
            let polled = Waking::new(cx.waker(), place).poll(|cx| future.poll(cx));
            if polled.is_ready() {
                place.mark_done(); // before the poll has ended: one that is neither polled nor done waits for something
            } else {
                locks::pending(before, || poll::wrapped_here(made));
            }
            drop(entered);
            polled
        } else {
            place.lose_waits();
            let polled = future.poll(cx);
            if polled.is_ready() {
                place.mark_done();
            }
            polled
        };
        std::mem::forget(unwinds);
        polled
    }
}

/// A poll of a future that isn't registered: async debug was off when it was wrapped, or there was no room.
#[inline]
fn poll_unregistered<F: Future>(
    made: &'static Location<'static>,
    unpolled: &mut Unpolled,
    future: Pin<&mut F>,
    cx: &mut Context<'_>,
) -> Poll<F::Output> {
    if !switch::on() {
        return future.poll(cx);
    }
    unpolled.settle();
    let entered = poll::enter(made, waits::executors(cx.waker()), None);
    let before = locks::last();
    let polled = future.poll(cx);
    if polled.is_pending() {
        locks::pending(before, || poll::wrapped_here(made));
    }
    drop(entered);
    polled
}

/// While it lives a poll is under way; dropped, it has panicked.
struct Unwinds(&'static Place);

impl Drop for Unwinds {
    fn drop(&mut self) {
        self.0.panics();
    }
}
