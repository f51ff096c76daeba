//! Snapshots in words: the shape that users of Python's `tracemalloc` know.

use std::fmt;
use std::time::Duration;

use super::group::{Key, Statistic, Statistics};
use super::{Dropped, GroupBy, SeenTasks, Snapshot, StatisticDiff, StatisticsDiff};
use crate::trace::frame::lines;

/// Rows that are shown where nobody says how many.
const TOP: usize = 10;

/// What heads a list of rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    size: u64,
    count: u64,
    /// Bytes and blocks before, in a comparison.
    before: Option<(u64, u64)>,
    traces: usize,
    limit: u16,
    by: GroupBy,
    dropped: Dropped,
    ours: u64,
    /// Since the snapshot before, in a comparison.
    apart: Option<Duration>,
    /// Which tasks' blocks were counted.
    seen: SeenTasks,
}

impl About {
    pub(crate) fn of(s: &Snapshot, before: Option<&Snapshot>, by: GroupBy) -> Self {
        Self {
            size: s.size(),
            count: s.count(),
            before: before.map(|b| (b.size(), b.count())),
            traces: s.records.len(),
            limit: s.limit,
            by,
            dropped: s.dropped,
            ours: s.ours,
            apart: before.map(|b| s.taken.saturating_duration_since(b.taken)),
            seen: s.seen,
        }
    }

    pub(crate) fn apart(&self) -> Option<Duration> {
        self.apart
    }
}

fn plural(n: u64, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

impl fmt::Display for About {
    /// `12.4 MiB in 310 live blocks, 12 traces of 5 frames, Birthmark's own 20.1 MiB mapped`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", format_size(self.size as i64, false), plural(self.count, "live block"))?;
        if let Some((size, count)) = self.before {
            let (size, count) = (self.size.wrapping_sub(size), self.count.wrapping_sub(count));
            write!(f, " ({}, {:+})", format_size(size as i64, true), count as i64)?;
        }
        let traces = plural(self.traces as u64, "trace");
        write!(f, ", {traces} of {}", plural(self.limit.into(), "frame"))?;
        if self.ours != 0 {
            write!(f, ", Birthmark's own {} mapped", format_size(self.ours as i64, false))?;
        }
        if self.dropped.any() {
            write!(f, "; left out: {}", words(&self.dropped))?;
        }
        Ok(())
    }
}

/// What was left out, in words; empty where nothing was.
pub(crate) fn words(d: &Dropped) -> String {
    let rows = [
        (d.table, "block", "without a record (no memory for the table)"),
        (d.traces, "block", "without a trace (no id or no memory for a new stack)"),
        (d.captures, "block", "without a trace (too little stack left to walk it)"),
        (d.tasks, "poll", "of tasks whose blocks aren't counted for them (no account left)"),
    ];
    let told = rows.iter().filter(|(n, ..)| *n != 0);
    told.map(|(n, one, what)| format!("{} {what}", plural(*n, one))).collect::<Vec<_>>().join(", ")
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
            write!(f, ", average={}", format_size(self.average() as i64, false))?;
        }
        rest_of_stack(f, &self.key)
    }
}

/// `40.0 MiB a minute`, in the largest unit of time that has passed at least once; nothing where less than a second has.
fn rate(bytes: i64, apart: Duration) -> Option<String> {
    let seconds = apart.as_secs_f64();
    let (unit, span) = match seconds {
        60.0.. => ("minute", 60.0),
        1.0.. => ("second", 1.0),
        _ => return None,
    };
    let bytes = (bytes as f64 * span / seconds).round() as i64;
    Some(format!("{} a {unit}", format_size(bytes, false)))
}

