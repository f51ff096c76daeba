//! Grouping: sizes and counts by line, file, function or whole stack. Plain records in, plain rows out.

use std::fmt;
use std::sync::Arc;

use hashbrown::HashMap;

use super::display::About;
use super::{Record, Snapshot, Trace};
use crate::trace::frame::{Frame, Traceback, shown};
use crate::watch::tasks::TaskId;
use crate::watch::tasks::memory::{Holder, Place};

/// By what live blocks are grouped: `GroupBy::Line`, `File`, `Function` or `Traceback`, each of them `.cumulative()` if wanted;
/// `GroupBy::Task` or `SpawnSite`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupBy {
    kind: Kind,
    cumulative: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Line,
    File,
    Function,
    Traceback,
    Task,
    SpawnSite,
}

#[allow(non_upper_case_globals)]
impl GroupBy {
    /// By the line of the most recent frame.
    #[doc(alias = "lineno")]
    pub const Line: Self = Self { kind: Kind::Line, cumulative: false };
    /// By its file.
    #[doc(alias = "filename")]
    pub const File: Self = Self { kind: Kind::File, cumulative: false };
    /// By its function (and its file, since with `line-tables-only` an inlined function is `new` in every file).
    pub const Function: Self = Self { kind: Kind::Function, cumulative: false };
    /// By the whole stack.
    pub const Traceback: Self = Self { kind: Kind::Traceback, cumulative: false };
    /// By the task that made the block or reallocated it last, ended ones too as long as a block of theirs lives. Counted while
    /// async debug is on. Jobs of `spawn_blocking` have ids as tasks have, and are rows too.
    pub const Task: Self = Self { kind: Kind::Task, cumulative: false };
    /// By where that task was spawned: what grows there is what all tasks of that place hold and have left behind.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();
    /// # #[cfg(feature = "tokio")]
    /// # {
    /// use birthmark::{GroupBy, snapshot};
    ///
    /// birthmark::tracemalloc::start(5);
    /// birthmark::tokio::run(true, async {
    ///     let before = snapshot();
    ///     let left = birthmark::tokio::spawn(async { vec![0u8; 1 << 20] }).await.unwrap();
    ///     let changes = snapshot().compare_to(&before, GroupBy::SpawnSite);
    ///     println!("{changes}"); // tasks spawned at src/main.rs:7: size=1024 KiB (+1024 KiB), count=1 (+1), ..
    ///     assert!(changes[0].size_diff >= 1 << 20);
    ///     # let _ = left;
    /// });
    /// # }
    /// ```
    pub const SpawnSite: Self = Self { kind: Kind::SpawnSite, cumulative: false };

    /// Counts a trace at every frame of its stack, not at the leading one alone; once for each key, so a recursive function
    /// isn't counted twice as in Python. Frames of dependencies count, plumbing doesn't. Whole stacks and tasks are grouped as they are.
    pub const fn cumulative(mut self) -> Self {
        self.cumulative = true;
        self
    }

    /// `line`, and in the plural `lines`.
    pub(crate) fn noun(self, n: usize) -> String {
        let noun = match self.kind {
            Kind::Line => "line",
            Kind::File => "file",
            Kind::Function => "function",
            Kind::Traceback => "stack",
            Kind::Task => "task",
            Kind::SpawnSite => "place",
        };
        format!("{noun}{}", if n == 1 { "" } else { "s" })
    }

    /// Whether it asks whose blocks they are.
    pub(crate) fn is_of_tasks(self) -> bool {
        matches!(self.kind, Kind::Task | Kind::SpawnSite)
    }
}

/// What a row stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Key {
    /// A file and a line.
    Line(Arc<str>, u32),
    /// A file.
    File(Arc<str>),
    /// A function, and its file where that is known.
    Function(Arc<str>, Option<Arc<str>>),
    /// A whole stack.
    Traceback(Traceback),
    /// Where line tables are missing: the function, or module and offset; by file the module alone.
    Place(Arc<str>),
    /// A task, and where it was spawned if its spawn was traced or it was wrapped.
    Task(TaskId, Option<Arc<str>>),
    /// The tasks that were spawned there; nothing: those whose spawn wasn't traced.
    SpawnSite(Option<Arc<str>>),
    /// What no task made.
    NoTask,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(file, line) => write!(f, "{}:{line}", shown(file)),
            Self::File(file) => f.write_str(&shown(file)),
            // A bare name says little.
            Self::Function(function, Some(file)) if !function.contains("::") => {
                write!(f, "{function} ({})", shown(file))
            }
            Self::Function(function, _) => f.write_str(function),
            Self::Traceback(traceback) => f.write_str(&traceback.lead().place()),
            Self::Place(place) => f.write_str(place),
            Self::Task(id, Some(place)) => write!(f, "{id} spawned at {place}"),
            Self::Task(id, None) => write!(f, "{id}, whose spawn wasn't traced"),
            Self::SpawnSite(Some(place)) => write!(f, "tasks spawned at {place}"),
            Self::SpawnSite(None) => f.write_str("tasks whose spawn wasn't traced"),
            Self::NoTask => f.write_str("outside of all tasks"),
        }
    }
}

