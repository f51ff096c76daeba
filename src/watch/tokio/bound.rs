//! `wrong-runtime`: a value that belongs to one runtime, and says both places when another runtime uses it.

use std::fmt::{self, Debug};
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use ::tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use ::tokio::runtime::Handle;

use super::super::warning::{Kind, Row, Warning};
use super::super::{heap, reporter, switch, trial};
use super::shutdown::{self, Guarded};
use super::words_of_time;

/// A value that works only in the runtime in which it was made: a client whose connections are tasks of that runtime, a socket
/// that its driver wakes, a sender to an actor. Kept in a `static` it outlives its runtime without anybody noticing: each
/// `#[tokio::test]` has a runtime of its own, and the second one hangs or fails with "runtime dropped the dispatch task".
///
/// While async debug is on ([`crate::set_debug`]) a use in another runtime panics with both places and both runtimes
/// (`wrong-runtime`), and so does a use outside of all runtimes once its own has ended. Made outside of a runtime it belongs to
/// the one that uses it first. Any thread may use it in its own runtime: a worker, a job of `spawn_blocking`, a thread that
/// entered the runtime's handle; and a thread outside of all runtimes while its own runs. Off, or made while it was off, it
/// checks nothing and costs a relaxed load.
///
/// ```
/// use birthmark::tokio::RuntimeBound;
///
/// # birthmark::tokio::run(false, async {
/// let bound = RuntimeBound::new(String::from("client"));
/// assert_eq!(bound.len(), 6);
/// # });
/// ```
///
/// As a field it is the check for an API of one's own; a future, reader or writer inside is checked at each poll:
///
/// ```
/// use birthmark::tokio::RuntimeBound;
///
/// pub struct Client {
///     runtime: RuntimeBound<()>,
/// }
///
/// impl Client {
///     pub fn new() -> Self {
///         Self { runtime: RuntimeBound::new(()) }
///     }
///     #[track_caller]
///     pub fn request(&self) {
///         self.runtime.check();
///     }
/// }
/// # Client::new().request();
/// ```
///
/// What isn't seen: a runtime's end where tokio's tasks couldn't be measured ([`crate::doctor`] says so); then only a use in
/// another runtime is told. A drop is never told: it may happen anywhere.
#[doc(alias = "wrong-runtime")]
pub struct RuntimeBound<T> {
    home: Home,
    value: T,
}

impl<T> RuntimeBound<T> {
    /// Binds `value` to the runtime that this code runs in.
    #[track_caller]
    pub fn new(value: T) -> Self {
        Self { home: Home::here(), value }
    }

    /// Does nothing in its own runtime.
    ///
    /// # Panics
    /// While async debug is on: in another runtime, and outside of all runtimes when its own has ended; with both places. Not where
    /// a filter ignores it.
    #[inline]
    #[track_caller]
    pub fn check(&self) {
        if self.home.watched && switch::on() {
            self.home.check(std::any::type_name::<T>());
        }
    }

    /// The value itself, unchecked: whoever takes it out answers for it.
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<T> Deref for RuntimeBound<T> {
    type Target = T;

    /// # Panics
    /// As [`RuntimeBound::check`].
    #[inline]
    #[track_caller]
    fn deref(&self) -> &T {
        self.check();
        &self.value
    }
}

impl<T> DerefMut for RuntimeBound<T> {
    /// # Panics
    /// As [`RuntimeBound::check`].
    #[inline]
    #[track_caller]
    fn deref_mut(&mut self) -> &mut T {
        self.check();
        &mut self.value
    }
}

impl<T: Debug> Debug for RuntimeBound<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeBound").field("value", &self.value).finish()
    }
}

impl<F: Future + Unpin> Future for RuntimeBound<F> {
    type Output = F::Output;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        Pin::new(&mut **self.get_mut()).poll(cx)
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for RuntimeBound<R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.get_mut()).poll_read(cx, buf)
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for RuntimeBound<W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut **self.get_mut()).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut **self.get_mut()).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.value.is_write_vectored()
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.get_mut()).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.get_mut()).poll_shutdown(cx)
    }
}

