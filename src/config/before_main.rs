//! Before `main`, whether or not anything was allocated: every variable is checked, and the unknown ones are told.

use core::ffi::{c_char, c_int};

use super::{Defaults, KNOWN, env, parse, refuse};

extern "C" fn before_main(_argc: c_int, _argv: *const *const c_char, _envp: *const *const c_char) {
    // SAFETY: nothing found outlives this call. Constructors run in the one first thread, or in the thread that loads us;
    // that others leave the environment alone meanwhile is the duty of whoever changes it.
    let mut variables = |name: &str| unsafe { env::variable(name) };
    if let Err(bad) = parse::parse(&mut variables, &Defaults::NONE, false) {
        refuse::stop(&bad);
    }
    // SAFETY: as above.
    unsafe { env::each_unknown(&KNOWN, &mut refuse::warn_unknown) }
}

type Constructor = extern "C" fn(c_int, *const *const c_char, *const *const c_char);

/// Among the earliest constructors.
// SAFETY: an entry of `.init_array` is called once by the C runtime with (argc, argv, envp), or with nothing; the arguments
// aren't looked at.
#[cfg_attr(any(target_os = "linux", target_os = "android"), unsafe(link_section = ".init_array.00099"))]
#[used]
static BEFORE_MAIN: Constructor = before_main;

/// Keeps the constructor in programs that link this crate from an archive.
#[inline(never)]
pub(super) fn ensure_linked() {
    core::hint::black_box(&BEFORE_MAIN);
}
