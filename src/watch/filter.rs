//! What becomes of a warning by its filters: pure functions of its kind, its words and its places.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use super::warning::Kind;
use crate::config::Action;
use crate::config::warnings::{Written, in_code};

/// Says what becomes of the warnings that it matches: by the beginning of their sentence, their kind, and the module and
/// line where they arose.
///
/// A part that isn't given matches every warning. In text it is written as in `BIRTHMARK_WARNINGS`,
/// `action:message:category:module:line`.
///
/// ```
/// use birthmark::warnings::{Action, Filter, Kind};
///
/// let lost = Filter::new(Action::Error).category(Kind::ResourceWarning).module("my_crate::cache");
/// assert_eq!(lost, "error::resource-warning:my_crate.cache".parse().unwrap());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    action: Action,
    message: String,
    category: Option<Kind>,
    /// With `::` between its parts.
    module: String,
    line: u32,
}

impl Filter {
    /// Matches every warning.
    pub fn new(action: Action) -> Self {
        Self { action, message: String::new(), category: None, module: String::new(), line: 0 }
    }

    /// Only warnings whose sentence begins so, be it in capitals or not: `Export was dropped`.
    pub fn message(mut self, beginning: impl Into<String>) -> Self {
        self.message = beginning.into();
        self
    }

    /// Only warnings of this kind.
    #[doc(alias = "kind")]
    pub fn category(mut self, kind: Kind) -> Self {
        self.category = Some(kind);
        self
    }

    /// Only warnings of which a stack is led by a function of this module, or of one inside it: `my_crate::cache` or
    /// `my_crate.cache`. What was allocated there, dropped there or spawned there is meant alike; where
    /// it was touched last isn't asked. Without symbols, and where
    /// file and line are all that is known of a place, it lies in no module.
    pub fn module(mut self, path: impl AsRef<str>) -> Self {
        self.module = path.as_ref().replace('.', "::");
        self
    }

    /// Only warnings of which a stack is led by this line; of a filter that has a module too, the same stack's. 0: any.
    pub fn line(mut self, line: u32) -> Self {
        self.line = line;
        self
    }

    fn matches(&self, seen: &Seen<'_>) -> bool {
        self.category.is_none_or(|kind| kind == seen.kind)
            && begins(seen.sentence, &self.message)
            && (self.module.is_empty() && self.line == 0
                || seen.places.iter().any(|place| {
                    (self.line == 0 || self.line == place.line)
                        && (self.module.is_empty() || is_in(&place.function, &self.module))
                }))
    }
}

impl From<Written<'_>> for Filter {
    fn from(written: Written<'_>) -> Self {
        let Written { action, message, category, module, line } = written;
        Self { category, ..Self::new(action) }.message(message).module(module).line(line)
    }
}

impl From<Action> for Filter {
    fn from(action: Action) -> Self {
        Self::new(action)
    }
}

/// Why a text is no [`Filter`]: one line that says what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidFilter(String);

impl fmt::Display for InvalidFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for InvalidFilter {}

impl FromStr for Filter {
    type Err = InvalidFilter;

    fn from_str(text: &str) -> Result<Self, InvalidFilter> {
        in_code(text).map(Self::from).map_err(InvalidFilter)
    }
}

/// A place in the program, that leads one of a warning's stacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Its whole path; empty where it isn't known.
    pub function: String,
    /// 0: not known.
    pub line: u32,
    /// Where something began (was allocated, spawned) that went wrong elsewhere.
    pub is_origin: bool,
}

/// What filters see of a warning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub kind: Kind,
    pub sentence: &'a str,
    pub places: &'a [Place],
}

/// The action of the first filter that matches, `Default` of none. The newest filter comes first.
pub(super) fn action<'f>(mut filters: impl Iterator<Item = &'f Filter>, seen: &Seen<'_>) -> Action {
    filters.find(|filter| filter.matches(seen)).map_or(Action::Default, |filter| filter.action)
}

