//! All that the runtime side asks of the heap side and of names: one small file, so that the two sides join here.

use std::time::Duration;

use crate::block::fork;
use crate::thread::{self, Ours};
use crate::trace::frame::{Owner, Traceback};
use crate::trace::{Depth, RawStack, resolve};
use crate::{mode, table, trace};

/// Blocks that this thread makes while the mark lives are our own.
pub(crate) fn ours() -> Ours {
    Ours::enter()
}

/// Number of the trace that made the live block which holds `address`; 0 where that isn't known.
pub(crate) fn trace_number(address: usize) -> u32 {
    let trace = if address == 0 { None } else { table::block_at(address).and_then(|block| block.trace) };
    trace.map_or(0, |trace| trace.0.get())
}

/// A stored stack by its trace's number, while its generation lasts.
pub(crate) fn raw_stack(id: u32) -> Option<RawStack> {
    if !trace::generation::control().holds(id) {
        return None;
    }
    RawStack::of(id)
}

/// Addresses of a stored stack, if it still is one.
pub(crate) fn stack_of(id: u32) -> Option<Vec<usize>> {
    Some(raw_stack(id)?.addresses.to_vec())
}

/// Addresses of the stored stack of the live block that holds `address`.
pub(crate) fn trace_of(address: usize) -> Option<Vec<usize>> {
    stack_of(trace_number(address))
}

/// The trace of this very stack: the memo's hit is all that it costs. 0 where there is none, not tracing for one.
#[cfg(feature = "tokio")]
pub(crate) fn trace_here() -> u32 {
    if mode::mode() & mode::TRACE == 0 { 0 } else { trace::capture::this_stack() }
}

/// Whether `DebugAlloc` serves this program.
#[cfg(feature = "tokio")]
pub(crate) fn installed() -> bool {
    crate::hook::installed()
}

/// Whether every block has had its record since the process began.
#[cfg(feature = "tokio")]
pub(crate) fn recorded_from_the_start() -> bool {
    let traced = || crate::config::settings().tracemalloc != 0 && !crate::tracemalloc::was_stopped();
    mode::mode() & mode::HEAP != 0 || traced()
}

/// Whether some blocks have none for want of memory.
#[cfg(feature = "tokio")]
pub(crate) fn records_dropped() -> bool {
    crate::snapshot::missing().table != 0
}

/// Bytes of the block that holds `address`.
pub(crate) fn block_size(address: usize) -> Option<usize> {
    table::block_at(address).map(|block| block.size)
}

/// The present stack's return addresses, most recent first. Ordinary code only.
pub(crate) fn stack_here() -> Vec<usize> {
    trace::capture::here()
}

/// The trace of the present stack as far as `high`, which lies in it; 0 where tracing is off or there is none.
pub(crate) fn stack_up_to(high: usize) -> u32 {
    trace::capture::up_to(high)
}

/// "thread main", "thread tokio-rt-worker, task 17".
pub(crate) fn this_thread() -> String {
    let thread = std::thread::current();
    let name = match thread.name() {
        Some(name) => format!("thread {name}"),
        None => format!("thread {}", thread_id()),
    };
    match this_task() {
        Some(id) => format!("{name}, task {id}"),
        None => name,
    }
}

/// The id of the task of tokio that this thread polls.
pub(crate) fn this_task() -> Option<String> {
    #[cfg(feature = "tokio")]
    return ::tokio::task::try_id().map(|id| id.to_string());
    #[cfg(not(feature = "tokio"))]
    None
}

#[cfg(native)]
pub(crate) fn thread_id() -> i32 {
    crate::sys::thread_id()
}
#[cfg(not(native))]
pub(crate) fn thread_id() -> i32 {
    0
}

/// Counts what each thread allocates, which also gives each of them a slot, while `on`.
pub(crate) fn count_threads(on: bool) {
    if on {
        fork::begin();
        mode::set(mode::COUNT);
    } else {
        mode::clear(mode::COUNT);
    }
}

/// What the variables say of the runtime side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "tokio"), allow(dead_code))]
pub(crate) struct Settings {
    /// `BIRTHMARK_ASYNC_DEBUG`, or what dev mode makes of it; nothing where neither speaks.
    pub debug: Option<bool>,
    /// How long a poll may take.
    pub slow: Duration,
    /// `coop=off`: tokio's budget isn't touched.
    pub coop_off: bool,
}

pub(crate) fn settings() -> Settings {
    let watch = crate::config::read(&crate::config::Defaults::NONE).watch;
    Settings { debug: watch.asked.or(watch.on.then_some(true)), slow: watch.slow, coop_off: !watch.coop }
}

/// The filters of `BIRTHMARK_WARNINGS`.
pub(crate) fn filters() -> &'static [u8] {
    crate::config::read(&crate::config::Defaults::NONE).warnings
}

/// Whether what goes as it should is told too.
#[inline]
pub(crate) fn tells_debug() -> bool {
    crate::config::settings().report.level == crate::config::Level::Debug
}