/// The live blocks of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistic {
    /// What they have in common.
    pub key: Key,
    /// Bytes that were asked for.
    pub size: u64,
    /// Blocks.
    pub count: u64,
}

impl Statistic {
    /// Bytes in a block, on average; 0 where there is none.
    pub fn average(&self) -> u64 {
        self.size.checked_div(self.count).unwrap_or(0)
    }
}

/// The rows of [`Snapshot::statistics`](super::Snapshot::statistics), largest first.
#[derive(Clone, Debug)]
pub struct Statistics {
    pub(crate) rows: Vec<Statistic>,
    pub(crate) about: About,
}

impl Statistics {
    /// All rows.
    pub fn rows(&self) -> &[Statistic] {
        &self.rows
    }
}

impl<'a> IntoIterator for &'a Statistics {
    type Item = &'a Statistic;
    type IntoIter = std::slice::Iter<'a, Statistic>;
    fn into_iter(self) -> Self::IntoIter {
        self.rows.iter()
    }
}

impl std::ops::Deref for Statistics {
    type Target = [Statistic];
    fn deref(&self) -> &[Statistic] {
        &self.rows
    }
}

/// Without a line a frame is told by its function, else by its module and offset: never nothing.
fn place(frame: &Frame) -> Key {
    match &frame.function {
        Some(function) => Key::Place(function.clone()),
        None => Key::Place(Arc::from(frame.place())),
    }
}

fn key(frame: &Frame, by: GroupBy) -> Key {
    match (by.kind, &frame.file, &frame.function) {
        (Kind::Line, Some(file), _) => Key::Line(file.clone(), frame.line),
        (Kind::File, Some(file), _) => Key::File(file.clone()),
        (Kind::Function, file, Some(function)) => Key::Function(function.clone(), file.clone()),
        (Kind::File, None, _) => Key::Place(frame.module.clone()),
        _ => place(frame),
    }
}

pub(crate) fn statistics(traces: impl Iterator<Item = Trace>, by: GroupBy) -> Vec<Statistic> {
    let mut sums: HashMap<Key, (u64, u64)> = HashMap::new();
    for trace in traces {
        let mut count = |key: Key| {
            let sum = sums.entry(key).or_default();
            sum.0 += trace.size;
            sum.1 += trace.count;
        };
        if by.kind == Kind::Traceback {
            count(Key::Traceback(trace.traceback.clone()));
        } else if by.cumulative {
            let mut seen: Vec<Key> = Vec::new();
            for frame in trace.traceback.that_count() {
                let key = key(frame, by);
                if !seen.contains(&key) {
                    seen.push(key.clone());
                    count(key);
                }
            }
        } else {
            count(key(trace.traceback.lead(), by));
        }
    }
    sorted(sums)
}

fn sorted(sums: HashMap<Key, (u64, u64)>) -> Vec<Statistic> {
    let mut rows: Vec<Statistic> =
        sums.into_iter().map(|(key, (size, count))| Statistic { key, size, count }).collect();
    rows.sort_by(|a, b| (b.size, b.count).cmp(&(a.size, a.count)).then_with(|| b.key.cmp(&a.key)));
    rows
}

/// The rows of a snapshot.
pub(crate) fn rows(snapshot: &Snapshot, by: GroupBy) -> Vec<Statistic> {
    match by.kind {
        Kind::Task | Kind::SpawnSite => of_tasks(&snapshot.records, by),
        _ => statistics(snapshot.traces(), by),
    }
}

