//! A report in words for people. Writes into any `core::fmt::Write`; no heap.

use core::fmt::{self, Display, Write};

use super::path::{Short, in_package, tail};
use super::record::{Report, ReportFrame, ReportStack, Row};
use super::shown::{Line, STACKS, lines, share};

/// How a report is to look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look<'a> {
    /// Every frame, and as many lines as it takes.
    pub full: bool,
    /// With escape sequences.
    pub color: bool,
    /// The current directory; empty where it isn't known.
    pub below: &'a str,
}

/// The lines of a report, unless it is `full`.
const LINES: usize = 12;
/// Labels fill a column as wide as `allocated`.
const LABEL: usize = 9;
/// Functions fill a column of at most so many letters; longer ones push the rest aside.
const FUNCTION: usize = 60;
/// Whose stack it is stands in a column that begins at most here.
const WHO: usize = 110;

const PLAIN: &str = "\x1b[0m";
const RED: &str = "\x1b[1;31m";
const BOLD: &str = "\x1b[1m";
const CYAN: &str = "\x1b[36m";
const DIM: &str = "\x1b[2m";

/// The whole report.
pub(crate) fn write(report: &Report<'_>, look: &Look<'_>, out: &mut dyn Write) -> fmt::Result {
    first_line(report, look, out)?;
    body(report, look, out)
}

/// `birthmark: <kind>: <sentence>` and a line break.
pub(crate) fn first_line(report: &Report<'_>, look: &Look<'_>, out: &mut dyn Write) -> fmt::Result {
    let (red, bold, plain) = if look.color { (RED, BOLD, PLAIN) } else { ("", "", "") };
    writeln!(out, "birthmark: {red}{}{plain}: {bold}{}{plain}", report.kind.name(), report.sentence)
}

/// Everything after the first line.
pub(crate) fn body(report: &Report<'_>, look: &Look<'_>, out: &mut dyn Write) -> fmt::Result {
    let mut wanted = [0; STACKS];
    let mut words = 0usize;
    let mut stacks = wanted.iter_mut();
    for row in report.rows {
        match row {
            Row::Words(_, text) => words = words.saturating_add(count_lines(text)),
            Row::Stack(stack) => {
                if let Some(wanted) = stacks.next() {
                    *wanted = lines(stack.frames, look.full).count();
                }
            }
        }
    }
    let room = if look.full { usize::MAX } else { LINES.saturating_sub(words).saturating_sub(1) };
    let given = share(&wanted, room);

    let each_stack = report.rows.iter().filter_map(|row| match row {
        Row::Stack(stack) => Some(stack),
        Row::Words(..) => None,
    });
    let who = each_stack.map(|stack| first_width(stack, look)).max().unwrap_or(0).min(WHO);

    let mut given = given.into_iter();
    for row in report.rows {
        match row {
            Row::Words(name, text) => {
                label(name, look, out)?;
                write!(Indented { out, wide: LABEL.saturating_add(4) }, "{text}")?;
                out.write_char('\n')?;
            }
            Row::Stack(stack) => write_stack(stack, given.next().unwrap_or(1), who, look, out)?,
        }
    }
    Ok(())
}

fn label(name: &str, look: &Look<'_>, out: &mut dyn Write) -> fmt::Result {
    let (cyan, plain) = if look.color { (CYAN, PLAIN) } else { ("", "") };
    write!(out, "  {cyan}{name:LABEL$}{plain}  ")
}

