//! `TRACEMALLOC=N`.

use super::refuse::{BadValue, Refusal};
use super::words::{after, number, words};

pub(super) const NAME: &str = "TRACEMALLOC";
const ALLOWED: &str = "0 (off) or a number of frames from 1 to 65535";

/// How many frames; 0: off.
pub(super) fn parse(value: &[u8]) -> Result<u16, BadValue<'_>> {
    let bad = |refusal| BadValue { variable: NAME, value, refusal, allowed: ALLOWED };
    let mut words = words(value);
    let first = words.next().unwrap_or_default();
    let frames = number(first).and_then(|frames| u16::try_from(frames).ok());
    let frames = frames.ok_or_else(|| bad(Refusal::NotAllowed(first)))?;
    match words.next() {
        None => Ok(frames),
        Some(word) if after(word, "sample").is_some() => Err(bad(Refusal::NotBuilt(word))),
        Some(word) => Err(bad(Refusal::NotAllowed(word))),
    }
}
