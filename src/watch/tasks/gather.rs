//! Joins what wrappers know of their tasks with what cells show of all.

use std::collections::HashMap;
#[cfg(feature = "tokio")]
use std::collections::HashSet;
use std::sync::Arc;

#[cfg(feature = "tokio")]
use super::super::tokio as runtime;
use super::super::{clock, heap, poll, switch};
#[cfg(feature = "tokio")]
use super::cells::{self, Cell};
#[cfg(feature = "tokio")]
use super::layout::{self, Layout};
use super::memory;
use super::record::{Missing, NotKnown, Site, Task, TaskId, TaskKind, TaskState, Tasks, Wrapped};
use super::registry::{self, Role, Row, Who};
use super::waits;

/// Spawn stacks by their numbers, so that tasks of one stack share it.
#[derive(Default)]
pub(super) struct Sites(HashMap<u32, Arc<Site>>);

impl Sites {
    fn of(&mut self, address: usize) -> Option<Arc<Site>> {
        self.numbered(heap::trace_number(address))
    }

    /// Of a stored stack by its number.
    pub(super) fn numbered(&mut self, number: u32) -> Option<Arc<Site>> {
        if let Some(site) = self.0.get(&number) {
            return Some(Arc::clone(site));
        }
        let site = Arc::new(Site::new(heap::raw_stack(number)?));
        self.0.insert(number, Arc::clone(&site));
        Some(site)
    }

    /// Of the stacks at which a future's waker is kept.
    fn waits(&mut self, row: &Row, stacks: &HashMap<u64, Vec<u32>>) -> Result<Vec<Arc<Site>>, NotKnown> {
        if row.lost {
            return Err(NotKnown::PolledWhileOff);
        }
        let stacks = stacks.get(&row.serial).map_or(&[][..], Vec::as_slice);
        let mut waits: Vec<Arc<Site>> = Vec::new();
        for stack in stacks {
            let site = self.numbered(*stack).ok_or(NotKnown::NotTraced)?;
            // Two wakers that were kept in one place are one wait for people.
            if !waits.iter().any(|known| Arc::ptr_eq(known, &site)) {
                waits.push(site);
            }
        }
        Ok(waits)
    }
}

/// Who a row is.
pub(super) fn identity(row: &Row) -> (TaskId, TaskKind) {
    let serial = TaskId::Future(row.serial);
    match (row.role, row.tokio) {
        (Role::Root, _) => (serial, TaskKind::Root),
        (Role::Task | Role::Hooked, Some(id @ 1..)) => (TaskId::Task(id), TaskKind::Task),
        (Role::Task | Role::Hooked, _) => (serial, TaskKind::Task),
        // Wrapped elsewhere and polled there by nobody else: the future that the task was spawned with.
        (Role::Future, Some(id @ 1..)) if row.inside.is_none() && row.parent != Some(Who::Tokio(id)) => {
            (TaskId::Task(id), TaskKind::Task)
        }
        (Role::Future, _) => (serial, TaskKind::Future),
    }
}

fn parent(row: &Row, kind: TaskKind, ids: &HashMap<u64, TaskId>) -> Option<TaskId> {
    let named = |serial: u64| ids.get(&serial).copied().unwrap_or(TaskId::Future(serial));
    // A part belongs to what polls it.
    if kind == TaskKind::Future {
        if let Some(id @ 1..) = row.tokio {
            return Some(TaskId::Task(id));
        }
        if let Some(serial) = row.inside {
            return Some(named(serial));
        }
    }
    row.parent.map(|who| match who {
        Who::Tokio(id) => TaskId::Task(id),
        Who::Serial(serial) => named(serial),
    })
}

fn state(row: &Row) -> TaskState {
    if row.done {
        TaskState::Complete
    } else if row.polling {
        TaskState::Running
    } else {
        TaskState::Waiting
    }
}

