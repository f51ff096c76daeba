//! `ResourceGuard`: a field that speaks when its owner is dropped with work undone.

use std::panic::Location;
use std::ptr::{from_ref, null_mut};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering::Relaxed};

use super::warning::{Kind, Row, Warning};
use super::{heap, reporter, switch, trial};
use crate::report::record::TOUCHED;
use crate::trace::frame::Owner;
use crate::trace::owner::origin;

/// Says what is lost when its owner is dropped with work undone.
///
/// A field of the object that it guards, in any crate: without default features `birthmark` is this type alone, with no
/// dependency, no size and calls that compile to nothing, and the binary that installs the allocator switches it on. While
/// async debug is on ([`crate::set_debug`], `BIRTHMARK_ASYNC_DEBUG=1`), a guard that is dropped with work pending writes a
/// `resource-warning`: how much was lost, where the object was made (with tracing on), where its pending work was told last,
/// where it was dropped, and what to call instead. A guard made while async debug is off stays silent and costs one relaxed
/// load. It needs no runtime.
///
/// Silent is a drop while the thread panics: the owner didn't forget anything, the panic is the news. A drop by an aborted
/// task or at its runtime's end is told, since what was undone is lost there too.
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
///         Self { rows: Vec::new(), guard: ResourceGuard::new("Export", "finish()").unit("rows unsent") }
///     }
///     #[track_caller] // `touched` is the caller's line then
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
///
/// # A transaction of one's own
///
/// One that was written to and is then neither committed nor rolled back is told; one that was only read from isn't. Where
/// a drop is how your users roll back, leave the guard out.
///
/// ```
/// use birthmark::ResourceGuard;
///
/// # #[derive(Default)] struct Store(Vec<String>);
/// #[must_use = "a transaction that is neither committed nor rolled back is lost"]
/// pub struct Transaction<'s> {
///     store: &'s mut Store,
///     statements: Vec<String>,
///     guard: ResourceGuard,
/// }
///
/// impl<'s> Transaction<'s> {
///     pub fn begin(store: &'s mut Store) -> Self {
///         let guard = ResourceGuard::new("Transaction", "commit()` or `rollback()")
///             .unit("statements neither committed nor rolled back");
///         Self { store, statements: Vec::new(), guard }
///     }
///     #[track_caller]
///     pub fn execute(&mut self, statement: &str) {
///         self.statements.push(statement.into());
///         self.guard.pending(self.statements.len());
///     }
///     pub fn commit(mut self) {
///         self.store.0.append(&mut self.statements);
///         self.guard.close();
///     }
///     pub fn rollback(self) {
///         self.guard.close();
///     }
/// }
///
/// # use birthmark::warnings;
/// # birthmark::set_debug(true);
/// let mut store = Store::default();
/// let ((), lost) = warnings::catch(|| {
///     let mut transaction = Transaction::begin(&mut store);
///     transaction.execute("update account set owner = 'ada'");
///     transaction.commit();
///     let mut transaction = Transaction::begin(&mut store);
///     transaction.execute("delete from account"); // and forgotten
/// });
/// assert_eq!(lost.len(), 1);
/// assert_eq!(
///     lost[0].sentence(),
///     "Transaction was dropped with 1 statement neither committed nor rolled back"
/// );
/// ```
#[doc(alias = "ResourceWarning")]
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
    /// The line that touched it last, where a caller told; null: none yet.
    touched_at: AtomicPtr<Location<'static>>,
    /// The trace of the stack that touched it last; 0: none.
    touched_in: AtomicU32,
}

static MARK: u64 = u64::from_ne_bytes(*b"guard of");

impl ResourceGuard {
    /// A guard for a `what` (`"Export"`); `call_instead` is what its owner's user should have called (`"finish()"`).
    #[inline]
    pub fn new(what: &'static str, call_instead: &'static str) -> Self {
        if !switch::on() {
            return Self { state: None };
        }
        let state = State {
            mark: &MARK,
            what,
            unit: "left undone",
            call_instead,
            pending: AtomicUsize::new(0),
            test: trial::here(),
            touched_at: AtomicPtr::new(null_mut()),
            touched_in: AtomicU32::new(0),
        };
        Self { state: Some(Box::new(state)) }
    }

