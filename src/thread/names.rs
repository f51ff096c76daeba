//! Who a thread was, for reports: its name and its id, kept under a number that no other thread gets.
//!
//! A slot is used again, and so is a thread's id for the kernel; the thread column and the quarantine keep this number. A
//! thread's name is noted when it takes its slot (std has named it by then) and when it leaves; what it is called meanwhile
//! is asked when a report is made. Nothing is ever given back. Runs inside an allocation: a few system calls in a thread's
//! life.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use core::fmt;
use core::sync::atomic::{
    AtomicPtr, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use crate::block::fork;
use crate::sys;

/// Threads whose names are kept; of later ones the number holds the kernel's id.
const MOST: usize = CHUNK * CHUNKS;
const CHUNK: usize = 512;
const CHUNKS: usize = 128;
/// Marks a number that is a thread's id for the kernel.
const ID: u32 = 1 << 31;
/// Bytes of a name for the kernel, its end included.
const BYTES: usize = 16;

const RUNS: u32 = 0;
const ENDED: u32 = 1;
/// The thread that `main` ran on: called so, whatever its name.
const MAIN: u32 = 2;

struct Entry {
    tid: AtomicU32,
    state: AtomicU32,
    /// The process in which it ran, by its fork number.
    process: AtomicU64,
    name: Kept,
}

/// A name in two words, so that it can be read while it is written: at worst a mixture, for want of a better one.
struct Kept([AtomicU64; 2]);

static ENTRIES: [AtomicPtr<Entry>; CHUNKS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; CHUNKS];
/// Threads so far.
static COUNT: AtomicU64 = AtomicU64::new(0);
/// What the program's first thread was called at first: so are those that nobody named.
static PROGRAM: Kept = Kept([const { AtomicU64::new(0) }; 2]);

/// Whether more than one thread has allocated: else no report needs to say which.
pub(crate) fn several() -> bool {
    COUNT.load(Relaxed) > 1
}

/// A thread that has no slot of its own, and so no number.
pub(super) fn count_nameless() {
    COUNT.fetch_add(1, Relaxed);
}

/// The number of this thread, which takes a slot.
pub(super) fn begin() -> u32 {
    let nth = usize::try_from(COUNT.fetch_add(1, Relaxed)).unwrap_or(usize::MAX);
    let (tid, main) = (sys::thread_number(), sys::is_main_thread());
    if nth == 0 {
        let name = if main { Some(sys::thread_name()) } else { sys::name_of_thread(sys::process_id()) };
        PROGRAM.keep(name.unwrap_or_default());
    }
    let Some(entry) = made(nth) else { return ID | tid };
    entry.tid.store(tid, Relaxed);
    entry.process.store(fork::number(), Relaxed);
    entry.state.store(if main { MAIN } else { RUNS }, Relaxed);
    entry.name.keep(sys::thread_name());
    (nth as u32).wrapping_add(1)
}

/// This thread, whose number it is, leaves its slot.
pub(super) fn end(number: u32) {
    if let Some(entry) = entry(number)
        && entry.state.load(Relaxed) == RUNS
    {
        entry.name.keep(sys::thread_name());
        entry.state.store(ENDED, Release);
    }
}

/// The entry of the thread that is the `nth`, counted from 0; nothing past the last, or where memory ran out.
fn made(nth: usize) -> Option<&'static Entry> {
    let place = ENTRIES.get(nth / CHUNK)?;
    if place.load(Acquire).is_null() {
        const SIZE: usize = CHUNK * size_of::<Entry>();
        let fresh = sys::map(SIZE)?;
        if place.compare_exchange(core::ptr::null_mut(), fresh.as_ptr().cast(), AcqRel, Acquire).is_err() {
            // SAFETY: ours was never published.
            unsafe { sys::unmap(fresh, SIZE) };
        }
    }
    at(nth)
}

fn at(nth: usize) -> Option<&'static Entry> {
    let first = ENTRIES.get(nth / CHUNK)?.load(Acquire);
    if first.is_null() {
        return None;
    }
    // SAFETY: a published chunk has CHUNK entries, valid as zeroes, and is never unmapped.
    Some(unsafe { &*first.add(nth % CHUNK) })
}

fn entry(number: u32) -> Option<&'static Entry> {
    let nth = (number as usize).checked_sub(1)?;
    if nth < MOST { at(nth) } else { None }
}

