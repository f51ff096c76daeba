//! `birthmark::io`: std's writers tell what their drop couldn't write, and nothing else; in tasks too, of tokio and of others.

mod child_process;
mod executors;

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use birthmark::io::{self, BufWriter, LineWriter, Read as _, Seek as _, SeekFrom, Write};
use birthmark::warnings;
use child_process::{Output, asked, run};
use executors::{EVERYWHERE, run_as_a_task};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

/// Takes so many bytes, then no more: with an error, without one, or with a panic.
#[derive(Debug)]
struct Disk(usize, Full);

#[derive(Debug)]
enum Full {
    Error,
    Zero,
    Panic,
}

impl Write for Disk {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.0.min(buf.len());
        self.0 -= n;
        match self.1 {
            _ if n > 0 => Ok(n),
            Full::Error => Err(io::Error::new(io::ErrorKind::StorageFull, "the disk is full")),
            Full::Zero => Ok(0),
            Full::Panic => panic!("the disk is on fire"),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn disk(room: usize) -> Disk {
    Disk(room, Full::Error)
}

#[inline(never)]
fn make(disk: Disk) -> BufWriter<Disk> {
    std::hint::black_box(BufWriter::new(disk))
}

#[inline(never)]
fn make_lines(disk: Disk) -> LineWriter<Disk> {
    std::hint::black_box(LineWriter::new(disk))
}

#[inline(never)]
fn lose<T>(thing: T) {
    drop(std::hint::black_box(thing));
}

fn child(program: &str) {
    if let Some((how, program)) = program.split_once(' ') {
        let program = program.to_owned();
        return run_as_a_task(how, async move { child(&program) });
    }
    birthmark::set_debug(program != "off");
    match program {
        "full" | "off" => {
            let mut out = make(disk(2));
            out.write_all(b"hello").unwrap();
            lose(out);
        }
        "takes_no_more" => {
            let mut out = make(Disk(2, Full::Zero));
            write!(out, "hello").unwrap();
            lose(out);
        }
        "panicked_before" => {
            let mut out = make(Disk(0, Full::Panic));
            out.write_all(b"hello").unwrap();
            let _ = catch_unwind(AssertUnwindSafe(|| out.flush()));
            lose(out);
        }
        "through_dyn" => {
            let mut out = make(disk(2));
            let anything: &mut dyn Write = &mut out;
            anything.write_all(b"hello").unwrap();
            lose(out);
        }
        "lines" => {
            let mut out = make_lines(disk(4));
            out.write_all(b"one\nand a half").unwrap();
            lose(out);
        }
        "after_an_error_that_was_got_over" => {
            let mut out = make(disk(0));
            out.write_all(b"hello").unwrap();
            out.flush().unwrap_err();
            out.get_mut().0 = 5;
            out.flush().unwrap();
            out.write_all(b"world!").unwrap();
            lose(out);
        }
        "device" => {
            let file = File::options().write(true).open("/dev/full").unwrap();
            let mut out = BufWriter::new(file);
            writeln!(out, "hello").unwrap();
            lose(out);
        }
        // Silent.
        "room_enough" => {
            let mut out = make(disk(5));
            out.write_all(b"hello").unwrap();
            lose(out);
            let mut lines = make_lines(disk(14));
            lines.write_all(b"one\nand a half").unwrap();
            lose(lines);
            lose((make(disk(0)), make_lines(disk(0))));
        }
        "the_program_knows" => {
            let mut out = make(disk(0));
            out.write_all(b"hello").unwrap();
            out.flush().unwrap_err();
            lose(out);
            let mut out = make(disk(0));
            out.write_all(b"hello").unwrap();
            lose(out.into_inner().unwrap_err());
            let mut out = make_lines(disk(0));
            out.write_all(b"hello").unwrap();
            lose(io::Error::from(out.into_inner().unwrap_err()));
            let mut out = make_lines(disk(0));
            out.write_all(b"hello").unwrap();
            out.flush().unwrap_err();
            lose(out);
        }
        "taken_apart" => {
            let mut out = make(disk(0));
            out.write_all(b"hello").unwrap();
            let (_, bytes) = out.into_parts();
            assert_eq!(bytes.unwrap(), b"hello");
            let mut out = make(disk(9));
            out.write_all(b"hello").unwrap();
            assert_eq!(out.into_inner().unwrap().0, 4);
        }
        "panicking" => {
            let _ = catch_unwind(|| {
                let mut out = make(disk(0));
                out.write_all(b"hello").unwrap();
                panic!("the panic is the news");
            });
            let _ = catch_unwind(|| {
                let mut out = make(Disk(0, Full::Panic));
                out.write_all(b"hello").unwrap();
                lose(out); // std's panics here, too
            });
        }
        "caught" => {
            let ((), caught) = warnings::catch(|| child("full"));
            assert_eq!(caught.len(), 1);
            assert_eq!(caught[0].kind(), warnings::Kind::ResourceWarning);
            assert!(caught[0].traceback("dropped").is_some());
        }
        other => panic!("no program {other}"),
    }
}

#[test]
fn program() {
    if let Some(asked) = asked() {
        child(&asked);
    }
}

const TRACED: (&str, &str) = ("TRACEMALLOC", "5");

fn one(program: &str, sentence: &str) -> Output {
    let output = run(program, &[TRACED]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert_eq!(output.reports("resource-warning"), [sentence], "{}", output.stderr);
    output
}

fn none(program: &str) {
    let output = run(program, &[TRACED]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(!output.stderr.contains("birthmark:"), "{}", output.stderr);
}

/// `tests/resources_std.rs:71`, the line on which `text` stands, counted from the program's arm.
fn line_of(program: &str, text: &str) -> String {
    let source = include_str!("resources_std.rs");
    let arm = source.find(&format!("\"{program}\"")).unwrap();
    let at = arm + source[arm..].find(text).unwrap();
    format!("tests/resources_std.rs:{}", source[..at].matches('\n').count() + 1)
}

#[test]
fn a_writer_whose_last_flush_fails_says_how_much_is_lost_and_why_and_where() {
    let output =
        one("full", "BufWriter was dropped with 3 bytes unwritten, which are lost: the disk is full");
    assert!(output.row("allocated").contains("resources_std::make"), "{}", output.stderr);
    assert!(output.row("touched").ends_with(&line_of("full", "out.write_all")), "{}", output.stderr);
    assert!(output.row("dropped").contains("resources_std::lose"), "{}", output.stderr);
    assert!(output.row("help").contains("call `flush()` or `into_inner()`"), "{}", output.stderr);
    let output =
        one("lines", "LineWriter was dropped with 10 bytes unwritten, which are lost: the disk is full");
    assert!(output.row("allocated").contains("resources_std::make_lines"), "{}", output.stderr);
    assert!(output.row("touched").ends_with(&line_of("lines", "out.write_all")), "{}", output.stderr);
    assert!(output.row("dropped").contains("resources_std::lose"), "{}", output.stderr);
}

#[test]
fn in_a_task_of_any_executor_it_is_the_same() {
    let sentence = "BufWriter was dropped with 3 bytes unwritten, which are lost: the disk is full";
    for how in EVERYWHERE {
        let output = one(&format!("{how} full"), sentence);
        assert!(output.row("allocated").contains("resources_std::make"), "{how}\n{}", output.stderr);
        assert!(output.row("touched").ends_with(&line_of("full", "out.write_all")), "{}", output.stderr);
        assert!(output.row("dropped").contains("resources_std::lose"), "{how}\n{}", output.stderr);
        none(&format!("{how} room_enough"));
    }
}

#[test]
fn a_writer_that_takes_no_more_or_had_panicked_loses_what_is_left() {
    one(
        "takes_no_more",
        "BufWriter was dropped with 3 bytes unwritten, which are lost: its writer takes no more",
    );
    one(
        "panicked_before",
        "BufWriter was dropped with 5 bytes unwritten, which are lost: its writer panicked before",
    );
}

#[test]
fn a_call_through_a_trait_object_has_no_line_to_tell() {
    let output =
        one("through_dyn", "BufWriter was dropped with 3 bytes unwritten, which are lost: the disk is full");
    assert!(!output.stderr.contains("  touched"), "{}", output.stderr);
}

#[test]
fn an_error_that_the_program_got_over_does_not_hide_a_later_loss() {
    one(
        "after_an_error_that_was_got_over",
        "BufWriter was dropped with 6 bytes unwritten, which are lost: the disk is full",
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_device_is_told_in_the_systems_words() {
    one(
        "device",
        "BufWriter was dropped with 6 bytes unwritten, which are lost: No space left on device (os error 28)",
    );
}

#[test]
fn a_writer_whose_last_flush_succeeds_is_silent_unflushed_as_it_is() {
    none("room_enough");
}

#[test]
fn an_error_that_the_program_was_told_is_no_news() {
    none("the_program_knows");
}

#[test]
fn a_writer_taken_apart_and_one_dropped_by_a_panic_are_silent() {
    none("taken_apart");
    none("panicking");
}

#[test]
fn while_async_debug_is_off_a_writer_is_stds_own() {
    none("off");
}

#[test]
fn a_loss_is_caught_as_a_value_and_filters_hold_for_it() {
    none("caught");
    for (filter, code, reports) in [("ignore:BufWriter was", 0, 0), ("error:BufWriter was", 70, 1)] {
        let output = run("full", &[TRACED, ("BIRTHMARK_WARNINGS", filter)]);
        assert_eq!(output.code, Some(code), "{}", output.stderr);
        assert_eq!(output.reports("resource-warning").len(), reports, "{}", output.stderr);
    }
}

/// What a series of calls gives, with std's types and with ours.
macro_rules! behaviour {
    ($buf:path, $line:path) => {{
        use $buf as Buf;
        use $line as Line;
        let mut said = Vec::new();
        let mut out = Buf::with_capacity(4, Vec::new());
        said.push(format!("{:?} {}", out.write(b"ab").unwrap(), out.capacity()));
        said.push(format!("{:?} {:?}", out.buffer(), out.get_ref()));
        said.push(format!("{:?}", out.write(b"cdefgh").unwrap()));
        said.push(format!("{out:?}"));
        out.flush().unwrap();
        out.get_mut().push(b'!');
        let slices = [io::IoSlice::new(b"x"), io::IoSlice::new(b"yz")];
        said.push(format!("{:?}", out.write_vectored(&slices).unwrap()));
        said.push(format!("{:?}", out.into_inner().unwrap()));

        let mut out = Buf::new(io::Cursor::new(Vec::new()));
        out.write_all(b"hello").unwrap();
        said.push(format!("{:?}", out.seek(SeekFrom::Start(1)).unwrap()));
        write!(out, "{}", "EY").unwrap();
        said.push(format!("{:?}", out.stream_position().unwrap()));
        said.push(format!("{:?}", out.into_parts().0));

        let mut out = Buf::new(disk(1));
        out.write_all(b"hello").unwrap();
        let error = out.into_inner().unwrap_err();
        said.push(format!("{} {:?}", error, error.error().kind()));
        let (error, out) = error.into_parts();
        said.push(format!("{error} {:?}", out.buffer()));
        said.push(format!("{:?}", out.into_parts().1.unwrap()));

        let mut out = Line::with_capacity(4, Vec::new());
        said.push(format!("{:?} {:?}", out.write(b"ab\nc").unwrap(), out.get_ref()));
        out.write_all(b"d\nef").unwrap();
        said.push(format!("{out:?}"));
        said.push(format!("{:?}", out.get_mut()));
        said.push(format!("{:?}", out.into_inner().unwrap()));
        let mut out = Line::new(disk(1));
        out.write_all(b"hello").unwrap();
        said.push(format!(
            "{:?}",
            out.into_inner().map_err(|error| error.into_error().to_string()).unwrap_err()
        ));
        said
    }};
}

#[test]
fn they_do_what_stds_do_switched_on_or_off() {
    let stds = behaviour!(std::io::BufWriter, std::io::LineWriter);
    birthmark::set_debug(true);
    let on = behaviour!(birthmark::io::BufWriter, birthmark::io::LineWriter);
    birthmark::set_debug(false);
    assert_eq!(on, stds);
    assert_eq!(behaviour!(birthmark::io::BufWriter, birthmark::io::LineWriter), stds);
}

#[test]
fn the_rest_of_the_module_is_stds_under_the_same_names() {
    let mut text = String::new();
    io::BufReader::new(&b"hello"[..]).read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
}