    /// The words that follow the number in the report, of several: `"rows unsent"`. `left undone` where none are given.
    #[inline]
    pub fn unit(mut self, words: &'static str) -> Self {
        if let Some(state) = &mut self.state {
            state.unit = words;
        }
        self
    }

    /// There are `n` pieces of work undone now; 0: none. The caller's line is where the object was `touched` last.
    #[inline]
    #[track_caller]
    pub fn pending(&self, n: usize) {
        self.owe(n);
        self.touch();
    }

    /// Nothing is undone.
    #[inline]
    #[track_caller]
    pub fn close(&self) {
        self.pending(0);
    }

    /// [`ResourceGuard::pending`] where no caller's line is to be had, below a future's poll: the whole stack, with tracing on.
    #[cfg(feature = "tokio")]
    #[inline]
    pub(crate) fn pending_here(&self, n: usize) {
        if let Some(state) = &self.state {
            state.pending.store(n, Relaxed);
            state.touched_in.store(heap::trace_here(), Relaxed);
        }
    }

    /// It was made while async debug was on.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.state.is_some()
    }

    /// There are `n` pieces of work undone from the beginning: what makes the object is no touch.
    pub(crate) fn owe(&self, n: usize) {
        if let Some(state) = &self.state {
            state.pending.store(n, Relaxed);
        }
    }

    /// The caller's line is where the object was touched last.
    #[inline]
    #[track_caller]
    pub(crate) fn touch(&self) {
        if let Some(state) = &self.state {
            state.touched_at.store(from_ref(Location::caller()).cast_mut(), Relaxed);
        }
    }

    /// How much is undone.
    pub(crate) fn undone(&self) -> usize {
        self.state.as_ref().map_or(0, |state| state.pending.load(Relaxed))
    }

    /// Nothing is undone: said by the owner's end, which is no touch.
    pub(crate) fn settle(&self) {
        self.owe(0);
    }

    /// Its owner is dropped now, and what is lost is said in a sentence and rows of its own. Nothing is pending from now on.
    #[cold]
    #[inline(never)]
    pub(crate) fn lost(&self, sentence: impl FnOnce(&str) -> String, rows: Vec<Row>) {
        if let Some(state) = &self.state {
            state.pending.store(0, Relaxed);
            if tells() {
                state.tell(sentence(state.what), rows);
            }
        }
    }
}

/// Whether what is dropped on this thread now is told: an owner dropped by a panic didn't forget anything, the panic is the news.
#[inline]
fn tells() -> bool {
    switch::on() && !std::thread::panicking()
}

impl State {
    #[cold]
    #[inline(never)]
    fn tell(&self, sentence: String, rows: Vec<Row>) {
        let allocated = heap::trace_of(from_ref(self) as usize);
        let _ours = heap::ours();
        let touched = match heap::stack_of(self.touched_in.load(Relaxed)) {
            Some(stack) => Some(Row::stack(TOUCHED, stack)),
            // SAFETY: null, or the address of a `&'static Location`.
            None => unsafe { self.touched_at.load(Relaxed).as_ref() }
                .filter(|at| is_told(at))
                .map(|at| Row::place(TOUCHED, at)),
        };
        let facts = Facts { allocated, touched, rows, dropped: heap::stack_here() };
        reporter::tell(judge(sentence, self.call_instead, facts));
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
            if n != 0 && tells() {
                state.tell(words(state.what, n, state.unit), Vec::new());
            }
        }
    }
}

/// A line of the toolchain's or of our own says nothing.
fn is_told(at: &Location<'_>) -> bool {
    !super::io::is_own(at) && origin(at.file()).owner != Owner::Plumbing
}