impl Kept {
    fn keep(&self, name: [u8; BYTES]) {
        let [low, high] = halves(name);
        self.0.iter().zip([low, high]).for_each(|(word, half)| word.store(half, Relaxed));
    }
    fn get(&self) -> [u8; BYTES] {
        let [low, high] = &self.0;
        let (low, high) = (u128::from(low.load(Relaxed)), u128::from(high.load(Relaxed)));
        (low | high << 64).to_le_bytes()
    }
}

fn halves(name: [u8; BYTES]) -> [u64; 2] {
    let both = u128::from_le_bytes(name);
    [both as u64, (both >> 64) as u64]
}

/// A thread as a report names it. Its `Display` is its name or, where that tells nothing, its id for the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Name {
    text: [u8; BYTES],
    tid: u32,
}

impl Name {
    const MAIN: [u8; BYTES] = *b"main\0\0\0\0\0\0\0\0\0\0\0\0";

    /// The thread with this number in the thread column or the quarantine; nothing for 0. Takes no heap.
    pub(crate) fn of(number: u32) -> Option<Self> {
        if number & ID != 0 {
            return Some(Self { text: [0; BYTES], tid: number & !ID });
        }
        let entry = entry(number)?;
        let (tid, state) = (entry.tid.load(Relaxed), entry.state.load(Acquire));
        let runs = state == RUNS && entry.process.load(Relaxed) == fork::number();
        let text = match state {
            MAIN => return Some(Self { text: Self::MAIN, tid }),
            _ if runs => sys::name_of_thread(tid)
                .inspect(|name| entry.name.keep(*name))
                .unwrap_or_else(|| entry.name.get()),
            _ => entry.name.get(),
        };
        (tid != 0).then(|| Self::told(text, tid))
    }

    /// This thread. Takes no heap.
    pub(crate) fn present() -> Self {
        let tid = sys::thread_number();
        if sys::is_main_thread() {
            Self { text: Self::MAIN, tid }
        } else {
            Self::told(sys::thread_name(), tid)
        }
    }

    /// A thread that nobody named has the name of the one that started it, nearly always the program's.
    fn told(text: [u8; BYTES], tid: u32) -> Self {
        Self { text: if text == PROGRAM.get() { [0; BYTES] } else { text }, tid }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text.split(|byte| *byte == 0).next().unwrap_or_default();
        if text.is_empty() {
            return write!(f, "{}", self.tid);
        }
        for part in text.utf8_chunks() {
            for letter in part.valid().chars() {
                fmt::Write::write_char(f, if letter.is_control() { '?' } else { letter })?;
            }
            if !part.invalid().is_empty() {
                f.write_str("?")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn named(text: &[u8]) -> String {
        let mut name = Name { text: [0; BYTES], tid: 77 };
        name.text.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
        name.to_string()
    }

    #[test]
    fn a_name_is_shown_without_what_a_terminal_would_obey_and_an_id_where_there_is_none() {
        assert_eq!(named(b"worker-3"), "worker-3");
        assert_eq!(named(b"a\x1b[2Jb\xff\nc"), "a?[2Jb??c");
        assert_eq!(named(b"cut in a lette\xc3"), "cut in a lette?");
        assert_eq!(named(b""), "77");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_that_has_ended_keeps_its_last_name_and_one_that_runs_is_asked() {
        let named = std::thread::Builder::new().name("before".into());
        let (tell, told) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let thread = named.spawn(move || {
            let number = begin();
            // SAFETY: a C string of less than 16 bytes.
            unsafe { libc::prctl(libc::PR_SET_NAME, c"after".as_ptr()) };
            tell.send(number).unwrap();
            wait.recv().unwrap();
            end(number);
        });
        let number = told.recv().unwrap();
        assert_eq!(Name::of(number).unwrap().to_string(), "after");
        go.send(()).unwrap();
        thread.unwrap().join().unwrap();
        assert_eq!(Name::of(number).unwrap().to_string(), "after");
        assert_eq!(Name::of(0), None);
        assert_eq!(Name::of(ID | 4711).unwrap().to_string(), "4711");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_first_thread_is_main_and_one_that_nobody_named_is_told_by_its_id() {
        let first = sys::name_of_thread(sys::process_id()).unwrap();
        PROGRAM.keep(first);
        assert_eq!(Name::told(first, 5).to_string(), "5");
        let name = std::thread::Builder::new().name("mine".into()).spawn(|| Name::present().to_string());
        assert_eq!(name.unwrap().join().unwrap(), "mine");
    }
}
