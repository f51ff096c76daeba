//! `ResourceGuard`: a field that speaks when its owner is dropped with work undone.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::warning::{Kind, Row, Warning};
use super::{heap, reporter, switch, trial};

/// Says what is lost when its owner is dropped with work undone.
///
/// A field of the object that it guards. While async debug is on ([`crate::set_debug`], `BIRTHMARK_ASYNC_DEBUG=1`), a guard
/// that is dropped with work pending writes a `resource-warning`: how much was lost, where the object was made (with
/// tracing on), where it was dropped, and what to call instead. A guard made while async debug is off stays silent and
/// costs one relaxed load. It needs no runtime.
///
/// ```
/// use birthmark::ResourceGuard;
///
/// struct Export {
///     rows: Vec<String>,
///     guard: ResourceGuard,
/// }
///
/// impl Export {
///     fn new() -> Self {
///         Self { rows: Vec::new(), guard: ResourceGuard::new("Export", "finish()") }
///     }
///     fn push(&mut self, row: String) {
///         self.rows.push(row);
///         self.guard.pending(self.rows.len());
///     }
///     fn finish(mut self) -> usize {
///         self.guard.close();
///         std::mem::take(&mut self.rows).len()
///     }
/// }
///
/// let mut export = Export::new();
/// export.push("1".into());
/// assert_eq!(export.finish(), 1);
/// ```
#[must_use = "a guard belongs into a field of the object that it guards"]
pub struct ResourceGuard {
    /// A heap block of the guard's own: its trace is the place where the object was made, inside a future and after
    /// moves too.
    state: Option<Box<State>>,
}

#[repr(C)]
struct State {
    /// By which a block is known as a guard's: the address of [`MARK`].
    mark: &'static u64,
    what: &'static str,
    unit: &'static str,
    call_instead: &'static str,
    pending: AtomicUsize,
    /// The test in which it was made.
    test: u64,
}

static MARK: u64 = u64::from_ne_bytes(*b"guard of");

impl ResourceGuard {
    /// A guard for a `what` (`"Export"`); `call_instead` is what its owner's user should have called (`"finish()"`).
    #[inline]
    pub fn new(what: &'static str, call_instead: &'static str) -> Self {
        Self::counting(what, "left undone", call_instead)
    }

    /// As [`ResourceGuard::new`], with the words that follow the number.
    #[inline]
    pub(crate) fn counting(what: &'static str, unit: &'static str, call_instead: &'static str) -> Self {
        if !switch::on() {
            return Self { state: None };
        }
        let (pending, test) = (AtomicUsize::new(0), trial::here());
        Self { state: Some(Box::new(State { mark: &MARK, what, unit, call_instead, pending, test })) }
    }

    /// There are `n` pieces of work undone now; 0: none.
    #[inline]
    pub fn pending(&self, n: usize) {
        if let Some(state) = &self.state {
            state.pending.store(n, Relaxed);
        }
    }

    /// Nothing is undone.
    #[inline]
    pub fn close(&self) {
        self.pending(0);
    }
}

impl std::fmt::Debug for ResourceGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pending = self.state.as_ref().map(|s| s.pending.load(Relaxed));
        f.debug_struct("ResourceGuard").field("pending", &pending).finish_non_exhaustive()
    }
}

impl Drop for ResourceGuard {
    #[inline]
    fn drop(&mut self) {
        if let Some(state) = &self.state {
            let n = state.pending.load(Relaxed);
            // An owner dropped by a panic didn't forget anything: the panic is the news.
            if n != 0 && switch::on() && !std::thread::panicking() {
                lost(state, n);
            }
        }
    }
}

#[cold]
#[inline(never)]
fn lost(state: &State, n: usize) {
    let allocated = heap::trace_of(std::ptr::from_ref(state) as usize);
    let _ours = heap::ours();
    reporter::tell(judge(state.what, state.unit, state.call_instead, n, allocated, heap::stack_here()));
}

