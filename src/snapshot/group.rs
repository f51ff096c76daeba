//! Grouping: sizes and counts by line, file, function or whole stack. Plain records in, plain rows out.

use std::fmt;
use std::sync::Arc;

use hashbrown::HashMap;

use super::Trace;
use super::display::About;
use crate::trace::frame::{Frame, Traceback, shown};

/// By what traces are grouped: `GroupBy::Line`, `File`, `Function` or `Traceback`, each of them `.cumulative()` if wanted.
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
}

#[allow(non_upper_case_globals)]
impl GroupBy {
    /// By the line of the most recent frame.
    #[doc(alias = "lineno")]
    pub const Line: Self = Self { kind: Kind::Line, cumulative: false };
    /// By its file.
    #[doc(alias = "filename")]
    pub const File: Self = Self { kind: Kind::File, cumulative: false };
    /// By its function.
    pub const Function: Self = Self { kind: Kind::Function, cumulative: false };
    /// By the whole stack.
    pub const Traceback: Self = Self { kind: Kind::Traceback, cumulative: false };

    /// Counts a trace at every frame of its stack, once for each key, not at the most recent alone. Whole stacks are grouped as
    /// they are.
    pub const fn cumulative(mut self) -> Self {
        self.cumulative = true;
        self
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
    /// A function.
    Function(Arc<str>),
    /// A whole stack.
    Traceback(Traceback),
    /// A function without a known line: the place in its program or library.
    Place(Arc<str>),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(file, line) => write!(f, "{}:{line}", shown(file)),
            Self::File(file) => f.write_str(&shown(file)),
            Self::Function(function) => f.write_str(function),
            Self::Traceback(traceback) => match traceback.frames().next() {
                Some(frame) => f.write_str(&frame.place()),
                None => f.write_str("(no frames)"),
            },
            Self::Place(place) => f.write_str(place),
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
        (Kind::Function, _, Some(function)) => Key::Function(function.clone()),
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
            for frame in trace.traceback.frames() {
                let key = key(frame, by);
                if !seen.contains(&key) {
                    seen.push(key.clone());
                    count(key);
                }
            }
        } else if let Some(frame) = trace.traceback.frames().next() {
            count(key(frame, by));
        }
    }
    let mut rows: Vec<Statistic> =
        sums.into_iter().map(|(key, (size, count))| Statistic { key, size, count }).collect();
    rows.sort_by(|a, b| (b.size, b.count).cmp(&(a.size, a.count)).then_with(|| b.key.cmp(&a.key)));
    rows
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::trace::Depth;
    use crate::trace::frame::Owner;

    pub(crate) fn frame(file: &str, line: u32, owner: Owner) -> Frame {
        Frame {
            function: Some(Arc::from(format!("{}::f", file.trim_end_matches(".rs")))),
            file: Some(Arc::from(file)),
            line,
            module: Arc::from("app"),
            offset: line as usize,
            inlined: false,
            owner,
        }
    }

    pub(crate) fn trace(size: u64, count: u64, places: &[(&str, u32)]) -> Trace {
        let frames: Vec<_> = places
            .iter()
            .map(|(file, line)| {
                frame(file, *line, if file.starts_with("std") { Owner::Plumbing } else { Owner::User })
            })
            .collect();
        let n = frames.len() as u32;
        Trace { size, count, traceback: Traceback::new(frames, n, Depth::Exactly(n)) }
    }

    fn shown_rows(rows: &[Statistic]) -> Vec<(String, u64, u64)> {
        rows.iter().map(|r| (r.key.to_string(), r.size, r.count)).collect()
    }

    #[test]
    fn blocks_count_at_the_most_recent_frame_that_is_not_plumbing() {
        let traces = vec![
            trace(10, 1, &[("std/vec.rs", 9), ("a.rs", 2), ("b.rs", 4)]),
            trace(20, 2, &[("a.rs", 2), ("b.rs", 1)]),
            trace(25, 5, &[("c.rs", 3)]),
        ];
        let rows = statistics(traces.clone().into_iter(), GroupBy::Line);
        assert_eq!(shown_rows(&rows), [("a.rs:2".into(), 30, 3), ("c.rs:3".into(), 25, 5)]);
        let rows = statistics(traces.into_iter(), GroupBy::File);
        assert_eq!(shown_rows(&rows)[0], ("a.rs".into(), 30, 3));
    }

    #[test]
    fn cumulative_counts_each_frame_of_a_stack_once() {
        let traces = vec![
            trace(10, 1, &[("a.rs", 2), ("b.rs", 4), ("a.rs", 2)]),
            trace(5, 1, &[("a.rs", 5), ("b.rs", 4)]),
        ];
        let rows = statistics(traces.clone().into_iter(), GroupBy::Line.cumulative());
        assert_eq!(
            shown_rows(&rows),
            [("b.rs:4".into(), 15, 2), ("a.rs:2".into(), 10, 1), ("a.rs:5".into(), 5, 1)]
        );
        let rows = statistics(traces.into_iter(), GroupBy::File.cumulative());
        assert_eq!(shown_rows(&rows), [("b.rs".into(), 15, 2), ("a.rs".into(), 15, 2)]);
    }

    #[test]
    fn equal_sizes_are_ordered_by_count_then_by_key() {
        let traces =
            vec![trace(10, 1, &[("a.rs", 1)]), trace(10, 2, &[("b.rs", 1)]), trace(10, 1, &[("c.rs", 1)])];
        let rows = statistics(traces.into_iter(), GroupBy::File);
        assert_eq!(
            shown_rows(&rows).iter().map(|r| r.0.as_str()).collect::<Vec<_>>(),
            ["b.rs", "c.rs", "a.rs"]
        );
    }

    #[test]
    fn a_stack_of_plumbing_alone_still_has_a_row() {
        let rows = statistics([trace(7, 1, &[("std/rt.rs", 1)])].into_iter(), GroupBy::Line);
        assert_eq!(shown_rows(&rows), [("std/rt.rs:1".into(), 7, 1)]);
    }
}
