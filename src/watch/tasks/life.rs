//! Tells the start and end of each wrapped task, and of each that tokio's hooks tell of, where `BIRTHMARK_REPORT=level=debug` asks for it.

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
        let size = match row.size {
            0 => String::new(), // of a task that nothing wraps it isn't known
            size => format!(", {}", units::words_of_bytes(size as i64)),
        };
        format!("task {id}{} was spawned{size}", named(row))
    });
}

/// The task in this place is about to be forgotten.
pub(super) fn ends(place: &Place) {
    if !heap::tells_debug() {
        return;
    }
    let Some(row) = place.read().filter(|row| matches!(row.role, Role::Task | Role::Hooked)) else { return };
    tell(row, Kind::TaskEnd, |row| {
        let who = match row.tokio {
            Some(id @ 1..) => format!("task {id}"),
            _ => "a task".into(),
        };
        let name = named(row);
        let how = match (row.done, row.polls) {
            (true, _) => "has ended",
            (false, 0) => "was dropped before its first poll,",
            (false, _) => "was dropped before its end,",
        };
        let age = units::words_of_time(clock::span(row.age));
        let busy = units::words_of_time(clock::span(row.busy));
        let polls = if row.polls == 1 { "poll" } else { "polls" };
        format!("{who}{name} {how} after {age}: {} {polls}, busy for {busy}", row.polls)
    });
}

/// ` \`app::serve\``: nothing where hooks alone tell of a task.
fn named(row: &Row) -> String {
    if row.name.is_empty() { String::new() } else { format!(" `{}`", record::short(row.name)) }
}

/// Put into words by the reporter, not on a worker.
fn tell(row: Row, kind: Kind, sentence: impl FnOnce(&Row) -> String + Send + 'static) {
    reporter::later(Box::new(move || {
        let warning = Warning::new(kind, sentence(&row), vec![Fact::place("spawned", row.made)]);
        Some(Warning { every: true, ..warning.of_test(row.test) })
    }));
}
