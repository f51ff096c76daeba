//! A value that belongs to the thread that made it, and says both places when another thread uses it.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::warning::{Kind, Row, Warning};
use super::{heap, reporter, switch};

/// A value that only the thread that made it may use, as asyncio's loop is in debug mode: the wrapper may be sent to another
/// thread, but a use there panics with the place where it was made and the place of the use.
///
/// The check is always on, since safety hangs on it (a `ThreadBound<Rc<T>>` is `Send`): it compares one number with a
/// thread-local. While async debug is on ([`crate::set_debug`]) the panic has both stacks, else both lines. Dropped on
/// another thread, the value is leaked, and told as `wrong-thread` while async debug is on.
///
/// ```
/// use birthmark::ThreadBound;
/// use std::rc::Rc;
///
/// let bound = ThreadBound::new(Rc::new(7));
/// assert_eq!(**bound, 7);
/// let elsewhere = std::thread::spawn(move || (bound.is_here(), bound));
/// let (here, bound) = elsewhere.join().unwrap();
/// assert!(!here);
/// assert_eq!(**bound, 7);
/// ```
///
/// As a field it is the check for an API of one's own that isn't thread-safe:
///
/// ```
/// use birthmark::ThreadBound;
///
/// pub struct Window {
///     thread: ThreadBound<()>,
/// }
///
/// impl Window {
///     pub fn new() -> Self {
///         Self { thread: ThreadBound::new(()) }
///     }
///     #[track_caller]
///     pub fn draw(&self) {
///         self.thread.check();
///     }
/// }
/// # Window::new().draw();
/// ```
#[doc(alias = "wrong-thread")]
pub struct ThreadBound<T> {
    thread: u64,
    made: &'static Location<'static>,
    /// While async debug is on, a block whose trace is the stack that made it.
    mark: Option<Box<Maker>>,
    value: ManuallyDrop<T>,
}

/// Who made it.
struct Maker(String);

// SAFETY: on another thread than the one that made it the value can't be reached: `deref`, `deref_mut` and `into_inner` compare the
// thread's number, which no two threads share, before they touch it, and `drop` leaks it there. What else lies in here
// is `Send` by itself.
unsafe impl<T> Send for ThreadBound<T> {}

/// The calling thread's number; never another's, as an address of a thread-local would be.
fn this_thread() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    thread_local!(static MINE: Cell<u64> = const { Cell::new(0) });
    MINE.with(|mine| {
        if mine.get() == 0 {
            mine.set(LAST.fetch_add(1, Relaxed) + 1);
        }
        mine.get()
    })
}

impl<T> ThreadBound<T> {
    /// Binds `value` to the calling thread.
    #[track_caller]
    pub fn new(value: T) -> Self {
        Self {
            thread: this_thread(),
            made: Location::caller(),
            mark: switch::on().then(|| Box::new(Maker(heap::this_thread()))),
            value: ManuallyDrop::new(value),
        }
    }

    /// Whether the calling thread made it.
    #[inline]
    pub fn is_here(&self) -> bool {
        self.thread == this_thread()
    }

    /// Does nothing on the thread that made it.
    ///
    /// # Panics
    /// On any other thread, with both places.
    #[inline]
    #[track_caller]
    pub fn check(&self) {
        if !self.is_here() {
            self.wrong(Location::caller());
        }
    }

    /// The value itself.
    ///
    /// # Panics
    /// On another thread than the one that made it, with both places.
    #[track_caller]
    pub fn into_inner(self) -> T {
        self.check();
        let mut this = ManuallyDrop::new(self);
        drop(this.mark.take());
        // SAFETY: `this` is never dropped, so the value is taken once.
        unsafe { ManuallyDrop::take(&mut this.value) }
    }

    #[cold]
    #[inline(never)]
    #[track_caller]
    fn wrong(&self, used: &'static Location<'static>) -> ! {
        if let Some(Maker(maker)) = self.mark.as_deref()
            && switch::on()
        {
            let told = {
                let _ours = heap::ours();
                reporter::refused(&self.warning(maker, "used"))
            };
            panic!("{told}");
        }
        panic!("{}", wrong_words(std::any::type_name::<T>(), self.made, used));
    }

