//! A fault of the heap is told here, from inside an allocation: no lock, nothing from the heap, little stack.
//!
//! The first line goes out at once. Names come from a copy of the process, which has five seconds; where it fails the
//! frames are told by module and offset. One report either way, and each fault once: the same one again is counted.

use core::fmt::Write as _;

use super::buffer::Buffer;
use super::fault::{Sentence, Stacks};
use super::raw::Raw;
use super::scratch::{self, Paper, Scratch};
use super::sink::{self, Out};
use super::text::{self, Style};
use super::turn::{self, Telling, Turn};
use super::who::Threads;
use super::{child, fault as words, json, repeats};
use crate::block::fault::{Fault, goes_on};
use crate::config::settings;
use crate::sys;
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
pub(crate) fn tell(fault: &Fault, start: Option<capture::Start>) {
    sys::keep_errno(|| {
        let telling = Telling::begin();
        if let Some(_turn) = Turn::take(TURN_MS) {
            match scratch::lend() {
                Some(mut room) => {
                    let Scratch { stack, paper } = &mut *room;
                    stack.run(&mut || tell_in_turn(fault, start, Some(paper)));
                }
                None => tell_in_turn(fault, start, None),
            }
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

fn tell_in_turn(fault: &Fault, start: Option<capture::Start>, mut room: Option<&mut Paper>) {
    let (kind, block) = (fault.diagnosis.kind, fault.facts.block);
    if let Some(room) = &mut room {
        if let Some(block) = block {
            room.allocated.stored(block.trace);
            room.freed.stored(block.free.map_or(0, |free| free.freed_by));
        }
        if let Some(start) = start {
            room.found.present(start);
        }
    }
    let here = room.as_ref().map_or(&[][..], |room| room.found.get());
    // The same stack at another block is the same fault; without a stack, the same maker; without one, the same block.
    let made = block.map_or(0, |block| u64::from(block.trace));
    let start = block.filter(|_| made == 0 && here.is_empty()).map_or(0, |block| block.start as u64);
    let words = [kind as u64, fault.facts.found as u64, made, start];
    let key = repeats::key(words.into_iter().chain(here.iter().map(|address| *address as u64)));
    if !repeats::TOLD.first(key, &format_args!("{}: {}", kind.word(), Sentence(fault))) {
        return;
    }
    let out = Out::open();
    // Asked here: the child has no terminal.
    let style = sink::style();
    match &mut room {
        Some(room) => write(fault, room, style, &out),
        None => head(fault, style, &out),
    }
}

/// The first line, at once.
fn head(fault: &Fault, style: Style, out: &Out) {
    if settings().report.json {
        return;
    }
    let mut memory = [0u8; 400];
    let mut line = Buffer::new(&mut memory);
    let _ = text::write_head(fault.diagnosis.kind.word(), &Sentence(fault), style, &mut line);
    line.push(b"\n");
    out.write(line.bytes());
}

fn write(fault: &Fault, room: &mut Paper, style: Style, out: &Out) {
    head(fault, style, out);
    let as_json = settings().report.json;
    let Paper { allocated, freed, found: here, text } = room;
    // Asked here: the child has other threads.
    let threads = Threads::of(fault).found_here();
    let id = sys::process_id();
    let mut work = |send: &mut dyn FnMut(&[u8])| {
        let stacks = Stacks { allocated: allocated.raw(), freed: freed.raw(), found: here.raw() };
        let name = |raw: &RawStack| {
            let frames =
                raw.addresses.iter().flat_map(|a| resolve::look_up(*a, resolve::Way::Alone)).collect();
            Traceback::new(frames, raw.user_frames, raw.depth)
        };
        let report = words::report(fault, &stacks, &threads, &name);
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
        ("found", fault.facts.found.words(), here.get(), threads.found),
    ];
    let raw = Raw { facts: &fault.facts, stacks, full: style.full };
    let mut body = Buffer::new(text);
    if as_json {
        let kind = fault.diagnosis.kind.word();
        let sentence = Sentence(fault);
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
