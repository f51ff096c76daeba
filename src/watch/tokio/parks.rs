//! Each wait of a runtime's threads for events, where `BIRTHMARK_REPORT=level=debug` asks for it: asyncio's "poll took ..". The two
//! park hooks of the builder say when; nothing else needs them, so that at every other level they stay the program's.

use std::cell::Cell;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use ::tokio::runtime::Builder;

use super::super::warning::{Kind, Row, Warning};
use super::super::{clock, heap, reporter, switch, trial, units};
use super::cpu;

static CLAIMED: AtomicBool = AtomicBool::new(false);
static SEEN: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// When this thread began to wait, in ticks; 0: it doesn't.
    static SINCE: Cell<u64> = const { Cell::new(0) };
}

/// Takes the hooks of a builder that was attached there.
pub(super) fn claim(builder: &mut Builder, at: &'static Location<'static>) {
    if !heap::tells_debug() {
        return;
    }
    clock::begin();
    CLAIMED.store(true, Relaxed);
    builder.on_thread_park(begins).on_thread_unpark(move || ends(at));
}

/// Hooks were taken, and none has ever been called.
pub(super) fn is_evicted() -> bool {
    CLAIMED.load(Relaxed) && !SEEN.load(Relaxed)
}

fn begins() {
    SEEN.store(true, Relaxed);
    if switch::on() {
        SINCE.set(clock::ticks());
    }
}

fn ends(at: &'static Location<'static>) {
    let since = SINCE.replace(0);
    if since == 0 || !switch::on() {
        return;
    }
    let waited = clock::span(clock::ticks().saturating_sub(since));
    let (thread, test) = (heap::thread_id(), trial::of_this_thread());
    let _ours = heap::ours();
    reporter::later(Box::new(move || {
        let sentence = format!("{} waited {} for events", cpu::name(thread), units::words_of_time(waited));
        let warning = Warning::new(Kind::DriverTurn, sentence, vec![Row::place("runtime", at)]);
        Some(Warning { every: true, ..warning.of_test(test) })
    }));
}