    /// What it was done to here, on a thread of its own.
    fn warning(&self, maker: &str, done: &'static str) -> Warning {
        let what = of(std::any::type_name::<T>());
        let here = heap::this_thread();
        let sentence = match done {
            "used" => format!("{what} {maker} was used on {here}"),
            _ => format!("{what} {maker} was {done} on {here}, and leaked"),
        };
        let mut help =
            String::from("make it on the thread that uses it, or send messages to the one that made it");
        let made = self.mark.as_deref().and_then(|mark| heap::trace_of(std::ptr::from_ref(mark) as usize));
        let made = match made {
            Some(stack) => Row::stack("made", stack),
            None => {
                help.push_str("; TRACEMALLOC=5 adds the whole stack that made it");
                Row::place("made", self.made)
            }
        };
        let rows = vec![made, Row::stack(done, heap::stack_here()), Row::words("help", help)];
        Warning::new(Kind::WrongThread, sentence, rows)
    }
}

/// A bound value, by its type, as a sentence about its owner begins; `()` stands for what it is a field of.
pub(super) fn of(name: &str) -> String {
    match name {
        "()" => "what belongs to".into(),
        name => format!("{name} of"),
    }
}

/// What is known with async debug off.
fn wrong_words(name: &str, made: &Location<'_>, used: &Location<'_>) -> String {
    let what = if name == "()" { "a value" } else { name };
    format!(
        "birthmark: wrong-thread: {what} was used on another thread than the one that made it: made {made}, used {used}; \
         BIRTHMARK_ASYNC_DEBUG=1 adds both stacks"
    )
}

impl<T> Deref for ThreadBound<T> {
    type Target = T;

    /// # Panics
    /// On another thread than the one that made it, with both places.
    #[inline]
    #[track_caller]
    fn deref(&self) -> &T {
        self.check();
        &self.value
    }
}

impl<T> DerefMut for ThreadBound<T> {
    /// # Panics
    /// On another thread than the one that made it, with both places.
    #[inline]
    #[track_caller]
    fn deref_mut(&mut self) -> &mut T {
        self.check();
        &mut self.value
    }
}

impl<T> Drop for ThreadBound<T> {
    fn drop(&mut self) {
        if self.is_here() {
            // SAFETY: on its own thread, and dropped once: `into_inner` never drops the whole.
            unsafe { ManuallyDrop::drop(&mut self.value) }
        } else if std::mem::needs_drop::<T>() && switch::on() {
            // Never a panic in a destructor; an owner dropped by a panic didn't choose the thread.
            if let Some(Maker(maker)) = self.mark.as_deref()
                && !std::thread::panicking()
            {
                let _ours = heap::ours();
                reporter::tell(self.warning(maker, "dropped"));
            }
        }
    }
}

/// Elsewhere the value isn't looked at.
impl<T: std::fmt::Debug> std::fmt::Debug for ThreadBound<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("ThreadBound");
        if self.is_here() {
            shown.field("value", &*self.value).finish()
        } else {
            shown.finish_non_exhaustive()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn on_its_own_thread_it_is_the_value_and_elsewhere_only_a_parcel() {
        fn may_be_sent<T: Send>(t: T) -> T {
            t
        }
        let rc = Rc::new(Cell::new(1));
        let mut bound = may_be_sent(ThreadBound::new(rc.clone()));
        bound.set(2);
        *bound = rc.clone();
        let bound = std::thread::spawn(move || {
            assert!(!bound.is_here());
            assert_eq!(format!("{bound:?}"), "ThreadBound { .. }");
            bound
        })
        .join()
        .unwrap();
        assert_eq!(bound.into_inner().get(), 2);
        assert_eq!(Rc::strong_count(&rc), 1);
    }

    #[test]
    fn a_use_elsewhere_panics_with_both_lines() {
        let line = line!() + 1;
        let bound = ThreadBound::new(7);
        let panic = std::thread::spawn(move || *bound).join().unwrap_err();
        let told = panic.downcast_ref::<String>().unwrap();
        assert!(told.starts_with("birthmark: wrong-thread: i32 "), "{told}");
        assert!(told.contains(&format!("made {}:{line}", file!())), "{told}");
        assert!(told.contains(&format!("used {}:{}", file!(), line + 1)), "{told}");
    }

    #[test]
    fn dropped_elsewhere_the_value_is_leaked_and_nothing_panics() {
        let rc = Rc::new(());
        let bound = ThreadBound::new(rc.clone());
        std::thread::spawn(move || drop(bound)).join().unwrap();
        assert_eq!(Rc::strong_count(&rc), 2);
    }

    #[test]
    fn a_new_thread_never_has_the_number_of_one_that_ended() {
        let first = std::thread::spawn(this_thread).join().unwrap();
        let second = std::thread::spawn(this_thread).join().unwrap();
        assert_ne!(first, second);
    }
}
