//! Whose function a mangled name names, without demangling it: the user's, plumbing, or ours.
//!
//! Reads both manglings: stable compilers mix them, since the precompiled std is v0 and user crates are legacy. Runs inside
//! an allocation: bytes in, a verdict out.

mod legacy;
mod v0;

/// Whose function it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    /// The user's, or a dependency of the user's choice.
    User,
    /// Of std, its kin, or the runtime; may have user code inlined.
    Plumbing,
    /// std's mark of where the user's stack begins.
    Entry,
    /// Birthmark's, or the allocator's shims.
    Ours,
    /// C, or anything else that isn't Rust.
    Foreign,
    /// No symbol.
    Unknown,
}

/// The crates whose frames never count. The one list.
pub(crate) const PLUMBING: [&str; 6] = ["alloc", "core", "std", "hashbrown", "tokio", "test"];
/// Parts of std under names of their own, which no user's crate can have beside it.
const STD_PARTS: [&str; 4] = ["compiler_builtins", "panic_abort", "panic_unwind", "std_detect"];
/// Crates that are compiled before the user's: what they instantiate has nothing of the user's in it.
const PRECOMPILED: [&str; 3] = ["alloc", "core", "std"];
/// Crates whose frames are the allocator's own.
const OURS: [&str; 3] = ["birthmark", "backtrace", "__rustc"];
/// The compiler's shims, by their exact names: a prefix would also hit a user's `__rust_std_internal_init_fn`.
const SHIMS: [&str; 20] = [
    "__rust_alloc",
    "__rust_dealloc",
    "__rust_realloc",
    "__rust_alloc_zeroed",
    "__rust_alloc_error_handler",
    "__rust_no_alloc_shim_is_unstable",
    "__rg_alloc",
    "__rg_dealloc",
    "__rg_realloc",
    "__rg_alloc_zeroed",
    "__rg_oom",
    "__rdl_alloc",
    "__rdl_dealloc",
    "__rdl_realloc",
    "__rdl_alloc_zeroed",
    "__rdl_oom",
    "__rust_start_panic",
    "__rust_panic_cleanup",
    "rust_begin_unwind",
    "rust_panic",
];
const ENTRY: &[u8] = b"__rust_begin_short_backtrace";

fn is_one_of(list: &[&str], name: &[u8]) -> bool {
    list.iter().any(|s| s.as_bytes() == name)
}

/// Whose function this symbol names.
pub(crate) fn classify(symbol: &[u8]) -> Class {
    if let Some(rest) = symbol.strip_prefix(b"_R") {
        v0::classify(rest)
    } else if let Some(rest) = symbol.strip_prefix(b"_ZN") {
        legacy::classify(rest)
    } else {
        // `.llvm.1234` may follow.
        match symbol.split(|b| *b == b'.').next().unwrap_or_default() {
            b"__rust_try" => Class::Plumbing, // what `catch_unwind` compiles to
            name if is_one_of(&SHIMS, name) => Class::Ours,
            _ => Class::Foreign,
        }
    }
}

/// Whose a function is that this crate defines.
fn of_crate(name: &[u8]) -> Class {
    if is_one_of(&PLUMBING, name) || is_one_of(&STD_PARTS, name) {
        Class::Plumbing
    } else if is_one_of(&OURS, name) {
        Class::Ours
    } else {
        Class::User
    }
}

/// Whether an entry's name in this crate is the mark, and not a user's function of that name.
fn may_mark_entry(crate_name: &[u8]) -> bool {
    crate_name == b"std" || crate_name == b"test"
}

/// The decimal number at the front, and how many digits it has. A zero stands alone: `00` is two of them.
fn number(bytes: &[u8]) -> Option<(usize, usize)> {
    if bytes.first() == Some(&b'0') {
        return Some((0, 1));
    }
    let mut n = 0usize;
    let mut digits = 0usize;
    while let Some(d) = bytes.get(digits).filter(|b| b.is_ascii_digit()) {
        n = n.checked_mul(10)?.checked_add(usize::from(d.wrapping_sub(b'0')))?;
        digits = digits.wrapping_add(1);
    }
    (digits > 0).then_some((n, digits))
}

#[cfg(test)]
mod tests;