/// Makes sure that the calling thread has a slot of its own where it can, also with no allocator of ours installed.
pub(crate) fn register_thread() -> &'static thread::Slot {
    static NOT_INSTALLED: std::sync::Once = std::sync::Once::new();
    if mode::mode() & mode::READY == 0 {
        NOT_INSTALLED.call_once(|| {
            #[cfg(native)]
            crate::sys::look_up_names();
            thread::make_key();
        });
    }
    fork::begin();
    thread::slot(crate::sys::line::line())
}

/// As [`register_thread`], and where this thread has another id than its slot knows (a fork's child), the slot learns it.
#[cfg(feature = "tokio")]
pub(crate) fn renew_thread() {
    let slot = register_thread();
    #[cfg(native)]
    if !slot.shared {
        slot.tid.store(thread_id(), std::sync::atomic::Ordering::Release);
    }
    let _ = slot;
}

#[cfg(feature = "tokio")]
pub(crate) use thread::{ThreadInfo, each as threads, hold};

/// Visits each live block that is aligned to `align` or more: its first address.
#[cfg(feature = "tokio")]
pub(crate) fn aligned_blocks(align: usize, visit: &mut dyn FnMut(usize)) {
    table::live_blocks(&mut |block| {
        if block.align >= align {
            visit(block.start);
        }
    });
}

/// Visits each live block of this size: its first address.
#[cfg(feature = "tokio")]
pub(crate) fn blocks_of(size: usize, visit: &mut dyn FnMut(usize)) {
    table::live_blocks(&mut |block| {
        if block.size == size {
            visit(block.start);
        }
    });
}

/// Whether a live block begins there.
#[cfg(feature = "tokio")]
pub(crate) fn is_block(address: usize) -> bool {
    use crate::table::State;
    table::at(address).is_some_and(|record| matches!(record.state(), State::Live | State::HeldLive))
}

/// Size and trace of the block that the program is about to free, as the table has them. Of a block without a record, made before
/// tracing began, the size that the program says, and 0; nothing where the debug heap knows better. Inside an allocation.
#[cfg(feature = "tokio")]
pub(crate) fn about_to_be_freed(address: usize, size: usize) -> Option<(usize, u32)> {
    use crate::table::State;
    match table::at(address) {
        Some(record) if matches!(record.state(), State::Live | State::HeldLive) => {
            Some((table::size_of_block(address, record), record.trace()))
        }
        None if mode::mode() & mode::HEAP == 0 => Some((size, 0)),
        _ => None,
    }
}

/// tokio's task of this id has ended; its cell was made by this trace, 0: not known. Inside an allocation.
#[cfg(feature = "tokio")]
pub(crate) fn task_ended(id: u64, trace: u32) {
    table::accounts::ended(id, trace);
}

/// Each thread keeps the id of the task that it polls at this distance from its thread pointer.
#[cfg(feature = "tokio")]
pub(crate) fn tasks_by_word(distance: usize) {
    table::accounts::read_there(distance);
}

/// Copies from memory that may not be mapped; false where it isn't.
#[cfg(all(feature = "tokio", native))]
pub(crate) fn read_unsure(address: usize, bytes: &mut [u8]) -> bool {
    crate::sys::read_unsure(address, bytes)
}
#[cfg(all(feature = "tokio", not(native)))]
pub(crate) fn read_unsure(_address: usize, _bytes: &mut [u8]) -> bool {
    false
}

/// Names for return addresses. Ordinary code, on a thread of ours.
pub(crate) fn traceback(stack: &[usize]) -> Traceback {
    let n = stack.len() as u32;
    resolve::traceback(&RawStack { addresses: stack.into(), user_frames: n, depth: Depth::Exactly(n) })
}

/// Names for a stored stack. Ordinary code.
pub(crate) fn named_stack(stack: &RawStack) -> Traceback {
    resolve::traceback(stack)
}

/// One function of a stack, inlined ones too, innermost first: as much as a judgement needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    pub function: Option<String>,
    /// Not the plumbing's.
    pub user: bool,
    /// The crate of a dependency's.
    pub package: Option<String>,
}

#[cfg(test)]
impl Named {
    /// The user's where the name begins with `app`.
    pub(crate) fn called(function: &str) -> Self {
        Self { function: Some(function.into()), user: function.starts_with("app"), package: None }
    }
}

/// The functions of a stack. Ordinary code, on a thread of ours.
pub(crate) fn names(stack: &[usize]) -> Vec<Named> {
    names_of(&traceback(stack))
}

/// The functions of a stack that has names.
pub(crate) fn names_of(traceback: &Traceback) -> Vec<Named> {
    traceback
        .all_frames()
        .iter()
        .map(|f| Named {
            function: f.function().map(str::to_owned),
            user: *f.owner() != Owner::Plumbing,
            package: match f.owner() {
                // "serde_json-1.0.1"
                Owner::Dependency(package) => package.rsplit_once('-').map(|(name, _)| name.to_owned()),
                _ => None,
            },
        })
        .collect()
}