/// What is known of an object that is dropped with work undone.
struct Facts {
    allocated: Option<Vec<usize>>,
    touched: Option<Row>,
    /// Of the object's own.
    rows: Vec<Row>,
    dropped: Vec<usize>,
}

fn words(what: &str, n: usize, unit: &str) -> String {
    format!("{what} was dropped with {}", count(n, unit))
}

/// `3 rows unsent`, `1 row unsent`.
pub(crate) fn count(n: usize, unit: &str) -> String {
    let (first, rest) = unit.split_at(unit.find(' ').unwrap_or(unit.len()));
    match first.strip_suffix('s') {
        Some(singular) if n == 1 && !singular.ends_with('s') => format!("1 {singular}{rest}"),
        _ => format!("{n} {unit}"),
    }
}

/// The warning for an object dropped with work undone.
fn judge(sentence: String, call_instead: &str, facts: Facts) -> Warning {
    let mut rows = facts.rows;
    let traced = facts.allocated.is_some();
    if let Some(stack) = facts.allocated {
        rows.push(Row::stack("allocated", stack));
    }
    rows.extend(facts.touched);
    rows.push(Row::stack("dropped", facts.dropped).noted(heap::this_thread()));
    let mut help = format!("call `{call_instead}` before it is dropped");
    if !traced {
        help.push_str("; TRACEMALLOC=5 adds where it was allocated");
    }
    rows.push(Row::words("help", help));
    Warning::new(Kind::ResourceWarning, sentence, rows)
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
        words: format!("{what} with {}", count(pending, &unit)),
        made: heap::raw_stack(heap::trace_number(start)),
        test: word(std::mem::offset_of!(State, test))? as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(allocated: Option<Vec<usize>>) -> Facts {
        Facts { allocated, touched: None, rows: Vec::new(), dropped: vec![1] }
    }

    #[test]
    fn a_warning_says_how_much_is_lost_and_what_to_call() {
        let w = judge(words("Export", 3, "rows unsent"), "finish()", facts(None));
        assert_eq!(w.sentence, "Export was dropped with 3 rows unsent");
        let help = w.rows.last().unwrap();
        assert_eq!(help.label, "help");
        assert!(help.words.as_deref().unwrap().contains("call `finish()`"));
        assert!(help.words.as_deref().unwrap().contains("TRACEMALLOC=5"));
    }

    #[test]
    fn with_a_trace_the_help_names_no_switch() {
        let w = judge(String::new(), "finish()", facts(Some(vec![7])));
        assert_eq!(w.rows[0].label, "allocated");
        assert_eq!(w.rows[0].stack, [7]);
        assert!(!w.rows.last().unwrap().words.as_deref().unwrap().contains("TRACEMALLOC"));
    }

    #[test]
    fn facts_of_its_own_come_first_and_where_it_was_touched_stands_between_birth_and_drop() {
        let touched = Some(Row::place(TOUCHED, Location::caller()));
        let rows = vec![Row::words("path", "out.csv".into())];
        let w = judge(String::new(), "finish()", Facts { touched, rows, ..facts(Some(vec![7])) });
        let labels: Vec<_> = w.rows.iter().map(|row| row.label).collect();
        assert_eq!(labels, ["path", "allocated", "touched", "dropped", "help"]);
    }

    #[test]
    fn one_piece_of_work_is_told_as_one() {
        for (n, unit, told) in [
            (1, "rows unsent", "1 row unsent"),
            (2, "rows unsent", "2 rows unsent"),
            (1, "bytes", "1 byte"),
            (1, "left undone", "1 left undone"),
            (1, "process to wait for", "1 process to wait for"),
        ] {
            assert_eq!(count(n, unit), told);
        }
    }

    #[test]
    fn a_guard_is_one_pointer_and_may_cross_threads() {
        fn crosses<T: Send + Sync>() {}
        crosses::<ResourceGuard>();
        assert_eq!(size_of::<ResourceGuard>(), size_of::<usize>());
    }
}
