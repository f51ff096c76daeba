//! A future whose polls are timed exactly, on any executor.

use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
#[cfg(feature = "tokio")]
use std::sync::Arc;
use std::task::{Context, Poll};

#[cfg(feature = "tokio")]
use super::task::{Task, Tasked};
use super::tasks::registry::Registered;
#[cfg(feature = "tokio")]
use super::tasks::registry::{Role, Ticket};
use super::tasks::waits::{self, Waking};
use super::unpolled::Unpolled;
use super::warning::Row;
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
    /// Dropped after the future.
    #[cfg(feature = "tokio")]
    task: Tasked,
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
    Watched {
        made,
        unpolled,
        future,
        #[cfg(feature = "tokio")]
        task: Tasked::default(),
        registered,
    }
}

/// As [`watched`], for a task or a root future, and what is kept of a task while async debug is on: one that is aborted or shut
/// down before its first poll isn't forgotten.
#[cfg(feature = "tokio")]
#[track_caller]
pub(crate) fn for_a_task<F: Future>(future: F, role: Role) -> (Watched<F>, Option<Arc<Task>>) {
    let made = Location::caller();
    let mut task = Tasked::default();
    let registered = if switch::on() {
        super::tokio::wrapped();
        if role == Role::Task {
            task = Tasked::new(made, std::any::type_name::<F>());
        }
        Registered::new::<F>(made)
    } else {
        Registered::unseen()
    };
    registered.set_role(role);
    let known = task.task();
    (Watched { made, unpolled: Unpolled::default(), future, task, registered }, known)
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
        // the whole; `unpolled`, `task` and `registered` aren't pinned with it.
        let (unpolled, future, task, registered) = unsafe {
            let whole = self.get_unchecked_mut();
            let future = Pin::new_unchecked(&mut whole.future);
            #[cfg(feature = "tokio")]
            let task = &whole.task;
            #[cfg(not(feature = "tokio"))]
            let task = &Alone;
            (&mut whole.unpolled, future, task, &whole.registered)
        };
        task.poll(move || {
            let place = registered.place();
            if !switch::on() {
                if let Some(place) = place {
                    place.lose_waits();
                }
                return future.poll(cx);
            }
            unpolled.settle();
            let entered = poll::enter(made, waits::executors(cx.waker()), place);
            let before = locks::last();
            let polled = match place {
                Some(place) => Waking::new(cx.waker(), place).poll(|cx| future.poll(cx)),
                None => future.poll(cx),
            };
            if polled.is_ready() {
                registered.done();
            } else {
                locks::pending(before, || (poll::who_here(), Some(Row::place("watched", made))));
            }
            drop(entered);
            polled
        })
    }
}

/// Without tokio nothing more is kept of a task.
#[cfg(not(feature = "tokio"))]
struct Alone;

#[cfg(not(feature = "tokio"))]
impl Alone {
    #[inline]
    fn poll<T>(&self, poll: impl FnOnce() -> Poll<T>) -> Poll<T> {
        poll()
    }
}
