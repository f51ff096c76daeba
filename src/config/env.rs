//! The process's environment block as the C library holds it: found without `std::env`, which allocates.

use core::ffi::{CStr, c_char};

unsafe extern "C" {
    static mut environ: *const *const c_char;
}

/// The `NAME=value` strings; none under `AT_SECURE`, where the environment belongs to somebody else.
///
/// # Safety
/// Until the last returned slice is gone nobody changes the environment.
unsafe fn entries<'a>() -> impl Iterator<Item = &'a [u8]> {
    #[cfg(target_os = "linux")]
    // SAFETY: `getauxval` only reads the vector that the kernel made.
    let secure = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    #[cfg(not(target_os = "linux"))]
    // SAFETY: the four calls only read the process's ids.
    let secure = unsafe { libc::getuid() != libc::geteuid() || libc::getgid() != libc::getegid() };
    // SAFETY: one read of libc's variable, which the caller keeps from being changed.
    let mut next = if secure { core::ptr::null() } else { unsafe { environ } };
    core::iter::from_fn(move || {
        if next.is_null() {
            return None;
        }
        // SAFETY: `next` points into the array of strings that ends with a null pointer, at most at that null: it is
        // moved on only past an entry that isn't null. Each entry is a NUL-terminated string (environ(7)).
        unsafe {
            let entry = *next;
            if entry.is_null() {
                return None;
            }
            next = next.add(1);
            Some(CStr::from_ptr(entry).to_bytes())
        }
    })
}

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
