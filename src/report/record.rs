//! A report as plain data: what happened, its stacks, and what helps.

use std::borrow::Cow;

use super::damage::Part;
use crate::config::Level;
use crate::trace::frame::{Frame, Traceback};

/// The label of where something was touched last: of it the first line alone is shown where a report would grow long.
pub(crate) const TOUCHED: &str = "touched";

/// A report, ready to be written as text or JSON.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Report {
    /// The field's own word, such as `heap-buffer-overflow`.
    pub kind: &'static str,
    pub level: Level,
    /// One sentence with its number and its limit.
    pub sentence: String,
    pub rows: Vec<Row>,
    /// Each a switch that adds what is missing.
    pub help: Vec<String>,
}

/// One part of a report's body.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Row {
    Text(&'static str, String),
    Damage(Vec<Part>),
    Stack(Stack),
}

/// A stack with what is to be said of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stack {
    pub label: &'static str,
    /// Before the first frame, such as `at free in`.
    pub before: String,
    pub traceback: Traceback,
    /// Whose stack it is, by its name or number; empty where that isn't known or nobody needs it.
    pub thread: String,
    /// Behind the first frame and the thread, such as `task 17`.
    pub behind: String,
}

impl Stack {
    /// What stands behind the first frame.
    pub(super) fn who(&self) -> String {
        let thread = if self.thread.is_empty() { "" } else { "thread " };
        let comma = if self.thread.is_empty() || self.behind.is_empty() { "" } else { ", " };
        format!("{thread}{}{comma}{}", self.thread, self.behind)
    }
}

impl Report {
    pub(crate) fn new(kind: &'static str, level: Level, sentence: impl Into<String>) -> Self {
        Self { kind, level, sentence: sentence.into(), rows: Vec::new(), help: Vec::new() }
    }

    /// Adds a row of text.
    pub(crate) fn row(mut self, label: &'static str, text: impl Into<String>) -> Self {
        self.rows.push(Row::Text(label, text.into()));
        self
    }

    /// Adds what was damaged.
    pub(crate) fn damage(mut self, parts: Vec<Part>) -> Self {
        self.rows.push(Row::Damage(parts));
        self
    }

    /// Adds a stack, and the help that it calls for.
    pub(crate) fn stack(mut self, stack: Stack) -> Self {
        if let Some(shortened) = stack.traceback.shortened() {
            let all = match stack.traceback.depth() {
                Some(depth) => format!("{shortened}; TRACEMALLOC={depth} keeps them all"),
                None => format!("{shortened}; a larger TRACEMALLOC keeps more"),
            };
            self.help(all);
        }
        // The line that leads is what people look for; a C library's further down may well have both.
        let lead = stack.traceback.frames().next();
        let nameless = lead.is_none_or(|f| f.function.is_none());
        let lineless = lead.is_none_or(|f| f.file.is_none());
        if nameless {
            self.help("function names need symbols: no `strip = true` under [profile.release] in Cargo.toml");
        } else if lineless {
            self.help(
                "line numbers need `debug = \"line-tables-only\"` under [profile.release] in Cargo.toml",
            );
        }
        self.rows.push(Row::Stack(stack));
        self
    }

    /// Adds a line of help, once.
    pub(crate) fn help(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.help.contains(&text) {
            self.help.push(text);
        }
    }
}

/// A line of a stack as it is shown: the function, where, and through which dependency the user's own code came here.
pub(crate) struct Shown<'a> {
    pub function: Cow<'a, str>,
    pub place: String,
    pub via: Option<String>,
}

/// The frames of a stack, the user's own most recent one first.
pub(crate) fn shown(traceback: &Traceback, full: bool) -> Vec<Shown<'_>> {
    let line = |frame: &'_ Frame, via: Option<String>| Shown {
        function: Cow::Owned(frame.function.as_deref().unwrap_or("").to_owned()),
        place: frame.place(),
        via,
    };
    if full {
        return traceback.all_frames().iter().map(|f| line(f, None)).collect();
    }
    let mut via = traceback.via_words();
    traceback.frames().map(|f| line(f, via.take())).collect()
}