impl StatisticDiff {
    /// What tasks have grown by, where that can be told.
    fn growth(&self, apart: Option<Duration>) -> Option<String> {
        let of_tasks = matches!(self.key, Key::Task(..) | Key::SpawnSite(_));
        if of_tasks && self.size_diff > 0 { rate(self.size_diff, apart?) } else { None }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, apart: Option<Duration>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        if let Some(growth) = self.growth(apart) {
            write!(f, " grew by {growth}")?;
        }
        write!(
            f,
            ": size={} ({}), count={} ({:+})",
            format_size(self.size as i64, false),
            format_size(self.size_diff, true),
            self.count,
            self.count_diff
        )?;
        if self.count != 0 {
            write!(f, ", average={}", format_size(self.average() as i64, false))?;
        }
        rest_of_stack(f, &self.key)
    }
}

impl fmt::Display for StatisticDiff {
    /// `src/cache.rs:41: size=1.2 MiB (+1.2 MiB), count=310 (+310), average=4.0 KiB`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, None)
    }
}

/// A row that stands for a whole stack shows it below.
fn rest_of_stack(f: &mut fmt::Formatter<'_>, key: &Key) -> fmt::Result {
    if let Key::Traceback(traceback) = key {
        for line in lines(traceback, f.alternate()) {
            write!(f, "\n    {line}")?;
        }
        if let Some(shortened) = traceback.shortened() {
            write!(f, "\n    ({shortened})")?;
        }
    }
    Ok(())
}

/// What all kinds of rows have.
trait Row: fmt::Display {
    fn key(&self) -> &Key;
    /// The row below this head.
    fn below(&self, f: &mut fmt::Formatter<'_>, _about: &About) -> fmt::Result {
        self.fmt(f)
    }
    /// Rows that say nothing aren't shown, only summed.
    fn says_nothing(&self) -> bool;
    /// `size=.., count=..` of several rows.
    fn sum(rows: &[&Self]) -> String;
}

impl Row for Statistic {
    fn key(&self) -> &Key {
        &self.key
    }
    fn says_nothing(&self) -> bool {
        false
    }
    fn sum(rows: &[&Self]) -> String {
        let (size, count) = rows.iter().fold((0, 0), |(s, c), r| (s + r.size, c + r.count));
        format!("size={}, count={count}", format_size(size as i64, false))
    }
}

impl Row for StatisticDiff {
    fn key(&self) -> &Key {
        &self.key
    }
    fn below(&self, f: &mut fmt::Formatter<'_>, about: &About) -> fmt::Result {
        self.write(f, about.apart)
    }
    fn says_nothing(&self) -> bool {
        self.is_unchanged()
    }
    fn sum(rows: &[&Self]) -> String {
        let (size, count) = rows.iter().fold((0, 0), |(s, c), r| (s + r.size, c + r.count));
        let diff = rows.iter().fold((0, 0), |(s, c), r| (s + r.size_diff, c + r.count_diff));
        format!(
            "size={} ({}), count={count} ({:+})",
            format_size(size as i64, false),
            format_size(diff.0, true),
            diff.1
        )
    }
}

/// The first rows of a list, its head, and a line for the rest.
struct Top<'a, R> {
    about: &'a About,
    rows: &'a [R],
    n: usize,
}

impl<R: Row> fmt::Display for Top<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.about)?;
        let (silent, telling): (Vec<&R>, Vec<&R>) = self.rows.iter().partition(|r| r.says_nothing());
        let (shown, hidden) = telling.split_at(self.n.min(telling.len()));
        for row in shown {
            f.write_str("\n")?;
            row.below(f, self.about)?;
        }
        let noun = |n| self.about.by.noun(n);
        if !hidden.is_empty() {
            let n = hidden.len();
            let more = if shown.is_empty() { "" } else { "more " };
            write!(f, "\nand {n} {more}{}: {}", noun(n), R::sum(hidden))?;
        }
        if !silent.is_empty() {
            write!(f, "\n{} {} unchanged: {}", silent.len(), noun(silent.len()), R::sum(&silent))?;
        }
        let of_tasks = self.about.by.is_of_tasks();
        if let Some(words) = of_tasks.then(|| unseen(self.about.seen)).flatten() {
            return write!(f, "\nhelp: {words}");
        }
        match help(shown.iter().map(|r| r.key())) {
            Some(help) => write!(f, "\nhelp: {help}"),
            None => Ok(()),
        }
    }
}