/// The runtime that something belongs to.
pub(crate) struct Home {
    /// It was made while async debug was on.
    watched: bool,
    runtime: OnceLock<Box<Runtime>>,
}

/// In a block of its own, whose trace is the stack that bound it.
struct Runtime {
    /// Keeps the runtime's address from being another's; not the runtime from ending.
    handle: Handle,
    /// Sees its end, where that can be seen.
    end: Option<Arc<Guarded>>,
    at: &'static Location<'static>,
    /// What was done there: it was made, or used first.
    done: &'static str,
    /// Which thread bound it.
    thread: String,
    test: Option<String>,
}

impl Runtime {
    #[track_caller]
    fn new(handle: Handle, done: &'static str) -> Box<Self> {
        super::measure();
        let end = shutdown::guard(&handle);
        let test = trial::name(trial::of_this_thread());
        Box::new(Self { handle, end, at: Location::caller(), done, thread: heap::this_thread(), test })
    }
}

/// `runtime 2 (test a)`; the number is tokio's own, where it is known.
fn named(owner: Option<u64>, test: Option<String>) -> String {
    let number = owner.map_or_else(|| "a runtime".into(), |n| format!("runtime {n}"));
    match test {
        Some(test) => format!("{number} (test {test})"),
        None => number,
    }
}

impl Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Home").finish_non_exhaustive()
    }
}

impl Home {
    /// The runtime that this code runs in; none, the one of the first use.
    #[track_caller]
    pub(crate) fn here() -> Self {
        let home = Self { watched: switch::on(), runtime: OnceLock::new() };
        if home.watched
            && let Ok(handle) = Handle::try_current()
        {
            let _ = home.runtime.set(Runtime::new(handle, "made"));
        }
        home
    }

    #[track_caller]
    fn check(&self, what: &str) {
        match (Handle::try_current(), self.runtime.get()) {
            (Ok(here), None) => drop(self.runtime.set(Runtime::new(here, "used first"))),
            (Ok(here), Some(own)) if is_other(&own.handle, &here) => wrong(what, own, Some(&here)),
            (Err(_), Some(own)) if own.end.as_ref().is_some_and(|end| end.ended().is_some()) => {
                wrong(what, own, None);
            }
            _ => {}
        }
    }

    /// An operation failed since the runtime that drives what it works on has ended. Silent in that runtime itself, while it
    /// closes.
    #[cold]
    #[inline(never)]
    #[track_caller]
    pub(crate) fn gone(&self, what: &str) {
        let Some(own) = self.runtime.get().filter(|_| self.watched && switch::on()) else { return };
        match Handle::try_current() {
            Ok(here) if is_other(&own.handle, &here) => wrong(what, own, Some(&here)),
            Err(_) if !std::thread::panicking() => wrong(what, own, None),
            _ => {}
        }
    }
}

/// Whether two handles are surely of different runtimes. A handle is an enumeration of pointers to what its runtime shares: in two
/// handles of one runtime that pointer is the same word, whatever stands beside it.
pub(super) fn is_other(one: &Handle, other: &Handle) -> bool {
    const WORDS: usize = size_of::<Handle>() / size_of::<usize>();
    fn words(handle: &Handle) -> [usize; WORDS] {
        let mut words = [MaybeUninit::<usize>::uninit(); WORDS];
        for (i, word) in words.iter_mut().enumerate() {
            // SAFETY: the words lie within the handle, which is aligned as a pointer is; a word that the handle leaves
            // uninitialised is read as some value, since the read is volatile and never known to the compiler.
            word.write(unsafe { std::ptr::from_ref(handle).cast::<usize>().add(i).read_volatile() });
        }
        // SAFETY: each was written.
        words.map(|word| unsafe { word.assume_init() })
    }
    let same = |a: [usize; WORDS], b: [usize; WORDS]| {
        a.iter().zip(&b).any(|(a, b)| a == b && *a > u16::MAX.into()) // a small one is the variant
    };
    let one_words = words(one);
    // Unless a handle looks as it did when this was written.
    align_of::<Handle>() == align_of::<usize>()
        && same(one_words, words(&one.clone()))
        && !same(one_words, words(other))
}

