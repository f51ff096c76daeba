//! Snapshots in words: the shape that users of Python's `tracemalloc` know.

use std::fmt;

use super::group::{Key, Statistic, Statistics};
use super::{Dropped, GroupBy, Snapshot, StatisticDiff, StatisticsDiff};

/// Rows that are shown where nobody says how many.
const TOP: usize = 10;

/// What heads a list of rows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct About {
    size: u64,
    count: u64,
    traces: usize,
    limit: u16,
    dropped: Dropped,
    ours: u64,
}

impl About {
    pub(crate) fn of(s: &Snapshot) -> Self {
        Self {
            size: s.size(),
            count: s.count(),
            traces: s.records.len(),
            limit: s.limit,
            dropped: s.dropped,
            ours: s.ours,
        }
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (frames, s) = (self.limit, if self.limit == 1 { "" } else { "s" });
        write!(
            f,
            "{} in {} live blocks, {} traces of {frames} frame{s}",
            format_size(self.size as i64, false),
            self.count,
            self.traces
        )?;
        if self.dropped.any() {
            let d = self.dropped;
            write!(f, "; left out: {}", words(&d))?;
        }
        Ok(())
    }
}

/// What was left out, in words; empty where nothing was.
pub(crate) fn words(d: &Dropped) -> String {
    let rows = [
        (d.table, "blocks without a record (no memory for the table)"),
        (d.traces, "stacks without an id (no memory)"),
        (d.captures, "blocks without a stack (too little stack left)"),
    ];
    let told: Vec<String> =
        rows.iter().filter(|(n, _)| *n != 0).map(|(n, what)| format!("{n} {what}")).collect();
    told.join(", ")
}

/// `1.2 MiB`: bytes in the unit that reads best, as Python's `tracemalloc` writes them.
pub fn format_size(bytes: i64, sign: bool) -> String {
    let mut size = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if size.abs() < 100.0 && unit != "B" {
            return if sign { format!("{size:+.1} {unit}") } else { format!("{size:.1} {unit}") };
        }
        if size.abs() < 10.0 * 1024.0 || unit == "TiB" {
            return if sign { format!("{size:+.0} {unit}") } else { format!("{size:.0} {unit}") };
        }
        size /= 1024.0;
    }
    unreachable!("the last unit takes all")
}

impl fmt::Display for Statistic {
    /// `src/cache.rs:41: size=1.2 MiB, count=310, average=4.0 KiB`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: size={}, count={}", self.key, format_size(self.size as i64, false), self.count)?;
        if self.count != 0 {
            write!(f, ", average={}", format_size((self.size / self.count) as i64, false))?;
        }
        rest_of_stack(f, &self.key)
    }
}

impl fmt::Display for StatisticDiff {
    /// `src/cache.rs:41: size=1.2 MiB (+1.2 MiB), count=310 (+310), average=4.0 KiB`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: size={} ({}), count={} ({:+})",
            self.key,
            format_size(self.size as i64, false),
            format_size(self.size_diff, true),
            self.count,
            self.count_diff
        )?;
        if self.count != 0 {
            write!(f, ", average={}", format_size((self.size / self.count) as i64, false))?;
        }
        rest_of_stack(f, &self.key)
    }
}

/// A row that stands for a whole stack shows it below.
fn rest_of_stack(f: &mut fmt::Formatter<'_>, key: &Key) -> fmt::Result {
    if let Key::Traceback(traceback) = key {
        for frame in traceback.frames() {
            write!(f, "\n    {frame}")?;
        }
        if let Some(shortened) = traceback.shortened() {
            write!(f, "\n    ({shortened})")?;
        }
    }
    Ok(())
}

/// The first rows of a list, its head, and one line for the rest.
struct Top<'a, R> {
    about: &'a About,
    rows: &'a [R],
    n: usize,
    rest: &'a dyn Fn(&[R]) -> String,
}