/// Which tasks aren't seen, and what would show them.
fn unseen(seen: SeenTasks) -> Option<&'static str> {
    match seen {
        SeenTasks::No => Some("tasks are counted while async debug is on: BIRTHMARK_ASYNC_DEBUG=1"),
        SeenTasks::Wrapped => Some(
            "tasks that aren't wrapped can't be seen here, and what they made isn't told from what no task made: \
             `birthmark::tokio::spawn` wraps one",
        ),
        SeenTasks::All => None,
    }
}

/// What to add to Cargo.toml where most rows have no line.
fn help<'a>(keys: impl Iterator<Item = &'a Key>) -> Option<&'static str> {
    let (mut rows, mut lineless, mut nameless) = (0, 0, 0);
    for key in keys {
        rows += 1;
        let (file, function) = match key {
            Key::Traceback(t) => (t.lead().file.is_some(), t.lead().function.is_some()),
            Key::Function(_, file) => (file.is_some(), true),
            Key::Place(place) => (false, !place.contains("+0x")),
            Key::Line(..) | Key::File(_) => (true, true),
            Key::Task(..) | Key::SpawnSite(_) | Key::NoTask => (true, true),
        };
        lineless += usize::from(!file);
        nameless += usize::from(!file && !function);
    }
    if nameless * 2 > rows {
        Some("function names need symbols: no `strip = true` under [profile.release] in Cargo.toml")
    } else if lineless * 2 > rows {
        Some("line numbers need `debug = \"line-tables-only\"` under [profile.release] in Cargo.toml")
    } else {
        None
    }
}

impl Statistics {
    /// The first `n` rows, headed by the totals.
    pub fn top(&self, n: usize) -> impl fmt::Display + '_ {
        Top { about: &self.about, rows: &self.rows, n }
    }
}

impl fmt::Display for Statistics {
    /// The totals and the first ten rows; with `{:#}` whole stacks show their plumbing too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.top(TOP).fmt(f)
    }
}

impl StatisticsDiff {
    /// The first `n` rows that changed, headed by the totals.
    pub fn top(&self, n: usize) -> impl fmt::Display + '_ {
        Top { about: &self.about, rows: &self.rows, n }
    }
}

impl fmt::Display for StatisticsDiff {
    /// The totals and the first ten rows that changed; what didn't is summed in the last line.
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
    use std::time::Instant;

    use super::super::group::{statistics, tests::trace};
    use super::super::{Trace, compare};
    use super::*;
    use crate::trace::Depth;
    use crate::trace::frame::Traceback;
    use crate::trace::frame::tests::frame;

    fn about(by: GroupBy) -> About {
        let taken = Instant::now();
        let nothing = Snapshot {
            records: [].into(),
            limit: 5,
            dropped: Dropped::default(),
            ours: 0,
            taken,
            seen: SeenTasks::All,
        };
        About::of(&nothing, None, by)
    }

    fn list(traces: impl IntoIterator<Item = Trace>, by: GroupBy) -> Statistics {
        Statistics { rows: statistics(traces.into_iter(), by), about: about(by) }
    }

    #[test]
    fn sizes_read_as_in_python() {
        for (bytes, text) in [
            (0, "0 B"),
            (99, "99 B"),
            (100, "100 B"),
            (1023, "1023 B"),
            (10_239, "10239 B"),
            (10_240, "10.0 KiB"),
            (102_297, "99.9 KiB"),
            (102_400, "100 KiB"),
            (1_258_291, "1229 KiB"),
            (12_582_912, "12.0 MiB"),
            (1 << 40, "1024 GiB"),
            (20 << 40, "20.0 TiB"),
            (20_000 << 40, "20000 TiB"),
            (-20_480, "-20.0 KiB"),
        ] {
            assert_eq!(format_size(bytes, false), text);
        }
        assert_eq!(format_size(20_480, true), "+20.0 KiB");
        assert_eq!(format_size(0, true), "+0 B");
        assert_eq!(format_size(-5000, true), "-5000 B");
    }

