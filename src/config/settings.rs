//! The settings as plain data.

use core::time::Duration;

/// Everything that the variables and the code's const defaults decide, for the whole process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings<'a> {
    /// Frames of the user's to trace from the first allocation on, 1 to 65535; 0: not traced.
    pub tracemalloc: u16,
    /// `TRACEMALLOC=0`: off, over everything, so `start` does nothing either.
    pub tracemalloc_forced_off: bool,
    /// The debug heap, or none.
    pub malloc: Option<Heap>,
    /// Who decided `malloc`.
    pub why_heap: Why,
    /// The runtime's diagnostics are on from the start.
    pub async_debug: bool,
    /// `BIRTHMARK_ASYNC_DEBUG` itself is why, so a program that never attached a runtime is told so at exit.
    pub async_debug_by_variable: bool,
    /// `BIRTHMARK_ASYNC_DEBUG=0`: off, also for `run(true, ..)`.
    pub async_forced_off: bool,
    /// A poll longer than this is slow; zero: every poll.
    pub slow: Duration,
    /// Whether the watchdog may use tokio's coop budget to prove that a poll is one poll.
    pub coop: bool,
    /// How reports are written.
    pub report: ReportSettings<'a>,
    /// `BIRTHMARK_SNAPSHOT=exit`: a snapshot at the program's end.
    pub snapshot_exit: Option<SnapshotExit<'a>>,
}

/// The debug heap's own dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heap {
    /// At most so many bytes of freed blocks are held back; 0: none.
    pub quarantine: usize,
    /// What follows a report of heap corruption.
    pub on_error: OnError,
}

/// What follows a report of heap corruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnError {
    /// SIGABRT.
    Abort,
    /// The program goes on.
    Continue,
}

/// Who decided whether there is a debug heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// `BIRTHMARK_MALLOC`.
    Variable,
    /// `BIRTHMARK_DEV=1`, or `.dev()` in code.
    Dev,
    /// `.malloc(..)` in code.
    Code,
    /// A build with `debug_assertions`, and nothing set.
    DebugAssertions,
    /// Nobody: it is off.
    Nobody,
}

/// How reports are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReportSettings<'a> {
    /// Words for people or one JSON object a line.
    pub format: Format,
    /// Every frame and every row.
    pub full: bool,
    /// When to colour.
    pub color: Color,
    /// The least severe report that is written.
    pub level: Level,
    /// Where to, with `%p` for the process id; none: standard error.
    pub file: Option<&'a [u8]>,
}

impl ReportSettings<'_> {
    /// Text on standard error.
    pub(crate) const DEFAULT: ReportSettings<'static> = ReportSettings {
        format: Format::Text,
        full: false,
        color: Color::Auto,
        level: Level::Info,
        file: None,
    };
}

/// Words for people or one JSON object a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The shape of a report as people read it.
    Text,
    /// One object a line.
    Json,
}

/// When text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How severe a report is; ordered, the mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Notes, such as what was dropped for want of memory.
    Info,
    /// The runtime's warnings.
    Warning,
    /// Heap corruption, and panics that nobody read.
    Error,
}

/// A snapshot at the program's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotExit<'a> {
    /// Where to, with `%p` for the process id; none: the top ten on standard error.
    pub file: Option<&'a [u8]>,
}

/// What the code at the `#[global_allocator]` asks for; every variable wins over it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConstDefaults {
    /// `.tracemalloc(n)`.
    pub tracemalloc: Option<u16>,
    /// `.malloc("..")`, in the grammar of `BIRTHMARK_MALLOC`.
    pub malloc: Option<&'static str>,
    /// `.dev()`.
    pub dev: bool,
    /// The crate that holds the allocator was built with `debug_assertions`.
    pub debug_assertions: bool,
}

impl ConstDefaults {
    /// Nothing asked for in code.
    pub(crate) const NONE: Self =
        Self { tracemalloc: None, malloc: None, dev: false, debug_assertions: false };
}