/// What is counted of a row, whoever tells of its polls.
fn counted(row: &Row, kind: TaskKind, ids: &HashMap<u64, TaskId>) -> Wrapped {
    Wrapped {
        name: None,
        made: row.made,
        age: clock::span(row.age),
        polls: row.polls,
        busy: clock::span(row.busy),
        parent: parent(row, kind, ids),
        test: row.test,
        waits: Err(NotKnown::NotWrapped),
        stranded: false,
    }
}

fn wrapped_task(
    row: &Row,
    ids: &HashMap<u64, TaskId>,
    stacks: &HashMap<u64, Vec<u32>>,
    sites: &mut Sites,
) -> Task {
    let (id, kind) = identity(row);
    // The root's waker is the runtime's.
    let block = if kind == TaskKind::Root { 0 } else { row.waker };
    let own_block = kind == TaskKind::Task || row.tokio == Some(0) && row.inside.is_none();
    let size = if own_block { heap::block_size(block) } else { None };
    let part = kind == TaskKind::Future && (row.inside.is_some() || row.tokio.is_some_and(|id| id != 0));
    Task {
        id,
        kind,
        memory: if part { Err(NotKnown::Part) } else { memory::of(id) },
        state: state(row),
        wrapped: Some(Wrapped {
            name: Some(row.name),
            waits: sites.waits(row, stacks),
            stranded: !row.lost && !row.polling && row.polls != 0 && !stacks.contains_key(&row.serial),
            ..counted(row, kind, ids)
        }),
        bytes: Some(size.unwrap_or(0).max(row.size)),
        site: if own_block && block != 0 { sites.of(block) } else { None },
        owner: 0,
    }
}

/// A task that tokio's hooks tell of.
#[cfg(feature = "tokio")]
fn hooked_task(row: &Row, ids: &HashMap<u64, TaskId>, sites: &mut Sites) -> Task {
    let (id, kind) = identity(row);
    Task {
        id,
        kind,
        memory: memory::of(id),
        state: state(row),
        wrapped: Some(counted(row, kind, ids)),
        bytes: None,
        site: sites.numbered(row.spawned),
        owner: 0,
    }
}

#[cfg(feature = "tokio")]
fn plain_task(cell: &Cell, sites: &mut Sites) -> Task {
    Task {
        id: TaskId::Task(cell.id),
        kind: TaskKind::Task,
        state: cell.state,
        wrapped: None,
        bytes: (cell.size != 0).then_some(cell.size),
        memory: memory::of_plain(TaskId::Task(cell.id)),
        site: sites.of(cell.at),
        owner: cell.owner,
    }
}

/// What the cell shows better than the wrapper knows.
#[cfg(feature = "tokio")]
fn add_cell(task: &mut Task, cell: &Cell, sites: &mut Sites) {
    task.state = cell.state;
    task.owner = cell.owner;
    task.bytes = task.bytes.max((cell.size != 0).then_some(cell.size));
    // The cell's own stack tells the future's type, that of a hook doesn't.
    if task.site.is_none() || task.is_hooked() {
        task.site = sites.of(cell.at).or(task.site.take());
    }
}

/// The rows of all tasks and futures: a task that is both wrapped and told of by tokio's hooks is its wrapper's.
#[cfg(feature = "tokio")]
fn rows() -> Vec<Row> {
    let mut rows = registry::rows();
    if rows.iter().any(|row| row.role == Role::Hooked) {
        let hooks = runtime::whole_hooks();
        let wrapped: HashSet<TaskId> =
            rows.iter().filter(|row| row.role != Role::Hooked).map(|row| identity(row).0).collect();
        rows.retain(|row| {
            row.role != Role::Hooked || hooks.contains(&row.hooks) && !wrapped.contains(&identity(row).0)
        });
    }
    rows
}

#[cfg(not(feature = "tokio"))]
use registry::rows;

