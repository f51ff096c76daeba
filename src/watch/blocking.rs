//! `blocking-call`: a function that holds its thread until something else has happened, called inside of a poll.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{AcqRel, Release},
};
use std::task::{self, Context, Wake, Waker};
use std::thread::{self, Thread};

use super::tasks::{self, TaskKind};
use super::warning::{Kind, Row, Warning};
use super::{heap, poll, reporter, switch};

/// Says that the function which calls this blocks its thread: the check for an API of one's own that has an async twin.
///
/// While async debug is on ([`crate::set_debug`]) a call inside of a poll panics with its place and with where the task was spawned
/// (`blocking-call`): its thread, and every task that it should poll, would wait; where what it waits for is one of those, for
/// ever. Inside of `spawn_blocking`, of `block_in_place` and outside of runtimes it does nothing, nor where a filter ignores
/// it; off it costs a relaxed load. Without the feature `heap` it is nothing at all.
///
/// ```
/// # struct Client;
/// impl Client {
///     pub fn query(&self) -> u32 {
///         birthmark::blocking_call("Client::query", "Client::query_async(..).await");
///         // waits for the answer ..
/// #       6 * 7
///     }
/// }
/// # birthmark::tokio::run(true, async {
/// let answer = tokio::task::spawn_blocking(|| Client.query()).await.unwrap();
/// assert_eq!(answer, 42);
/// # });
/// ```
///
/// What isn't seen: tasks inside `unconstrained`, plain tasks where tokio's words couldn't be measured ([`crate::doctor`] says so),
/// and in a runtime of tokio a program without symbols.
///
/// # Panics
/// Inside of a poll, while async debug is on.
#[doc(alias = "blocking-call")]
#[inline]
#[track_caller]
pub fn blocking_call(what: &str, call_instead: &str) {
    if switch::on() {
        check(what, call_instead);
    }
}

/// Runs a future to its end and blocks the thread meanwhile, as `futures::executor::block_on`, `pollster::block_on` and
/// `smol::block_on` do: with a changed `use` line one that is called inside of a task is told ([`blocking_call`]) instead of holding
/// its worker. tokio's own `block_on` panics there by itself.
///
/// ```
/// assert_eq!(birthmark::block_on(async { 6 * 7 }), 42);
/// ```
///
/// # Panics
/// Inside of a poll, while async debug is on; and when the future panics.
#[track_caller]
pub fn block_on<F: Future>(future: F) -> F::Output {
    blocking_call("block_on", ".await");
    let woken = Arc::new(Unparks { thread: thread::current(), woken: AtomicBool::new(false) });
    let waker = Waker::from(Arc::clone(&woken));
    let mut future = pin!(future);
    loop {
        if let task::Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        // Others may park and unpark this thread, too.
        while !woken.woken.swap(false, AcqRel) {
            thread::park();
        }
    }
}

struct Unparks {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Unparks {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Release) {
            self.thread.unpark();
        }
    }
}

#[cold]
#[inline(never)]
#[track_caller]
fn check(what: &str, call_instead: &str) {
    let told = {
        let (_ours, _time) = (heap::ours(), poll::our_time());
        poll_here().and_then(|poll| reporter::refusal(&words(what, call_instead, poll)))
    };
    if let Some(told) = told {
        panic!("{told}");
    }
}

/// A poll that others wait for.
struct Poll {
    stack: Vec<usize>,
    /// The function that it began with.
    name: Option<String>,
}

/// The poll that this code is in.
fn poll_here() -> Option<Poll> {
    #[cfg(feature = "tokio")]
    match super::tokio::may_poll_here() {
        // A `block_on` inside of `block_in_place` polls, too.
        Some(true) => {
            let stack = heap::stack_here();
            return super::tokio::poll_of(&stack).map(|name| Poll { stack, name });
        }
        Some(false) => return None,
        None => {}
    }
    poll::inside().then(|| Poll { stack: heap::stack_here(), name: None })
}

fn words(what: &str, call_instead: &str, poll: Poll) -> Warning {
    let task = tasks::current_task();
    let who = match &task {
        Some(task) if task.kind() != TaskKind::Root => match task.future().map(str::to_owned).or(poll.name) {
            Some(name) => format!("{} `{name}`", task.id()),
            None => task.id().to_string(),
        },
        _ => "the root future".into(),
    };
    let sentence = format!("`{what}` blocks its thread, and was called in a poll of {who}");
    let mut rows = vec![Row::stack("called", poll.stack).noted(heap::this_thread())];
    let mut help = format!("call `{call_instead}` instead, or `{what}` inside of `spawn_blocking`");
    if let Some(task) = &task {
        match (task.raw_stack(), task.spawned_at()) {
            (Some(stack), _) => rows.push(Row::stack("spawned", stack)),
            (None, at) => {
                rows.extend(at.map(|at| Row::place("spawned", at)));
                if task.kind() == TaskKind::Task {
                    help.push_str("; TRACEMALLOC=5 adds the whole stack that spawned it");
                }
            }
        }
    }
    rows.push(Row::words("help", help));
    Warning::new(Kind::BlockingCall, sentence, rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::time::Duration;

    #[test]
    fn block_on_waits_until_its_future_is_woken_by_another_thread() {
        let shared = Arc::new(Mutex::new((false, None::<Waker>)));
        let other = Arc::clone(&shared);
        let waker = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            let mut shared = other.lock().unwrap();
            shared.0 = true;
            shared.1.take().map(Waker::wake)
        });
        block_on(std::future::poll_fn(|cx| {
            thread::current().unpark(); // somebody else's
            let mut shared = shared.lock().unwrap();
            shared.1 = Some(cx.waker().clone());
            if shared.0 { task::Poll::Ready(()) } else { task::Poll::Pending }
        }));
        waker.join().unwrap();
    }

    #[test]
    fn outside_of_polls_it_does_nothing() {
        blocking_call("here", "there");
        assert!(!poll::inside());
    }
}
