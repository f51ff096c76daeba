//! What changed between two snapshots. Plain rows in, plain rows out.

use std::time::Duration;

use hashbrown::HashMap;

use super::display::About;
use super::group::{Key, Statistic};

/// What changed for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatisticDiff {
    /// What the blocks have in common.
    pub key: Key,
    /// Bytes now; 0 where none is left.
    pub size: u64,
    /// Bytes now less bytes then.
    pub size_diff: i64,
    /// Blocks now.
    pub count: u64,
    /// Blocks now less blocks then.
    pub count_diff: i64,
}

impl StatisticDiff {
    /// Bytes in a block now, on average; 0 where there is none.
    pub fn average(&self) -> u64 {
        self.size.checked_div(self.count).unwrap_or(0)
    }

    /// Whether neither bytes nor blocks differ.
    pub fn is_unchanged(&self) -> bool {
        self.size_diff == 0 && self.count_diff == 0
    }
}

/// The rows of [`Snapshot::compare_to`](super::Snapshot::compare_to), most changed first.
#[derive(Clone, Debug)]
pub struct StatisticsDiff {
    pub(crate) rows: Vec<StatisticDiff>,
    pub(crate) about: About,
}

impl StatisticsDiff {
    /// All rows, unchanged ones too.
    pub fn rows(&self) -> &[StatisticDiff] {
        &self.rows
    }

    /// How long after the other snapshot this one was taken.
    pub fn apart(&self) -> Duration {
        self.about.apart().unwrap_or_default()
    }
}

impl std::ops::Deref for StatisticsDiff {
    type Target = [StatisticDiff];
    fn deref(&self) -> &[StatisticDiff] {
        &self.rows
    }
}

impl<'a> IntoIterator for &'a StatisticsDiff {
    type Item = &'a StatisticDiff;
    type IntoIter = std::slice::Iter<'a, StatisticDiff>;
    fn into_iter(self) -> Self::IntoIter {
        self.rows.iter()
    }
}

pub(crate) fn differences(new: Vec<Statistic>, old: Vec<Statistic>) -> Vec<StatisticDiff> {
    let mut before: HashMap<Key, (u64, u64)> =
        old.into_iter().map(|row| (row.key, (row.size, row.count))).collect();
    let mut rows: Vec<StatisticDiff> = new
        .into_iter()
        .map(|row| {
            let (size, count) = before.remove(&row.key).unwrap_or_default();
            StatisticDiff {
                key: row.key,
                size: row.size,
                size_diff: row.size.wrapping_sub(size) as i64,
                count: row.count,
                count_diff: row.count.wrapping_sub(count) as i64,
            }
        })
        .collect();
    rows.extend(before.into_iter().map(|(key, (size, count))| StatisticDiff {
        key,
        size: 0,
        size_diff: (size as i64).wrapping_neg(),
        count: 0,
        count_diff: (count as i64).wrapping_neg(),
    }));
    let order =
        |r: &StatisticDiff| (r.size_diff.unsigned_abs(), r.size, r.count_diff.unsigned_abs(), r.count);
    rows.sort_by(|a, b| order(b).cmp(&order(a)).then_with(|| b.key.cmp(&a.key)));
    rows
}

#[cfg(test)]
mod tests {
    use super::super::group::{statistics, tests::trace};
    use super::super::{GroupBy, Trace};
    use super::*;

    fn rows(new: &[Trace], old: &[Trace], by: GroupBy) -> Vec<(String, u64, i64, u64, i64)> {
        let rows = differences(statistics(new.iter().cloned(), by), statistics(old.iter().cloned(), by));
        rows.iter().map(|r| (r.key.to_string(), r.size, r.size_diff, r.count, r.count_diff)).collect()
    }

    #[test]
    fn what_changed_most_leads_and_what_is_gone_or_unchanged_is_told() {
        let old = [
            trace(100, 1, &[("gone.rs", 1)]),
            trace(10, 1, &[("same.rs", 1)]),
            trace(900, 9, &[("shrunk.rs", 1)]),
        ];
        let new = [
            trace(500, 3, &[("new.rs", 1)]),
            trace(10, 1, &[("same.rs", 1)]),
            trace(300, 3, &[("shrunk.rs", 1)]),
        ];
        assert_eq!(
            rows(&new, &old, GroupBy::Line),
            [
                ("shrunk.rs:1".into(), 300, -600, 3, -6),
                ("new.rs:1".into(), 500, 500, 3, 3),
                ("gone.rs:1".into(), 0, -100, 0, -1),
                ("same.rs:1".into(), 10, 0, 1, 0)
            ]
        );
    }

    #[test]
    fn equal_changes_are_ordered_by_size_then_change_of_count_then_count_then_key() {
        let old = [trace(100, 1, &[("large.rs", 1)]), trace(5, 4, &[("many.rs", 1)])];
        let new = [
            trace(110, 1, &[("large.rs", 1)]),
            trace(15, 4, &[("many.rs", 1)]),
            trace(10, 1, &[("a.rs", 1)]),
            trace(10, 2, &[("b.rs", 1)]),
            trace(10, 1, &[("c.rs", 1)]),
        ];
        let keys: Vec<_> = rows(&new, &old, GroupBy::File).into_iter().map(|r| r.0).collect();
        assert_eq!(keys, ["large.rs", "many.rs", "b.rs", "c.rs", "a.rs"]);
    }

    #[test]
    fn a_snapshot_compared_with_itself_has_only_unchanged_rows() {
        let traces = [trace(10, 1, &[("a.rs", 1)]), trace(20, 2, &[("b.rs", 1)])];
        let all = statistics(traces.iter().cloned(), GroupBy::Line);
        let rows = differences(all.clone(), all);
        assert_eq!(rows.len(), 2);
        assert!(rows.iter().all(StatisticDiff::is_unchanged));
    }
}
