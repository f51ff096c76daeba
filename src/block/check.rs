//! Looks at every block while the program goes on: `check_heap()` and the sweep at exit.
//!
//! A block is held, by its word, while it is looked at; a thread that frees it meanwhile leaves the memory to us. Nobody
//! waits. Ordinary code, but it takes nothing from the watched heap while it holds a block.

use core::sync::atomic::Ordering::{AcqRel, Acquire};

use super::facts::{BlockFacts, Found};
use super::fault::Fault;
use super::quarantine::{self, Entry};
use super::{fork, heap};
use crate::table::{self, Record, State, leaf};

/// Looks at every live and quarantined block of this process and tells what is damaged; `found`: who asks.
pub(crate) fn sweep(found: Found, told: &mut dyn FnMut(Fault)) {
    let mine = fork::number() & 3;
    table::blocks(&mut |start, record| {
        if record.fork() == mine && matches!(record.state(), State::Live | State::Quarantined) {
            look(start, found, told);
        }
    });
}

fn look(start: usize, found: Found, told: &mut dyn FnMut(Fault)) {
    let Some(leaf) = leaf::leaf(start) else { return };
    let word = leaf.word(start);
    let record = Record(word.load(Acquire));
    let held = match record.state() {
        State::Live => record.with_state(State::HeldLive),
        State::Quarantined => record.with_state(State::HeldQuarantined),
        _ => return,
    };
    if record.offset() != start & 31 || word.compare_exchange(record.0, held.0, AcqRel, Acquire).is_err() {
        return;
    }
    let mut block = heap::block_of(start, record);
    let (size, align) = (block.size, block.align);
    let here = BlockFacts::of(found, start);
    // SAFETY: held: nobody gives the block back while we look.
    let mut facts = unsafe { heap::inspect(block, here) };
    let mut damaged = facts.damaged();
    if block.freed && damaged {
        // A free claims its block before it verifies and fills it, and only then hands it to its ring: what isn't there
        // yet may be half filled, and what is claimed from there is verified by who claimed it.
        block.free = quarantine::find(start);
        // SAFETY: as above.
        facts = unsafe { heap::inspect(block, here) };
        damaged = block.free.is_some();
    }
    // Let go; whoever came meanwhile changed the state under our eyes.
    let mut now = held;
    loop {
        let next = match now.state() {
            State::HeldLive => now.with_state(State::Live),
            State::HeldQuarantined => now.with_state(State::Quarantined),
            State::HeldFreed => {
                table::forget_size(start, now);
                Record::ABSENT
            }
            _ => break, // a fork's child, or a program that frees twice: not ours any more
        };
        match word.compare_exchange(now.0, next.0, AcqRel, Acquire) {
            Ok(_) => {
                if now.state() == State::HeldFreed {
                    let inner = now.trace() as u8;
                    let entry = Entry { address: start, inner, freed_by: 0, thread: 0, size, align };
                    // SAFETY: the thread that freed it left it to us, and its record is gone.
                    unsafe { quarantine::release(entry) };
                }
                break;
            }
            Err(other) => now = Record(other),
        }
    }
    // Freed under our eyes: the free verified the block, and has told.
    if damaged
        && (block.freed || now.state() == State::HeldLive)
        && let Some(fault) = Fault::of(facts)
    {
        told(fault);
    }
}