/// The warning for an object dropped with `n` pieces of work undone.
fn judge(
    what: &str,
    unit: &str,
    call_instead: &str,
    n: usize,
    allocated: Option<Vec<usize>>,
    dropped: Vec<usize>,
) -> Warning {
    let mut rows = Vec::new();
    let traced = allocated.is_some();
    if let Some(stack) = allocated {
        rows.push(Row::stack("allocated", stack));
    }
    rows.push(Row::stack("dropped", dropped).noted(heap::this_thread()));
    let mut help = format!("call `{call_instead}` before it is dropped");
    if !traced {
        help.push_str("; TRACEMALLOC=5 adds where it was allocated");
    }
    rows.push(Row::words("help", help));
    Warning::new(Kind::ResourceWarning, format!("{what} was dropped with {n} {unit}"), rows)
}

/// A live guard with work undone, as another thread sees it.
#[cfg(feature = "tokio")]
#[derive(Debug)]
pub(crate) struct Undone {
    /// `Export with 3 left undone`.
    pub words: String,
    /// Where its owner was made.
    pub made: Option<crate::trace::RawStack>,
    pub test: u64,
}

/// The guards among the recorded blocks that have work undone. Every read is by the kernel: a guard that is dropped meanwhile is
/// none.
#[cfg(feature = "tokio")]
pub(crate) fn undone() -> Vec<Undone> {
    let mut blocks = Vec::new();
    heap::blocks_of(size_of::<State>(), &mut |start| blocks.push(start));
    blocks.into_iter().filter_map(undone_at).collect()
}

#[cfg(feature = "tokio")]
fn undone_at(start: usize) -> Option<Undone> {
    let mut bytes = [0; size_of::<State>()];
    if !heap::read_unsure(start, &mut bytes) {
        return None;
    }
    let word = |offset: usize| {
        let bytes = bytes.get(offset..offset + 8)?.try_into().ok()?;
        Some(usize::from_ne_bytes(bytes))
    };
    let text = |offset: usize| {
        // A `&str` is its address and its length.
        let (at, length) = (word(offset)?, word(offset + 8)?);
        let mut text = vec![0; (length < 4096).then_some(length)?];
        heap::read_unsure(at, &mut text).then(|| String::from_utf8_lossy(&text).into_owned())
    };
    let pending = word(std::mem::offset_of!(State, pending))?;
    if word(std::mem::offset_of!(State, mark))? != std::ptr::from_ref(&MARK) as usize || pending == 0 {
        return None;
    }
    let (what, unit) = (text(std::mem::offset_of!(State, what))?, text(std::mem::offset_of!(State, unit))?);
    Some(Undone {
        words: format!("{what} with {pending} {unit}"),
        made: heap::raw_stack_of(start).map(|(_, stack)| stack),
        test: word(std::mem::offset_of!(State, test))? as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_says_how_much_is_lost_and_what_to_call() {
        let w = judge("Export", "rows unsent", "finish()", 3, None, vec![1]);
        assert_eq!(w.sentence, "Export was dropped with 3 rows unsent");
        let help = w.rows.last().unwrap();
        assert_eq!(help.label, "help");
        assert!(help.words.as_deref().unwrap().contains("call `finish()`"));
        assert!(help.words.as_deref().unwrap().contains("TRACEMALLOC=5"));
    }

    #[test]
    fn with_a_trace_the_help_names_no_switch() {
        let w = judge("Export", "left undone", "finish()", 1, Some(vec![7]), vec![1]);
        assert_eq!(w.rows[0].label, "allocated");
        assert_eq!(w.rows[0].stack, [7]);
        assert!(!w.rows.last().unwrap().words.as_deref().unwrap().contains("TRACEMALLOC"));
    }

    #[test]
    fn a_guard_is_one_pointer_and_may_cross_threads() {
        fn crosses<T: Send + Sync>() {}
        crosses::<ResourceGuard>();
        assert_eq!(size_of::<ResourceGuard>(), size_of::<usize>());
    }
}
