//! A fault of the heap is told here, from inside an allocation: no lock, nothing from the heap.
//!
//! The first line goes out at once. Names come from a copy of the process, which has five seconds; where it fails the
//! frames are told by module and offset. One report either way.

use core::fmt::Write as _;
use core::sync::atomic::{
    AtomicI32,
    Ordering::{AcqRel, Acquire, Release},
};

use super::fault::{Sentence, Stacks};
use super::raw::Line;
use super::{child, fault, json, sink, text};
use crate::block::fault::{Facts, Found};
use crate::config::settings;
use crate::trace::frame::Traceback;
use crate::trace::{Depth, RawStack, capture, intern, resolve};

const LIMIT_MS: i32 = 5_000;
/// Addresses of a stack that a report looks at.
const MOST: usize = 192;

/// A stack's addresses in a buffer of the reporter's own.
struct Addresses {
    frames: [usize; MOST],
    n: usize,
    user: u32,
    depth: Depth,
}

impl Addresses {
    const NONE: Self = Self { frames: [0; MOST], n: 0, user: 0, depth: Depth::Exactly(0) };

    fn stored(&mut self, id: u32) {
        if id != 0
            && let Some((n, user, depth)) = intern::copy(id, &mut self.frames)
        {
            (self.n, self.user, self.depth) = (n.min(MOST), user, depth);
        }
    }
    fn get(&self) -> &[usize] {
        self.frames.get(..self.n).unwrap_or_default()
    }
    /// In ordinary memory: in the child alone.
    fn raw(&self) -> Option<RawStack> {
        (self.n > 0).then(|| RawStack {
            addresses: self.get().into(),
            user_frames: self.user,
            depth: self.depth,
        })
    }
}

static TURN: AtomicI32 = AtomicI32::new(0);

/// Tells a fault. `start`: the registers of the call in which it was found.
#[cold]
#[inline(never)]
pub(crate) fn tell(facts: &Facts, found: Found, start: Option<capture::Start>) {
    // One report at a time; a second thread waits as long as a report may take. A fault inside the report itself is this
    // thread's own, and isn't told.
    let me = thread_id();
    let mut waited = 0;
    while let Err(other) = TURN.compare_exchange(0, me, AcqRel, Acquire) {
        if other == me {
            return;
        }
        if waited > LIMIT_MS {
            break;
        }
        sleep_ms(10);
        waited = waited.saturating_add(10);
    }
    write(facts, found, start);
    TURN.store(0, Release);
}

fn write(facts: &Facts, found: Found, start: Option<capture::Start>) {
    let settings = settings();
    let file = settings.report.file.and_then(sink::open);
    let out = file.unwrap_or(2);
    let json = settings.report.json;
    if !json {
        let mut line = Line::new();
        let (on, off) = if colored() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        let _ = write!(line, "birthmark: {on}{}{off}: {}", facts.kind.word(), Sentence(facts));
        line.send(out);
    }
    let (mut allocated, mut freed, mut here) = (Addresses::NONE, Addresses::NONE, Addresses::NONE);
    allocated.stored(facts.trace);
    freed.stored(facts.free.map_or(0, |f| f.freed_by));
    if let Some(start) = start {
        (here.n, here.user) = capture::addresses(start, &mut here.frames);
        here.depth = Depth::Exactly(here.user);
    }
    let thread = thread_name();
    let thread = core::str::from_utf8(thread.split(|b| *b == 0).next().unwrap_or_default()).unwrap_or("?");
    let answer = child::ask(LIMIT_MS, &mut |send| {
        fault_in_child_for_tests();
        let stacks = Stacks { allocated: allocated.raw(), freed: freed.raw(), found: here.raw() };
        let name = |raw: &RawStack| {
            let frames = raw.addresses.iter().flat_map(|a| resolve::look_up(*a, true)).collect();
            Traceback::new(frames, raw.user_frames, raw.depth)
        };
        let report = fault::report(facts, found, &stacks, thread, &name);
        if json {
            send(format!("{}\n", json::line(&report)).as_bytes());
        } else {
            send(text::body(&report, sink::style()).as_bytes());
        }
    });
    match answer {
        Some(body) => super::raw::write_all(out, body),
        None => {
            raw(out, facts, found, json, [("allocated", &allocated), ("freed", &freed), ("found", &here)])
        }
    }
    if let Some(file) = file {
        // SAFETY: our own descriptor.
        unsafe { libc::close(file) };
    }
}

