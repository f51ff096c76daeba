//! From a task's id to its cell, the heap block that tokio keeps it in.
//!
//! The shape of a cell is measured by probe tasks. Every read is by the kernel, so an address that isn't mapped, or no longer,
//! is a "no".

use std::sync::OnceLock;

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
    let mut bytes = [0; 8];
    heap::read_unsure(address, &mut bytes).then(|| usize::from_ne_bytes(bytes))
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
        if w & 63 != 0 || w < 1 << 16 || w >> 47 != 0 || (low..high).contains(&w) || no.contains(&w) {
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
