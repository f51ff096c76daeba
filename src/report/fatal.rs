//! A fault of the heap is told here, from inside an allocation: no lock, nothing from the heap, little stack.
//!
//! The first line goes out at once. Names come from a copy of the process, which has five seconds; where it fails the
//! frames are told by module and offset. One report either way, and each fault once: the same one again is counted.

use core::fmt::Write as _;

use super::buffer::Buffer;
use super::fault::{DamageWords, Sentence, Stacks};
use super::raw::Raw;
use super::scratch::{self, Scratch};
use super::sink::{self, Out};
use super::text::{self, Style};
use super::turn::{self, Telling, Turn};
use super::who::Threads;
use super::{child, fault, json, repeats, stack};
use crate::block::fault::{Facts, Found, goes_on};
use crate::config::settings;
use crate::trace::frame::Traceback;
use crate::trace::{RawStack, capture, resolve};

/// How long the names may take.
const LIMIT_MS: i64 = 5_000;
/// How long another's whole report may take.
const TURN_MS: i64 = 2 * LIMIT_MS;

/// Tells a fault. `start`: the registers of the call in which it was found.
///
/// Where the program is to end for it, this returns when no other thread tells anything any more.
#[cold]
#[inline(never)]
pub(crate) fn tell(facts: &Facts, found: Found, start: Option<capture::Start>) {
    crate::sys::keep_errno(|| {
        let telling = Telling::begin();
        if let Some(_turn) = Turn::take(TURN_MS) {
            stack::run(&mut || tell_in_turn(facts, found, start));
        }
        drop(telling);
        if !goes_on() {
            turn::wait_for_others(TURN_MS);
        }
    });
}

/// At the program's end: waits for a report that another thread is writing. Whether the program is to end for it.
pub(crate) fn is_to_end() -> bool {
    turn::wait_for_others(TURN_MS) && !goes_on()
}

fn tell_in_turn(facts: &Facts, found: Found, start: Option<capture::Start>) {
    let mut room = scratch::lend();
    if let Some(room) = &mut room {
        room.allocated.stored(facts.trace);
        room.freed.stored(facts.free.map_or(0, |free| free.freed_by));
        if let Some(start) = start {
            room.found.present(start);
        }
    }
    let here = room.as_ref().map_or(&[][..], |room| room.found.get());
    // The same stack at another block is the same fault; without a stack, the same maker; without one, the same block.
    let made = u64::from(facts.trace);
    let block = if made == 0 && here.is_empty() { facts.start as u64 } else { 0 };
    let words = [facts.kind as u64, found as u64, made, block];
    let key = repeats::key(words.into_iter().chain(here.iter().map(|address| *address as u64)));
    if !repeats::TOLD.first(key, &format_args!("{}: {}", facts.kind.word(), Sentence(facts, found))) {
        return;
    }
    let out = Out::open();
    // Asked here: the child has no terminal.
    let style = sink::style();
    match &mut room {
        Some(room) => write(facts, found, room, style, &out),
        None => head(facts, found, style, &out),
    }
}

/// The first line, at once.
fn head(facts: &Facts, found: Found, style: Style, out: &Out) {
    if settings().report.json {
        return;
    }
    let mut memory = [0u8; 400];
    let mut line = Buffer::new(&mut memory);
    let _ = text::write_head(facts.kind.word(), &Sentence(facts, found), style, &mut line);
    line.push(b"\n");
    out.write(line.bytes());
}

fn write(facts: &Facts, found: Found, room: &mut Scratch, style: Style, out: &Out) {
    head(facts, found, style, out);
    let as_json = settings().report.json;
    let Scratch { allocated, freed, found: here, text } = room;
    // Asked here: the child has other threads.
    let threads = Threads::of(facts).found_here();
    let id = std::process::id();
    let mut work = |send: &mut dyn FnMut(&[u8])| {
        break_for_tests();
        let stacks = Stacks { allocated: allocated.raw(), freed: freed.raw(), found: here.raw() };
        let name = |raw: &RawStack| {
            let frames =
                raw.addresses.iter().flat_map(|a| resolve::look_up(*a, resolve::Way::Alone)).collect();
            Traceback::new(frames, raw.user_frames, raw.depth)
        };
        let report = fault::report(facts, found, &stacks, &threads, &name);
        if as_json {
            send(format!("{}\n", json::line(&report, id)).as_bytes());
        } else {
            send(text::body(&report, style).as_bytes());
        }
    };
    if child::ask(LIMIT_MS, &mut work, &mut |body| out.write(body)) {
        return;
    }
    let stacks = [
        ("allocated", "", allocated.get(), threads.allocated),
        ("freed", "", freed.get(), threads.freed),
        ("found", found.words(), here.get(), threads.found),
    ];
    let raw = Raw { damage: &DamageWords(facts), stacks, full: style.full };
    let mut body = Buffer::new(text);
    if as_json {
        let kind = facts.kind.word();
        let sentence = Sentence(facts, found);
        let _ = write!(
            body,
            "{{\"tool\":\"birthmark\",\"kind\":\"{kind}\",\"level\":\"error\",\"pid\":{id},\"message\":\"{sentence}\""
        );
        let _ = raw.json(&mut body);
    } else {
        let _ = raw.text(&mut body);
    }
    out.write(body.bytes());
}

/// Lets tests break the child: `crash` or `hang` in a variable that no program sets.
fn break_for_tests() {
    // SAFETY: the child's own copy of the environment; a crash and a hang are what is asked for.
    unsafe {
        let word = libc::getenv(c"__BIRTHMARK_TEST_NAMING".as_ptr());
        if word.is_null() {
            return;
        }
        match core::ffi::CStr::from_ptr(word).to_bytes() {
            b"crash" => core::ptr::null_mut::<u8>().write_volatile(1),
            b"hang" => loop {
                turn::sleep_ms(100);
            },
            _ => {}
        }
    }
}