    #[test]
    fn rows_have_the_shape_that_tracemalloc_users_know() {
        let new = statistics([trace(40_960, 4, &[("src/cache.rs", 41)])].into_iter(), GroupBy::Line);
        assert_eq!(new[0].to_string(), "src/cache.rs:41: size=40.0 KiB, count=4, average=10.0 KiB");
        let rows = compare::differences(new.clone(), Vec::new());
        assert_eq!(
            rows[0].to_string(),
            "src/cache.rs:41: size=40.0 KiB (+40.0 KiB), count=4 (+4), average=10.0 KiB"
        );
        let gone = compare::differences(Vec::new(), new);
        assert_eq!(gone[0].to_string(), "src/cache.rs:41: size=0 B (-40.0 KiB), count=0 (-4)");
    }

    #[test]
    fn a_whole_stack_stands_below_its_row_with_what_was_cut() {
        let frames = vec![frame("app::grow", "src/app.rs", 4), frame("app::main", "src/app.rs", 12)];
        let traceback = Traceback::new(frames, 2, Depth::Exactly(9));
        let rows = statistics([Trace { size: 8, count: 1, traceback }].into_iter(), GroupBy::Traceback);
        assert_eq!(
            rows[0].to_string(),
            "src/app.rs:4: size=8 B, count=1, average=8 B\n    app::grow  src/app.rs:4\n    \
             app::main  src/app.rs:12\n    (2 of 9 frames kept)"
        );
    }

    #[test]
    fn hidden_rows_are_summed_in_the_last_line() {
        let list = list((0..12).map(|i| trace(100 + i, 1, &[("a.rs", i as u32 + 1)])), GroupBy::Line);
        let text = list.to_string();
        assert_eq!(text.lines().count(), 12, "the head, ten rows, and the rest: {text}");
        assert!(text.ends_with("\nand 2 more lines: size=201 B, count=2"), "{text}");
        assert!(list.top(11).to_string().ends_with("\nand 1 more line: size=100 B, count=1"));
        assert_eq!(list.top(12).to_string().lines().count(), 13, "nothing is hidden");
    }

