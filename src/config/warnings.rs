//! `BIRTHMARK_WARNINGS=action:message:category:module:line,..`: Python's grammar, and our errors.

use super::keep::LONGEST;
use super::refuse::{BadValue, Refusal};
use super::words::{number, words};
use crate::watch::Kind;

pub(super) const NAME: &str = "BIRTHMARK_WARNINGS";
/// What dev mode makes of it.
pub(super) const DEV: &[u8] = b"default";
const ALLOWED: &str =
    "filters parted by commas, each action[:message[:category[:module[:line]]]]; or 0, as ignore";
const ACTIONS: &str = "default, always, once, module, ignore or error, or the beginning of one";
const CATEGORIES: &str = "slow-callback, worker-busy, resource-warning (ResourceWarning), task-error, never-awaited (RuntimeWarning), task-destroyed, task-leak, wrong-thread, wrong-runtime, blocking-call, lock-across-await, slow-driver, slow-lookup, pool-starved, lookup, driver-turn, task-start, task-end, or Warning (all)";
const MODULE: &str = "a module's path with dots, such as my_crate.cache";
const LINE: &str = "a line's number, 0 for any";

/// What becomes of a warning that a filter matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Told the first time that it comes from its site, counted from then on. So it is without any filter.
    Default,
    /// Told each time.
    Always,
    /// Told the first time in this process that its kind comes with these words, numbers aside.
    Once,
    /// Told the first time that its kind comes with these words, numbers aside, from its module.
    Module,
    /// Neither told nor counted.
    Ignore,
    /// Told as an error the first time from its site; and `birthmark::tokio::run` and [`check`](crate::warnings::check)
    /// panic with it, or the process ends with status 70.
    Error,
}

/// One filter as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written<'a> {
    pub action: Action,
    pub message: &'a str,
    /// None: any.
    pub category: Option<Kind>,
    pub module: &'a str,
    pub line: u32,
}

/// Checks all filters of a value; the value that is kept.
pub(super) fn parse(value: &[u8]) -> Result<&[u8], BadValue<'_>> {
    if value == b"0" {
        return Ok(b"ignore");
    }
    if value.len() > LONGEST {
        return Err(BadValue {
            variable: NAME,
            value,
            refusal: Refusal::NotAllowed(value),
            allowed: ALLOWED,
        });
    }
    for word in words(value) {
        one(word).map_err(|(refusal, allowed)| BadValue { variable: NAME, value, refusal, allowed })?;
    }
    Ok(value)
}

/// The filters of a value that was checked, in their order.
pub(crate) fn each(value: &[u8]) -> impl Iterator<Item = Written<'_>> {
    words(value).filter_map(|word| one(word).ok())
}

/// One filter, from code: refused with the same words.
pub(crate) fn in_code(text: &str) -> Result<Written<'_>, String> {
    let value = text.as_bytes();
    one(value).map_err(|(refusal, allowed)| {
        let bad = BadValue { variable: "Filter", value, refusal, allowed };
        bad.to_string()
    })
}

type Refused<'a> = (Refusal<'a>, &'static str);

fn one(word: &[u8]) -> Result<Written<'_>, Refused<'_>> {
    let mut fields = word.split(|byte| *byte == b':').map(<[u8]>::trim_ascii);
    let mut field = || fields.next().unwrap_or_default();
    let (first, message, category, module, line) = (field(), field(), field(), field(), field());
    let not = |what, allowed| (Refusal::NotAllowed(what), allowed);
    if fields.next().is_some() || word.trim_ascii().is_empty() {
        return Err(not(word, ALLOWED));
    }
    Ok(Written {
        action: action(first).ok_or_else(|| not(first, ACTIONS))?,
        message: core::str::from_utf8(message).map_err(|_| not(message, ALLOWED))?,
        category: self::category(category)?,
        module: self::module(module).ok_or_else(|| not(module, MODULE))?,
        line: if line.is_empty() { Some(0) } else { number(line).and_then(|n| u32::try_from(n).ok()) }
            .ok_or_else(|| not(line, LINE))?,
    })
}

/// An action by its beginning, which no two share; none is `default`, and `all` is `always`, as in Python.
fn action(word: &[u8]) -> Option<Action> {
    const ACTIONS: [(&str, Action); 7] = [
        ("default", Action::Default),
        ("always", Action::Always),
        ("all", Action::Always),
        ("once", Action::Once),
        ("module", Action::Module),
        ("ignore", Action::Ignore),
        ("error", Action::Error),
    ];
    ACTIONS.iter().find(|(name, _)| name.as_bytes().starts_with(word)).map(|(_, action)| *action)
}

fn category(word: &[u8]) -> Result<Option<Kind>, Refused<'_>> {
    let name: &[u8] = match word {
        b"" | b"Warning" => return Ok(None),
        b"ResourceWarning" => b"resource-warning",
        b"RuntimeWarning" => b"never-awaited",
        other => other,
    };
    match Kind::ALL.iter().find(|kind| kind.name().as_bytes() == name) {
        Some(kind) => Ok(Some(*kind)),
        None => Err((Refusal::NotAllowed(word), CATEGORIES)),
    }
}

fn module(word: &[u8]) -> Option<&str> {
    let text = core::str::from_utf8(word).ok()?;
    let part = |part: &str| !part.is_empty() && part.chars().all(|c| c == '_' || c.is_alphanumeric());
    (text.is_empty() || text.split('.').all(part)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_to_be_allowed_is_every_kind_there_is() {
        for kind in Kind::ALL {
            assert!(CATEGORIES.contains(kind.name()), "{kind:?}");
            assert_eq!(category(kind.name().as_bytes()), Ok(Some(kind)));
        }
    }
}