/// What is counted as the same under an action, in words; `site` is the site's.
pub(super) fn sameness<'s>(action: Action, seen: &Seen<'_>, site: &'s str) -> Cow<'s, str> {
    let text = || format!("{}: {}", seen.kind.name(), without_numbers(seen.sentence));
    match action {
        Action::Once => text().into(),
        Action::Module => {
            let arose = seen.places.iter().find(|place| !place.is_origin).or(seen.places.first());
            let module = arose.map_or("", |place| module_of(&place.function));
            format!("{}, in {}", text(), if module.is_empty() { "?" } else { module }).into()
        }
        Action::Default | Action::Always | Action::Ignore | Action::Error => site.into(),
    }
}

fn begins(sentence: &str, beginning: &str) -> bool {
    let mut letters = sentence.chars().flat_map(char::to_lowercase);
    beginning.chars().flat_map(char::to_lowercase).all(|letter| letters.next() == Some(letter))
}

/// A function's path, or that of the type whose method it is.
fn bare(function: &str) -> &str {
    let mut path = function;
    loop {
        let next = path.trim_start_matches(['<', '&', '*', ' ']);
        let next = ["mut ", "const ", "dyn "].iter().find_map(|word| next.strip_prefix(word)).unwrap_or(next);
        if next == path {
            return path;
        }
        path = next;
    }
}

fn is_in(function: &str, module: &str) -> bool {
    let rest = bare(function).strip_prefix(module);
    rest.is_some_and(|rest| !rest.starts_with(|c: char| c == '_' || c.is_alphanumeric()))
}

/// The module of a function's path, by how Rust names things: what stands before its type, or before the function.
fn module_of(function: &str) -> &str {
    let path = bare(function);
    let (mut end, mut last, mut at) = (0, 0, 0);
    for part in path.split("::") {
        if part.starts_with(char::is_uppercase) {
            return &path[..end];
        }
        let plain = part.chars().all(|c| c == '_' || c.is_alphanumeric());
        if !plain {
            // A closure's function came before it; a generic function is this part itself.
            let behind = part.starts_with(['{', '<']) && !part.starts_with("<impl");
            return &path[..if behind { last } else { end }];
        }
        last = end;
        end = at + part.len();
        at = end + 2;
    }
    &path[..last]
}

