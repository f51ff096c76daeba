//! All that the runtime side asks of the heap side and of names: one small file, so that the two sides join here.

use std::time::Duration;

use crate::block::fork;
use crate::thread::{self, Ours};
use crate::trace::frame::{Frame, Owner, Traceback};
use crate::trace::{Depth, RawStack, resolve};
use crate::{mode, table, trace};

/// Blocks that this thread makes while the mark lives are our own.
pub(crate) fn ours() -> Ours {
    Ours::enter()
}

/// Number of the trace that made the live block which holds `address`; 0 where that isn't known.
pub(crate) fn trace_number(address: usize) -> u32 {
    // Not looked for where no stack could be shown for it.
    if address == 0 || !trace::generation::control().on() {
        return 0;
    }
    let trace = table::block_at(address).and_then(|block| block.trace);
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

/// So much is read at each place at once.
#[cfg(feature = "tokio")]
pub(crate) const AT_ONCE: usize = 64;

/// Copies what stands at these addresses, each with what goes with it, from memory that may not be mapped: visits those where it
/// is.
#[cfg(all(feature = "tokio", native))]
pub(crate) fn read_unsure_each<T>(
    places: impl IntoIterator<Item = (usize, T)>,
    visit: &mut dyn FnMut(usize, T, &[u8; AT_ONCE]),
) {
    const MANY: usize = crate::sys::READ_MANY;
    let mut places = places.into_iter();
    let mut bytes = [[0; AT_ONCE]; MANY];
    loop {
        let some: Vec<(usize, T)> = places.by_ref().take(MANY).collect();
        if some.is_empty() {
            return;
        }
        let mut some = some.into_iter();
        while let Some((first, with)) = some.next() {
            let rest = some.as_slice();
            let addresses = std::iter::once(first).chain(rest.iter().map(|(address, _)| *address));
            let read = crate::sys::read_unsure_many(addresses, &mut bytes);
            // Those that were read, and the next one, which wasn't: it is passed over.
            let mut bytes = bytes.iter().take(read);
            let Some(head) = bytes.next() else { continue };
            visit(first, with, head);
            for head in bytes {
                let Some((address, with)) = some.next() else { break };
                visit(address, with, head);
            }
        }
    }
}
#[cfg(all(feature = "tokio", not(native)))]
pub(crate) fn read_unsure_each<T>(
    _places: impl IntoIterator<Item = (usize, T)>,
    _visit: &mut dyn FnMut(usize, T, &[u8; AT_ONCE]),
) {
}

/// Names for return addresses. Ordinary code, on a thread of ours.
pub(crate) fn traceback(stack: &[usize]) -> Traceback {
    let n = stack.len() as u32;
    resolve::traceback(&RawStack { addresses: stack.into(), user_frames: n, depth: Depth::Exactly(n) })
}

/// The last place before this one in the same function that belongs to a line; this one, where there is none near. Only for an
/// instruction that was interrupted: a call's line is its own. Ordinary code, on a thread of ours.
#[cfg(feature = "tokio")]
pub(crate) fn nearest_line(address: usize) -> usize {
    nearest(address, |address| {
        let frames = resolve::logical(address);
        let frame = frames.last()?;
        Some((frame.function.clone()?, frame.file().map(|_| frame.line())?))
    })
}

/// The same, by what is known of an address: its function, and its line, 0 for none.
#[cfg(feature = "tokio")]
fn nearest<F: PartialEq>(address: usize, of: impl Fn(usize) -> Option<(F, u32)>) -> usize {
    const BACK: usize = 64;
    let Some((function, 0)) = of(address) else { return address };
    let before = (1..=BACK).map_while(|back| {
        let before = address.wrapping_sub(back);
        of(before).filter(|(same, _)| *same == function).map(|(_, line)| (before, line))
    });
    before.into_iter().find(|(_, line)| *line != 0).map_or(address, |(before, _)| before)
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

/// The same by the modules' symbols alone: nothing inlined, and no debug information is loaded, which takes 0.1 s and 70 MB the
/// first time.
#[cfg(feature = "tokio")]
pub(crate) fn symbols(stack: &[usize]) -> Vec<Named> {
    let frames: Vec<_> =
        stack.iter().flat_map(|kept| resolve::look_up(*kept, resolve::Way::Symbols)).collect();
    named(&frames)
}

/// The functions of a stack that has names.
pub(crate) fn names_of(traceback: &Traceback) -> Vec<Named> {
    named(traceback.all_frames())
}

fn named(frames: &[Frame]) -> Vec<Named> {
    frames
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

#[cfg(all(test, feature = "tokio"))]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_without_a_line_is_shown_at_the_last_line_before_it_in_its_function() {
        // 10..20: f, of which 14.. has no line; 20..: g, whose line comes later; 100..: h, far from its line.
        let of = |address: usize| match address {
            10..14 => Some(("f", 7)),
            14..20 => Some(("f", 0)),
            20..24 => Some(("g", 0)),
            24..30 => Some(("g", 9)),
            100 => Some(("h", 3)),
            101..200 => Some(("h", 0)),
            _ => None,
        };
        for (address, shown) in
            [(12, 12), (14, 13), (19, 13), (21, 21), (25, 25), (164, 100), (165, 165), (500, 500)]
        {
            assert_eq!(nearest(address, of), shown, "{address}");
        }
    }

    #[cfg(native)]
    #[test]
    fn of_many_places_those_that_are_mapped_are_read_each_with_what_goes_with_it() {
        let all: Vec<[u8; AT_ONCE]> = (0..1000_u32).map(|n| [n as u8; AT_ONCE]).collect();
        // Every third, the first and the last two aren't.
        let is_there = |n: usize| !n.is_multiple_of(3) && n < 998;
        let places = all.iter().enumerate().map(|(n, bytes)| {
            let address = std::ptr::from_ref(bytes) as usize;
            (if is_there(n) { address } else { 8 * n }, n)
        });
        let mut seen = Vec::new();
        read_unsure_each(places, &mut |_, n, bytes| {
            assert_eq!(*bytes, all[n]);
            seen.push(n);
        });
        assert_eq!(seen, (0..1000).filter(|n| is_there(*n)).collect::<Vec<_>>());
    }
}
