//! Reports for tools: one object a line with the same facts.

use std::fmt::{self, Write};

use super::damage;
use super::record::{Report, Row};
use crate::trace::frame::{Frame, Owner};

/// One line, without its end. `id`: of the process that it is about (names are found in another).
pub(crate) fn line(report: &Report, id: u32) -> String {
    let mut out = String::from("{\"tool\":\"birthmark\",\"kind\":");
    string(&mut out, report.kind);
    let level = report.level;
    let _ = write!(out, ",\"level\":\"{level}\",\"pid\":{id},\"message\":");
    string(&mut out, &report.sentence);
    for row in &report.rows {
        out.push(',');
        match row {
            Row::Text(label, text) => {
                string(&mut out, label);
                out.push(':');
                string(&mut out, text);
            }
            Row::Damage(parts) => {
                let words: Vec<String> = parts.iter().map(ToString::to_string).collect();
                out.push_str("\"damage\":");
                string(&mut out, &words.join("; "));
                out.push_str(",\"damaged\":");
                let _ = damage::json(parts.iter().copied(), &mut out);
            }
            Row::Stack(stack) => {
                string(&mut out, stack.label);
                out.push_str(":{\"note\":");
                string(&mut out, [stack.before.as_str(), stack.behind.as_str()].join(" ").trim());
                if !stack.thread.is_empty() {
                    out.push_str(",\"thread\":");
                    string(&mut out, &stack.thread);
                }
                let _ = write!(out, ",\"kept\":{},\"depth\":", stack.traceback.kept());
                match stack.traceback.depth() {
                    Some(depth) => {
                        let _ = write!(out, "{depth}");
                    }
                    None => out.push_str("null"),
                }
                out.push_str(",\"frames\":[");
                for (i, frame) in stack.traceback.all_frames().iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    object(&mut out, frame);
                }
                out.push_str("]}");
            }
        }
    }
    out.push_str(",\"help\":[");
    for (i, help) in report.help.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        string(&mut out, help);
    }
    out.push_str("]}");
    out
}

/// How often a fault or a warning came that was told once: one line, without its end.
pub(super) fn count(kind: &str, sentence: &str, count: u32, id: u32) -> String {
    let mut out = String::from("{\"tool\":\"birthmark\",\"kind\":");
    string(&mut out, kind);
    let _ = write!(out, ",\"level\":\"info\",\"pid\":{id},\"count\":{count},\"message\":");
    string(&mut out, sentence);
    out.push('}');
    out
}

fn object(out: &mut String, frame: &Frame) {
    out.push_str("{\"function\":");
    optional(out, frame.function());
    out.push_str(",\"file\":");
    optional(out, frame.file());
    let _ = write!(out, ",\"line\":{},\"module\":", frame.line());
    string(out, frame.module());
    let owner = match frame.owner() {
        Owner::User => "user",
        Owner::Dependency(package) => package,
        Owner::Plumbing => "plumbing",
    };
    let _ = write!(out, ",\"offset\":{},\"inlined\":{},\"owner\":", frame.offset(), frame.is_inlined());
    string(out, owner);
    out.push('}');
}

fn optional(out: &mut String, text: Option<&str>) {
    match text {
        Some(text) => string(out, text),
        None => out.push_str("null"),
    }
}

pub(crate) fn string(out: &mut String, text: &str) {
    out.push('"');
    let _ = Escaped(out).write_str(text);
    out.push('"');
}

/// Writes text as the inside of a JSON string. Takes no heap of its own.
pub(super) struct Escaped<'a>(pub &'a mut dyn Write);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match c {
            '"' => self.0.write_str("\\\""),
            '\\' => self.0.write_str("\\\\"),
            '\n' => self.0.write_str("\\n"),
            c if c < ' ' => write!(self.0, "\\u{:04x}", c as u32),
            c => self.0.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_one_object_too() {
        let line = count("leak", "at \"x\": 3 times in all, told once", 3, 7);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["kind"], &value["count"]), (&"leak".into(), &3.into()));
        assert_eq!(value["message"], "at \"x\": 3 times in all, told once");
    }

    #[test]
    fn a_report_is_one_line_that_a_json_reader_takes() {
        let mut report =
            Report::new("leak", crate::config::Level::Warning, "a \"quoted\" \\ line\nand \u{1} more")
                .row("damage", "ü");
        report.help("h");
        let line = line(&report, 7);
        assert!(!line.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["message"], "a \"quoted\" \\ line\nand \u{1} more");
        assert_eq!(value["damage"], "ü");
        assert_eq!(value["help"][0], "h");
        assert_eq!(value["level"], "warning");
    }
}
