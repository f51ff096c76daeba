//! A report as plain data: what it is, one sentence, and rows of words and stacks.

use core::fmt::Display;

use crate::config::Level;

/// A report, ready to be written in any format. Everything is borrowed: nothing here needs a heap.
#[derive(Clone, Copy)]
pub(crate) struct Report<'a> {
    /// Its kind.
    pub kind: Kind,
    /// One sentence with its number and its limit, without the kind and without a full stop.
    pub sentence: &'a dyn Display,
    /// The numbers of the sentence by name, for machines.
    pub numbers: &'a [(&'static str, i128)],
    /// The rest, in the order in which it is read. Each label comes once.
    pub rows: &'a [Row<'a>],
}

/// One row of a report: a label and what it says.
#[derive(Clone, Copy)]
pub(crate) enum Row<'a> {
    /// Words; a line break begins a further line under the same label.
    Words(&'static str, &'a dyn Display),
    /// A stack.
    Stack(ReportStack<'a>),
}

/// A stack and whose it is.
#[derive(Clone, Copy)]
pub(crate) struct ReportStack<'a> {
    /// `allocated`, `freed`, `found`, `spawned`, ..
    pub label: &'static str,
    /// What comes before the first function, such as `at free in`; may be empty.
    pub intro: &'a str,
    /// The thread's name.
    pub thread: Option<&'a str>,
    /// The task's id.
    pub task: Option<u64>,
    /// The task's name: its future's type, where that is known.
    pub task_name: Option<&'a str>,
    /// Most recent first, plumbing included, inlined functions before the one that holds them.
    pub frames: &'a [ReportFrame<'a>],
}

/// One frame, with as much of it as is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReportFrame<'a> {
    /// The return address; 0 where there is none.
    pub address: usize,
    /// The function's path, without a hash; empty where it isn't known.
    pub function: &'a str,
    /// The source file, as the debug information has it; empty where it isn't known.
    pub file: &'a str,
    /// Its line; 0 where it isn't known.
    pub line: u32,
    /// The name of the program or library; empty where it isn't known.
    pub module: &'a str,
    /// The place in that module.
    pub offset: usize,
    /// Whose code it is.
    pub owner: Owner,
}

/// Whose code a frame is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The user's own.
    #[default]
    User,
    /// A dependency that the user chose.
    Dependency,
    /// The allocator, std, the runtime, the test harness.
    Plumbing,
}

/// What a report is about: the field's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Written past the end of a block.
    HeapBufferOverflow,
    /// Written before the start of a block.
    HeapBufferUnderflow,
    /// Written to after it was freed.
    UseAfterFree,
    /// Freed twice.
    DoubleFree,
    /// Freed, but no block.
    InvalidFree,
    /// Freed with a wrong layout.
    LayoutMismatch,
    /// Never freed.
    Leak,
    /// A poll over its limit.
    SlowCallback,
    /// A worker that is stuck in it isn't known what.
    WorkerBusy,
    /// A future that was dropped before its first poll.
    NeverAwaited,
    /// A task dropped before it was done.
    TaskDestroyed,
    /// A task's panic that nobody read.
    TaskError,
    /// A task that outlives its scope.
    TaskLeak,
    /// Dropped with work undone.
    ResourceWarning,
    /// Used on another thread than its own.
    WrongThread,
    /// Used in another runtime than its own.
    WrongRuntime,
    /// A call that blocks its worker.
    BlockingCall,
    /// A lock held over an await.
    LockAcrossAwait,
    /// The runtime's driver comes too late.
    SlowDriver,
    /// Looking up a name blocks.
    SlowLookup,
    /// No thread left in the blocking pool.
    PoolStarved,
    /// What we could not do, such as traces dropped for want of memory.
    Note,
}

impl Kind {
    /// As it stands in a report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::HeapBufferOverflow => "heap-buffer-overflow",
            Self::HeapBufferUnderflow => "heap-buffer-underflow",
            Self::UseAfterFree => "use-after-free",
            Self::DoubleFree => "double-free",
            Self::InvalidFree => "invalid-free",
            Self::LayoutMismatch => "layout-mismatch",
            Self::Leak => "leak",
            Self::SlowCallback => "slow-callback",
            Self::WorkerBusy => "worker-busy",
            Self::NeverAwaited => "never-awaited",
            Self::TaskDestroyed => "task-destroyed",
            Self::TaskError => "task-error",
            Self::TaskLeak => "task-leak",
            Self::ResourceWarning => "resource-warning",
            Self::WrongThread => "wrong-thread",
            Self::WrongRuntime => "wrong-runtime",
            Self::BlockingCall => "blocking-call",
            Self::LockAcrossAwait => "lock-across-await",
            Self::SlowDriver => "slow-driver",
            Self::SlowLookup => "slow-lookup",
            Self::PoolStarved => "pool-starved",
            Self::Note => "note",
        }
    }

    /// How severe it is, for `BIRTHMARK_REPORT=level=`.
    pub(crate) fn level(self) -> Level {
        match self {
            Self::HeapBufferOverflow
            | Self::HeapBufferUnderflow
            | Self::UseAfterFree
            | Self::DoubleFree
            | Self::InvalidFree
            | Self::LayoutMismatch
            | Self::TaskError
            | Self::WrongThread
            | Self::WrongRuntime => Level::Error,
            Self::Note => Level::Info,
            _ => Level::Warning,
        }
    }

    /// As it stands in a report's JSON.
    pub(crate) fn level_name(self) -> &'static str {
        match self.level() {
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}