fn task_of(
    row: &Row,
    ids: &HashMap<u64, TaskId>,
    stacks: &HashMap<u64, Vec<u32>>,
    sites: &mut Sites,
) -> Task {
    #[cfg(feature = "tokio")]
    if row.role == Role::Hooked {
        return hooked_task(row, ids, sites);
    }
    wrapped_task(row, ids, stacks, sites)
}

/// All tasks.
pub(super) fn all() -> Tasks {
    let (_ours, _time) = (heap::ours(), poll::our_time());
    let rows = rows();
    let ids: HashMap<u64, TaskId> = rows.iter().map(|row| (row.serial, identity(row).0)).collect();
    let mut sites = Sites::default();
    // Before the states are read: see `settle`.
    let stacks = waits::by_future();
    let all: Vec<Task> = rows.iter().map(|row| task_of(row, &ids, &stacks, &mut sites)).collect();
    #[cfg(feature = "tokio")]
    let mut all = all;
    let mut missing = Vec::new();
    let (left_out, unseen) = registry::left_out();
    if !switch::on() {
        missing.push(Missing::AsyncDebugOff);
    } else if unseen {
        missing.push(Missing::WrappedWhileOff);
    }
    if left_out != 0 {
        missing.push(Missing::Full(left_out));
    }
    #[cfg(feature = "tokio")]
    {
        with_cells(&mut all, &rows, &mut sites, &mut missing);
        settle(&mut all, &rows, &mut sites);
    }
    Tasks { all, missing }
}

/// Rows, wakers and states are read one after the other, while tasks go on.
///
/// A task without a waker whose state was read as idle later was idle all the while if it wasn't polled meanwhile: what wakes it
/// gives its waker back only after the state has changed. Of one whose poll ended meanwhile the wakers are read again.
#[cfg(feature = "tokio")]
fn settle(all: &mut [Task], before: &[Row], sites: &mut Sites) {
    let ended = |task: &Task, row: &Row| row.polling && task.state == TaskState::Idle;
    if !all.iter().zip(before).any(|(task, row)| task.is_stranded() || ended(task, row)) {
        return;
    }
    let now: HashMap<u64, Row> = registry::rows().into_iter().map(|row| (row.serial, row)).collect();
    let stacks = waits::by_future();
    for (task, row) in all.iter_mut().zip(before) {
        let now = now.get(&row.serial).filter(|now| now.polls == row.polls && !now.polling);
        let ended = ended(task, row);
        let Some(wrapped) = &mut task.wrapped else { continue };
        wrapped.stranded &= now.is_some();
        if let Some(now) = now.filter(|_| ended) {
            wrapped.waits = sites.waits(now, &stacks);
        }
    }
}

/// How many tasks are alive on each attached runtime, and whose list they are in.
#[cfg(feature = "tokio")]
fn alive() -> Vec<(usize, Option<u64>)> {
    let mut alive = Vec::new();
    runtime::runtimes(&mut |n, owner| alive.push((n, owner)));
    alive
}

#[cfg(feature = "tokio")]
fn with_cells(all: &mut Vec<Task>, rows: &[Row], sites: &mut Sites, missing: &mut Vec<Missing>) {
    let Some(layout) = layout::layout() else {
        missing.push(if heap::installed() { Missing::NotRecognised } else { Missing::NotInstalled });
        return;
    };
    let before = alive();
    let cells = cells::scan(layout);
    let mut by_id: HashMap<u64, &Cell> = cells.iter().map(|cell| (cell.id, cell)).collect();
    let mut found: HashMap<u64, usize> = HashMap::new();
    for cell in by_id.values().filter(|cell| cell.state != TaskState::Complete) {
        *found.entry(cell.owner).or_default() += 1;
    }
    let mut tables = HashMap::new();
    for (task, row) in all.iter_mut().zip(rows) {
        let TaskId::Task(id) = task.id else { continue };
        if let Some(cell) = by_id.remove(&id) {
            add_cell(task, cell, sites);
        } else if runtime::is_cell(row.waker, id)
            && let Some(cell) = cells::at(layout, row.waker, &mut tables)
        {
            // Not recorded, but its waker shows the way.
            add_cell(task, &cell, sites);
            if cell.state != TaskState::Complete {
                *found.entry(cell.owner).or_default() += 1;
            }
        } else if task.state != TaskState::Complete {
            *found.entry(0).or_default() += 1; // whose it is isn't known
        }
    }
    let mut plain: Vec<&Cell> = by_id.into_values().collect();
    plain.sort_by_key(|cell| cell.id);
    all.extend(plain.into_iter().map(|cell| plain_task(cell, sites)));
    why_not_all(&before, &found, missing);
}