/// A sentence with each number, and the unit behind it, replaced by `N`.
fn without_numbers(sentence: &str) -> String {
    const UNITS: [&str; 8] = ["us", "ms", "s", "B", "KiB", "MiB", "GiB", "ns"];
    let mut out = String::with_capacity(sentence.len());
    let mut rest = sentence;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, number) = rest.split_at(at);
        out += before;
        out.push('N');
        rest = number.trim_start_matches(|c: char| c.is_ascii_digit());
        if let Some(part) =
            rest.strip_prefix('.').filter(|part| part.starts_with(|c: char| c.is_ascii_digit()))
        {
            rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        }
        let word = rest.strip_prefix(' ').unwrap_or("");
        let end = word.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(word.len());
        if UNITS.contains(&&word[..end]) {
            rest = &word[end..];
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const DROPPED: &str = "Export was dropped with 3 rows unsent";

    fn place(function: &str, line: u32) -> Place {
        Place { function: function.into(), line, is_origin: false }
    }

    fn of(filters: &[&str], kind: Kind, sentence: &str, places: &[Place]) -> Action {
        let filters: Vec<Filter> = filters.iter().map(|text| text.parse().unwrap()).collect();
        action(filters.iter().rev(), &Seen { kind, sentence, places })
    }

    #[test]
    fn without_a_filter_that_matches_it_is_default_and_of_several_the_last_wins() {
        let lost = |filters: &[&str]| of(filters, Kind::ResourceWarning, DROPPED, &[]);
        assert_eq!(lost(&[]), Action::Default);
        assert_eq!(lost(&["error::task-error"]), Action::Default);
        assert_eq!(lost(&["error", "ignore::resource-warning"]), Action::Ignore);
        assert_eq!(lost(&["ignore::resource-warning", "error"]), Action::Error);
        assert_eq!(lost(&["error", "ignore::task-error"]), Action::Error);
    }

    #[test]
    fn a_message_is_a_beginning_in_capitals_or_not() {
        let lost = |filter: &str| of(&[filter], Kind::ResourceWarning, DROPPED, &[]);
        assert_eq!(lost("ignore:Export was"), Action::Ignore);
        assert_eq!(lost("ignore:eXPORT"), Action::Ignore);
        assert_eq!(lost("ignore:was dropped"), Action::Default);
        assert_eq!(lost("ignore:Export.*"), Action::Default, "no pattern");
    }

    #[test]
    fn module_and_line_are_of_one_place_and_a_module_holds_what_is_inside_it() {
        let places = [place("app::cache::Cache::insert", 41), place("app::serve::{{closure}}", 7)];
        let there = |filter: &str| of(&[filter], Kind::TaskError, "task 3 panicked", &places);
        for filter in ["error:::app.cache", "error:::app", "error:::app.cache:41", "error::::7"] {
            assert_eq!(there(filter), Action::Error, "{filter}");
        }
        for filter in ["error:::app.cache:7", "error:::app.cach", "error:::cache", "error:::ap", "error::::8"]
        {
            assert_eq!(there(filter), Action::Default, "{filter}");
        }
        let methods = ["<app::cache::Cache as core::ops::drop::Drop>::drop", "<&mut app::cache::Cache>::f"];
        for method in methods {
            assert_eq!(of(&["error:::app.cache"], Kind::TaskError, "", &[place(method, 1)]), Action::Error);
        }
    }

    #[test]
    fn a_place_of_which_the_function_is_not_known_is_in_no_module() {
        let nowhere = [place("", 3)];
        assert_eq!(of(&["error:::app"], Kind::TaskError, "", &nowhere), Action::Default);
        assert_eq!(of(&["error::::3"], Kind::TaskError, "", &nowhere), Action::Error);
    }

    #[test]
    fn a_functions_module_is_what_stands_before_its_type_or_its_name() {
        for (function, module) in [
            ("app::main", "app"),
            ("app::cache::Cache::insert", "app::cache"),
            ("app::cache::load::{{closure}}", "app::cache"),
            ("app::cache::load<u8>", "app::cache"),
            ("<app::cache::Cache as core::ops::drop::Drop>::drop", "app::cache"),
            ("app::cache::<impl app::Load for u8>::load", "app::cache"),
            ("main", ""),
            ("", ""),
        ] {
            assert_eq!(module_of(function), module, "{function}");
        }
    }

    #[test]
    fn once_and_module_leave_numbers_and_their_units_aside() {
        assert_eq!(
            without_numbers("a poll of task 22 took 1.2 s, limit 50 ms (#1)"),
            "a poll of task N took N, limit N (#N)"
        );
        assert_eq!(without_numbers("dropped with 3 bytes, 5 B"), "dropped with N bytes, N");
        let places = [Place { is_origin: true, ..place("app::make", 3) }, place("app::cache::lose", 5)];
        let seen = Seen { kind: Kind::ResourceWarning, sentence: DROPPED, places: &places };
        let words = |action| sameness(action, &seen, "site");
        assert_eq!(words(Action::Once), "resource-warning: Export was dropped with N rows unsent");
        assert_eq!(
            words(Action::Module),
            "resource-warning: Export was dropped with N rows unsent, in app::cache"
        );
        for action in [Action::Default, Action::Error] {
            assert_eq!(words(action), "site");
        }
    }

    #[test]
    fn a_text_that_is_no_filter_is_refused_with_what_is_allowed() {
        let refused = "loud".parse::<Filter>().unwrap_err().to_string();
        assert!(refused.contains("\"loud\": is not understood; allowed: default, always"), "{refused}");
    }
}
