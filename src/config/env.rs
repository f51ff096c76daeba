//! The process's environment, read without the standard library: before `main`, and inside the first allocation.

use core::ffi::{CStr, c_char, c_int};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::Defaults;
use super::parse::{BadValue, parse};
use crate::report::raw::Line;

unsafe extern "C" {
    static environ: *const *const c_char;
}

/// Every variable that means something.
const KNOWN: [&str; 7] = [
    "BIRTHMARK_MALLOC",
    "BIRTHMARK_ASYNC_DEBUG",
    "BIRTHMARK_WARNINGS",
    "BIRTHMARK_DEV",
    "BIRTHMARK_REPORT",
    "BIRTHMARK_SNAPSHOT",
    "BIRTHMARK_BUDGETS",
];

/// Calls `visit` with each `NAME=value`.
fn each(visit: &mut dyn FnMut(&'static [u8])) {
    // SAFETY: `AT_SECURE` is one word that the kernel passed.
    #[cfg(target_os = "linux")]
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        return;
    }
    // SAFETY: the C library's list: pointers to C strings, ended by null. It is read before `main`, or at the first
    // allocation, which every later change of the environment in Rust comes after; strings once in it aren't freed.
    unsafe {
        let mut at = environ;
        while !at.is_null() && !(*at).is_null() {
            visit(CStr::from_ptr(*at).to_bytes());
            at = at.add(1);
        }
    }
}

/// The value of one variable; nothing in a program with raised privileges.
pub(super) fn variable(name: &str) -> Option<&'static [u8]> {
    let mut found = None;
    each(&mut |entry| {
        if found.is_none()
            && let Some(rest) = entry.strip_prefix(name.as_bytes())
        {
            found = rest.strip_prefix(b"=");
        }
    });
    found
}

/// Says what is wrong in one line, and ends the process before anything is lost.
#[cold]
pub(super) fn refuse(bad: &BadValue) -> ! {
    let mut line = Line::new();
    line.text("birthmark: ").text(bad.name).text("=").escaped(bad.value, 80).text(" can't be read");
    if !bad.reason.is_empty() {
        line.text(" (").text(bad.reason).text(")");
    }
    line.text("; allowed: ").text(bad.allowed);
    line.send(2);
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(2) }
}

/// Before `main`: reads everything once to refuse it in time, and names variables that mean nothing.
extern "C" fn before_main(_argc: c_int, _argv: *const *const c_char, _envp: *const *const c_char) {
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.swap(true, Relaxed) {
        return;
    }
    if let Err(bad) = parse(&variable, &Defaults::NONE) {
        refuse(&bad);
    }
    each(&mut |entry| {
        let end = entry.iter().position(|b| *b == b'=').unwrap_or(entry.len());
        let name = entry.get(..end).unwrap_or_default();
        if name.starts_with(b"BIRTHMARK_") && !KNOWN.iter().any(|k| k.as_bytes() == name) {
            let mut line = Line::new();
            line.text("birthmark: the variable ")
                .escaped(name, 80)
                .text(" means nothing; known are TRACEMALLOC");
            for known in KNOWN {
                line.text(", ").text(known);
            }
            line.send(2);
        }
    });
}

type Constructor = extern "C" fn(c_int, *const *const c_char, *const *const c_char);

#[cfg_attr(any(target_os = "linux", target_os = "android"), unsafe(link_section = ".init_array.00099"))]
#[used]
static BEFORE_MAIN: Constructor = before_main;

/// Keeps the constructor in programs that link this crate from an archive.
#[inline(never)]
pub(crate) fn ensure_linked() {
    core::hint::black_box(&BEFORE_MAIN);
}