fn of_tasks(records: &[Record], by: GroupBy) -> Vec<Statistic> {
    let mut keys: HashMap<*const Holder, Key> = HashMap::new();
    let mut sums: HashMap<Key, (u64, u64)> = HashMap::new();
    let mut add = |key: &Key, size: u64, count: u64| {
        if count != 0 {
            let sum = sums.entry_ref(key).or_default();
            sum.0 += size;
            sum.1 += count;
        }
    };
    for record in records {
        let (mut size, mut count) = (record.size, record.count);
        for share in record.tasks.iter() {
            let holder = &*share.holder;
            let key = keys.entry(std::ptr::from_ref(holder)).or_insert_with(|| {
                let place = match holder.place() {
                    Place::Worker => return Key::NoTask,
                    Place::At(place) => Some(Arc::from(place)),
                    Place::Unknown => None,
                };
                if by.kind == Kind::Task { Key::Task(holder.id, place) } else { Key::SpawnSite(place) }
            });
            add(key, share.size, share.count);
            (size, count) = (size.saturating_sub(share.size), count.saturating_sub(share.count));
        }
        add(&Key::NoTask, size, count);
    }
    sorted(sums)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::trace::frame::tests::{frame, traceback};

    /// `places`: files and lines, most recent first.
    pub(crate) fn trace(size: u64, count: u64, places: &[(&str, u32)]) -> Trace {
        let frames = places
            .iter()
            .map(|(file, line)| frame(&format!("{}::f", file.trim_end_matches(".rs")), file, *line));
        Trace { size, count, traceback: traceback(frames.collect()) }
    }

    pub(crate) const VEC: &str = "/rustc/1/library/alloc/src/vec/mod.rs";
    pub(crate) const JSON: &str = "/x/registry/src/i/serde_json-1.0.1/src/de.rs";

    fn rows(traces: &[Trace], by: GroupBy) -> Vec<(String, u64, u64)> {
        let rows = statistics(traces.iter().cloned(), by);
        rows.iter().map(|r| (r.key.to_string(), r.size, r.count)).collect()
    }

    #[test]
    fn blocks_count_at_the_users_most_recent_frame() {
        let traces = [
            trace(10, 1, &[(VEC, 9), ("a.rs", 2), ("b.rs", 4)]),
            trace(20, 2, &[("a.rs", 2), ("b.rs", 1)]),
            trace(25, 5, &[(VEC, 9), (JSON, 7), ("c.rs", 3)]),
        ];
        assert_eq!(rows(&traces, GroupBy::Line), [("a.rs:2".into(), 30, 3), ("c.rs:3".into(), 25, 5)]);
        assert_eq!(rows(&traces, GroupBy::File), [("a.rs".into(), 30, 3), ("c.rs".into(), 25, 5)]);
        assert_eq!(rows(&traces, GroupBy::Function), [("a::f".into(), 30, 3), ("c::f".into(), 25, 5)]);
    }

    #[test]
    fn whole_stacks_are_one_row_each_and_those_that_read_alike_are_one() {
        let traces = [
            trace(10, 1, &[("a.rs", 2), ("b.rs", 4)]),
            trace(5, 1, &[(VEC, 9), ("a.rs", 2), ("b.rs", 4)]),
            trace(20, 2, &[("a.rs", 2), ("b.rs", 1)]),
        ];
        assert_eq!(rows(&traces, GroupBy::Traceback), [("a.rs:2".into(), 20, 2), ("a.rs:2".into(), 15, 2)]);
    }

    #[test]
    fn cumulative_counts_each_frame_of_a_stack_once() {
        let traces = [
            trace(10, 1, &[("a.rs", 2), ("b.rs", 4), ("a.rs", 2)]),
            trace(5, 1, &[("a.rs", 5), ("b.rs", 4)]),
        ];
        assert_eq!(
            rows(&traces, GroupBy::Line.cumulative()),
            [("b.rs:4".into(), 15, 2), ("a.rs:2".into(), 10, 1), ("a.rs:5".into(), 5, 1)]
        );
        assert_eq!(
            rows(&traces, GroupBy::File.cumulative()),
            [("b.rs".into(), 15, 2), ("a.rs".into(), 15, 2)]
        );
    }

    #[test]
    fn cumulative_counts_dependencies_above_the_users_frame_and_no_plumbing() {
        let traces = [trace(10, 1, &[(VEC, 9), (JSON, 7), ("a.rs", 2), (VEC, 3)])];
        assert_eq!(
            rows(&traces, GroupBy::Line.cumulative()),
            [("a.rs:2".into(), 10, 1), ("serde_json-1.0.1/src/de.rs:7".into(), 10, 1)]
        );
    }

    #[test]
    fn equal_sizes_are_ordered_by_count_then_by_key() {
        let traces =
            [trace(10, 1, &[("a.rs", 1)]), trace(10, 2, &[("b.rs", 1)]), trace(10, 1, &[("c.rs", 1)])];
        let keys: Vec<_> = rows(&traces, GroupBy::File).into_iter().map(|r| r.0).collect();
        assert_eq!(keys, ["b.rs", "c.rs", "a.rs"]);
    }

    #[test]
    fn a_stack_of_plumbing_alone_still_has_a_row() {
        assert_eq!(
            rows(&[trace(7, 1, &[(VEC, 1)])], GroupBy::Line),
            [("alloc/src/vec/mod.rs:1".into(), 7, 1)]
        );
        assert_eq!(rows(&[trace(7, 1, &[])], GroupBy::Line), [("<unknown>".into(), 7, 1)]);
    }

    #[test]
    fn without_line_tables_a_row_is_a_function_and_without_symbols_module_and_offset() {
        let mut lineless = frame("app::grow", "", 0);
        lineless.file = None;
        let mut stripped = lineless.clone();
        (stripped.function, stripped.offset) = (None, 0x1f0);
        let traces =
            [lineless, stripped].map(|frame| Trace { size: 8, count: 1, traceback: traceback(vec![frame]) });
        assert_eq!(rows(&traces, GroupBy::Line), [("app::grow".into(), 8, 1), ("app+0x1f0".into(), 8, 1)]);
        assert_eq!(rows(&traces, GroupBy::File), [("app".into(), 16, 2)]);
    }

    #[test]
    fn a_bare_function_name_is_told_with_its_file_and_apart_from_others() {
        let t = |file, size| Trace { size, count: 1, traceback: traceback(vec![frame("new", file, 1)]) };
        assert_eq!(
            rows(&[t("a.rs", 1), t("b.rs", 2)], GroupBy::Function),
            [("new (b.rs)".into(), 2, 1), ("new (a.rs)".into(), 1, 1)]
        );
    }
}
