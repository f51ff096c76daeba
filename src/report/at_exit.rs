//! At the program's end: a last look at the heap, the ten lines that hold most, and what was left out.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{fatal, json, repeats, sink};
use crate::block::facts::Found;
use crate::block::{check, fault};
use crate::config::{Level, settings};
use crate::mode::{HEAP, NAMING, mode};
use crate::snapshot::{missing, missing_words, try_snapshot};
use crate::sys::{self, STDERR, write_all};
use crate::thread::Ours;

const UNATTACHED: &str = "BIRTHMARK_ASYNC_DEBUG is set, and no runtime was attached, so its tasks weren't looked at: \
     birthmark::tokio::attach(&tokio::runtime::Handle::current()) attaches one, with the feature `tokio`";

/// One line: for tools of this kind with a message and a count, for people these words.
fn note(kind: &str, message: &str, count: u32, words: &str) {
    let line = if settings().report.json {
        json::count(kind, message, count, sys::process_id())
    } else {
        format!("birthmark: {words}")
    };
    sink::send(format!("{line}\n").as_bytes());
}

extern "C" fn at_exit() {
    let mode = mode();
    if mode & NAMING != 0 {
        return;
    }
    if mode & HEAP != 0 {
        // A report that another thread is writing is written whole, and what it ends the program with isn't lost.
        let mut told = fatal::is_to_end();
        check::sweep(Found::Exit, &mut |fault| {
            fatal::tell(&fault, None);
            told = true;
        });
        if told && !fault::goes_on() {
            std::process::abort(); // as a fault of the heap ends it
        }
    }
    let _ours = Ours::enter();
    repeats::TOLD.each(&mut |name, count| {
        let (kind, what) = name.split_once(": ").unwrap_or((name, ""));
        let times = format!("{count} times in all, told once");
        note(kind, &format!("{what}: {times}"), count, &format!("{name}: {times}"));
    });
    if let Some((words, count)) = crate::watch::summary() {
        note("summary", &words, count, &words);
    }
    // Asked for by its own variable, not by dev mode, it has an answer.
    if settings().watch.asked == Some(true)
        && settings().report.level >= Level::Info
        && !crate::watch::saw_a_runtime()
    {
        note("async-debug", UNATTACHED, 0, UNATTACHED);
    }
    if let Some(file) = settings().at_exit
        && let Ok(snapshot) = try_snapshot()
    {
        let mut text = String::new();
        let _ = writeln!(text, "birthmark: snapshot at exit: {snapshot}");
        match file.map(sink::open) {
            None => write_all(STDERR, text.as_bytes()),
            Some(Some(file)) => {
                write_all(file, text.as_bytes());
                sys::close(file);
            }
            Some(None) => {
                write_all(
                    STDERR,
                    b"birthmark: BIRTHMARK_SNAPSHOT: the file can't be written; to standard error instead\n",
                );
                write_all(STDERR, text.as_bytes());
            }
        }
    }
    let missing = missing();
    if missing.any() {
        let mut text = String::new();
        let _ = writeln!(text, "birthmark: left out in this run: {}", missing_words(&missing));
        sink::send(text.as_bytes());
    }
    if crate::watch::errors_wait() {
        sink::send(b"birthmark: a warning was an error by its filter, and nobody took it: exit status 70\n");
        sys::write_out_streams();
        sys::exit_now(70);
    }
}

sys::after_main!(AT_EXIT = at_exit);

/// Keeps the function in programs that link this crate from an archive.
#[inline(never)]
pub(crate) fn ensure_linked() {
    core::hint::black_box(&AT_EXIT);
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if sys::REGISTER_AT_EXIT && !REGISTERED.swap(true, Relaxed) {
        sys::at_exit(at_exit);
    }
}
