//! The stack of a hook's caller by the `backtrace` crate, where no rules of our own serve.
//!
//! Runs inside an allocation: what `backtrace` allocates on the way has no trace.

use super::generation::Control;
use super::id::Depth;
use super::intern::{self, Hash, Tail};
use crate::dropped;
use crate::sys::line::Line;
use crate::thread::Slot;

/// Physical frames kept beyond N: names are looked at only when shown, so plumbing can't be told yet.
const PLUMBING: usize = 32;
const MOST: usize = 256;

/// Nothing: `backtrace` finds the registers itself.
#[derive(Clone, Copy)]
pub(crate) struct Start;

/// The trace of the present stack, 0 where there is none.
#[inline(never)]
pub(crate) unsafe fn capture(line: &Line, _slot: &Slot, control: Control, _start: Start) -> u32 {
    if line.ours.get() != 0 || line.inside.get() != 0 {
        return 0;
    }
    line.inside.set(1);
    let mut frames = [0usize; MOST];
    let mut n = 0;
    let limit = usize::from(control.limit()).saturating_add(PLUMBING).min(MOST);
    let mut more = false;
    // SAFETY: this thread's hooks don't nest (`inside`); other threads unwind at the same time, which the unwinder
    // itself allows: what `backtrace` locks is its cache of names, not used here.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            let Some(place) = frames.get_mut(n).filter(|_| n < limit) else {
                more = true;
                return false;
            };
            *place = frame.ip() as usize;
            n = n.wrapping_add(usize::from(*place != 0));
            true
        });
    }
    line.inside.set(0);
    let Some(frames) = frames.get(..n).filter(|f| !f.is_empty()) else {
        dropped::CAPTURES.add(1);
        return 0;
    };
    let depth = if more { Depth::MoreThan(n as u32) } else { Depth::Exactly(n as u32) };
    let mut hash = Hash::new();
    frames.iter().for_each(|&frame| hash.add(frame));
    let tail = &mut |_| Tail { user_frames: n.min(usize::from(control.limit())) as u16, depth };
    intern::find(control, frames, hash).or_else(|| intern::intern(control, frames, hash, tail)).unwrap_or(0)
}

/// The trace of the present stack, for ordinary code; 0 where tracing is off or there is none. (Not only as far as the address:
/// whose frame that lies in isn't known.)
pub(crate) fn up_to(_high: usize) -> u32 {
    this_stack()
}

/// The trace of the present stack; 0 where tracing is off or there is none.
pub(crate) fn this_stack() -> u32 {
    let (line, control) = (crate::sys::line::line(), super::generation::control());
    if !control.on() {
        return 0;
    }
    // SAFETY: this thread's line and slot; `Start` is nothing here.
    unsafe { capture(line, crate::thread::slot(line), control, Start) }
}

/// The address of a kept frame.
pub(crate) fn address(kept: usize) -> usize {
    kept
}

/// The present stack for a report: how many addresses were written to `out`.
#[cold]
#[inline(never)]
pub(crate) fn addresses_from(_start: Start, out: &mut [usize]) -> (usize, u32) {
    let mut n = 0;
    // SAFETY: as in `capture`.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            let Some(place) = out.get_mut(n) else { return false };
            *place = frame.ip() as usize;
            n = n.wrapping_add(1);
            true
        });
    }
    (n, n as u32)
}

/// The present stack, for ordinary code.
pub(crate) fn here() -> Vec<usize> {
    let mut out = vec![0; 256];
    let (n, _) = addresses_from(Start, &mut out);
    out.truncate(n);
    out
}
