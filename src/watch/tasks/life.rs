//! Tells each wrapped task's start and end, where `BIRTHMARK_REPORT=level=debug` asks for it.

use super::super::warning::{Kind, Row as Fact, Warning};
use super::super::{clock, heap, reporter, units};
use super::record;
use super::registry::{Place, Role, Row};

/// A task with this id was spawned.
#[cfg(feature = "tokio")]
pub(super) fn started(place: &Place, serial: u64, id: u64) {
    if !heap::tells_debug() {
        return;
    }
    let Some(row) = place.read().filter(|row| row.serial == serial) else { return };
    tell(row, Kind::TaskStart, move |row| {
        format!(
            "task {id} `{}` was spawned, {}",
            record::short(row.name),
            units::words_of_bytes(row.size as i64)
        )
    });
}

/// The task in this place is about to be forgotten.
pub(super) fn ends(place: &Place) {
    if !heap::tells_debug() {
        return;
    }
    let Some(row) = place.read().filter(|row| row.role == Role::Task) else { return };
    tell(row, Kind::TaskEnd, |row| {
        let who = match row.tokio {
            Some(id @ 1..) => format!("task {id}"),
            _ => "a task".into(),
        };
        let name = record::short(row.name);
        let how = match (row.done, row.polls) {
            (true, _) => "has ended",
            (false, 0) => "was dropped before its first poll,",
            (false, _) => "was dropped before its end,",
        };
        let age = units::words_of_time(clock::span(row.age));
        let busy = units::words_of_time(clock::span(row.busy));
        let polls = if row.polls == 1 { "poll" } else { "polls" };
        format!("{who} `{name}` {how} after {age}: {} {polls}, busy for {busy}", row.polls)
    });
}

/// Put into words by the reporter, not on a worker.
fn tell(row: Row, kind: Kind, sentence: impl FnOnce(&Row) -> String + Send + 'static) {
    reporter::later(Box::new(move || {
        let warning = Warning::new(kind, sentence(&row), vec![Fact::place("spawned", row.made)]);
        Some(Warning { every: true, ..warning.of_test(row.test) })
    }));
}
