//! From a task's id to its cell, the heap block that tokio keeps it in.
//!
//! The shape of a cell is measured by probe tasks. Every read is by the kernel, so an address that isn't mapped, or no longer,
//! is a "no".

use std::collections::HashSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ::tokio::task::JoinHandle;

use super::super::heap;

/// Where a cell keeps what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Offset of the pointer to the table of functions.
    pub vtable_at: usize,
    /// Word of that table that holds the id's offset in the cell.
    pub id_index: usize,
    /// Bit of the first word that is set while the task is polled.
    pub running: u64,
    /// Bit n: word n of that table is an address in a module; 0 where the probes don't agree.
    pub functions: u32,
    /// What a task's end is told by, where all of it was found.
    pub life: Option<Life>,
}

/// What a cell tells of its task's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    /// Bit of the first word: it waits in a run queue.
    pub notified: u64,
    /// Bit of the first word: it was aborted or shut down.
    pub cancelled: u64,
    /// Bit of the first word: it has ended.
    pub complete: u64,
    /// Offset of the word that is the same for all tasks of one runtime (or one `LocalSet`) and for no other's.
    pub owner_at: usize,
    /// Where it tells whether its output lies in it, where that was found.
    pub output: Option<Output>,
}

/// Where a cell tells whether its task's output lies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    /// Offset from the id.
    pub after_id: usize,
    /// What stands there, 32 bits wide, while nobody has taken the output.
    pub unread: u32,
}

/// A task as its cell shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub id: u64,
    /// Polled at this moment.
    pub running: bool,
    /// In a run queue.
    pub notified: bool,
    /// Aborted or shut down.
    pub cancelled: bool,
    /// Ended.
    pub complete: bool,
}

static SHAPE: OnceLock<Shape> = OnceLock::new();

pub(crate) fn publish(shape: Shape) {
    let _ = SHAPE.set(shape);
}

/// What was measured.
pub(crate) fn shape() -> Option<Shape> {
    SHAPE.get().copied()
}

fn word(address: usize) -> Option<usize> {
    let mut bytes = [0; size_of::<usize>()];
    heap::read_unsure(address, &mut bytes).then(|| usize::from_ne_bytes(bytes))
}

/// Whether ends of tasks can be told.
pub(crate) fn shows_ends() -> bool {
    SHAPE.get().is_some_and(|shape| shape.life.is_some())
}

/// The cell of the task that `handle` stands for: a handle is a pointer to it, as the probes agree where [`shows_ends`].
pub(super) fn of_handle<T>(handle: &JoinHandle<T>) -> usize {
    if size_of::<JoinHandle<T>>() != size_of::<usize>() {
        return 0;
    }
    // SAFETY: as large as a word, and a word of any value is a valid one.
    unsafe { std::mem::transmute_copy(handle) }
}

/// The runtime, or the `LocalSet`, of the task that `handle` stands for: a number of its own, never 0.
pub(crate) fn owner_of_handle<T>(handle: &JoinHandle<T>) -> Option<u64> {
    let cell = of_handle(handle);
    let life = SHAPE.get()?.life?;
    if cell == 0 {
        return None;
    }
    // SAFETY: the handle keeps the cell alive, and the word was written before the handle was given out, never after.
    let owner = unsafe { ((cell + life.owner_at) as *const u64).read() };
    (owner != 0).then_some(owner)
}

/// The first bytes of a cell.
type Head = [u8; heap::AT_ONCE];

/// The task of `owner` whose cell begins at `cell`, where that is known to be one or its head was read there.
fn seen(cell: usize, head: &Head, owner: u64) -> Option<Seen> {
    let shape = SHAPE.get()?;
    let life = shape.life?;
    if word_in(head, life.owner_at)? != owner {
        return None;
    }
    let offset = id_offset_of(word_in(head, shape.vtable_at)? as usize, shape.id_index)?;
    let id = match word_in(head, offset) {
        Some(id) => id,
        None => word(cell.checked_add(offset)?)? as u64,
    };
    let state = word_in(head, 0)?;
    let is = |bit: u64| state & bit != 0;
    (id != 0).then_some(Seen {
        id,
        running: is(shape.running),
        notified: is(life.notified),
        cancelled: is(life.cancelled),
        complete: is(life.complete),
    })
}

fn word_in(head: &Head, at: usize) -> Option<u64> {
    let bytes = head.get(at..at.checked_add(8)?)?;
    Some(u64::from_ne_bytes(bytes.try_into().ok()?))
}

/// The task of `owner` whose cell begins at `cell`, if one does. The address may be any.
#[cfg(test)]
pub(super) fn look(cell: usize, owner: u64) -> Option<Seen> {
    let mut found = None;
    look_at_each([(cell, ())], owner, |_, (), seen| found = Some(seen));
    found
}