#[cold]
#[inline(never)]
#[track_caller]
fn wrong(what: &str, own: &Runtime, here: Option<&Handle>) {
    let told = {
        let _ours = heap::ours();
        reporter::refusal(&words(what, own, here))
    };
    if let Some(told) = told {
        panic!("{told}");
    }
}

fn words(what: &str, own: &Runtime, here: Option<&Handle>) -> Warning {
    let ended = own.end.as_ref().and_then(|end| end.ended());
    let state = match ended {
        Some(ago) => format!(", which ended {} ago,", words_of_time(ago)),
        None => String::new(),
    };
    let test = trial::name(trial::of_this_thread());
    // Of one test they say nothing.
    let test_of =
        |test: &Option<String>, other: Option<&String>| test.clone().filter(|_| test.as_ref() != other);
    let used = match here {
        Some(handle) => {
            format!("in {}", named(shutdown::owner(handle), test_of(&test, own.test.as_ref())))
        }
        None => "outside of all runtimes".into(),
    };
    let home = named(own.end.as_ref().map(|end| end.owner()), test_of(&own.test, test.as_ref()));
    let sentence = format!("{} {home}{state} was used {used}", super::super::bound::of(what));
    let mut help = String::from(
        "make one in each runtime, not one in a `static`, or keep one runtime for all that share it",
    );
    let made = match heap::trace_of(std::ptr::from_ref(own) as usize) {
        Some(stack) => Row::stack(own.done, stack).noted(own.thread.clone()),
        None => {
            help.push_str("; TRACEMALLOC=5 adds the whole stack");
            Row::place(own.done, own.at)
        }
    };
    let used = Row::stack("used", heap::stack_here()).noted(heap::this_thread());
    Warning::new(Kind::WrongRuntime, sentence, vec![made, used, Row::words("help", help)])
}

/// Whether an operation failed since the runtime that drives its socket, pipe or timer has ended: tokio's own words for that.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Other
        && error.get_ref().is_some_and(|inner| {
            inner.to_string() == "A Tokio 1.x context was found, but it is being shutdown."
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::tokio::runtime::Builder;

    #[test]
    fn handles_of_one_runtime_are_the_same_and_of_two_they_are_not() {
        let make = |multi: bool| {
            if multi {
                Builder::new_multi_thread().worker_threads(1).build().unwrap()
            } else {
                Builder::new_current_thread().build().unwrap()
            }
        };
        for (one, other) in [(false, false), (true, true), (false, true)] {
            let (one, other) = (make(one), make(other));
            assert!(is_other(one.handle(), other.handle()) && is_other(other.handle(), one.handle()));
            let inside = one.block_on(async { Handle::current() });
            assert!(!is_other(one.handle(), &inside) && !is_other(&inside, one.handle()));
        }
    }

    #[test]
    fn a_runtime_is_named_by_its_number_and_its_test() {
        assert_eq!(named(Some(2), Some("a".into())), "runtime 2 (test a)");
        assert_eq!(named(Some(2), None), "runtime 2");
        assert_eq!(named(None, Some("a".into())), "a runtime (test a)");
    }

    #[test]
    fn off_a_use_in_another_runtime_is_silent() {
        if switch::on() {
            return; // another test of this process switched it on
        }
        let runtime = || Builder::new_current_thread().build().unwrap();
        let bound = runtime().block_on(async { RuntimeBound::new(7) });
        assert_eq!(runtime().block_on(async { *bound }), 7);
        assert_eq!(bound.into_inner(), 7);
    }

    #[test]
    fn only_tokios_own_words_say_that_a_runtime_is_gone() {
        assert!(!is_gone(&io::Error::other("background task failed")));
        assert!(!is_gone(&io::ErrorKind::BrokenPipe.into()));
    }
}