/// What may be missing of the tasks that aren't wrapped. `before`: what was alive before they were looked for.
#[cfg(feature = "tokio")]
fn why_not_all(before: &[(usize, Option<u64>)], found: &HashMap<u64, usize>, missing: &mut Vec<Missing>) {
    if !heap::installed() {
        missing.push(Missing::NotInstalled);
        return;
    }
    if heap::records_dropped() {
        missing.push(Missing::RecordsDropped);
    }
    if heap::recorded_from_the_start() {
        return;
    }
    if before.is_empty() {
        missing.push(Missing::NotAttached);
        return;
    }
    // Tasks came and went meanwhile: the fewer of both counts is sure. Ours are alive too.
    let after = alive();
    let ours = runtime::our_alive();
    let short: usize = before
        .iter()
        .zip(&after)
        .map(|((before, owner), (after, _))| {
            let here = owner.and_then(|owner| found.get(&owner).copied()).unwrap_or(0);
            (*before).min(*after).saturating_sub(here)
        })
        .sum();
    let all_known = before.iter().all(|(_, owner)| owner.is_some());
    // Where a runtime's owner isn't known all that was found may be its.
    let others = if all_known { found.get(&0).copied().unwrap_or(0) } else { found.values().sum() };
    match short.saturating_sub(others).saturating_sub(ours) {
        0 => missing.push(Missing::TracingBeganLate),
        n => missing.push(Missing::TracingWasOff(n)),
    }
}

/// The task that this thread polls.
pub(super) fn current() -> Option<Task> {
    let (_ours, _time) = (heap::ours(), poll::our_time());
    let mut sites = Sites::default();
    let rows = rows();
    let ids: HashMap<u64, TaskId> = rows.iter().map(|row| (row.serial, identity(row).0)).collect();
    let stacks = waits::by_future();
    let id = registry::own_id();
    if id == 0 {
        let outermost = poll::outermost()?.read()?;
        let row = rows.iter().find(|row| row.serial == outermost.serial)?;
        return Some(wrapped_task(row, &ids, &stacks, &mut sites));
    }
    #[cfg(feature = "tokio")]
    {
        let row = rows.iter().find(|row| identity(row).0 == TaskId::Task(id));
        let mut task = match row {
            Some(row) => task_of(row, &ids, &stacks, &mut sites),
            None => Task {
                id: TaskId::Task(id),
                kind: TaskKind::Task,
                state: TaskState::Running,
                wrapped: None,
                bytes: None,
                memory: memory::of_plain(TaskId::Task(id)),
                site: None,
                owner: 0,
            },
        };
        if let Some(cell) = current_cell(id, row.map_or(0, |row| row.waker)) {
            add_cell(&mut task, &cell, &mut sites);
        }
        Some(task)
    }
    #[cfg(not(feature = "tokio"))]
    None
}

/// The cell of the task that this thread polls: by its waker, on the thread's own stack, else among the recorded blocks.
#[cfg(feature = "tokio")]
fn current_cell(id: u64, waker: usize) -> Option<Cell> {
    let layout: &Layout = layout::layout()?;
    let at = if runtime::is_cell(waker, id) { waker } else { super::super::panics::own_cell(id)? };
    cells::at(layout, at, &mut HashMap::new())
}
