//! Panics of tasks that nobody reads.
//!
//! The panic hook notes what panicked and arms its thread; the box that std makes for the payload right after it is watched;
//! when it is freed, the task id of the freeing thread and the task's RUNNING bit tell whether anybody read it. Freed
//! under the panicked task's own id with the bit clear: tokio dropped the output, nobody did. With the bit set it was caught
//! inside the task; under another id or none, read elsewhere. What lies in its task's cell still when the program ends nobody
//! read either.
//!
//! [`on_alloc`] and [`on_free`] run inside an allocation: a fixed list of atomics, no lock, no memory.

use std::sync::atomic::{
    AtomicPtr, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use super::warning::{Kind, Row, Warning};
use super::{catching, heap, poll, reporter, tokio as runtime};
use crate::mode;
use crate::sys::line::{Line, line};

/// So many payloads are watched at once; further ones are not.
const PLACES: usize = 64;

const FREE: u32 = 0;
/// The hook fills it in.
const TAKEN: u32 = 1;
/// The thread `owner` is about to make the payload's box.
const ARMED: u32 = 2;
/// The box is at `payload`.
const WATCHED: u32 = 3;
/// Freed, and nobody had read it.
const UNREAD: u32 = 4;
/// Freed, and read.
const READ: u32 = 5;
/// Freed unread on the thread `owner`, which catches its warnings.
const CAUGHT: u32 = 6;

struct Place {
    state: AtomicU32,
    owner: AtomicUsize,
    payload: AtomicUsize,
    align: AtomicUsize,
    id: AtomicU64,
    cell: AtomicUsize,
    facts: AtomicPtr<Facts>,
}

static LIST: [Place; PLACES] = [const {
    Place {
        state: AtomicU32::new(FREE),
        owner: AtomicUsize::new(0),
        payload: AtomicUsize::new(0),
        align: AtomicUsize::new(0),
        id: AtomicU64::new(0),
        cell: AtomicUsize::new(0),
        facts: AtomicPtr::new(std::ptr::null_mut()),
    }
}; PLACES];

/// Places that are armed or watched.
static OPEN: AtomicUsize = AtomicUsize::new(0);
/// Places that are unread, until they are written.
static DUE: AtomicUsize = AtomicUsize::new(0);

/// What a report needs, gathered in the panic hook.
struct Facts {
    /// The process: a fork's child doesn't tell of its parent's.
    process: u32,
    id: u64,
    message: String,
    stack: Vec<usize>,
    spawned: Option<Vec<usize>>,
    thread: String,
    test: u64,
}

/// The thread has made a block of the size that it was armed for: the payload's box, if it is aligned so.
#[deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used, clippy::panic)]
#[cold]
pub(crate) fn on_alloc(line: &Line, block: *mut u8, _size: usize, align: usize) {
    let owner = std::ptr::from_ref(line) as usize;
    for place in &LIST {
        if place.state.load(Acquire) == ARMED
            && place.owner.load(Relaxed) == owner
            && place.align.load(Relaxed) == align
        {
            line.armed.set(0);
            place.payload.store(block as usize, Relaxed);
            place.state.store(WATCHED, Release);
            return;
        }
    }
}

/// A block is freed while payloads are watched.
#[deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used, clippy::panic)]
#[inline]
pub(crate) fn on_free(block: *mut u8) {
    if OPEN.load(Relaxed) == 0 {
        return;
    }
    for place in &LIST {
        if place.payload.load(Relaxed) == block as usize && place.state.load(Acquire) == WATCHED {
            judge(place);
            return;
        }
    }
}

#[deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used, clippy::panic)]
#[cold]
fn judge(place: &Place) {
    let id = place.id.load(Relaxed);
    // SAFETY: under the task's own id this thread works on the task, so its cell is alive until that ends.
    let unread = runtime::words::own_id() == id && !unsafe { runtime::is_running(place.cell.load(Relaxed)) };
    let line = line();
    let caught = unread && line.catching.get() != 0;
    let unread = unread && !caught;
    place.payload.store(0, Relaxed);
    if unread {
        DUE.fetch_add(1, AcqRel);
    }
    if caught {
        place.owner.store(std::ptr::from_ref(line) as usize, Relaxed);
    }
    place.state.store(
        if caught {
            CAUGHT
        } else if unread {
            UNREAD
        } else {
            READ
        },
        Release,
    );
    if OPEN.fetch_sub(1, AcqRel) == 1 {
        mode::clear(mode::WATCH);
        if OPEN.load(Acquire) != 0 {
            mode::set(mode::WATCH); // armed meanwhile
        }
    }
    if unread {
        reporter::poke();
    }
}

/// Chains our hook in front of what is there, once a process. Ordinary code.
pub(crate) fn install() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    if std::thread::panicking() {
        return; // then no hook can be set
    }
    ONCE.call_once(|| {
        runtime::measure();
        let _ours = heap::ours();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            runtime::panicked();
            let place = prepare(info);
            // To print std's backtrace takes longer than a poll may, and the panic is the news.
            let time = poll::our_time();
            before(info);
            drop(time);
            // Armed last: the next block of this size on this thread is the payload's box.
            if let Some(place) = place {
                arm(place, info.payload());
            }
        }));
    });
}

