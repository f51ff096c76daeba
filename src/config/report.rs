//! `BIRTHMARK_REPORT=text|json[,full][,color=..][,level=..][,file=..]`, the words in any order.

use super::refuse::{BadValue, Refusal, Seen};
use super::settings::{Color, Level, Report};
use super::words::{after, path, words};

pub(super) const NAME: &str = "BIRTHMARK_REPORT";
const ALLOWED: &str = "text|json[,full][,color=auto|always|never][,level=debug|info|warning|error][,file=PATH], \
                       where PATH has no comma and % only as %p (the process id) or %%";

pub(super) fn parse(value: &[u8]) -> Result<Report<'_>, BadValue<'_>> {
    let bad = |refusal| BadValue { variable: NAME, value, refusal, allowed: ALLOWED };
    let mut report = Report::DEFAULT;
    let mut seen = Seen::default();
    for word in words(value) {
        let refused = || bad(Refusal::NotAllowed(word));
        if word == b"text" || word == b"json" {
            seen.once(0, word).map_err(bad)?;
            report.json = word == b"json";
        } else if word == b"sarif" {
            return Err(bad(Refusal::NotBuilt(word)));
        } else if word == b"full" {
            seen.once(1, word).map_err(bad)?;
            report.full = true;
        } else if let Some(when) = after(word, "color") {
            seen.once(2, word).map_err(bad)?;
            report.color = match when {
                b"auto" => Color::Auto,
                b"always" => Color::Always,
                b"never" => Color::Never,
                _ => return Err(refused()),
            };
        } else if let Some(level) = after(word, "level") {
            seen.once(3, word).map_err(bad)?;
            report.level = match level {
                b"debug" => Level::Debug,
                b"info" => Level::Info,
                b"warning" => Level::Warning,
                b"error" => Level::Error,
                _ => return Err(refused()),
            };
        } else if let Some(file) = after(word, "file") {
            seen.once(4, word).map_err(bad)?;
            report.file = Some(path(file).ok_or_else(refused)?);
        } else {
            return Err(refused());
        }
    }
    Ok(report)
}

/// Settles `auto` by the conventions that other tools share: `NO_COLOR` and a dumb terminal say never,
/// `CLICOLOR_FORCE` says always, and what our own variable asked for wins over all of them.
pub(super) fn color<'a>(asked: Color, vars: &mut dyn FnMut(&str) -> Option<&'a [u8]>) -> Color {
    if asked != Color::Auto {
        return asked;
    }
    if vars("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        return Color::Never;
    }
    if vars("CLICOLOR_FORCE").is_some_and(|value| !value.is_empty() && value != b"0") {
        return Color::Always;
    }
    if vars("TERM") == Some(b"dumb") { Color::Never } else { Color::Auto }
}
