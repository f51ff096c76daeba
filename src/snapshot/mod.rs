//! A frozen copy of what is alive, by the stack that made it: plain data, named only when somebody looks.

mod compare;
mod display;
mod filter;
mod group;
mod take;

use std::sync::Arc;
use std::time::Instant;

pub use compare::{StatisticDiff, StatisticsDiff};
pub use display::format_size;
pub(crate) use display::words as missing_words;
pub use filter::Filter;
pub use group::{GroupBy, Key, Statistic, Statistics};
pub(crate) use take::missing;
pub use take::{NotTracing, snapshot, try_snapshot};

use crate::thread::Ours;
use crate::trace::frame::{self, Traceback};
use crate::trace::{RawStack, resolve};
use crate::watch::tasks::memory::Holder;

/// What was left out of a snapshot because something ran out, since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Blocks without a record: the address table could get no memory.
    pub table: u64,
    /// New stacks that found no id or no memory.
    pub traces: u64,
    /// Captures that had too little stack.
    pub captures: u64,
    /// Freed blocks that couldn't be quarantined.
    pub quarantine: u64,
    /// Stacks that end early, at a frame without unwind tables.
    pub cut: u64,
    /// Polls of tasks that found no account: what was allocated in them counts for no task.
    pub tasks: u64,
}

impl Dropped {
    /// Whether blocks or stacks are missing, or blocks count for no task that should.
    pub fn any(&self) -> bool {
        self.table != 0 || self.traces != 0 || self.captures != 0 || self.tasks != 0
    }
}

/// All live blocks of one stack.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub raw: RawStack,
    pub size: u64,
    pub count: u64,
    /// What of it tasks have made; the rest was made outside of all.
    pub tasks: Arc<[Share]>,
}

/// A task's part of a record.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    pub holder: Arc<Holder>,
    pub size: u64,
    pub count: u64,
}

/// What was alive at one moment, by the stack that made it.
///
/// Taking one stops no other thread: blocks that come or go meanwhile may be in it or not. It is plain data: it can be kept,
/// cloned (cheap) and sent to another thread. Names are looked up when somebody asks for them; where a library was unloaded
/// before that, its frames have none.
///
/// What snapshots and their statistics take themselves is Birthmark's own memory and in no snapshot.
///
/// ```
/// #[global_allocator]
/// static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new().tracemalloc(5);
///
/// use birthmark::GroupBy;
///
/// let before = birthmark::snapshot();
/// let kept: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
/// let changes = birthmark::snapshot().compare_to(&before, GroupBy::Line);
/// println!("{changes}"); // the ten lines that changed most
/// assert!(changes.iter().map(|row| row.count_diff).sum::<i64>() > 1000);
/// # drop(kept);
/// ```
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) records: Arc<[Record]>,
    pub(crate) limit: u16,
    pub(crate) dropped: Dropped,
    pub(crate) ours: u64,
    /// When it was taken.
    pub(crate) taken: Instant,
    /// Which tasks' blocks were counted.
    pub(crate) seen: SeenTasks,
}

/// Which tasks are seen when their blocks are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SeenTasks {
    /// None: async debug was never on.
    No,
    /// Wrapped ones.
    Wrapped,
    All,
}

/// The live blocks of one stack.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Bytes that were asked for.
    pub size: u64,
    /// Blocks.
    pub count: u64,
    /// The stack that made them.
    pub traceback: Traceback,
}

impl Snapshot {
    /// Bytes in traced live blocks.
    pub fn size(&self) -> u64 {
        self.records.iter().map(|r| r.size).sum()
    }

    /// Traced live blocks.
    pub fn count(&self) -> u64 {
        self.records.iter().map(|r| r.count).sum()
    }

    /// How many user frames its traces keep.
    pub fn traceback_limit(&self) -> u16 {
        self.limit
    }

    /// What was left out.
    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// Bytes of memory that Birthmark itself had mapped, touched or not. Not part of any other figure.
    pub fn overhead(&self) -> u64 {
        self.ours
    }

    /// The live blocks, one item for each stack that made some, in no order. Names are looked up as the iterator goes.
    pub fn traces(&self) -> impl Iterator<Item = Trace> + '_ {
        self.records.iter().map(|r| Trace {
            size: r.size,
            count: r.count,
            traceback: resolve::traceback(&r.raw),
        })
    }

    /// When it was taken.
    pub fn taken(&self) -> Instant {
        self.taken
    }

    /// Sizes and counts by line, file, function or whole stack, by task or by where tasks were spawned; largest first.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new().tracemalloc(5);
    /// use birthmark::{GroupBy, snapshot};
    ///
    /// let kept = vec![0u8; 1 << 20];
    /// let statistics = snapshot().statistics(GroupBy::Line);
    /// println!("{}", statistics.top(3));
    /// for row in &statistics {
    ///     assert!(row.average() <= row.size);
    /// }
    /// assert!(statistics[0].size >= 1 << 20);
    /// # drop(kept);
    /// ```
    pub fn statistics(&self, by: GroupBy) -> Statistics {
        let _ours = Ours::enter();
        Statistics { rows: group::rows(self, by), about: display::About::of(self, None, by) }
    }

    /// What changed since `old`, most first. Unchanged rows are in it too.
    pub fn compare_to(&self, old: &Snapshot, by: GroupBy) -> StatisticsDiff {
        let _ours = Ours::enter();
        let (new_rows, old_rows) = (group::rows(self, by), group::rows(old, by));
        let about = display::About::of(self, Some(old), by);
        StatisticsDiff { rows: compare::differences(new_rows, old_rows), about }
    }

    /// Only the traces that the filters let through: at least one of the inclusive ones (where there are any), and none of
    /// the exclusive ones. This snapshot stays as it is.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new().tracemalloc(5);
    /// use birthmark::{Filter, snapshot};
    ///
    /// let all = snapshot();
    /// let without = all.filter_traces(&[Filter::exclude("*")]);
    /// assert_eq!((without.size(), without.count()), (0, 0));
    /// assert!(all.filter_traces(&[]).count() == all.count());
    /// ```
    pub fn filter_traces<'f>(&self, filters: impl IntoIterator<Item = &'f Filter>) -> Snapshot {
        let _ours = Ours::enter();
        let filters: Vec<&Filter> = filters.into_iter().collect();
        let here = frame::here();
        let records = self
            .records
            .iter()
            .filter(|r| filter::admits(&filters, &resolve::traceback(&r.raw), here.as_deref()))
            .cloned()
            .collect();
        Snapshot { records, ..self.clone() }
    }
}
