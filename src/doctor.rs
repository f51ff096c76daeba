//! `doctor()`: how frames are captured, what is on, what it takes, what was left out, what to change.

use std::fmt;

use crate::block::quarantine;
use crate::config::settings;
use crate::hook;
use crate::mode::{HEAP, mode};
use crate::snapshot::{Dropped, format_size, missing, missing_words};
use crate::trace::generation::control;
use crate::trace::{intern, looking};
use crate::{dropped, sys};

/// What [`doctor`] found. Its `Display` is one line for each fact, and one for each thing to change.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Doctor {
    /// Whether `DebugAlloc` serves this program.
    pub installed: bool,
    /// Whether stacks are walked by rules of our own; else by the `backtrace` crate.
    pub own_walk: bool,
    /// User frames kept for each block; 0: not traced.
    pub frames: u16,
    /// Whether the debug heap is on.
    pub debug_heap: bool,
    /// Bytes of freed blocks that wait in quarantine.
    pub quarantined: u64,
    /// Bytes of stored stacks.
    pub traces: u64,
    /// Bytes that Birthmark has mapped for itself, touched or not.
    pub mapped: u64,
    /// What was left out because something ran out.
    pub dropped: Dropped,
    /// Threads so far that walk each stack anew, since the memory for memos of stacks was used up.
    pub walking: u64,
    /// What the runtime side found in tokio; nothing without the feature `tokio` or before a runtime was attached.
    pub runtime: Option<String>,
    /// What to change.
    pub advice: Vec<String>,
}

/// Looks at Birthmark itself.
///
/// ```
/// println!("{}", birthmark::doctor());
/// ```
pub fn doctor() -> Doctor {
    let now = control();
    let mut found = Doctor {
        installed: hook::installed(),
        own_walk: cfg!(native),
        frames: if now.on() { now.limit() } else { 0 },
        debug_heap: mode() & HEAP != 0,
        quarantined: quarantine::bytes() as u64,
        traces: intern::bytes() as u64,
        mapped: sys::our_bytes() as u64,
        dropped: missing(),
        walking: dropped::MEMOS.count(),
        runtime: None,
        advice: Vec::new(),
    };
    #[cfg(feature = "tokio")]
    {
        found.runtime = crate::watch::tokio::found();
        found.advice = crate::watch::tokio::advice();
    }
    let mut advise = |condition: bool, text: &str| {
        if condition {
            found.advice.push(text.to_owned());
        }
    };
    advise(
        !found.installed,
        "install it: #[global_allocator] static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();",
    );
    advise(found.installed && found.frames == 0, "TRACEMALLOC=5 tells where each block was allocated");
    advise(
        found.installed && !found.debug_heap,
        "BIRTHMARK_MALLOC=debug finds overflows, double frees and wrong layouts",
    );
    advise(
        cfg!(unoptimised),
        "compile the hooks optimised in debug builds: [profile.dev.package.birthmark] opt-level = 3",
    );
    advise(!found.own_walk, "on this target stacks are walked by the `backtrace` crate, many times slower");
    advise(
        found.dropped.captures != 0,
        "some blocks have no stack: threads with very small stacks can't be walked",
    );
    advise(
        found.dropped.table != 0 || found.dropped.traces != 0,
        "the system had no memory for our tables: raise `ulimit -v`, or trace fewer frames",
    );
    if found.walking != 0 {
        let (n, s) = (found.walking, if found.walking == 1 { "" } else { "s" });
        found.advice.push(format!(
            "{n} thread{s} had no memory for a memo of stacks (64 MiB for all threads, or `ulimit -v`) and walked each \
             stack, several times slower: fewer threads at once, or fewer frames"
        ));
    }
    if looking::lost() {
        found.advice.push(
            "names have no lines in this process: another thread held a lock when it was forked; look at snapshots in \
             the parent, or fork while nobody looks names up"
                .to_owned(),
        );
    }
    if let Some(file) = settings().report.file {
        found.advice.push(format!("reports go to {}", String::from_utf8_lossy(file)));
    }
    found
}

impl fmt::Display for Doctor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |on: bool| if on { "yes" } else { "no" };
        let bytes = |n: u64| format_size(n as i64, false);
        writeln!(f, "installed      {}", yes(self.installed))?;
        match self.frames {
            0 => writeln!(f, "tracing        no")?,
            n => writeln!(
                f,
                "tracing        {n} user frames a block, {} of stored stacks",
                bytes(self.traces)
            )?,
        }
        let way = if self.own_walk {
            "own rules from the unwind tables, a memo first"
        } else {
            "the backtrace crate"
        };
        writeln!(f, "captured by    {way}")?;
        writeln!(f, "debug heap     {}, {} in quarantine", yes(self.debug_heap), bytes(self.quarantined))?;
        writeln!(f, "own memory     {} mapped, touched as used", bytes(self.mapped))?;
        if let Some(runtime) = &self.runtime {
            writeln!(f, "tokio          {runtime}")?;
        }
        let left_out = missing_words(&self.dropped);
        write!(f, "left out       {}", if left_out.is_empty() { "nothing" } else { &left_out })?;
        for advice in &self.advice {
            write!(f, "\nadvice         {advice}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_walk_for_want_of_a_memo_are_told() {
        dropped::MEMOS.add(1);
        let doctor = doctor();
        assert!(doctor.walking >= 1);
        assert!(doctor.to_string().contains("had no memory for a memo of stacks"), "{doctor}");
    }

    #[test]
    fn a_program_without_the_allocator_is_told_how_to_install_it() {
        let doctor = doctor();
        assert!(!doctor.installed);
        assert!(doctor.to_string().contains("advice         install it: #[global_allocator]"), "{doctor}");
    }
}
