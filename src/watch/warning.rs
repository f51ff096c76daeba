//! A report of the runtime side as plain data: what happened, in one sentence, and rows of facts.

use super::verdict::Case;
use crate::config::Level;
use crate::report::record::TOUCHED;

/// The field's own word for what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// `slow-callback`: one poll took longer than it may.
    SlowCallback,
    /// `worker-busy`: a worker of the runtime didn't come back for longer than a poll may take.
    WorkerBusy,
    /// `resource-warning`: something was dropped with work undone.
    ResourceWarning,
    /// `task-error`: a task panicked and nobody read it.
    TaskError,
    /// `never-awaited`: a future was dropped that had never been polled.
    NeverAwaited,
    /// `wrong-thread`: something was used or dropped on a thread that it doesn't belong to.
    WrongThread,
    /// `wrong-runtime`: something was used in another runtime than its own, or after its own had ended.
    WrongRuntime,
    /// `blocking-call`: a function that blocks its thread was called inside of a poll.
    BlockingCall,
    /// `lock-across-await`: a lock of std was held while its task waited.
    LockAcrossAwait,
    /// `task-destroyed`: tasks were pending when their runtime closed, or a future was dropped that must complete.
    TaskDestroyed,
    /// `slow-driver`: a turn of the runtime's driver took longer than a poll may take.
    SlowDriver,
    /// `slow-lookup`: a name was looked up for longer than a poll may take.
    SlowLookup,
    /// `pool-starved`: a blocking pool didn't begin a job for longer than a poll may take.
    PoolStarved,
    /// `task-leak`: a task went on after the test that spawned it.
    TaskLeak,
    /// `lookup`: a name was looked up. Told with `BIRTHMARK_REPORT=level=debug` alone.
    Lookup,
    /// `driver-turn`: a thread of a runtime waited for events. Told with `BIRTHMARK_REPORT=level=debug` alone.
    DriverTurn,
    /// `task-start`: a wrapped task was spawned. Told with `BIRTHMARK_REPORT=level=debug` alone, of what `birthmark::tokio::spawn` and
    /// its likes spawn: a `.watched()` future may be a part of a task, on tokio and on other executors, and isn't told.
    TaskStart,
    /// `task-end`: such a task has ended. Told with `BIRTHMARK_REPORT=level=debug` alone.
    TaskEnd,
}

impl Kind {
    /// All that there are.
    pub(crate) const ALL: [Self; 18] = [
        Self::SlowCallback,
        Self::WorkerBusy,
        Self::ResourceWarning,
        Self::TaskError,
        Self::NeverAwaited,
        Self::WrongThread,
        Self::WrongRuntime,
        Self::BlockingCall,
        Self::LockAcrossAwait,
        Self::TaskDestroyed,
        Self::SlowDriver,
        Self::SlowLookup,
        Self::PoolStarved,
        Self::TaskLeak,
        Self::Lookup,
        Self::DriverTurn,
        Self::TaskStart,
        Self::TaskEnd,
    ];

    /// As reports and filters write it: `resource-warning`.
    pub fn name(self) -> &'static str {
        match self {
            Self::SlowCallback => "slow-callback",
            Self::WorkerBusy => "worker-busy",
            Self::ResourceWarning => "resource-warning",
            Self::TaskError => "task-error",
            Self::NeverAwaited => "never-awaited",
            Self::WrongThread => "wrong-thread",
            Self::WrongRuntime => "wrong-runtime",
            Self::BlockingCall => "blocking-call",
            Self::LockAcrossAwait => "lock-across-await",
            Self::TaskDestroyed => "task-destroyed",
            Self::SlowDriver => "slow-driver",
            Self::SlowLookup => "slow-lookup",
            Self::PoolStarved => "pool-starved",
            Self::TaskLeak => "task-leak",
            Self::Lookup => "lookup",
            Self::DriverTurn => "driver-turn",
            Self::TaskStart => "task-start",
            Self::TaskEnd => "task-end",
        }
    }

    pub(crate) fn level(self) -> Level {
        match self {
            Self::TaskError => Level::Error,
            Self::Lookup | Self::DriverTurn | Self::TaskStart | Self::TaskEnd => Level::Debug,
            _ => Level::Warning,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// One fact: words, or a stack of return addresses (most recent first), or both.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub label: &'static str,
    pub words: Option<String>,
    pub stack: Vec<usize>,
    /// Stands beside the stack's first line.
    pub note: Option<String>,
    /// The place in the program that the words tell, by which a warning is known again; a stack always is one.
    pub place: Option<String>,
}

impl Row {
    pub(crate) fn words(label: &'static str, words: String) -> Self {
        Self { label, words: Some(words), ..Self::default() }
    }
    pub(crate) fn place(label: &'static str, place: &std::panic::Location<'_>) -> Self {
        let words = format!("{}:{}", place.file(), place.line());
        Self { place: Some(words.clone()), ..Self::words(label, words) }
    }
    pub(crate) fn stack(label: &'static str, stack: Vec<usize>) -> Self {
        Self { label, stack, ..Self::default() }
    }
    /// Whether its place is part of the warning's site; where something was touched last varies with what it did.
    pub(crate) fn is_site(&self) -> bool {
        self.label != TOUCHED
    }
    pub(crate) fn noted(mut self, note: String) -> Self {
        self.note = Some(note);
        self
    }
}

/// One report.
#[derive(Clone, Debug)]
pub(crate) struct Warning {
    pub kind: Kind,
    pub sentence: String,
    pub rows: Vec<Row>,
    /// What it says of something that lasts.
    pub case: Case,
    /// Each was asked for: told however often it came.
    pub every: bool,
    /// The test in which it arose, by its number; 0: none.
    pub test: u64,
}

impl Warning {
    pub(crate) fn new(kind: Kind, sentence: String, rows: Vec<Row>) -> Self {
        Self { kind, sentence, rows, case: Case::Whole, every: false, test: super::trial::here() }
    }

    /// For one that is put into words on another thread than the one on which it arose.
    pub(crate) fn of_test(self, test: u64) -> Self {
        Self { test, ..self }
    }

    pub(crate) fn of_case(self, case: Case) -> Self {
        Self { case, ..self }
    }
}