/// The body without names.
fn raw(out: i32, facts: &Facts, found: Found, json: bool, stacks: [(&str, &Addresses); 3]) {
    let mut line = Line::new();
    if json {
        let (kind, id) = (facts.kind.word(), std::process::id());
        let _ = write!(
            line,
            "{{\"tool\":\"birthmark\",\"kind\":\"{kind}\",\"level\":\"error\",\"pid\":{id},\"message\":\"{}\",\"raw\":true",
            Sentence(facts)
        );
        for (label, stack) in stacks {
            let _ = write!(line, ",\"{label}\":[");
            for (i, frame) in stack.get().iter().take(12).enumerate() {
                let _ = write!(line, "{}\"{}\"", if i > 0 { "," } else { "" }, Place(*frame));
            }
            let _ = write!(line, "]");
        }
        line.text("}").send(out);
        return;
    }
    for (label, stack) in stacks {
        for (i, frame) in stack.get().iter().take(12).enumerate() {
            let label = if i == 0 { label } else { "" };
            let _ = write!(line, "  {label:11}{}", Place(*frame));
            line.send(out);
        }
    }
    if stacks[2].1.n == 0 {
        let _ = write!(line, "  {:11}{found:?}", "found");
        line.send(out);
    }
    line.text("  help       names could not be found in time; `addr2line -e PROGRAM OFFSET` tells them")
        .send(out);
}

/// An address as module and offset, told without the heap.
struct Place(usize);

impl core::fmt::Display for Place {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let address = capture::address(self.0);
        #[cfg(native)]
        if let Some(module) = crate::trace::modules::find(address) {
            let mut path = [0u8; 256];
            let name: &[u8] = if module.name.is_null() {
                b""
            } else {
                // SAFETY: the loader's C string of a module that is loaded.
                unsafe { core::ffi::CStr::from_ptr(module.name) }.to_bytes()
            };
            let name = if name.is_empty() {
                // SAFETY: a constant path and a buffer of our own.
                let n = unsafe {
                    libc::readlink(c"/proc/self/exe".as_ptr(), path.as_mut_ptr().cast(), path.len())
                };
                path.get(..usize::try_from(n).unwrap_or(0)).unwrap_or_default()
            } else {
                name
            };
            let name = name.rsplit(|b| *b == b'/').next().unwrap_or_default();
            let name = core::str::from_utf8(name).unwrap_or("?");
            return write!(f, "{name}+{:#x}", address.wrapping_sub(module.bias));
        }
        write!(f, "{address:#x}")
    }
}

/// Whether the first line is coloured: like [`sink::colored`], without the heap.
fn colored() -> bool {
    use crate::config::Color;
    let report = settings().report;
    // SAFETY: asks about a descriptor; `getenv` with a constant name.
    unsafe {
        let set = |name: &core::ffi::CStr| {
            let p = libc::getenv(name.as_ptr());
            !p.is_null() && *p != 0
        };
        match report.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                report.file.is_none() && !set(c"NO_COLOR") && (set(c"CLICOLOR_FORCE") || libc::isatty(2) == 1)
            }
        }
    }
}

fn thread_name() -> [u8; 16] {
    let mut name = [0u8; 16];
    #[cfg(target_os = "linux")]
    // SAFETY: the kernel writes at most 16 bytes, ended by zero.
    unsafe {
        libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr());
        if libc::syscall(libc::SYS_gettid) as i32 == libc::getpid() {
            name = *b"main\0\0\0\0\0\0\0\0\0\0\0\0";
        }
    }
    name
}

fn thread_id() -> i32 {
    // SAFETY: no arguments, never fails.
    unsafe { libc::syscall(libc::SYS_gettid) as i32 }
}

fn sleep_ms(ms: i64) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: ms.saturating_mul(1_000_000) };
    // SAFETY: a valid time; the rest isn't asked for.
    unsafe { libc::nanosleep(&time, core::ptr::null_mut()) };
}

/// Lets tests break the child: `crash` or `hang` in a variable that no program sets.
fn fault_in_child_for_tests() {
    // SAFETY: the child's own copy of the environment; a crash and a hang are what is asked for.
    unsafe {
        let p = libc::getenv(c"__BIRTHMARK_TEST_NAMING".as_ptr());
        if p.is_null() {
            return;
        }
        match core::ffi::CStr::from_ptr(p).to_bytes() {
            b"crash" => core::ptr::null_mut::<u8>().write_volatile(1),
            b"hang" => loop {
                sleep_ms(100);
            },
            _ => {}
        }
    }
}
