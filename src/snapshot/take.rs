//! Taking a snapshot: one walk over the table, beside threads that go on.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashMap;

use super::{Dropped, Record, SeenTasks, Share, Snapshot};
use crate::table::accounts::{self, Owner};
use crate::table::{self, State};
use crate::thread::Ours;
use crate::trace::RawStack;
use crate::trace::generation::control;
use crate::watch::tasks::memory::{self, Holder};
use crate::{dropped, hook, sys};

/// Why there is no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotTracing {
    /// `DebugAlloc` isn't the program's `#[global_allocator]`.
    NotInstalled,
    /// Nothing has started tracing.
    NotStarted,
    /// `TRACEMALLOC=0` switched it off, over everything.
    SwitchedOff,
}

impl fmt::Display for NotTracing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotInstalled => {
                "birthmark is not installed: add `#[global_allocator] static A: birthmark::DebugAlloc = \
                 birthmark::DebugAlloc::new();` to this program or test file"
            }
            Self::NotStarted => {
                "allocations are not traced: set TRACEMALLOC=5, call birthmark::tracemalloc::start(5), or write \
                 `DebugAlloc::new().tracemalloc(5)`"
            }
            Self::SwitchedOff => "allocations are not traced: TRACEMALLOC=0 switches tracing off over everything",
        })
    }
}

impl std::error::Error for NotTracing {}

/// What is alive now, by the stack that made it.
///
/// # Panics
/// When allocations aren't traced; the message tells why and what to do. [`try_snapshot`] doesn't.
#[track_caller]
pub fn snapshot() -> Snapshot {
    match try_snapshot() {
        Ok(snapshot) => snapshot,
        Err(why) => panic!("{why}"),
    }
}

/// What is alive now, by the stack that made it.
///
/// # Errors
/// When allocations aren't traced: why.
pub fn try_snapshot() -> Result<Snapshot, NotTracing> {
    let now = control();
    if !now.on() {
        return Err(if !hook::installed() {
            NotTracing::NotInstalled
        } else if hook::tracing_forbidden() {
            NotTracing::SwitchedOff
        } else {
            NotTracing::NotStarted
        });
    }
    let _ours = Ours::enter();
    let taken = Instant::now();
    let mut tasks = accounts::any().then(Tasks::default);
    let mut sums: HashMap<u32, (u64, u64)> = HashMap::new();
    // Ids of one generation lie close together: a plain array for the first million.
    let mut near: Vec<(u64, u64)> = Vec::new();
    table::blocks(&mut |start, record| {
        if matches!(record.state(), State::Live | State::HeldLive) && now.holds(record.trace()) {
            let size = table::size_of_block(start, record) as u64;
            let nth = (record.trace() - now.first()) as usize;
            let sum = if nth < 1 << 20 {
                if nth >= near.len() {
                    near.resize((nth + 1).next_power_of_two(), (0, 0));
                }
                &mut near[nth]
            } else {
                sums.entry(record.trace()).or_default()
            };
            sum.0 += size;
            sum.1 += 1;
            if let Some(tasks) = &mut tasks {
                tasks.count(start, record, size);
            }
        }
    });
    let seen = match &tasks {
        None => SeenTasks::No,
        Some(_) if cfg!(feature = "tokio") && !accounts::sees_all() => SeenTasks::Wrapped,
        Some(_) => SeenTasks::All,
    };
    let mut shares = tasks.map(Tasks::shares).unwrap_or_default();
    let near = near.into_iter().enumerate().map(|(i, sum)| (now.first() + i as u32, sum));
    let records = near
        .chain(sums)
        .filter(|(_, (_, count))| *count != 0)
        .filter_map(|(id, (size, count))| {
            let tasks = shares.remove(&id).unwrap_or_default().into();
            Some(Record { raw: RawStack::of(id)?, size, count, tasks })
        })
        .collect();
    let ours = sys::our_bytes() as u64;
    Ok(Snapshot { records, limit: now.limit(), dropped: missing(), ours, taken, seen })
}

/// Whose the blocks are, as they are met.
#[derive(Default)]
struct Tasks {
    /// Bytes and blocks by trace and account.
    sums: HashMap<(u32, u32), (u64, u64)>,
    /// Whose the accounts were when they were met first; nothing for one that was being given back.
    owners: HashMap<u32, Option<Owner>>,
    /// Blocks aligned as cells of tasks are, with their traces.
    cells: Vec<(usize, u32)>,
}

impl Tasks {
    fn count(&mut self, start: usize, record: table::Record, size: u64) {
        if record.align() >= 64 {
            self.cells.push((start, record.trace()));
        }
        let number = accounts::of_block(start);
        if number != 0 {
            let sum = self.sums.entry((record.trace(), number)).or_insert_with(|| {
                self.owners.entry(number).or_insert_with(|| accounts::owner(number));
                (0, 0)
            });
            sum.0 += size;
            sum.1 += 1;
        }
    }

    /// What each trace made for which tasks.
    fn shares(self) -> HashMap<u32, Vec<Share>> {
        let owners = self.owners.into_iter().filter_map(|(number, owner)| Some((number, owner?))).collect();
        let holders = memory::holders(&owners, &self.cells);
        let holders: HashMap<u32, Arc<Holder>> =
            holders.into_iter().map(|(number, holder)| (number, Arc::new(holder))).collect();
        let mut shares: HashMap<u32, Vec<Share>> = HashMap::new();
        for ((trace, number), (size, count)) in self.sums {
            if let Some(holder) = holders.get(&number) {
                let holder = Arc::clone(holder);
                shares.entry(trace).or_default().push(Share { holder, size, count });
            }
        }
        shares
    }
}

/// What had to be left out so far.
pub(crate) fn missing() -> Dropped {
    Dropped {
        table: dropped::TABLE.count(),
        traces: dropped::TRACES.count(),
        captures: dropped::CAPTURES.count(),
        quarantine: dropped::QUARANTINE.count(),
        cut: dropped::CUT.count(),
        tasks: dropped::ACCOUNTS.count(),
    }
}