    #[test]
    fn unchanged_rows_of_a_comparison_are_summed_and_not_shown() {
        let by = GroupBy::File;
        let old = statistics([trace(30, 3, &[("same.rs", 1)]), trace(5, 1, &[("b.rs", 1)])].into_iter(), by);
        let new = statistics(
            [trace(30, 3, &[("same.rs", 1)]), trace(9, 2, &[("b.rs", 1)]), trace(2, 1, &[("c.rs", 1)])]
                .into_iter(),
            by,
        );
        let diff = StatisticsDiff { rows: compare::differences(new, old), about: about(by) };
        let text = diff.top(1).to_string();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "b.rs: size=9 B (+4 B), count=2 (+1), average=4 B",
                "and 1 more file: size=2 B (+2 B), count=1 (+1)",
                "1 file unchanged: size=30 B (+0 B), count=3 (+0)"
            ]
        );
    }

    #[test]
    fn without_line_tables_help_tells_what_to_write() {
        let mut lineless = frame("app::grow", "", 0);
        lineless.file = None;
        let t =
            |frame| Trace { size: 8, count: 1, traceback: Traceback::new(vec![frame], 1, Depth::Exactly(1)) };
        for by in [GroupBy::Line, GroupBy::File, GroupBy::Function, GroupBy::Traceback] {
            let text = list([t(lineless.clone())], by).to_string();
            assert!(
                text.ends_with("`debug = \"line-tables-only\"` under [profile.release] in Cargo.toml"),
                "{text}"
            );
        }
        (lineless.function, lineless.offset) = (None, 0x1f0);
        let text = list([t(lineless)], GroupBy::Line).to_string();
        assert!(text.contains("help: function names need symbols"), "{text}");
        assert!(!list([trace(8, 1, &[("a.rs", 1)])], GroupBy::Line).to_string().contains("help"));
    }

    #[test]
    fn the_head_tells_the_totals_and_what_was_left_out() {
        let dropped = Dropped { captures: 1, ..Dropped::default() };
        let taken = Instant::now();
        let s =
            Snapshot { records: [].into(), limit: 1, dropped, ours: 2 << 20, taken, seen: SeenTasks::All };
        assert_eq!(
            s.to_string(),
            "0 B in 0 live blocks, 0 traces of 1 frame, Birthmark's own 2048 KiB mapped; left out: 1 block without a \
             trace (too little stack left to walk it)"
        );
        let change = s.compare_to(&s, GroupBy::Line).to_string();
        assert!(change.starts_with("0 B in 0 live blocks (+0 B, +0), 0 traces"), "{change}");
    }

    #[test]
    fn what_tasks_grew_by_is_told_in_a_unit_that_has_passed() {
        let by = GroupBy::SpawnSite;
        let key = || Key::SpawnSite(Some("src/x.rs:41".into()));
        let row = |key, size_diff| StatisticDiff { key, size: 200 << 20, size_diff, count: 9, count_diff: 3 };
        let list = |rows, seconds| {
            let about = About { apart: Some(Duration::from_secs_f64(seconds)), ..about(by) };
            let text = StatisticsDiff { rows, about }.to_string();
            text.lines().nth(1).unwrap_or_default().to_owned()
        };
        assert_eq!(
            list(vec![row(key(), 120 << 20)], 180.0),
            "tasks spawned at src/x.rs:41 grew by 40.0 MiB a minute: size=200 MiB (+120 MiB), count=9 (+3), average=22.2 \
             MiB"
        );
        assert!(list(vec![row(key(), 30 << 20)], 1.5).contains(" grew by 20.0 MiB a second: size="));
        assert!(list(vec![row(key(), 30 << 20)], 59.9).contains(" a second: "));
        // Too short a time, less than before, and what no task made: no rate.
        for (row, seconds) in
            [(row(key(), 1 << 20), 0.9), (row(key(), -1), 90.0), (row(Key::NoTask, 9), 90.0)]
        {
            assert!(!list(vec![row], seconds).contains("grew"));
        }
    }

    #[test]
    fn rows_of_tasks_name_them_and_help_says_what_counts_them() {
        use crate::tasks::TaskId;
        let place: std::sync::Arc<str> = "src/x.rs:41".into();
        for (key, words) in [
            (Key::Task(TaskId::Task(17), Some(place.clone())), "task 17 spawned at src/x.rs:41"),
            (Key::Task(TaskId::Future(2), None), "future 2, whose spawn wasn't traced"),
            (Key::SpawnSite(Some(place)), "tasks spawned at src/x.rs:41"),
            (Key::SpawnSite(None), "tasks whose spawn wasn't traced"),
            (Key::NoTask, "outside of all tasks"),
        ] {
            assert_eq!(key.to_string(), words);
        }
        let by = GroupBy::Task;
        let not_counted = Statistics { rows: Vec::new(), about: About { seen: SeenTasks::No, ..about(by) } };
        assert!(
            not_counted.to_string().ends_with("async debug is on: BIRTHMARK_ASYNC_DEBUG=1"),
            "{not_counted}"
        );
        assert!(!Statistics { rows: Vec::new(), about: about(by) }.to_string().contains("help"));
    }

    #[test]
    fn a_snapshot_can_be_cloned_and_sent_and_its_errors_are_errors() {
        fn plain<T: Clone + Send + Sync + fmt::Debug + 'static>() {}
        fn error<T: std::error::Error + Send + Sync + 'static>() {}
        plain::<Snapshot>();
        plain::<Statistics>();
        plain::<StatisticsDiff>();
        plain::<Traceback>();
        error::<super::super::NotTracing>();
    }
}
