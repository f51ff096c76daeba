//! `BIRTHMARK_MALLOC=debug[,word..]`.

use super::refuse::{BadValue, Refusal, Seen};
use super::settings::{Heap, Why};
use super::words::{after, size, words};

pub(super) const NAME: &str = "BIRTHMARK_MALLOC";
pub(super) const IN_CODE: &str = "DebugAlloc::malloc";
const ALLOWED: &str = "debug[,quarantine=BYTES][,on_error=abort|continue], off or 0; BYTES as 512K, 4M, 1G";
const NOT_BUILT: [&str; 4] = ["guard_pages", "check_every", "break_at", "leaks"];

/// The quarantine of `debug`, of dev mode, and of a `debug_assertions` build where nothing is set.
pub(super) const QUARANTINE: usize = 4 << 20;
pub(super) const QUARANTINE_DEV: usize = 16 << 20;
pub(super) const QUARANTINE_BUILD: usize = 1 << 20;

/// The debug heap, or none for `off` and `0`. `variable` is who says so: the variable, or the const default.
pub(super) fn parse<'a>(
    variable: &'static str,
    value: &'a [u8],
    why: Why,
) -> Result<Option<Heap>, BadValue<'a>> {
    let bad = |refusal| BadValue { variable, value, refusal, allowed: ALLOWED };
    if value == b"off" || value == b"0" {
        return Ok(None);
    }
    let mut words = words(value);
    let first = words.next().unwrap_or_default();
    if first != b"debug" {
        return Err(bad(Refusal::NotAllowed(first)));
    }
    let mut heap = Heap { quarantine: QUARANTINE, go_on: false, why };
    let mut seen = Seen::default();
    for word in words {
        if let Some(bytes) = after(word, "quarantine") {
            seen.once(0, word).map_err(bad)?;
            heap.quarantine = size(bytes).ok_or_else(|| bad(Refusal::NotAllowed(word)))?;
        } else if let Some(what) = after(word, "on_error") {
            seen.once(1, word).map_err(bad)?;
            heap.go_on = match what {
                b"abort" => false,
                b"continue" => true,
                b"deferred" => return Err(bad(Refusal::NotBuilt(word))),
                _ => return Err(bad(Refusal::NotAllowed(word))),
            };
        } else if NOT_BUILT.iter().any(|name| after(word, name).is_some()) {
            return Err(bad(Refusal::NotBuilt(word)));
        } else {
            return Err(bad(Refusal::NotAllowed(word)));
        }
    }
    Ok(Some(heap))
}
