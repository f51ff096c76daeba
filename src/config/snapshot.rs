//! `BIRTHMARK_SNAPSHOT=exit[:FILE%p]`.

use super::refuse::{BadValue, Refusal};
use super::words::{after, path};

pub(super) const NAME: &str = "BIRTHMARK_SNAPSHOT";
const ALLOWED: &str = "exit, exit:FILE (% only as %p, the process id, or %%) or 0";

/// Frames that a snapshot at exit needs, where nobody asked for a number.
pub(super) const FRAMES: u16 = 5;

/// None: no snapshot; some none: on standard error.
pub(super) fn parse(value: &[u8]) -> Result<Option<Option<&[u8]>>, BadValue<'_>> {
    let bad = |refusal| Err(BadValue { variable: NAME, value, refusal, allowed: ALLOWED });
    match value {
        b"0" => return Ok(None),
        b"exit" => return Ok(Some(None)),
        _ => {}
    }
    if let Some(file) = value.strip_prefix(b"exit:") {
        return match path(file) {
            Some(file) => Ok(Some(Some(file))),
            None => bad(Refusal::NotAllowed(file)),
        };
    }
    if after(value, "signal").is_some() || after(value, "over").is_some() {
        return bad(Refusal::NotBuilt(value));
    }
    bad(Refusal::NotAllowed(value))
}
