//! A report as one JSON object on one line. Writes into any `core::fmt::Write`; no heap.

use core::fmt::{self, Display, Write};

use super::record::{Owner, Report, ReportFrame, ReportStack, Row};

/// The object and a line break. Its members: `tool`, `kind`, `level`, `message`, `pid`, the numbers by their names,
/// then each row by its label: words as a string, a stack as an object with `at`, `thread`, `task`, `frames`.
pub(crate) fn write(report: &Report<'_>, pid: i32, out: &mut dyn Write) -> fmt::Result {
    let (kind, level) = (report.kind.name(), report.kind.level_name());
    write!(out, "{{\"tool\":\"birthmark\",\"kind\":\"{kind}\",\"level\":\"{level}\",\"message\":")?;
    string(&report.sentence, out)?;
    write!(out, ",\"pid\":{pid}")?;
    for (name, number) in report.numbers {
        write!(out, ",\"{name}\":{number}")?;
    }
    for row in report.rows {
        match row {
            Row::Words(label, words) => {
                write!(out, ",\"{label}\":")?;
                string(words, out)?;
            }
            Row::Stack(stack) => write_stack(stack, out)?,
        }
    }
    out.write_str("}\n")
}

fn write_stack(stack: &ReportStack<'_>, out: &mut dyn Write) -> fmt::Result {
    write!(out, ",\"{}\":{{", stack.label)?;
    if !stack.intro.is_empty() {
        out.write_str("\"at\":")?;
        string(&stack.intro, out)?;
        out.write_char(',')?;
    }
    if let Some(thread) = stack.thread {
        out.write_str("\"thread\":")?;
        string(&thread, out)?;
        out.write_char(',')?;
    }
    if let Some(task) = stack.task {
        write!(out, "\"task\":{task},")?;
    }
    if let Some(name) = stack.task_name {
        out.write_str("\"task_name\":")?;
        string(&name, out)?;
        out.write_char(',')?;
    }
    out.write_str("\"frames\":[")?;
    for (index, frame) in stack.frames.iter().enumerate() {
        out.write_str(if index == 0 { "{" } else { ",{" })?;
        write_frame(frame, out)?;
        out.write_char('}')?;
    }
    out.write_str("]}")
}

fn write_frame(frame: &ReportFrame<'_>, out: &mut dyn Write) -> fmt::Result {
    // An address may be above 2^53, which JSON's readers round: as text.
    write!(out, "\"address\":\"{:#x}\"", frame.address)?;
    for (name, text) in [("function", frame.function), ("file", frame.file), ("module", frame.module)] {
        if !text.is_empty() {
            write!(out, ",\"{name}\":")?;
            string(&text, out)?;
        }
    }
    if frame.line > 0 {
        write!(out, ",\"line\":{}", frame.line)?;
    }
    if !frame.module.is_empty() {
        write!(out, ",\"offset\":\"{:#x}\"", frame.offset)?;
    }
    let owner = match frame.owner {
        _ if frame.function.is_empty() && frame.file.is_empty() => return Ok(()),
        Owner::User => "user",
        Owner::Dependency => "dependency",
        Owner::Plumbing => "plumbing",
    };
    write!(out, ",\"owner\":\"{owner}\"")
}

/// A JSON string.
fn string(text: &dyn Display, out: &mut dyn Write) -> fmt::Result {
    struct Escaped<'a>(&'a mut dyn Write);
    impl Write for Escaped<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for letter in text.chars() {
                match letter {
                    '"' => self.0.write_str("\\\"")?,
                    '\\' => self.0.write_str("\\\\")?,
                    '\n' => self.0.write_str("\\n")?,
                    '\0'..='\x1f' | '\x7f' => write!(self.0, "\\u{:04x}", u32::from(letter))?,
                    _ => self.0.write_char(letter)?,
                }
            }
            Ok(())
        }
    }
    out.write_char('"')?;
    write!(Escaped(out), "{text}")?;
    out.write_char('"')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::super::record::Kind;
    use super::*;

    #[test]
    fn a_report_is_one_line_that_a_json_reader_takes() {
        let frames = [
            ReportFrame {
                address: usize::MAX,
                function: "app::run::<\"x\\y\">",
                file: "/a/b\u{1}\u{e9}.rs",
                line: 7,
                module: "app",
                offset: 0x10,
                owner: Owner::Dependency,
            },
            ReportFrame { address: 0x55, ..ReportFrame::default() },
        ];
        let stack = ReportStack {
            label: "found",
            intro: "at free in",
            thread: Some("worker \"3\""),
            task: Some(17),
            task_name: Some("server::conn"),
            frames: &frames,
        };
        let rows = [Row::Words("damage", &"one\ntwo"), Row::Stack(stack)];
        let report = Report {
            kind: Kind::HeapBufferOverflow,
            sentence: &"1 byte \"past\"",
            numbers: &[("size", 24), ("offset", -1)],
            rows: &rows,
        };
        let mut out = String::new();
        write(&report, 42, &mut out).unwrap();
        assert_eq!(out.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(value["kind"], "heap-buffer-overflow");
        assert_eq!(value["level"], "error");
        assert_eq!(value["message"], "1 byte \"past\"");
        assert_eq!((value["pid"].as_i64(), value["offset"].as_i64()), (Some(42), Some(-1)));
        assert_eq!(value["damage"], "one\ntwo");
        let found = &value["found"];
        assert_eq!((&found["at"], &found["thread"]), (&"at free in".into(), &"worker \"3\"".into()));
        assert_eq!((found["task"].as_u64(), &found["task_name"]), (Some(17), &"server::conn".into()));
        let first = &found["frames"][0];
        assert_eq!(first["function"], "app::run::<\"x\\y\">");
        assert_eq!(first["file"], "/a/b\u{1}\u{e9}.rs");
        assert_eq!((first["line"].as_u64(), &first["owner"]), (Some(7), &"dependency".into()));
        assert_eq!((&first["module"], &first["offset"]), (&"app".into(), &"0x10".into()));
        assert_eq!(found["frames"][1], serde_json::json!({"address": "0x55"}));
    }
}
