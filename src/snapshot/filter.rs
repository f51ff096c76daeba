//! Filters: which traces of a snapshot stay, by CPython's rules.

use crate::trace::frame::{Frame, Traceback};
use crate::trace::owner;

/// Lets traces through, or keeps them out, by the file, the line and the function of their frames.
///
/// In patterns `*` is any text (`/` too), `?` one character, `[a-z]` and `[!a-z]` one of a set; case matters. A file's
/// pattern is compared with the path as it is shown (`src/cache.rs`, `serde_json-1.0.145/src/de.rs`) and with the whole path;
/// a frame without a file is `<unknown>`.
///
/// ```
/// use birthmark::Filter;
/// let mine = Filter::include("src/*");
/// let but_not_that_line = Filter::exclude("src/cache.rs").line(41);
/// let whatever_json_makes = Filter::include("serde_json-*").all_frames();
/// let constructors = Filter::include("*").function("*::new");
/// # let _ = (mine, but_not_that_line, whatever_json_makes, constructors);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    inclusive: bool,
    file: Pattern,
    function: Option<Pattern>,
    line: Option<u32>,
    all_frames: bool,
}

impl Filter {
    /// Lets through what was made in files that match.
    pub fn include(file: impl AsRef<str>) -> Self {
        let file = Pattern::new(file.as_ref());
        Self { inclusive: true, file, function: None, line: None, all_frames: false }
    }

    /// Keeps out what was made in files that match.
    pub fn exclude(file: impl AsRef<str>) -> Self {
        Self { inclusive: false, ..Self::include(file) }
    }

    /// Only this line of the file. 0 is the line of a frame whose line isn't known.
    pub fn line(mut self, line: u32) -> Self {
        self.line = Some(line);
        self
    }

    /// Only functions that match.
    pub fn function(mut self, function: impl AsRef<str>) -> Self {
        self.function = Some(Pattern::new(function.as_ref()));
        self
    }

    /// Looks at every frame that isn't plumbing, not at the leading one alone: one match is enough.
    pub fn all_frames(mut self) -> Self {
        self.all_frames = true;
        self
    }

    fn matches(&self, traceback: &Traceback, here: Option<&str>) -> bool {
        if self.all_frames {
            traceback.that_count().any(|frame| self.matches_frame(frame, here))
        } else {
            self.matches_frame(traceback.lead(), here)
        }
    }

    fn matches_frame(&self, frame: &Frame, here: Option<&str>) -> bool {
        let file = frame.file().unwrap_or("<unknown>");
        self.line.is_none_or(|line| line == frame.line())
            && self.function.as_ref().is_none_or(|f| f.matches(frame.function().unwrap_or("<unknown>")))
            && (self.file.matches(file) || self.file.matches(&owner::shown(file, here)))
    }
}

/// Whether a trace stays: at least one inclusive filter takes it, where there are any, and no exclusive one.
pub(crate) fn admits(filters: &[&Filter], traceback: &Traceback, here: Option<&str>) -> bool {
    let mut inclusive = filters.iter().filter(|f| f.inclusive).peekable();
    let included = inclusive.peek().is_none() || inclusive.any(|f| f.matches(traceback, here));
    included && !filters.iter().any(|f| !f.inclusive && f.matches(traceback, here))
}

/// A shell pattern as Python's `fnmatchcase` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern(Vec<char>);

impl Pattern {
    fn new(pattern: &str) -> Self {
        Self(pattern.chars().collect())
    }