fn write_stack(
    stack: &ReportStack<'_>,
    most: usize,
    who: usize,
    look: &Look<'_>,
    out: &mut dyn Write,
) -> fmt::Result {
    let (dim, plain) = if look.color { (DIM, PLAIN) } else { ("", "") };
    let functions = function_column(stack, most, look);
    label(stack.label, look, out)?;
    let whose = Whose(stack);
    let mut shown = lines(stack.frames, look.full).take(most).peekable();
    if shown.peek().is_none() {
        // Without a frame the row still says what is known.
        let known = width(&whose) > 0;
        let none = if known { "" } else { "no frame" };
        return writeln!(
            out,
            "{}{none}{}{whose}",
            stack.intro,
            if stack.intro.is_empty() { "" } else { " " }
        );
    }
    for (index, line) in shown.enumerate() {
        if index > 0 {
            pad(LABEL.saturating_add(4), out)?;
        }
        let function = Function(line.frame, if index == 0 { stack.intro } else { "" });
        write!(out, "{function}")?;
        let place = Place(&line, look);
        if width(&place) > 0 {
            pad(functions.saturating_sub(width(&function)).saturating_add(2), out)?;
            write!(out, "{place}")?;
        }
        if index == 0 && width(&whose) > 0 {
            let so_far = first_width_in(functions, &place);
            pad(who.saturating_sub(so_far).saturating_add(2), out)?;
            write!(out, "{dim}{whose}{plain}")?;
        }
        out.write_char('\n')?;
    }
    Ok(())
}

/// How wide the column of a stack's functions is, over the lines that are shown.
fn function_column(stack: &ReportStack<'_>, most: usize, look: &Look<'_>) -> usize {
    let widths = lines(stack.frames, look.full)
        .take(most)
        .enumerate()
        .map(|(index, line)| width(&Function(line.frame, if index == 0 { stack.intro } else { "" })));
    widths.filter(|width| *width <= FUNCTION).max().unwrap_or(0)
}

/// How far the first line of a stack reaches, without whose it is. Taken over all lines that might be shown, so a
/// column may be a little wide.
fn first_width(stack: &ReportStack<'_>, look: &Look<'_>) -> usize {
    let Some(line) = lines(stack.frames, look.full).next() else { return 0 };
    first_width_in(function_column(stack, usize::MAX, look), &Place(&line, look))
}

fn first_width_in(functions: usize, place: &Place<'_>) -> usize {
    functions.saturating_add(width(place)).saturating_add(2)
}

/// A function with what comes before it. Where it isn't known: module and offset, or the bare address.
struct Function<'a>(&'a ReportFrame<'a>, &'a str);

impl Display for Function<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(frame, intro) = self;
        if !intro.is_empty() {
            write!(f, "{intro} ")?;
        }
        if !frame.function.is_empty() {
            return f.write_str(frame.function);
        }
        write!(f, "{}", Raw(frame))
    }
}

/// Module and offset, or the bare address.
struct Raw<'a>(&'a ReportFrame<'a>);

impl Display for Raw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frame = self.0;
        if frame.module.is_empty() {
            return write!(f, "{:#x}", frame.address);
        }
        write!(f, "{}+{:#x}", frame.module, frame.offset)
    }
}

/// File and line; a known function without them gets its module and offset. Then what it called into.
struct Place<'a>(&'a Line<'a>, &'a Look<'a>);

impl Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Line { frame, via }, look) = self;
        let below = look.below;
        if !frame.file.is_empty() {
            write!(f, "{}", Short { path: frame.file, below })?;
            if frame.line > 0 {
                write!(f, ":{}", frame.line)?;
            }
        } else if !frame.function.is_empty() && (!frame.module.is_empty() || frame.address != 0) {
            write!(f, "{}", Raw(frame))?;
        }
        let Some(via) = via else { return Ok(()) };
        f.write_str("  via ")?;
        if let Some((package, _)) = in_package(via.file) {
            write!(f, "{package} ")?;
        }
        f.write_str(tail(via.function))
    }
}

/// The thread and the task.
struct Whose<'a>(&'a ReportStack<'a>);

impl Display for Whose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ReportStack { thread, task, task_name, .. } = self.0;
        if let Some(thread) = thread {
            write!(f, "thread {thread}")?;
        }
        if let Some(task) = task {
            write!(f, "{}task {task}", if thread.is_some() { ", " } else { "" })?;
        }
        if let Some(name) = task_name {
            write!(f, "{}`{name}`", if thread.is_some() || task.is_some() { " " } else { "" })?;
        }
        Ok(())
    }
}

fn pad(wide: usize, out: &mut dyn Write) -> fmt::Result {
    write!(out, "{:wide$}", "", wide = wide.min(usize::from(u16::MAX)))
}

