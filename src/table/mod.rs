//! One address table: which block holds an address, how large it is, who made it, whether it lives.
//!
//! Everything asks it: layout and free checks, `check_heap`, snapshots, `traceback_of`, the runtime's look-ups. Runs
//! inside an allocation, without a lock.

pub(crate) mod accounts;
pub(crate) mod counters;
pub(crate) mod leaf;
pub(crate) mod record;

use core::num::NonZeroU32;
use core::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::trace::TraceId;
pub(crate) use record::{HUGE, Record, State};

/// Whether the allocating thread of each block is kept from now on.
static THREADS: AtomicBool = AtomicBool::new(false);

/// Keeps the allocating thread of each block from now on (4 more bytes for every 32 of heap): its number in
/// `thread::names`.
pub(crate) fn keep_threads() {
    THREADS.store(true, Relaxed);
}

/// What the table knows of a block.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code)]
pub(crate) struct Block {
    /// Its first byte.
    pub start: usize,
    /// Bytes that were asked for.
    pub size: usize,
    /// The layout's alignment.
    pub align: usize,
    /// The stack that made it, in whatever generation.
    pub trace: Option<TraceId>,
    /// Live or freed.
    pub state: State,
    /// The process that made it, modulo 4.
    pub fork: u64,
    /// The allocating thread's number in `thread::names`, 0 where it wasn't kept.
    pub thread: u32,
}

/// Records a live block, made by the thread with this number; false where the table had no room (counted).
#[inline(always)]
pub(crate) fn put(address: usize, size: usize, record: Record, who: &AtomicU32) -> bool {
    let Some(leaf) = leaf::leaf_or_make(address) else { return false };
    if size >= 4096 {
        put_large(address, size);
    }
    leaf.put(address, record);
    if THREADS.load(Relaxed) {
        leaf.threads.set(address, who.load(Relaxed));
    }
    true
}

#[cold]
#[inline(never)]
fn put_large(address: usize, size: usize) {
    if size >= HUGE {
        let beside = address.wrapping_add(record::GRANULE);
        if let Some(leaf) = leaf::leaf_or_make(beside) {
            leaf.word(beside).store(Record::huge_size(size).0, Release);
        }
    }
    leaf::cover(address, size);
}

/// The exact size of the block that `record` at `address` stands for.
#[inline(always)]
pub(crate) fn size_of_block(address: usize, record: Record) -> usize {
    let size = record.size_field();
    if size < HUGE { size } else { huge_size(address) }
}

#[cold]
fn huge_size(address: usize) -> usize {
    let beside = address.wrapping_add(record::GRANULE);
    leaf::leaf(beside).and_then(|l| Record(l.word(beside).load(Acquire)).huge()).unwrap_or(HUGE)
}

/// Takes away the word beside a huge block's; before its own.
#[inline(always)]
pub(crate) fn forget_size(address: usize, record: Record) {
    if record.size_field() >= HUGE {
        let beside = address.wrapping_add(record::GRANULE);
        if let Some(leaf) = leaf::leaf(beside) {
            leaf.word(beside).store(0, Release);
        }
    }
}

/// Takes the record of the block that starts at `address`, if there is one. For blocks that nobody else may take: their
/// owner frees them, and no sweeper runs (without the debug heap).
#[inline(always)]
pub(crate) fn take(address: usize) -> Option<(Record, usize)> {
    let word = leaf::leaf(address)?.word(address);
    let record = Record(word.load(Relaxed));
    if record.0 == 0 || record.offset() != address & 31 || !record.is_block() {
        return None;
    }
    let size = size_of_block(address, record);
    forget_size(address, record);
    word.store(0, Release);
    Some((record, size))
}

/// The record of the block that starts exactly at `address`.
#[inline(always)]
pub(crate) fn at(address: usize) -> Option<Record> {
    let record = Record(leaf::leaf(address)?.word(address).load(Acquire));
    (record.is_block() && record.offset() == address & 31).then_some(record)
}

fn describe(start: usize, record: Record) -> Block {
    Block {
        start,
        size: size_of_block(start, record),
        align: record.align(),
        trace: NonZeroU32::new(record.trace()).map(TraceId),
        state: record.state(),
        fork: record.fork(),
        thread: thread_of(start),
    }
}

/// The thread that made the block at `start`, by its number in `thread::names`; 0 where it wasn't kept.
pub(crate) fn thread_of(start: usize) -> u32 {
    leaf::leaf(start).map_or(0, |l| l.threads.get(start))
}

/// Start and record of the nearest block that starts at or below `address`, near or far.
pub(crate) fn nearest_record(address: usize) -> Option<(usize, Record)> {
    leaf::nearest_at_or_below(address)
}

/// The nearest block that starts at or below `address`, near or far.
pub(crate) fn nearest(address: usize) -> Option<Block> {
    nearest_record(address).map(|(start, record)| describe(start, record))
}

/// The block that holds `address`, live or quarantined; interior addresses are fine, and so is the start of an empty one.
pub(crate) fn block_at(address: usize) -> Option<Block> {
    let block = nearest(address)?;
    let within = address.wrapping_sub(block.start);
    (within < block.size || within == 0).then_some(block)
}

/// Visits every block of the table.
pub(crate) fn blocks(visit: &mut dyn FnMut(usize, Record)) {
    leaf::blocks(visit);
}

/// Visits every live block, as plain data.
#[cfg_attr(not(feature = "tokio"), allow(dead_code))]
pub(crate) fn live_blocks(visit: &mut dyn FnMut(Block)) {
    leaf::blocks(&mut |start, record| {
        if matches!(record.state(), State::Live | State::HeldLive) {
            visit(describe(start, record));
        }
    });
}