fn prepare(info: &std::panic::PanicHookInfo<'_>) -> Option<&'static Place> {
    let payload = info.payload();
    // Nothing to watch where our allocator isn't installed.
    if size_of_val(payload) == 0 || mode::mode() & mode::READY == 0 {
        return None;
    }
    let id = runtime::words::own_id();
    if id == 0 {
        return None;
    }
    let _ours = heap::ours();
    forget_read();
    // Names may take the reporter a while: what is due makes room here.
    take_due().into_iter().for_each(reporter::tell_of_others);
    catching::make_room();
    let cell = own_cell(id)?;
    // SAFETY: this thread polls the task, so its cell is alive.
    if !unsafe { runtime::is_running(cell) } {
        return None;
    }
    let place = LIST.iter().find(|p| p.state.compare_exchange(FREE, TAKEN, AcqRel, Relaxed).is_ok())?;
    let message = payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a payload of another type");
    let message = match info.location() {
        Some(at) => format!("{message:?} at {}:{}", at.file(), at.line()),
        None => format!("{message:?}"),
    };
    let facts = Facts {
        process: std::process::id(),
        id,
        message,
        stack: heap::stack_here(),
        spawned: heap::trace_of(cell),
        thread: format!("thread {}", std::thread::current().name().unwrap_or("without a name")),
        test: super::trial::here(),
    };
    place.id.store(id, Relaxed);
    place.cell.store(cell, Relaxed);
    place.facts.store(Box::into_raw(Box::new(facts)), Relaxed);
    reporter::stand_by();
    Some(place)
}

fn arm(place: &'static Place, payload: &(dyn std::any::Any + Send)) {
    let line = line();
    // One that was armed before and never came (a panic in a hook) is given up.
    let owner = std::ptr::from_ref(line) as usize;
    for old in LIST.iter().filter(|p| p.state.load(Acquire) == ARMED && p.owner.load(Relaxed) == owner) {
        old.state.store(READ, Release);
        OPEN.fetch_sub(1, AcqRel);
    }
    place.owner.store(owner, Relaxed);
    place.align.store(align_of_val(payload), Relaxed);
    OPEN.fetch_add(1, AcqRel);
    mode::set(mode::WATCH);
    place.state.store(ARMED, Release);
    line.armed.set(size_of_val(payload) + 1);
}

/// The cell of the task that this thread polls: on its own stack, else among the recorded blocks.
pub(super) fn own_cell(id: u64) -> Option<usize> {
    let slot = heap::register_thread();
    let here = std::ptr::from_ref(&slot) as usize & !7;
    let (low, high) = (slot.stack_low.load(Relaxed), slot.stack_high.load(Relaxed));
    if slot.owns(here) {
        let words = (here..high & !7).step_by(8);
        // SAFETY: words of this thread's own stack, from a local of this frame up to the stack's top.
        let words = words.map(|at| unsafe { (at as *const usize).read_volatile() });
        if let Some(cell) = runtime::on_stack(words, (low, high), id) {
            return Some(cell);
        }
    }
    runtime::cell_among_blocks(id).filter(|cell| runtime::is_cell(*cell, id))
}

/// Gives the facts of payloads that were read back. Ordinary code.
fn forget_read() {
    for place in &LIST {
        if place.state.compare_exchange(READ, TAKEN, AcqRel, Relaxed).is_ok() {
            drop(facts(place));
            place.state.store(FREE, Release);
        }
    }
}

fn facts(place: &Place) -> Option<Box<Facts>> {
    let facts = place.facts.swap(std::ptr::null_mut(), AcqRel);
    // SAFETY: not null, so it is the box that `prepare` left here, and the swap gave it to us alone.
    (!facts.is_null()).then(|| unsafe { Box::from_raw(facts) })
}

/// Whether a report waits to be written.
pub(crate) fn any_due() -> bool {
    DUE.load(Acquire) != 0
}

/// Takes what nobody read since. Ordinary code.
pub(crate) fn take_due() -> Vec<Warning> {
    let due = LIST.iter().filter_map(|place| {
        let warning = take(place, UNREAD)?;
        DUE.fetch_sub(1, AcqRel);
        Some(warning)
    });
    due.collect()
}

/// Takes what this thread found unread while it catches. Ordinary code.
pub(crate) fn take_caught() -> Vec<Warning> {
    let me = std::ptr::from_ref(line()) as usize;
    let mine = |place: &&Place| place.state.load(Acquire) == CAUGHT && place.owner.load(Relaxed) == me;
    LIST.iter().filter(mine).filter_map(|place| take(place, CAUGHT)).collect()
}

/// At exit: panics that lie in their tasks' cells still, since somebody forgot a `JoinHandle` or holds it to the end. Where
/// that can't be told they aren't among them. Ordinary code.
pub(crate) fn take_held() -> Vec<Warning> {
    let held = |place: &&Place| {
        let payload = place.payload.load(Relaxed);
        place.state.load(Acquire) == WATCHED
            && payload != 0
            && runtime::holds_output(place.cell.load(Relaxed), place.id.load(Relaxed), payload) == Some(true)
    };
    let taken = LIST.iter().filter(held).filter_map(|place| {
        place.state.compare_exchange(WATCHED, TAKEN, AcqRel, Relaxed).ok()?;
        place.payload.store(0, Relaxed);
        let facts = facts(place);
        OPEN.fetch_sub(1, AcqRel);
        place.state.store(FREE, Release);
        facts.filter(|facts| facts.process == std::process::id()).map(|facts| words(*facts, true))
    });
    taken.collect()
}

/// The warning of a place in this state, which is free afterwards.
fn take(place: &Place, state: u32) -> Option<Warning> {
    place.state.compare_exchange(state, TAKEN, AcqRel, Relaxed).ok()?;
    let facts = facts(place);
    place.state.store(FREE, Release);
    facts.map(|facts| words(*facts, false))
}

/// `held`: its handle is held by somebody while the program ends.
fn words(facts: Facts, held: bool) -> Warning {
    let mut rows = vec![Row::stack("panicked", facts.stack).noted(facts.thread)];
    let mut help = "await its `JoinHandle`, or look into the `JoinError`".to_string();
    match facts.spawned {
        Some(stack) => rows.push(Row::stack("spawned", stack)),
        None => help.push_str("; TRACEMALLOC=5 adds where it was spawned"),
    }
    rows.push(Row::words("help", help));
    let until = if held { " before the program ended" } else { "" };
    let sentence = format!("task {} panicked and nobody read it{until}: {}", facts.id, facts.message);
    Warning::new(Kind::TaskError, sentence, rows).of_test(facts.test)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unread_panic_is_told_with_its_message_and_where_it_was_spawned() {
        let facts = |spawned| Facts {
            process: 1,
            id: 9,
            message: "\"boom\" at src/a.rs:3".into(),
            stack: vec![1],
            spawned,
            thread: "thread w".into(),
            test: 0,
        };
        let w = words(facts(None), false);
        assert_eq!(w.sentence, "task 9 panicked and nobody read it: \"boom\" at src/a.rs:3");
        assert!(w.rows.last().unwrap().words.as_deref().unwrap().contains("TRACEMALLOC=5"));
        let w = words(facts(Some(vec![2])), true);
        assert_eq!(w.rows[1].label, "spawned");
        assert!(w.sentence.starts_with("task 9 panicked and nobody read it before the program ended: "));
    }
}