/// Of these cells, each with what goes with it, those of the tasks of `owner`. The addresses may be any.
pub(super) fn look_at_each<T>(
    cells: impl IntoIterator<Item = (usize, T)>,
    owner: u64,
    mut visit: impl FnMut(usize, T, Seen),
) {
    let aligned = cells.into_iter().filter(|(cell, _)| cell & 63 == 0);
    heap::read_unsure_each(aligned, &mut |cell, with, head| {
        if let Some(seen) = seen(cell, head, owner) {
            visit(cell, with, seen);
        }
    });
}

/// The id of the task whose cell begins at `cell`, if one does. The address may be any.
pub(crate) fn id_in(cell: usize) -> Option<u64> {
    let shape = SHAPE.get()?;
    if cell == 0 {
        return None;
    }
    let offset = id_offset_of(word(cell.checked_add(shape.vtable_at)?)?, shape.id_index)?;
    let id = word(cell.checked_add(offset)?)? as u64;
    (id != 0).then_some(id)
}

/// The table of functions of the task at `cell`: the same for tasks that were spawned in one place of the code alone.
pub(crate) fn table(cell: usize) -> Option<usize> {
    word(cell.checked_add(SHAPE.get()?.vtable_at)?)
}

/// The tasks of `owner` among all recorded blocks but the cells that are `known`, and those with this table of functions: their cells.
pub(super) fn of_owner(owner: u64, known: &HashSet<usize>, not: usize) -> Vec<usize> {
    let Some(shape) = SHAPE.get().filter(|_| shows_ends()) else { return Vec::new() };
    let mut blocks = Vec::new();
    heap::aligned_blocks(64, &mut |start| {
        if !known.contains(&start) {
            blocks.push((start, ()));
        }
    });
    let mut cells = Vec::new();
    heap::read_unsure_each(blocks, &mut |cell, (), head| {
        if seen(cell, head, owner).is_some() && word_in(head, shape.vtable_at) != Some(not as u64) {
            cells.push(cell);
        }
    });
    cells
}

/// The id's offset in cells with this table, as its word `id_index` tells. The last one is kept: most tasks are of few types.
fn id_offset_of(vtable: usize, id_index: usize) -> Option<usize> {
    /// The table and the offset, both without their lowest three bits.
    static LAST: AtomicU64 = AtomicU64::new(0);
    if vtable & 7 != 0 || !(4096..1 << 47).contains(&vtable) {
        return None;
    }
    let last = LAST.load(Relaxed);
    if last >> 17 == vtable as u64 >> 3 {
        return Some((last as usize & 0x1_ffff) << 3);
    }
    let offset = word(vtable.checked_add(id_index * 8)?)?;
    if offset & 7 != 0 || offset == 0 || offset >= 1 << 20 {
        return None;
    }
    LAST.store((vtable as u64 >> 3) << 17 | offset as u64 >> 3, Relaxed);
    Some(offset)
}

/// Bit n: word n of a table of functions is an address in a module, for the words up to the one that tells the id's offset.
pub(super) fn functions(vtable: usize, id_index: usize) -> Option<u32> {
    if vtable & 7 != 0 || !crate::sys::in_module(vtable) {
        return None;
    }
    (0..id_index.min(32)).try_fold(0, |bits, n| {
        let function = word(vtable.checked_add(n * 8)?)?;
        Some(bits | u32::from(crate::sys::in_module(function)) << n)
    })
}

/// The id's offset in cells with this table, where it is a table of tokio's. May be called inside an allocation; asks the kernel
/// where the table wasn't seen lately.
fn id_offset_by(vtable: usize, shape: &Shape) -> Option<usize> {
    /// Table and offset, both without their lowest three bits; offset 0: no table of tokio's.
    static SEEN: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];
    if vtable & 7 != 0 || !(4096..1 << 47).contains(&vtable) {
        return None;
    }
    let seen = SEEN.get(vtable >> 5 & 63)?;
    let mut word = seen.load(Relaxed);
    if word >> 17 != vtable as u64 >> 3 {
        let same = shape.functions != 0 && functions(vtable, shape.id_index) == Some(shape.functions);
        let offset = if same { id_offset_of(vtable, shape.id_index) } else { None };
        word = (vtable as u64 >> 3) << 17 | offset.unwrap_or(0) as u64 >> 3;
        seen.store(word, Relaxed);
    }
    let offset = (word as usize & 0x1_ffff) << 3;
    (offset != 0).then_some(offset)
}

