//! Before `main`, whether or not anything was allocated: every variable is checked, and the unknown ones are told.

use super::{Defaults, KNOWN, env, parse, refuse};

extern "C" fn before_main() {
    // SAFETY: nothing found outlives this call. Constructors run in the one first thread, or in the thread that loads us;
    // that others leave the environment alone meanwhile is the duty of whoever changes it.
    let mut variables = |name: &str| unsafe { env::variable(name) };
    if let Err(bad) = parse::parse(&mut variables, &Defaults::NONE, false) {
        refuse::stop(&bad);
    }
    // SAFETY: as above.
    unsafe { env::each_unknown(&KNOWN, &mut refuse::warn_unknown) }
}

crate::sys::before_main!(BEFORE_MAIN = before_main);

/// Keeps the constructor in programs that link this crate from an archive.
#[inline(never)]
pub(super) fn ensure_linked() {
    core::hint::black_box(&BEFORE_MAIN);
}
