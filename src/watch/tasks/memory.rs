//! What tasks hold: when the counting begins and pauses, and whose the blocks of a snapshot are. Ordinary code; what runs inside an
//! allocation is `table::accounts`.

use std::collections::HashMap;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Relaxed, SeqCst},
};

use super::super::switch;
use super::gather::{Sites, identity};
use super::record::{NotKnown, Site, TaskId};
use super::registry::{self, Row};
use crate::table::accounts::{self, Owner, Sums};
use crate::trace::frame::shown_place;

/// A task came up while async debug was on: without any, nothing is counted.
static BEGUN: AtomicBool = AtomicBool::new(false);

/// Counts for tasks from now on. Only while async debug is on.
#[inline]
pub(crate) fn begin() {
    if !BEGUN.load(Relaxed) {
        BEGUN.store(true, SeqCst);
        accounts::begin();
        if !switch::on() {
            accounts::pause(); // it was switched off meanwhile
        }
    }
}

/// Async debug goes on or off.
pub(crate) fn switched(on: bool) {
    if BEGUN.load(SeqCst) {
        if on { accounts::begin() } else { accounts::pause() }
    }
}

/// What is counted of the task of this id.
pub(super) fn of(id: TaskId) -> Result<Sums, NotKnown> {
    if !accounts::counting() {
        return Err(NotKnown::NotCounted);
    }
    Ok(accounts::sums(match id {
        TaskId::Task(id) => id,
        TaskId::Future(serial) => accounts::key_of_serial(serial),
    }))
}

/// The same of a task that isn't wrapped.
#[cfg(feature = "tokio")]
pub(super) fn of_plain(id: TaskId) -> Result<Sums, NotKnown> {
    match of(id) {
        Ok(_) if !accounts::sees_all() => Err(NotKnown::NotWrapped),
        sums => sums,
    }
}

/// Whose blocks some of a snapshot are: a task that goes on or has ended.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    pub id: TaskId,
    spawned: Spawned,
}

#[derive(Clone, Debug)]
enum Spawned {
    Stack(Arc<Site>),
    Made(&'static Location<'static>),
    Unknown,
}

/// Where a task was spawned, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    At(String),
    /// It is no task but a worker of the runtime's.
    Worker,
    /// Its spawn wasn't traced.
    Unknown,
}

impl Holder {
    /// Where it was spawned. Names are looked up.
    pub(crate) fn place(&self) -> Place {
        match &self.spawned {
            Spawned::Stack(site) if site.is_worker() => Place::Worker,
            Spawned::Stack(site) => Place::At(site.place()),
            Spawned::Made(at) => Place::At(shown_place(at)),
            Spawned::Unknown => Place::Unknown,
        }
    }
}

/// The tasks behind accounts, by the accounts' numbers. `cells`: live blocks aligned as tokio's cells are, with their traces.
pub(crate) fn holders(
    accounts: &hashbrown::HashMap<u32, Owner>,
    cells: &[(usize, u32)],
) -> HashMap<u32, Holder> {
    let rows = registry::rows();
    let futures: HashMap<u64, &Row> = rows.iter().map(|row| (row.serial, row)).collect();
    let tasks: HashMap<u64, &Row> = rows
        .iter()
        .filter_map(|row| match identity(row).0 {
            TaskId::Task(id) => Some((id, row)),
            TaskId::Future(_) => None,
        })
        .collect();
    let goes_on = |owner: &Owner| owner.trace == 0 && accounts::serial_of(owner.key).is_none();
    let spawns = if accounts.values().any(goes_on) { spawns(cells) } else { HashMap::new() };
    let mut sites = Sites::default();
    let holder = |(&number, then): (&u32, &Owner)| {
        // It may have ended since it was met, and its account be another's.
        let owner = accounts::owner(number).filter(|now| now.key == then.key).unwrap_or(*then);
        let (id, row) = match accounts::serial_of(owner.key) {
            Some(serial) => (TaskId::Future(serial), futures.get(&serial)),
            None => (TaskId::Task(owner.key), tasks.get(&owner.key)),
        };
        // SAFETY: 0, or the address of a `&'static Location` that the registry gave.
        let made = unsafe { (owner.made as *const Location<'static>).as_ref() }.or(row.map(|row| row.made));
        let trace = if owner.trace != 0 { owner.trace } else { *spawns.get(&owner.key).unwrap_or(&0) };
        let mut stack = || sites.numbered(trace).map(Spawned::Stack);
        let made = || made.map(Spawned::Made);
        // A future's own block may be that of the executor's parker: then its line is the better place.
        let spawned = match id {
            TaskId::Task(_) => stack().or_else(made),
            TaskId::Future(_) => made().or_else(stack),
        };
        (number, Holder { id, spawned: spawned.unwrap_or(Spawned::Unknown) })
    };
    accounts.iter().map(holder).collect()
}

/// The traces of the cells of tokio's tasks that go on, by the tasks' ids.
#[cfg(feature = "tokio")]
fn spawns(cells: &[(usize, u32)]) -> HashMap<u64, u32> {
    let id = |&(start, trace): &(usize, u32)| Some((super::super::tokio::id_at(start)?, trace));
    cells.iter().filter_map(id).collect()
}
#[cfg(not(feature = "tokio"))]
fn spawns(_cells: &[(usize, u32)]) -> HashMap<u64, u32> {
    HashMap::new()
}