    fn matches(&self, text: &str) -> bool {
        let pattern = &self.0[..];
        let text: Vec<char> = text.chars().collect();
        let (mut p, mut t) = (0, 0);
        // What follows the last star, and where the text begins that it hasn't taken.
        let mut star: Option<(usize, usize)> = None;
        while t < text.len() {
            match step(&pattern[p..], text[t]) {
                Step::Star => {
                    p += 1;
                    star = Some((p, t));
                }
                Step::Takes(n) => (p, t) = (p + n, t + 1),
                Step::Fails => match &mut star {
                    Some((after, taken)) => {
                        *taken += 1;
                        (p, t) = (*after, *taken);
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|c| *c == '*')
    }
}

enum Step {
    /// So much of the pattern takes this character.
    Takes(usize),
    Star,
    Fails,
}

fn step(pattern: &[char], c: char) -> Step {
    let takes = |yes: bool, n: usize| if yes { Step::Takes(n) } else { Step::Fails };
    match pattern.first() {
        None => Step::Fails,
        Some('*') => Step::Star,
        Some('?') => Step::Takes(1),
        Some('[') => {
            let negated = pattern.get(1) == Some(&'!');
            let first = 1 + usize::from(negated);
            // A `]` right at the beginning belongs to the set; without an end `[` is itself.
            let Some(end) = (first + 1..pattern.len()).find(|i| pattern[*i] == ']') else {
                return takes(c == '[', 1);
            };
            let (mut i, mut inside) = (first, false);
            while i < end {
                if i + 2 < end && pattern[i + 1] == '-' {
                    inside |= (pattern[i]..=pattern[i + 2]).contains(&c);
                    i += 3;
                } else {
                    inside |= pattern[i] == c;
                    i += 1;
                }
            }
            takes(inside != negated, end + 1)
        }
        Some(same) => takes(*same == c, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::super::group::tests::{JSON, VEC, trace};
    use super::*;

    #[test]
    fn patterns_match_as_pythons_do() {
        for (pattern, text, matches) in [
            ("*.rs", "a/b.rs", true),
            ("a?c", "abc", true),
            ("a?c", "aßc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[!a-c]x", "dx", true),
            ("[]x]y", "]y", true),
            ("[a-]", "-", true),
            ("[c-a]", "b", false),
            ("[!]", "[!]", true),
            ("*a*b", "xaxaxb", true),
            ("*a*b", "xaxaxbc", false),
            ("[", "[", true),
            ("a[", "a[", true),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a", "", false),
            ("A.rs", "a.rs", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(text), matches, "{pattern} {text}");
        }
    }

    fn admits(filters: &[&Filter], t: &Traceback) -> bool {
        super::admits(filters, t, Some("/home/me/app"))
    }

    #[test]
    fn any_inclusive_filter_lets_in_and_any_exclusive_one_keeps_out() {
        let t = trace(1, 1, &[("a.rs", 2), ("b.rs", 3)]).traceback;
        let (a, b, c) = (Filter::include("a.rs"), Filter::include("b.rs"), Filter::include("c.rs"));
        assert!(admits(&[], &t) && admits(&[&a], &t) && admits(&[&c, &a], &t));
        assert!(!admits(&[&c], &t) && !admits(&[&b], &t), "only the leading frame is compared");
        assert!(!admits(&[&a, &Filter::exclude("a.rs").line(2)], &t));
        assert!(admits(&[&a, &Filter::exclude("a.rs").line(3)], &t));
        assert!(!admits(&[&Filter::exclude("x.rs"), &Filter::exclude("a.rs")], &t));
    }

    #[test]
    fn all_frames_asks_whether_any_frame_matches() {
        let t = trace(1, 1, &[(VEC, 9), (JSON, 7), ("a.rs", 2), ("b.rs", 3)]).traceback;
        let json = Filter::include("serde_json-*");
        assert!(!admits(&[&json], &t), "the user's frame leads");
        assert!(admits(&[&json.all_frames()], &t) && admits(&[&Filter::include("b.rs").all_frames()], &t));
        assert!(!admits(&[&Filter::exclude("b.rs").all_frames()], &t));
        assert!(admits(&[&Filter::exclude("alloc/*").all_frames()], &t), "plumbing isn't asked");
    }

    #[test]
    fn a_file_matches_whole_or_as_it_is_shown() {
        let t = trace(1, 1, &[("/home/me/app/src/cache.rs", 41)]).traceback;
        for (pattern, matches) in
            [("src/cache.rs", true), ("/home/me/app/*", true), ("*/cache.rs", true), ("cache.rs", false)]
        {
            assert_eq!(admits(&[&Filter::include(pattern)], &t), matches, "{pattern}");
        }
    }

    #[test]
    fn line_zero_is_a_line_of_its_own_and_a_missing_file_is_unknown() {
        let t = trace(1, 1, &[("a.rs", 2)]).traceback;
        assert!(!admits(&[&Filter::include("a.rs").line(0)], &t));
        let nothing = trace(1, 1, &[]).traceback;
        assert!(admits(&[&Filter::include("<unknown>").line(0)], &nothing));
        assert!(admits(&[&Filter::include("<unknown>")], &nothing));
    }

    #[test]
    fn a_function_is_compared_by_its_whole_path() {
        let t = trace(1, 1, &[("a.rs", 2)]).traceback;
        assert!(admits(&[&Filter::include("*").function("a::*")], &t));
        assert!(!admits(&[&Filter::include("*").function("f")], &t));
    }
}
