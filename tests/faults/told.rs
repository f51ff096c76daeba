//! A report, taken apart.

use std::fmt;

use super::child::Child;

/// One report.
pub struct Told {
    pub whole: String,
    pub kind: String,
    pub sentence: String,
    /// Label and lines, without the column of labels.
    rows: Vec<(String, Vec<String>)>,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in this report:\n{}", self.whole)
    }
}

impl Told {
    /// The reports in a text; every line must belong to one.
    #[track_caller]
    pub fn all(text: &str) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("birthmark: ") {
                let (kind, sentence) = rest.split_once(": ").unwrap_or_else(|| panic!("no sentence: {text}"));
                let (kind, sentence) = (kind.into(), sentence.into());
                all.push(Self { whole: String::new(), kind, sentence, rows: Vec::new() });
            }
            let told = all.last_mut().unwrap_or_else(|| panic!("before any report: {text}"));
            told.whole += line;
            told.whole.push('\n');
            if let Some(rest) = line.strip_prefix("  ") {
                let (label, words) = rest.split_at_checked(11).unwrap_or((rest, ""));
                match label.trim() {
                    "" => told.rows.last_mut().expect("a row").1.push(words.into()),
                    label => told.rows.push((label.into(), vec![words.into()])),
                }
            } else {
                assert!(
                    line.starts_with("birthmark: "),
                    "neither a first line nor a row: {line:?} in {text}"
                );
            }
        }
        all
    }

    /// The only report in a text.
    #[track_caller]
    pub fn of(text: &str) -> Self {
        let mut all = Self::all(text);
        assert_eq!(all.len(), 1, "exactly one report: {text}");
        all.remove(0)
    }

    /// The only thing that a child wrote to standard error.
    #[track_caller]
    pub fn one(child: &Child) -> Self {
        assert!(child.stderr.ends_with('\n'), "{child}");
        Self::of(&child.stderr)
    }

    #[track_caller]
    pub fn is(&self, kind: &str, sentence: &str) {
        assert_eq!((&*self.kind, &*self.sentence), (kind, sentence), "{self}");
    }

    /// A row's lines; nothing where there is no such row.
    pub fn lines(&self, label: &str) -> &[String] {
        self.rows.iter().find(|(name, _)| name == label).map_or(&[], |(_, lines)| lines)
    }

    /// A row's words.
    #[track_caller]
    pub fn row(&self, label: &str) -> String {
        let lines = self.lines(label);
        assert!(!lines.is_empty(), "no row {label:?} {self}");
        lines.join("\n")
    }

    /// Whether the first line of this stack is this function of the program's at this line; without line tables, at least
    /// the function.
    #[track_caller]
    pub fn leads(&self, label: &str, function: &str, line: u32) {
        let lines = self.lines(label);
        let first = lines.first().unwrap_or_else(|| panic!("no row {label:?} {self}"));
        let place = format!("tests/faults/program.rs:{line}");
        let right = if self.whole.contains("line numbers need") { function } else { &place };
        assert!(first.contains(right), "not {right} but {first:?} {self}");
    }
}