/// The id of the task whose cell begins there, of a blocking job too; the address may be any.
pub(crate) fn id_at(cell: usize) -> Option<u64> {
    let shape = SHAPE.get()?;
    let offset = id_offset_by(word(cell.checked_add(shape.vtable_at)?)?, shape)?;
    let id = word(cell.checked_add(offset)?)? as u64;
    (id != 0).then_some(id)
}

/// A block aligned as cells are is about to be freed: where it is a cell, its task has ended. Runs inside an allocation.
#[cold]
#[inline(never)]
pub(crate) fn on_free(user: *mut u8, size: usize) {
    let Some(shape) = SHAPE.get() else { return };
    // What the table says counts: the program may free what it may not.
    let Some((size, trace)) = heap::about_to_be_freed(user as usize, size) else { return };
    if size < 64 {
        return;
    }
    // SAFETY: a live block of at least 64 bytes, aligned to 64 or more, in the hands of the thread that frees it; volatile, since
    // what lies there was dropped.
    let read = |offset: usize| unsafe { user.add(offset).cast::<usize>().read_volatile() };
    let Some(offset) = id_offset_by(read(shape.vtable_at), shape) else { return };
    if offset.checked_add(8).is_some_and(|end| end <= size) {
        heap::task_ended(read(offset) as u64, trace);
    }
}

/// Whether the output of task `id`, which has ended, still lies in its cell and holds `pointer`. What the address points to
/// may be gone.
pub(crate) fn holds_output(cell: usize, id: u64, pointer: usize) -> Option<bool> {
    let shape = SHAPE.get()?;
    let life = shape.life?;
    let output = life.output?;
    let id_at = cell.checked_add(id_offset(cell, shape.vtable_at, shape.id_index, id)?)?;
    let at = id_at.checked_add(output.after_id)?;
    if word(cell)? as u64 & life.complete == 0 || word(at)? as u32 != output.unread {
        return Some(false);
    }
    // The error's payload lies near the beginning of the output.
    Some((1..16).any(|n| word(at + n * 8) == Some(pointer)))
}

/// The id's offset in `cell`, where the table at `vtable_at` tells it in its word `id_index` and the id stands there.
pub(super) fn id_offset(cell: usize, vtable_at: usize, id_index: usize, id: u64) -> Option<usize> {
    let vtable = word(cell.checked_add(vtable_at)?)?;
    if vtable & 7 != 0 || vtable < 4096 || id == 0 {
        return None;
    }
    let offset = word(vtable.checked_add(id_index * 8)?)?;
    if offset & 7 != 0 || offset == 0 || offset >= 1 << 20 {
        return None;
    }
    (word(cell.checked_add(offset)?)? == id as usize).then_some(offset)
}

fn holds(shape: Shape, cell: usize, id: u64) -> bool {
    id_offset(cell, shape.vtable_at, shape.id_index, id).is_some()
}

/// Whether task `id`'s cell lies at `cell`.
pub(crate) fn is_cell(cell: usize, id: u64) -> bool {
    SHAPE.get().is_some_and(|shape| cell & 63 == 0 && holds(*shape, cell, id))
}

/// Task `id`'s cell among the words of a stack that spans `low..high`.
pub(crate) fn on_stack(
    words: impl Iterator<Item = usize>,
    (low, high): (usize, usize),
    id: u64,
) -> Option<usize> {
    let shape = *SHAPE.get()?;
    let mut no = [0usize; 16];
    let mut next = 0;
    for w in words {
        if w & 63 != 0
            || w < 1 << 16
            || w as u64 >> crate::sys::ADDRESS_BITS != 0
            || (low..high).contains(&w)
            || no.contains(&w)
        {
            continue;
        }
        if holds(shape, w, id) {
            return Some(w);
        }
        if let Some(place) = no.get_mut(next) {
            *place = w;
        }
        next = (next + 1) % no.len();
    }
    None
}

/// Task `id`'s cell among all recorded blocks.
pub(crate) fn among_blocks(id: u64) -> Option<usize> {
    let shape = *SHAPE.get()?;
    let mut found = None;
    heap::aligned_blocks(64, &mut |start| {
        if found.is_none() && holds(shape, start, id) {
            found = Some(start);
        }
    });
    found
}

/// Whether the task of this cell is being polled now. For the thread that works on the task: the cell is alive, and the
/// bit is changed by that thread alone. May be called inside an allocation.
///
/// # Safety
/// `cell` was found by this file, and the task isn't freed before this returns.
pub(crate) unsafe fn is_running(cell: usize) -> bool {
    let Some(shape) = SHAPE.get() else { return false };
    // SAFETY: the caller's; the first word of a cell is tokio's atomic state.
    let state = unsafe { std::sync::atomic::AtomicU64::from_ptr(cell as *mut u64) };
    state.load(std::sync::atomic::Ordering::Relaxed) & shape.running != 0
}
