//! `BIRTHMARK_ASYNC_DEBUG=1[,slow=50ms][,coop=off]`.

use super::refuse::{BadValue, Refusal, Seen};
use super::settings::{Async, Settings};
use super::words::{after, duration, words};

pub(super) const NAME: &str = "BIRTHMARK_ASYNC_DEBUG";
const ALLOWED: &str = "1[,slow=TIME][,coop=on|off] or 0; TIME as 50ms, 2s, or 0 (every poll)";

pub(super) fn parse(value: &[u8]) -> Result<Async, BadValue<'_>> {
    let bad = |refusal| BadValue { variable: NAME, value, refusal, allowed: ALLOWED };
    let off = Async { asked: Some(false), ..Settings::OFF.watch };
    if value == b"0" {
        return Ok(off);
    }
    let mut asked = Async { asked: Some(true), on: true, ..off };
    let mut words = words(value);
    let first = words.next().unwrap_or_default();
    if first != b"1" {
        return Err(bad(Refusal::NotAllowed(first)));
    }
    let mut seen = Seen::default();
    for word in words {
        if let Some(time) = after(word, "slow") {
            seen.once(0, word).map_err(bad)?;
            asked.slow = duration(time).ok_or_else(|| bad(Refusal::NotAllowed(word)))?;
        } else if let Some(switch) = after(word, "coop") {
            seen.once(1, word).map_err(bad)?;
            asked.coop = match switch {
                b"on" | b"1" => true,
                b"off" | b"0" => false,
                _ => return Err(bad(Refusal::NotAllowed(word))),
            };
        } else {
            return Err(bad(Refusal::NotAllowed(word)));
        }
    }
    Ok(asked)
}
