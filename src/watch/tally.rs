//! How many warnings of each kind there were, for the line that ends a test binary.

use std::fmt::Write as _;
use std::sync::atomic::{
    AtomicU32,
    Ordering::{AcqRel, Relaxed},
};

use super::trial;
use super::warning::Kind;

static COUNTS: [AtomicU32; Kind::ALL.len()] = [const { AtomicU32::new(0) }; Kind::ALL.len()];
/// The process that they are of: a fork's child begins anew.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// A warning was told, or counted since the same was told.
pub(super) fn note(kind: Kind) {
    let me = std::process::id();
    if PROCESS.swap(me, AcqRel) != me {
        COUNTS.iter().for_each(|count| count.store(0, Relaxed));
    }
    if let Some(at) = Kind::ALL.iter().position(|other| *other == kind) {
        COUNTS[at].fetch_add(1, Relaxed);
    }
}

/// `3 warnings in this test run: 2 resource-warning, 1 task-error`, with their number; nothing where there was none, or where
/// this isn't a test binary.
pub(crate) fn summary() -> Option<(String, u32)> {
    if PROCESS.load(Relaxed) != std::process::id() || !(trial::any() || is_test_binary()) {
        return None;
    }
    words(&COUNTS.each_ref().map(|count| count.load(Relaxed)))
}

fn words(counts: &[u32; Kind::ALL.len()]) -> Option<(String, u32)> {
    let all: u32 = counts.iter().sum();
    if all == 0 {
        return None;
    }
    let mut text = format!("{all} warning{} in this test run", if all == 1 { "" } else { "s" });
    let kinds = Kind::ALL.iter().zip(counts).filter(|(_, n)| **n != 0);
    for (i, (kind, n)) in kinds.enumerate() {
        let _ = write!(text, "{} {n} {kind}", if i == 0 { ":" } else { "," });
    }
    Some((text, all))
}

/// Whether cargo built this program as a test: `target/debug/deps/name-0123456789abcdef`.
pub(super) fn is_test_binary() -> bool {
    let Ok(path) = std::env::current_exe() else { return false };
    let in_deps = path.parent().and_then(|folder| folder.file_name()).is_some_and(|name| name == "deps");
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let hash = name.rsplit_once('-').map_or("", |(_, hash)| hash);
    in_deps && hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_counts_by_kind_and_none_is_silent() {
        let mut counts = [0; Kind::ALL.len()];
        assert_eq!(words(&counts), None);
        let at = |kind| Kind::ALL.iter().position(|other| *other == kind).unwrap();
        counts[at(Kind::ResourceWarning)] = 2;
        counts[at(Kind::TaskError)] = 1;
        let (text, all) = words(&counts).unwrap();
        assert_eq!(
            (text.as_str(), all),
            ("3 warnings in this test run: 2 resource-warning, 1 task-error", 3)
        );
    }

    #[test]
    fn this_is_a_test_binary() {
        assert!(is_test_binary());
    }
}