impl<R: fmt::Display> fmt::Display for Top<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.about)?;
        for row in self.rows.iter().take(self.n) {
            write!(f, "\n{row}")?;
        }
        if let Some(hidden) = self.rows.get(self.n..).filter(|h| !h.is_empty()) {
            write!(f, "\n{}", (self.rest)(hidden))?;
        }
        Ok(())
    }
}

fn hidden(rows: &[Statistic]) -> String {
    let (size, count) = rows.iter().fold((0, 0), |(s, c), r| (s + r.size, c + r.count));
    format!("and {} more: size={}, count={count}", rows.len(), format_size(size as i64, false))
}

fn hidden_diff(rows: &[StatisticDiff]) -> String {
    let (size, count) = rows.iter().fold((0i64, 0i64), |(s, c), r| (s + r.size_diff, c + r.count_diff));
    format!("and {} more: ({}), ({count:+})", rows.len(), format_size(size, true))
}

impl Statistics {
    /// The first `n` rows, headed by the totals.
    pub fn top(&self, n: usize) -> impl fmt::Display + '_ {
        Top { about: &self.about, rows: &self.rows, n, rest: &hidden }
    }
}

impl fmt::Display for Statistics {
    /// The totals and the first ten rows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.top(TOP).fmt(f)
    }
}

impl StatisticsDiff {
    /// The first `n` rows, headed by the totals.
    pub fn top(&self, n: usize) -> impl fmt::Display + '_ {
        Top { about: &self.about, rows: &self.rows, n, rest: &hidden_diff }
    }
}

impl fmt::Display for StatisticsDiff {
    /// The totals and the first ten rows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.top(TOP).fmt(f)
    }
}

impl fmt::Display for Snapshot {
    /// The totals and the ten lines that hold most.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.statistics(GroupBy::Line).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::super::group::{statistics, tests::trace};
    use super::super::{Snapshot, compare};
    use super::*;

    #[test]
    fn sizes_read_as_in_python() {
        for (bytes, text) in [
            (0, "0 B"),
            (100, "100 B"),
            (10_239, "10239 B"),
            (10_240, "10.0 KiB"),
            (1_258_291, "1229 KiB"),
            (12_582_912, "12.0 MiB"),
            (-20_480, "-20.0 KiB"),
        ] {
            assert_eq!(format_size(bytes, false), text);
        }
        assert_eq!(format_size(20_480, true), "+20.0 KiB");
    }

    #[test]
    fn rows_have_the_shape_that_tracemalloc_users_know() {
        let new = statistics([trace(40_960, 4, &[("src/cache.rs", 41)])].into_iter(), GroupBy::Line);
        assert_eq!(new[0].to_string(), "src/cache.rs:41: size=40.0 KiB, count=4, average=10.0 KiB");
        let rows = compare::differences(new, Vec::new());
        assert_eq!(
            rows[0].to_string(),
            "src/cache.rs:41: size=40.0 KiB (+40.0 KiB), count=4 (+4), average=10.0 KiB"
        );
    }

    #[test]
    fn hidden_rows_are_summed_in_the_last_line() {
        let traces = (0..12).map(|i| trace(100 + i, 1, &[("a.rs", i as u32 + 1)]));
        let list = Statistics { rows: statistics(traces, GroupBy::Line), about: About::default() };
        let text = list.to_string();
        assert_eq!(text.lines().count(), 12);
        assert!(text.ends_with("and 2 more: size=201 B, count=2"), "{text}");
    }

    #[test]
    fn the_head_tells_what_was_left_out() {
        let dropped = Dropped { captures: 3, ..Dropped::default() };
        let s = Snapshot { records: Vec::new().into(), limit: 5, dropped, ours: 0 };
        assert_eq!(
            s.to_string(),
            "0 B in 0 live blocks, 0 traces of 5 frames; left out: 3 blocks without a stack (too little stack left)"
        );
    }
}
