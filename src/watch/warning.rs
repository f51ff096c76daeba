//! A report of the runtime side as plain data: what happened, in one sentence, and rows of facts.

/// The field's own word for what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "tokio"), allow(dead_code))]
pub(crate) enum Kind {
    SlowCallback,
    WorkerBusy,
    ResourceWarning,
    TaskError,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SlowCallback => "slow-callback",
            Self::WorkerBusy => "worker-busy",
            Self::ResourceWarning => "resource-warning",
            Self::TaskError => "task-error",
        }
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
}

impl Row {
    pub(crate) fn words(label: &'static str, words: String) -> Self {
        Self { label, words: Some(words), ..Self::default() }
    }
    pub(crate) fn stack(label: &'static str, stack: Vec<usize>) -> Self {
        Self { label, stack, ..Self::default() }
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
}
