//! The settings as plain data.

use core::time::Duration;

/// All settings of the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Settings<'a> {
    /// User frames kept for each block from the first allocation on, 1 to 65535; 0: not traced.
    pub tracemalloc: u16,
    /// `TRACEMALLOC=0`: off over everything, so `start` does nothing either.
    pub forbidden: bool,
    /// The debug heap, or none.
    pub heap: Option<Heap>,
    /// The runtime's diagnostics.
    pub watch: Async,
    /// Which warnings are told: the filters as `BIRTHMARK_WARNINGS` writes them, checked; empty: none.
    pub warnings: &'a [u8],
    /// How reports are written.
    pub report: Report<'a>,
    /// `BIRTHMARK_SNAPSHOT=exit`: at exit the ten lines that hold most are told, to a file or to standard error.
    pub at_exit: Option<Option<&'a [u8]>>,
}

impl Settings<'static> {
    /// Nothing on.
    pub(super) const OFF: Self = Self {
        tracemalloc: 0,
        forbidden: false,
        heap: None,
        watch: Async { asked: None, on: false, slow: Duration::from_millis(100), coop: true },
        warnings: b"",
        report: Report::DEFAULT,
        at_exit: None,
    };
}

/// The debug heap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Heap {
    /// Bytes that freed blocks may wait in; 0: none.
    pub quarantine: usize,
    /// Whether the program goes on after a report; else it aborts.
    pub go_on: bool,
    /// Who switched it on.
    pub why: Why,
}

/// Who switched the debug heap on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// `BIRTHMARK_MALLOC`.
    Variable,
    /// `BIRTHMARK_DEV=1`, or `.dev()` in code.
    Dev,
    /// `.malloc(..)` in code.
    Code,
    /// A build with `debug_assertions`, and nothing set: the first report says so.
    DebugAssertions,
}

/// The runtime's diagnostics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(feature = "tokio"), allow(dead_code))]
pub(crate) struct Async {
    /// What `BIRTHMARK_ASYNC_DEBUG` itself says.
    pub asked: Option<bool>,
    /// On by it, or by dev mode.
    pub on: bool,
    /// A poll longer than this is slow; zero: every poll.
    pub slow: Duration,
    /// Whether the budget of a poll in progress may be raised, to prove that it is one.
    pub coop: bool,
}

/// How reports are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Report<'a> {
    /// One JSON object a line instead of words for people.
    pub json: bool,
    /// Every frame and every row.
    pub full: bool,
    /// When to colour, with what `NO_COLOR`, `CLICOLOR_FORCE` and `TERM` say already in it.
    pub color: Color,
    /// The least severe report that is written.
    pub level: Level,
    /// Where to; `%p` is the process id, `%%` a percent sign. Standard error where it isn't given.
    pub file: Option<&'a [u8]>,
}

impl Report<'_> {
    /// Text on standard error.
    pub(super) const DEFAULT: Report<'static> =
        Report { json: false, full: false, color: Color::Auto, level: Level::Info, file: None };
}

/// When reports are coloured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Color {
    /// On a terminal.
    Auto,
    Always,
    Never,
}

/// How severe a report is; the most severe first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Faults of the heap, panics that nobody read, and what a filter makes an error.
    Error,
    /// Warnings too.
    Warning,
    /// Notes too, such as a resolved warning's end.
    Info,
    /// What goes as it should too: each wrapped task's start and end.
    Debug,
}

impl Level {
    /// As reports write it: `warning`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

impl core::fmt::Display for Level {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(self.name())
    }
}

/// What the code at the `#[global_allocator]` says where the variables say nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    /// `.tracemalloc(n)`.
    pub tracemalloc: Option<u16>,
    /// `.malloc("..")`, in the grammar of `BIRTHMARK_MALLOC`.
    pub malloc: Option<&'static str>,
    /// `.dev()`.
    pub dev: bool,
}

impl Defaults {
    /// Nothing.
    pub(crate) const NONE: Self = Self { tracemalloc: None, malloc: None, dev: false };
}
