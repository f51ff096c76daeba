//! Every setting, from the environment and from the code, with its default.
//!
//! Read once, before `main` or at the first allocation, whichever comes first; runs inside an allocation.

mod env;
mod parse;
mod value;

use core::time::Duration;

use once_cell::race::OnceRef;

pub(crate) use env::ensure_linked;
pub(crate) use parse::parse;

/// What the code says where the variables say nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    pub tracemalloc: Option<u16>,
    pub malloc: Option<&'static str>,
    pub dev: bool,
}

impl Defaults {
    pub(crate) const NONE: Self = Self { tracemalloc: None, malloc: None, dev: false };
}

/// Why the debug heap is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    Asked,
    /// A build with `debug_assertions`: the first report says so.
    DebugAssertions,
}

/// The debug heap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Heap {
    /// Bytes that freed blocks may wait in.
    pub quarantine: usize,
    /// Whether the program goes on after a report; else it aborts.
    pub go_on: bool,
    pub why: Why,
}

/// The runtime's diagnostics, as the variable has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(feature = "tokio"), allow(dead_code))]
pub(crate) struct Async {
    /// What `BIRTHMARK_ASYNC_DEBUG` itself says.
    pub asked: Option<bool>,
    /// On by it, or by dev mode.
    pub on: bool,
    /// The limit of a poll.
    pub slow: Duration,
    /// Whether the budget of a poll in progress may be raised, to prove that it is one.
    pub coop: bool,
}

/// When reports are coloured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Color {
    /// On a terminal, as `NO_COLOR` and `CLICOLOR_FORCE` say.
    Auto,
    Always,
    Never,
}

/// Which reports are written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Level {
    /// Faults of the heap and panics that nobody read.
    Error,
    /// Warnings too.
    Warning,
    /// Notes too, such as a resolved warning's end.
    Info,
}

/// How reports are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Report {
    pub json: bool,
    pub full: bool,
    pub color: Color,
    pub level: Level,
    /// Where to; `%p` is the process id. Standard error where it isn't given.
    pub file: Option<&'static [u8]>,
}

/// All settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Settings {
    /// User frames kept for each block; 0: not traced.
    pub tracemalloc: u16,
    /// `TRACEMALLOC=0`: off over everything.
    pub forbidden: bool,
    pub heap: Option<Heap>,
    pub watch: Async,
    pub report: Report,
    /// At exit the ten lines that hold most are told: to a file, or to standard error.
    pub at_exit: Option<Option<&'static [u8]>>,
}

impl Settings {
    const OFF: Self = Self {
        tracemalloc: 0,
        forbidden: false,
        heap: None,
        watch: Async { asked: None, on: false, slow: Duration::from_millis(100), coop: true },
        report: Report { json: false, full: false, color: Color::Auto, level: Level::Info, file: None },
        at_exit: None,
    };
}

static SETTINGS: OnceRef<'static, Settings> = OnceRef::new();
static OFF: Settings = Settings::OFF;

/// The settings, once they were read; all off before.
pub(crate) fn settings() -> &'static Settings {
    SETTINGS.get().unwrap_or(&OFF)
}

/// Reads the settings of a program whose code says `defaults`. A bad value ends the process here with one line.
#[cold]
pub(crate) fn read(defaults: &Defaults) -> &'static Settings {
    ensure_linked();
    crate::report::at_exit::ensure_linked();
    if let Some(settings) = SETTINGS.get() {
        return settings;
    }
    let read = match parse(&env::variable, defaults) {
        Ok(settings) => settings,
        Err(bad) => env::refuse(&bad),
    };
    let Some(place) = crate::sys::map(size_of::<Settings>()) else { return &OFF };
    let place: *mut Settings = place.as_ptr().cast();
    // SAFETY: fresh pages of our own, aligned and large enough; never unmapped, and never written again.
    let fresh: &'static Settings = unsafe {
        place.write(read);
        &*place
    };
    let _ = SETTINGS.set(fresh);
    settings()
}
