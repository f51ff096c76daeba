//! Reports for people: the kind and its sentence, then rows under a column of labels.
//!
//! ```text
//! birthmark: heap-buffer-overflow: 1 byte written past the end of a 24-byte block
//!   damage     1 byte at +24: 0x21 in the red zone
//!   allocated  parser::Frame::with_capacity  src/parser.rs:41    thread main, task 17
//!              parser::run                   src/parser.rs:12
//!   found      at free in parser::Frame::drop  src/parser.rs:88  thread worker-3
//!   help       2 of 9 frames kept; TRACEMALLOC=9 keeps them all
//! ```

use std::fmt::Write;

use super::record::{Report, Row, Shown, Stack, TOUCHED, shown};
use super::share::share;

/// The lines of a report, unless all are asked for.
const LINES: usize = 12;
/// The widest column of function names; a longer one pushes only its own line aside.
const WIDEST: usize = 60;
/// Whose stack it is stands in a column that begins at most here.
const WHO: usize = 100;

const PLAIN: &str = "\x1b[0m";
const RED: &str = "\x1b[1;31m";
const BOLD: &str = "\x1b[1m";
const CYAN: &str = "\x1b[36m";
const YELLOW: &str = "\x1b[1;33m";
const DIM: &str = "\x1b[2m";

/// How a report is written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Style {
    pub full: bool,
    pub color: bool,
}

impl Style {
    /// An escape sequence, where there is colour.
    pub(super) fn on(self, sequence: &'static str) -> &'static str {
        if self.color { sequence } else { "" }
    }
}

/// The first line, without its end. Takes no heap.
pub(super) fn write_head(
    kind: &str,
    sentence: &dyn std::fmt::Display,
    style: Style,
    out: &mut dyn Write,
) -> std::fmt::Result {
    let (red, bold, plain) = (style.on(RED), style.on(BOLD), style.on(PLAIN));
    write!(out, "birthmark: {red}{kind}{plain}: {bold}{sentence}{plain}")
}

/// The first line, without its end.
pub(crate) fn head(kind: &str, sentence: &str, style: Style) -> String {
    let mut out = String::new();
    let _ = write_head(kind, &sentence, style, &mut out);
    out
}

/// The rows, each with its end.
pub(crate) fn body(report: &Report, style: Style) -> String {
    let stacks: Vec<(&Stack, Vec<Shown<'_>>)> = report
        .rows
        .iter()
        .filter_map(|row| match row {
            Row::Stack(stack) => Some((stack, shown(&stack.traceback, style.full))),
            Row::Text(..) | Row::Damage(_) => None,
        })
        .collect();
    let wanted: Vec<usize> = stacks.iter().map(|(_, lines)| lines.len().max(1)).collect();
    let texts = report.rows.iter().map(|row| match row {
        Row::Text(_, text) => text.lines().count(),
        Row::Damage(parts) => parts.len(),
        Row::Stack(_) => 0,
    });
    let words = 1 + texts.sum::<usize>() + report.help.len();
    let whole = words + wanted.iter().sum::<usize>();
    let cut = !style.full && whole > LINES;
    // What is cut is told in the last line of help, so there must be one.
    let room = if style.full { usize::MAX } else { LINES.saturating_sub(words) };
    let room = if cut && report.help.is_empty() { room.saturating_sub(1) } else { room };
    let asked = |((stack, _), wanted): (&(&Stack, _), &usize)| match stack.label {
        TOUCHED if cut => 1,
        _ => *wanted,
    };
    let given = share(&stacks.iter().zip(&wanted).map(asked).collect::<Vec<_>>(), room);

    let mut stacks: Vec<Lines<'_>> = stacks
        .into_iter()
        .zip(&given)
        .map(|((stack, mut lines), given)| {
            lines.truncate(*given);
            Lines::new(stack, lines)
        })
        .collect();
    let who = stacks.iter().map(|lines| lines.first_width).filter(|width| *width <= WHO).max().unwrap_or(0);

    let mut out = String::new();
    let mut stacks = stacks.drain(..);
    for row in &report.rows {
        match row {
            Row::Text(label, text) => words_row(&mut out, label, text, style),
            Row::Damage(parts) => {
                for (i, part) in parts.iter().enumerate() {
                    words_row(&mut out, if i == 0 { "damage" } else { "" }, &part.to_string(), style);
                }
            }
            Row::Stack(_) => {
                if let Some(lines) = stacks.next() {
                    lines.write(&mut out, who, style);
                }
            }
        }
    }
    let hidden: usize = wanted.iter().zip(&given).map(|(wanted, given)| wanted - given).sum();
    let more =
        format!("BIRTHMARK_REPORT=full shows {hidden} more line{}", if hidden == 1 { "" } else { "s" });
    for (i, help) in report.help.iter().enumerate() {
        let label = if i == 0 { "help" } else { "" };
        if hidden > 0 && i + 1 == report.help.len() {
            words_row(&mut out, label, &format!("{help}; {more}"), style);
        } else {
            words_row(&mut out, label, help, style);
        }
    }
    if hidden > 0 && report.help.is_empty() {
        words_row(&mut out, "help", &more, style);
    }
    out
}

/// A row of words; further lines stand below the first.
fn words_row(out: &mut String, label: &str, text: &str, style: Style) {
    for (i, line) in text.lines().enumerate() {
        begin(out, if i == 0 { label } else { "" }, style);
        out.push_str(line);
        out.push('\n');
    }
}

fn begin(out: &mut String, label: &str, style: Style) {
    let (cyan, plain) = if label.is_empty() { ("", "") } else { (style.on(CYAN), style.on(PLAIN)) };
    let _ = write!(out, "  {cyan}{label:9}{plain}  ");
}

/// A stack, laid out.
struct Lines<'a> {
    stack: &'a Stack,
    /// Function with what comes before it, place with what comes behind it.
    lines: Vec<(String, String, String)>,
    functions: usize,
    first_width: usize,
}

impl<'a> Lines<'a> {
    fn new(stack: &'a Stack, shown: Vec<Shown<'_>>) -> Self {
        let lines: Vec<(String, String, String)> = shown
            .into_iter()
            .enumerate()
            .map(|(i, line)| {
                let before = if i == 0 { stack.before.as_str() } else { "" };
                let space = if before.is_empty() || line.function.is_empty() { "" } else { " " };
                let via = line.via.map_or(String::new(), |via| format!("  {via}"));
                (format!("{before}{space}{}", line.function), line.place, via)
            })
            .collect();
        let functions = lines.iter().map(|(function, ..)| width(function)).filter(|width| *width <= WIDEST);
        let functions = functions.max().unwrap_or(0);
        let first_width = lines.first().map_or(0, |(function, place, via)| {
            functions.max(width(function)) + 2 + width(place) + width(via)
        });
        Self { stack, lines, functions, first_width }
    }

