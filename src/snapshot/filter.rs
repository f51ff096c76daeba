//! Filters: which traces of a snapshot stay, by CPython's rules.

use crate::trace::frame::{Traceback, shown};

/// Lets traces through, or keeps them out, by the file and the line of their frames.
///
/// ```
/// use birthmark::Filter;
/// let mine = Filter::include("src/*");
/// let not_the_cache = Filter::exclude("src/cache.rs").line(41);
/// # let _ = (mine, not_the_cache);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    inclusive: bool,
    file: String,
    line: Option<u32>,
    all_frames: bool,
}

impl Filter {
    /// Lets through what lies in files that match: `*` any text, `?` one character, `[a-z]` and `[!a-z]` one of a set. A
    /// pattern is compared with the path as it is shown and with the whole path.
    pub fn include(file: impl Into<String>) -> Self {
        Self { inclusive: true, file: file.into(), line: None, all_frames: false }
    }

    /// Keeps out what lies in files that match.
    pub fn exclude(file: impl Into<String>) -> Self {
        Self { inclusive: false, ..Self::include(file) }
    }

    /// Only this line of the file.
    pub fn line(mut self, line: u32) -> Self {
        self.line = Some(line);
        self
    }

    /// Compares every frame, not the most recent alone.
    pub fn all_frames(mut self) -> Self {
        self.all_frames = true;
        self
    }

    fn matches(&self, traceback: &Traceback) -> bool {
        let n = if self.all_frames { usize::MAX } else { 1 };
        traceback.frames().take(n).any(|frame| {
            let file = frame.file().unwrap_or("");
            (glob(self.file.as_bytes(), file.as_bytes())
                || glob(self.file.as_bytes(), shown(file).as_bytes()))
                && self.line.is_none_or(|line| line == frame.line())
        })
    }
}

pub(crate) fn admits(filters: &[&Filter], traceback: &Traceback) -> bool {
    let mut inclusive = filters.iter().filter(|f| f.inclusive).peekable();
    let included = inclusive.peek().is_none() || inclusive.any(|f| f.matches(traceback));
    included && !filters.iter().any(|f| !f.inclusive && f.matches(traceback))
}

/// Shell patterns as Python's `fnmatchcase` has them.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // Where the last star stands, and how much text it has taken.
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match one(&pattern[p..], text[t]) {
            Some(n) if n > 0 => (p, t) = (p + n, t + 1),
            Some(_) => {
                star = Some((p + 1, t));
                p += 1;
            }
            None => match &mut star {
                Some((after, taken)) => {
                    *taken += 1;
                    (p, t) = (*after, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// How many bytes of the pattern match `byte`; 0: a star.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern.first()? {
        b'*' => Some(0),
        b'?' => Some(1),
        b'[' => {
            let negated = pattern.get(1) == Some(&b'!');
            let first = 1 + usize::from(negated);
            // A `]` right at the beginning belongs to the set; without an end `[` is itself.
            let Some(end) = (first + 1..pattern.len()).find(|i| pattern[*i] == b']') else {
                return (byte == b'[').then_some(1);
            };
            let (mut i, mut inside) = (first, false);
            while i < end {
                if i + 2 < end && pattern[i + 1] == b'-' {
                    inside |= pattern[i] <= byte && byte <= pattern[i + 2];
                    i += 3;
                } else {
                    inside |= pattern[i] == byte;
                    i += 1;
                }
            }
            (inside != negated).then_some(end + 1)
        }
        same => (*same == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::super::group::tests::trace;
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, text, matches) in [
            ("*.rs", "a/b.rs", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]x]y", "]y", true),
            ("*a*b", "xaxaxb", true),
            ("*a*b", "xaxaxbc", false),
            ("[", "[", true),
            ("", "", true),
            ("*", "", true),
            ("A.rs", "a.rs", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), matches, "{pattern} {text}");
        }
    }

    #[test]
    fn any_inclusive_filter_lets_in_and_any_exclusive_one_keeps_out() {
        let t = trace(1, 1, &[("a.rs", 2), ("b.rs", 3)]).traceback;
        let (a, b, c) = (Filter::include("a.rs"), Filter::include("b.rs"), Filter::include("c.rs"));
        assert!(admits(&[], &t) && admits(&[&a], &t) && admits(&[&c, &a], &t));
        assert!(!admits(&[&b], &t), "only the most recent frame is compared");
        assert!(admits(&[&b.all_frames()], &t));
        assert!(!admits(&[&a, &Filter::exclude("a.rs").line(2)], &t));
        assert!(admits(&[&a, &Filter::exclude("a.rs").line(3)], &t));
    }
}
