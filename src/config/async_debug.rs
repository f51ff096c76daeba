//! `BIRTHMARK_ASYNC_DEBUG=1[,slow=50ms][,coop=off]`.

use core::time::Duration;

use super::refuse::{BadValue, Refusal, Seen};
use super::words::{after, duration, words};

pub(super) const NAME: &str = "BIRTHMARK_ASYNC_DEBUG";
const ALLOWED: &str = "1[,slow=TIME][,coop=on|off] or 0; TIME as 50ms, 2s, or 0 (every poll)";

/// A poll longer than this is slow, as asyncio's `slow_callback_duration`.
pub(super) const SLOW: Duration = Duration::from_millis(100);

/// What the variable asks for.
#[derive(Clone, Copy)]
pub(super) struct AsyncDebug {
    pub on: bool,
    pub slow: Duration,
    pub coop: bool,
}

pub(super) fn parse(value: &[u8]) -> Result<AsyncDebug, BadValue<'_>> {
    let bad = |refusal| BadValue { variable: NAME, value, refusal, allowed: ALLOWED };
    let mut asked = AsyncDebug { on: value != b"0", slow: SLOW, coop: true };
    if !asked.on {
        return Ok(asked);
    }
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