    fn write(&self, out: &mut String, who: usize, style: Style) {
        let behind = self.stack.who();
        if self.lines.is_empty() {
            words_row(out, self.stack.label, format!("{}  {behind}", self.stack.before).trim(), style);
        }
        for (i, (function, place, via)) in self.lines.iter().enumerate() {
            begin(out, if i == 0 { self.stack.label } else { "" }, style);
            if self.functions > 0 || !function.is_empty() {
                let _ = write!(out, "{function:width$}  ", width = self.functions);
            }
            let lead = i == 0;
            let (yellow, plain) = if lead { (style.on(YELLOW), style.on(PLAIN)) } else { ("", "") };
            let _ = write!(out, "{yellow}{place}{plain}{via}");
            if lead && !behind.is_empty() {
                let gap = who.saturating_sub(self.first_width) + 2;
                let _ = write!(out, "{:gap$}{}{behind}{}", "", style.on(DIM), style.on(PLAIN));
            }
            out.push('\n');
        }
    }
}

/// Letters.
fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
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
            offset: 16,
            inlined: false,
            owner,
        }
    }

    fn user(function: &str, line: u32) -> Frame {
        frame(function, "src/parser.rs", line, Owner::User)
    }

    fn plumbing() -> Frame {
        frame("alloc::vec::Vec::push", "/rustc/1/library/alloc/src/vec/mod.rs", 9, Owner::Plumbing)
    }

    fn stack(label: &'static str, before: &str, behind: &str, frames: Vec<Frame>) -> Stack {
        let n = frames.len() as u32;
        let traceback = Traceback::new(frames, n, Depth::Exactly(n));
        let (thread, behind) = behind.split_once(", ").unwrap_or((behind, ""));
        let thread = thread.trim_start_matches("thread ").into();
        Stack { label, before: before.into(), traceback, thread, behind: behind.into() }
    }

    fn report() -> Report {
        Report::new("heap-buffer-overflow", Level::Error, "1 byte written past the end of a 24-byte block")
            .row("damage", "1 byte at +24: 0x21 in the red zone")
    }

    const PLAIN_STYLE: Style = Style { full: false, color: false };

    #[test]
    fn a_report_has_the_shape_that_the_documentation_shows() {
        let made = vec![plumbing(), user("parser::Frame::with_capacity", 41), user("parser::run", 12)];
        let mut report = report()
            .stack(stack("allocated", "", "thread main, task 17 `server::conn`", made))
            .stack(stack("found", "at free in", "thread worker-3", vec![user("parser::Frame::drop", 88)]));
        report.help("2 of 9 frames kept; TRACEMALLOC=9 keeps them all");
        assert_eq!(
            body(&report, PLAIN_STYLE),
            "  damage     1 byte at +24: 0x21 in the red zone
  allocated  parser::Frame::with_capacity  src/parser.rs:41    thread main, task 17 `server::conn`
             parser::run                   src/parser.rs:12
  found      at free in parser::Frame::drop  src/parser.rs:88  thread worker-3
  help       2 of 9 frames kept; TRACEMALLOC=9 keeps them all
"
        );
    }

    #[test]
    fn the_users_own_line_leads_and_the_dependency_stands_beside_it() {
        let frames = vec![
            frame(
                "bytes::BytesMut::put_slice",
                "/x/registry/src/i/bytes-1.11.0/src/b.rs",
                7,
                Owner::Dependency("bytes-1.11.0".into()),
            ),
            user("parser::run", 12),
        ];
        let text = body(&report().stack(stack("allocated", "", "thread main", frames)), PLAIN_STYLE);
        let line =
            "  allocated  parser::run  src/parser.rs:12  via bytes-1.11.0 BytesMut::put_slice  thread main\n";
        assert!(text.ends_with(line), "{text}");
    }

    #[test]
    fn of_where_it_was_touched_last_a_long_report_shows_the_first_line_alone() {
        let deep =
            |label, n: u32| stack(label, "", "", (0..n).map(|i| user(&format!("app::f{i}"), i)).collect());
        let lines = |report: &Report| {
            let text = body(report, PLAIN_STYLE);
            let touched = text.lines().skip_while(|line| !line.starts_with("  touched"));
            let rest = touched.skip(1).take_while(|line| line.starts_with("     ")).count();
            (1 + rest, text.lines().count())
        };
        let long = report().stack(deep("allocated", 5)).stack(deep("touched", 5)).stack(deep("dropped", 5));
        assert_eq!(lines(&long), (1, 11));
        let short = report().stack(deep("allocated", 3)).stack(deep("touched", 3)).stack(deep("dropped", 3));
        assert_eq!(lines(&short).0, 3);
    }

    #[test]
    fn a_report_has_at_most_twelve_lines_and_says_what_shows_the_rest() {
        let many = |name: &str| (1..=20).map(|line| user(name, line)).collect::<Vec<_>>();
        let mut report = report()
            .stack(stack("allocated", "", "", many("made")))
            .stack(stack("freed", "", "", many("freed")))
            .stack(stack("found", "at free in", "", many("found")));
        for help in [false, true] {
            let text = body(&report, PLAIN_STYLE);
            assert_eq!(text.lines().count(), 11, "with the first line twelve: {text}");
            assert!(text.lines().take(4).any(|line| line.contains("src/parser.rs:1")), "{text}");
            assert!(text.ends_with("BIRTHMARK_REPORT=full shows 51 more lines\n"), "{text}");
            assert_eq!(text.contains("why; BIRTHMARK_REPORT=full"), help);
            assert_eq!(
                body(&report, Style { full: true, ..PLAIN_STYLE }).lines().count(),
                61 + usize::from(help)
            );
            report.help("why");
        }
    }

    #[test]
    fn full_shows_the_plumbing_too() {
        let report = report().stack(stack("allocated", "", "", vec![plumbing(), user("parser::run", 12)]));
        assert!(!body(&report, PLAIN_STYLE).contains("alloc::vec"));
        let text = body(&report, Style { full: true, ..PLAIN_STYLE });
        assert!(text.contains("alloc::vec::Vec::push") && text.contains("alloc/src/vec/mod.rs:9"), "{text}");
    }

    #[test]
    fn words_of_several_lines_stand_below_each_other() {
        let text = body(&report().row("note", "one\ntwo"), PLAIN_STYLE);
        assert!(text.ends_with("  note       one\n             two\n"), "{text}");
    }

    #[test]
    fn a_function_with_a_very_long_name_does_not_move_the_others() {
        let long = "parser::a::very::long::path::to::a::function::whose::name::takes::more::than::a::line";
        let text = body(
            &report().stack(stack("allocated", "", "", vec![user("parser::run", 12), user(long, 3)])),
            PLAIN_STYLE,
        );
        assert!(text.contains("  allocated  parser::run  src/parser.rs:12\n"), "{text}");
        assert!(text.ends_with("::line  src/parser.rs:3\n"), "{text}");
    }

    #[test]
    fn colour_adds_escape_sequences_and_nothing_else() {
        let mut report = report().stack(stack("allocated", "", "thread main", vec![user("parser::run", 12)]));
        report.help("why");
        let colored = Style { full: false, color: true };
        let whole =
            |style| format!("{}\n{}", head(report.kind, &report.sentence, style), body(&report, style));
        let mut stripped = String::new();
        for (i, part) in whole(colored).split("\x1b[").enumerate() {
            stripped += if i == 0 { part } else { part.split_once('m').unwrap().1 };
        }
        assert!(whole(colored).contains('\x1b'));
        assert_eq!(stripped, whole(PLAIN_STYLE));
    }
}
