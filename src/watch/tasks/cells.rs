//! tokio's tasks among all recorded blocks, wrapped or not: each cell proved by its table of functions.
//!
//! Every read is by the kernel, so a block that is freed meanwhile is a "no", and one that is used again shows another id.

use std::collections::HashMap;

use super::super::{heap, tokio as runtime};
use super::layout::{Layout, head, table};
use super::record::TaskState;

/// A task as its cell shows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub id: u64,
    pub at: usize,
    /// Of the block.
    pub size: usize,
    pub state: TaskState,
    /// In whose list it is.
    pub owner: u64,
}

/// All tasks whose cells are recorded; blocking jobs aren't tasks, and our own aren't the program's.
pub(super) fn scan(layout: &Layout) -> Vec<Cell> {
    let mut blocks = Vec::new();
    heap::aligned_blocks(64, &mut |start| blocks.push(start));
    let mut tables = HashMap::new();
    blocks.into_iter().filter_map(|start| at(layout, start, &mut tables)).collect()
}

/// The task whose cell lies there.
pub(super) fn at(layout: &Layout, start: usize, tables: &mut HashMap<usize, Option<usize>>) -> Option<Cell> {
    let words = head(start)?;
    let vtable = *words.get(layout.shape.vtable_at / 8)? as usize;
    let owner = *words.get(layout.owner)?;
    if vtable == 0 || owner == 0 || runtime::is_table_of_ours(vtable) {
        return None;
    }
    let id_at = (*tables.entry(vtable).or_insert_with(|| {
        let (functions, id_at) = table(vtable, layout.shape)?;
        let fits = id_at != 0 && id_at & 7 == 0 && id_at < 1 << 20;
        (functions == layout.functions && fits).then_some(id_at)
    }))?;
    let mut bytes = [0; 8];
    if !heap::read_unsure(start.checked_add(id_at)?, &mut bytes) {
        return None;
    }
    let id = u64::from_ne_bytes(bytes);
    let size = heap::block_size(start).unwrap_or(0);
    (id != 0).then_some(Cell { id, at: start, size, state: state(layout, words[0]), owner })
}

fn state(layout: &Layout, word: u64) -> TaskState {
    if word & layout.complete != 0 {
        TaskState::Complete
    } else if word & layout.shape.running != 0 {
        TaskState::Running
    } else if word & layout.notified != 0 {
        TaskState::Scheduled
    } else {
        TaskState::Idle
    }
}