/// Letters of a text.
fn width(text: &dyn Display) -> usize {
    struct Letters(usize);
    impl Write for Letters {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 = self.0.saturating_add(text.chars().count());
            Ok(())
        }
    }
    let mut letters = Letters(0);
    let _ = write!(letters, "{text}"); // counting can't fail
    letters.0
}

fn count_lines(text: &dyn Display) -> usize {
    struct Breaks(usize);
    impl Write for Breaks {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 = self.0.saturating_add(text.bytes().filter(|byte| *byte == b'\n').count());
            Ok(())
        }
    }
    let mut breaks = Breaks(1);
    let _ = write!(breaks, "{text}"); // counting can't fail
    breaks.0
}

/// Indents every line after the first.
struct Indented<'a> {
    out: &'a mut dyn Write,
    wide: usize,
}

impl Write for Indented<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (index, line) in text.split('\n').enumerate() {
            if index > 0 {
                self.out.write_char('\n')?;
                pad(self.wide, self.out)?;
            }
            self.out.write_str(line)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::record::{Kind, Owner};
    use super::*;

    const PLAIN_LOOK: Look<'static> = Look { full: false, color: false, below: "/home/u/app" };

    fn frame(function: &'static str, file: &'static str, line: u32, owner: Owner) -> ReportFrame<'static> {
        ReportFrame { function, file, line, owner, ..ReportFrame::default() }
    }

    fn user(function: &'static str, line: u32) -> ReportFrame<'static> {
        frame(function, "/home/u/app/src/parser.rs", line, Owner::User)
    }

    fn stack<'a>(label: &'static str, frames: &'a [ReportFrame<'a>]) -> ReportStack<'a> {
        ReportStack { label, intro: "", thread: None, task: None, task_name: None, frames }
    }

    fn told(rows: &[Row<'_>], look: &Look<'_>) -> String {
        let sentence = &"1 byte written past the end of a 24-byte block";
        let mut out = String::new();
        write(&Report { kind: Kind::HeapBufferOverflow, sentence, numbers: &[], rows }, look, &mut out)
            .unwrap();
        out
    }

    #[test]
    fn a_report_has_the_shape_that_the_documentation_shows() {
        let made = [
            frame("alloc::alloc::alloc", "/rustc/0123/library/alloc/src/alloc.rs", 87, Owner::Plumbing),
            user("parser::Frame::with_capacity", 41),
            user("parser::run", 12),
        ];
        let dropped = [user("parser::Frame::drop", 88)];
        let made = ReportStack {
            thread: Some("main"),
            task: Some(17),
            task_name: Some("server::conn"),
            ..stack("allocated", &made)
        };
        let found = ReportStack { intro: "at free in", thread: Some("worker-3"), ..stack("found", &dropped) };
        let rows = [
            Row::Words("damage", &"1 byte at +24: 0x21 in the red zone"),
            Row::Stack(made),
            Row::Stack(found),
            Row::Words("help", &"2 of 9 frames kept; TRACEMALLOC=9 keeps them all"),
        ];
        assert_eq!(
            told(&rows, &PLAIN_LOOK),
            "\
birthmark: heap-buffer-overflow: 1 byte written past the end of a 24-byte block
  damage     1 byte at +24: 0x21 in the red zone
  allocated  parser::Frame::with_capacity  src/parser.rs:41    thread main, task 17 `server::conn`
             parser::run                   src/parser.rs:12
  found      at free in parser::Frame::drop  src/parser.rs:88  thread worker-3
  help       2 of 9 frames kept; TRACEMALLOC=9 keeps them all
"
        );
    }

    #[test]
    fn a_report_has_at_most_twelve_lines_unless_it_is_full() {
        let many: Vec<_> = (1..=20).map(|line| user("parser::deep", line)).collect();
        let rows = [
            Row::Words("damage", &"one\ntwo"),
            Row::Stack(stack("allocated", &many)),
            Row::Stack(stack("freed", &many)),
            Row::Stack(stack("found", &many)),
            Row::Words("help", &"three"),
        ];
        let short = told(&rows, &PLAIN_LOOK);
        assert_eq!(short.lines().count(), 12);
        assert!(short.lines().take(5).any(|line| line.contains("src/parser.rs:1")), "{short}");
        assert_eq!(told(&rows, &Look { full: true, ..PLAIN_LOOK }).lines().count(), 64);
        for label in ["damage", "allocated", "freed", "found", "help"] {
            assert_eq!(short.lines().filter(|line| line.starts_with(&format!("  {label} "))).count(), 1);
        }
        assert!(short.contains("\n             two\n"), "{short}");
    }

    #[test]
    fn a_dependency_between_is_told_beside_the_user_s_line() {
        let file = "/home/u/.cargo/registry/src/index-1/bytes-1.11.0/src/bytes_mut.rs";
        let frames = [
            frame("bytes::bytes_mut::BytesMut::put_slice", file, 7, Owner::Dependency),
            user("parser::fill", 3),
        ];
        let text = told(&[Row::Stack(stack("allocated", &frames))], &PLAIN_LOOK);
        assert!(
            text.ends_with(
                "  allocated  parser::fill  src/parser.rs:3  via bytes-1.11.0 BytesMut::put_slice\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn without_lines_the_place_is_module_and_offset_and_without_names_too() {
        let nameless = ReportFrame { module: "app", offset: 0x1234, address: 0x1, ..ReportFrame::default() };
        let lineless = ReportFrame { function: "parser::run", ..nameless };
        let bare = ReportFrame { address: 0x7f00, ..ReportFrame::default() };
        let text = told(&[Row::Stack(stack("allocated", &[lineless, nameless, bare]))], &PLAIN_LOOK);
        assert!(text.contains("  allocated  parser::run  app+0x1234\n             app+0x1234\n"), "{text}");
        assert!(text.ends_with("             0x7f00\n"));
        let none = ReportStack { thread: Some("main"), intro: "at exit in", ..stack("found", &[]) };
        assert!(told(&[Row::Stack(none)], &PLAIN_LOOK).ends_with("  found      at exit in thread main\n"));
    }

    #[test]
    fn full_shows_the_folded_frames() {
        let frames = [
            frame("alloc::alloc::alloc", "/rustc/0/library/alloc/src/alloc.rs", 87, Owner::Plumbing),
            user("parser::run", 12),
        ];
        let rows = [Row::Stack(stack("allocated", &frames))];
        assert!(!told(&rows, &PLAIN_LOOK).contains("alloc::alloc"));
        let full = told(&rows, &Look { full: true, ..PLAIN_LOOK });
        assert!(full.contains("  allocated  alloc::alloc::alloc  std/alloc/src/alloc.rs:87\n"), "{full}");
    }

    #[test]
    fn colour_adds_escape_sequences_and_nothing_else() {
        let frames = [user("parser::run", 12)];
        let made = ReportStack { thread: Some("main"), ..stack("allocated", &frames) };
        let rows = [Row::Stack(made), Row::Words("help", &"x")];
        let plain = told(&rows, &PLAIN_LOOK);
        let colored = told(&rows, &Look { color: true, ..PLAIN_LOOK });
        assert!(!plain.contains('\x1b') && colored.contains("\x1b[1;31mheap-buffer-overflow\x1b[0m: "));
        let mut stripped = String::new();
        for (index, part) in colored.split("\x1b[").enumerate() {
            stripped += if index == 0 { part } else { part.split_once('m').unwrap().1 };
        }
        assert_eq!(stripped, plain);
    }

    #[test]
    fn a_function_with_a_very_long_name_does_not_move_the_others() {
        let long: &'static str =
            "parser::a::very::long::path::to::a::function::whose::name::takes::more::than::a::line";
        let frames = [user("parser::run", 12), user(long, 3)];
        let text = told(&[Row::Stack(stack("allocated", &frames))], &PLAIN_LOOK);
        assert!(text.contains("  allocated  parser::run  src/parser.rs:12\n"), "{text}");
        assert!(text.ends_with("::line  src/parser.rs:3\n"), "{text}");
    }
}
