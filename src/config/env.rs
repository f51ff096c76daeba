//! The process's environment, as bytes: found without `std::env`, which allocates.

use crate::sys::environment as entries;

/// The value of `name`; the first one, as `getenv`.
///
/// # Safety
/// Until the returned slice is gone nobody changes the environment.
pub(super) unsafe fn variable<'a>(name: &str) -> Option<&'a [u8]> {
    // SAFETY: the caller's promise is the same.
    let mut entries = unsafe { entries() };
    entries.find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// Calls `tell` with the name of every variable that begins with `BIRTHMARK_` and isn't in `known`.
///
/// # Safety
/// During the call nobody changes the environment.
pub(super) unsafe fn each_unknown(known: &[&str], tell: &mut dyn FnMut(&[u8])) {
    // SAFETY: the caller's promise is the same.
    for entry in unsafe { entries() } {
        let name = entry.split(|byte| *byte == b'=').next().unwrap_or_default();
        if name.starts_with(b"BIRTHMARK_") && !known.iter().any(|known| known.as_bytes() == name) {
            tell(name);
        }
    }
}
