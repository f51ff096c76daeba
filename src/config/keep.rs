//! Keeps the few paths and filters that the settings hold: the environment may be rewritten later, so they are copied into
//! memory of our own. No heap.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::settings::{Report, Settings};

/// The longest path that is accepted, as Linux's `PATH_MAX` without its NUL.
pub(super) const LONGEST: usize = 4095;

/// Room for the two paths and the filters of two allocators in one program.
const ROOM: usize = 6 * (LONGEST + 1);

struct Room(UnsafeCell<[u8; ROOM]>);

// SAFETY: every byte is written by the one `keep` that took its range from `TAKEN`, before the range is handed out
// as a shared slice, and never again.
unsafe impl Sync for Room {}

static MEMORY: Room = Room(UnsafeCell::new([0; ROOM]));
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// A copy of `bytes` for the life of the process, or none when the room is used up.
fn keep(bytes: &[u8]) -> Option<&'static [u8]> {
    let start = TAKEN
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
            taken.checked_add(bytes.len()).filter(|end| *end <= ROOM)
        })
        .ok()?;
    // SAFETY: `start + len <= ROOM` was checked above, so the range lies in MEMORY; the update gave this call alone
    // the range, so nobody else reads or writes it; it is fully initialised by the copy before the slice is made.
    unsafe {
        let place = MEMORY.0.get().cast::<u8>().add(start);
        place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        Some(core::slice::from_raw_parts(place, bytes.len()))
    }
}

impl Settings<'_> {
    /// The same settings, with their paths and filters kept for the life of the process.
    pub(super) fn kept(self) -> Settings<'static> {
        let Settings { tracemalloc, forbidden, heap, watch, warnings, report, at_exit } = self;
        let warnings = keep(warnings).unwrap_or_default();
        let Report { json, full, color, level, file } = report;
        let report = Report { json, full, color, level, file: file.and_then(keep) };
        let at_exit = at_exit.map(|file| file.and_then(keep));
        Settings { tracemalloc, forbidden, heap, watch, warnings, report, at_exit }
    }
}
