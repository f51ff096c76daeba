//! Every setting with its default: read once from the process's environment, before anything else of ours runs.
//!
//! Runs inside the first allocation of a program, which comes before `main`: no heap, no lock, no panic, no
//! `std::env` (it allocates). The order is: [`env`] finds a variable's bytes, one file a variable turns them into
//! a plain value, [`parse`] decides who wins, [`refuse`] tells a value that can't be read and stops the program.
//!
//! A variable wins over a const default in code, a variable of its own over `BIRTHMARK_DEV`, and in code
//! `.malloc(..)` and `.tracemalloc(..)` over `.dev()`.

#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used, clippy::panic)]

mod async_debug;
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
mod words;

#[allow(unused_imports)]
pub(crate) use settings::{
    Color, ConstDefaults, Format, Heap, Level, OnError, ReportSettings, Settings, SnapshotExit, Why,
};

/// The variables we read; any other that begins with `BIRTHMARK_` is told as unknown.
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

/// The settings of this process. A value that can't be read is told in one line, and ends the process with
/// status 2. Allocates nothing; `errno` may change.
pub(crate) fn settings(defaults: &ConstDefaults) -> Settings<'static> {
    #[cfg(target_os = "linux")]
    core::hint::black_box(&BEFORE_MAIN); // pulls the constructor in from the rlib
    // SAFETY: the values are used within this call only, and their paths copied by `kept`. That no other thread
    // changes the environment meanwhile is what `std::env::set_var` and `setenv` demand of their callers; we run
    // at the first allocation, before `main` in every program that doesn't load us later.
    let mut variables = |name: &str| unsafe { env::variable(name) };
    match parse::parse(&mut variables, defaults) {
        Ok(settings) => settings.kept(),
        Err(bad) => refuse::stop(&bad),
    }
}

/// Checks every variable and tells the unknown ones: runs before `main`, whether or not anything was allocated.
#[cfg(target_os = "linux")]
extern "C" fn before_main() {
    // SAFETY: as in `settings`; nothing found outlives this call. Constructors run on the one first thread, or in
    // the thread that loads us.
    let mut variables = |name: &str| unsafe { env::variable(name) };
    if let Err(bad) = parse::parse(&mut variables, &ConstDefaults::NONE) {
        refuse::stop(&bad);
    }
    // SAFETY: as above.
    unsafe { env::each_unknown(&KNOWN, &mut refuse::warn_unknown) }
}

/// Runs `before_main` among the earliest constructors.
// SAFETY: an entry of `.init_array` is called once by the C runtime with (argc, argv, envp); a C function that
// takes no arguments may be called so on every ABI that Linux uses.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".init_array.00099")]
static BEFORE_MAIN: extern "C" fn() = before_main;
