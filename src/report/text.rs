//! Reports for people: the kind and its sentence, then rows under a column of labels.

use std::fmt::Write;

use super::record::{Report, Row, shown};

/// Lines of a stack that are shown unless all are asked for.
const STACK: usize = 3;
/// Where a row's text begins.
const COLUMN: usize = 13;
/// The widest column of function names.
const WIDEST: usize = 56;

/// How a report is written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Style {
    pub full: bool,
    pub color: bool,
}

/// The first line, without its end.
pub(crate) fn head(kind: &str, sentence: &str, style: Style) -> String {
    if style.color {
        format!("\x1b[1mbirthmark: \x1b[31m{kind}\x1b[0;1m: {sentence}\x1b[0m")
    } else {
        format!("birthmark: {kind}: {sentence}")
    }
}

/// The rows, each with its end.
pub(crate) fn body(report: &Report, style: Style) -> String {
    let mut out = String::new();
    for row in &report.rows {
        match row {
            Row::Text(label, text) => line(&mut out, label, text, style),
            Row::Stack(stack) => {
                let mut frames = shown(&stack.traceback, style.full);
                let hidden = if style.full { 0 } else { frames.len().saturating_sub(STACK) };
                frames.truncate(frames.len() - hidden);
                let width = frames.iter().map(|f| f.function.chars().count()).max().unwrap_or(0).min(WIDEST);
                if frames.is_empty() {
                    let text = [stack.before.as_str(), stack.behind.as_str()];
                    line(&mut out, stack.label, text.join("  ").trim(), style);
                }
                for (i, frame) in frames.iter().enumerate() {
                    let mut text = String::new();
                    if i == 0 && !stack.before.is_empty() {
                        let _ = write!(text, "{} ", stack.before);
                    }
                    if !frame.function.is_empty() {
                        let _ = write!(text, "{:width$}  ", frame.function);
                    }
                    if style.color && i == 0 {
                        let _ = write!(text, "\x1b[1;33m{}\x1b[0m", frame.place);
                    } else {
                        text.push_str(&frame.place);
                    }
                    if let Some(via) = &frame.via {
                        let _ = write!(text, "  {via}");
                    }
                    if i == 0 && !stack.behind.is_empty() {
                        let _ = write!(text, "  {}", stack.behind);
                    }
                    line(&mut out, if i == 0 { stack.label } else { "" }, &text, style);
                }
            }
        }
    }
    for (i, help) in report.help.iter().enumerate() {
        line(&mut out, if i == 0 { "help" } else { "" }, help, style);
    }
    out
}

fn line(out: &mut String, label: &str, text: &str, style: Style) {
    let width = COLUMN - 2;
    let _ = if style.color {
        writeln!(out, "  \x1b[36m{label:width$}\x1b[0m{text}")
    } else {
        writeln!(out, "  {label:width$}{text}")
    };
}

#[cfg(test)]
mod tests {
    use super::super::record::Stack;
    use super::*;
    use crate::config::Level;
    use crate::trace::Depth;
    use crate::trace::frame::{Frame, Owner, Traceback};

    fn frame(function: &str, file: &str, line: u32, owner: Owner) -> Frame {
        Frame {
            function: Some(function.into()),
            file: Some(file.into()),
            line,
            module: "app".into(),
            offset: 0,
            inlined: false,
            owner,
        }
    }

    fn example() -> Report {
        let frames = vec![
            frame("alloc::vec::Vec::push", "/rustc/1/library/alloc/src/vec/mod.rs", 9, Owner::Plumbing),
            frame(
                "bytes::BytesMut::put_slice",
                "/x/registry/src/i/bytes-1.11.0/src/b.rs",
                7,
                Owner::Dependency("bytes-1.11.0".into()),
            ),
            frame("parser::Frame::with_capacity", "src/parser.rs", 41, Owner::User),
            frame("parser::run", "src/parser.rs", 12, Owner::User),
        ];
        let mut report = Report::new(
            "heap-buffer-overflow",
            Level::Error,
            "1 byte written past the end of a 24-byte block",
        )
        .row("damage", "1 byte at +24: 0x21 in the red zone")
        .stack(Stack {
            label: "allocated",
            before: String::new(),
            traceback: Traceback::new(frames, 2, Depth::Exactly(9)),
            behind: "thread main".into(),
        });
        report.help("x");
        report
    }

    #[test]
    fn the_users_own_line_leads_and_the_dependency_stands_beside_it() {
        let text = body(&example(), Style::default());
        assert_eq!(
            text,
            "  damage     1 byte at +24: 0x21 in the red zone\n  \
             allocated  parser::Frame::with_capacity  src/parser.rs:41  via bytes-1.11.0 BytesMut::put_slice  thread main\n  \
             \x20          parser::run                   src/parser.rs:12\n  \
             help       2 of 9 frames kept; TRACEMALLOC=9 keeps them all\n  \
             \x20          x\n"
        );
    }

    #[test]
    fn full_shows_the_plumbing_too() {
        let text = body(&example(), Style { full: true, color: false });
        assert!(text.contains("alloc::vec::Vec::push") && text.contains("alloc/src/vec/mod.rs:9"), "{text}");
    }
}
