//! Every setting, from the environment and from the code, with its default.
//!
//! Read once, before `main` or at the first allocation, whichever comes first; runs inside an allocation: no heap, no
//! lock, no panic, no `std::env` (it allocates). The order is: [`env`] finds a variable's bytes, one file a variable
//! turns them into a plain value, [`parse`] decides who wins, [`refuse`] tells a value that can't be read and ends the
//! program.
//!
//! A variable wins over the code, a variable of its own over `BIRTHMARK_DEV`, and in the code `.malloc(..)` and
//! `.tracemalloc(..)` over `.dev()`.

mod async_debug;
mod before_main;
mod env;
mod keep;
mod malloc;
mod parse;
mod refuse;
mod report;
mod settings;
mod snapshot;
#[cfg(test)]
mod tests;
mod tracemalloc;
pub(crate) mod warnings;
mod words;

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use once_cell::race::OnceRef;

pub use settings::Level;
#[allow(unused_imports)]
pub(crate) use settings::{Async, Color, Defaults, Heap, Report, Settings, Why};
pub use warnings::Action;

/// The variables that mean something; any other that begins with `BIRTHMARK_` is told as unknown.
const KNOWN: [&str; 8] = [
    "TRACEMALLOC",
    "BIRTHMARK_MALLOC",
    "BIRTHMARK_ASYNC_DEBUG",
    "BIRTHMARK_DEV",
    "BIRTHMARK_REPORT",
    "BIRTHMARK_SNAPSHOT",
    "BIRTHMARK_WARNINGS",
    "BIRTHMARK_BUDGETS",
];

static SETTINGS: OnceRef<'static, Settings<'static>> = OnceRef::new();
static OFF: Settings<'static> = Settings::OFF;
/// Room for the first to read them, so that a program with nothing on maps nothing.
static ROOM: Room = Room { taken: AtomicBool::new(false), settings: UnsafeCell::new(Settings::OFF) };

struct Room {
    taken: AtomicBool,
    settings: UnsafeCell<Settings<'static>>,
}

// SAFETY: the settings are written by the one that found the room free, and shared only after that.
unsafe impl Sync for Room {}

/// The settings, once they were read; all off before.
pub(crate) fn settings() -> &'static Settings<'static> {
    SETTINGS.get().unwrap_or(&OFF)
}

/// Reads the settings of a program whose code says `defaults`. A bad value ends the process here with one line and status
/// 2.
#[cold]
pub(crate) fn read(defaults: &Defaults) -> &'static Settings<'static> {
    before_main::ensure_linked();
    crate::report::at_exit::ensure_linked();
    if let Some(settings) = SETTINGS.get() {
        return settings;
    }
    // SAFETY: the values are used within this call only, and their paths copied by `kept`. That no other thread changes the
    // environment meanwhile is what `std::env::set_var` and `setenv` demand of their callers; we run at the first
    // allocation, before `main` in every program that doesn't load us later.
    let mut variables = |name: &str| unsafe { env::variable(name) };
    let read = match parse::parse(&mut variables, defaults, cfg!(debug_assertions)) {
        Ok(settings) => settings.kept(),
        Err(bad) => refuse::stop(&bad),
    };
    let place = if !ROOM.taken.swap(true, Relaxed) {
        ROOM.settings.get()
    } else {
        let Some(place) = crate::sys::map(size_of::<Settings<'static>>()) else { return &OFF };
        place.as_ptr().cast::<Settings<'static>>()
    };
    // SAFETY: the room, which nobody else was or will be given, or fresh pages of our own, aligned and large enough; never
    // unmapped, and never written again.
    let fresh: &'static Settings<'static> = unsafe {
        place.write(read);
        &*place
    };
    let _ = SETTINGS.set(fresh);
    settings()
}
