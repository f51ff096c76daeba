//! The only files that differ by platform: `glibc` for the native way, `linux` and `other_unix` beside `unix`, `windows`,
//! and `elsewhere`.
//!
//! Runs inside an allocation: system calls only, nothing from the watched heap, `errno` put back.

mod bell;
#[cfg(not(any(unix, windows)))]
mod elsewhere;
#[cfg(native)]
mod glibc;
#[cfg_attr(not(native), path = "line_portable.rs")]
pub(crate) mod line;
#[cfg(target_os = "linux")]
mod linux;
mod memory;
#[cfg(all(unix, not(target_os = "linux")))]
mod other_unix;
#[cfg(unix)]
mod output;
mod start;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

pub(crate) use bell::Bell;
#[cfg(not(any(unix, windows)))]
pub(crate) use elsewhere::*;
#[cfg(native)]
pub(crate) use glibc::*;
#[cfg(target_os = "linux")]
pub(crate) use linux::*;
pub(crate) use memory::{discard, map, our_bytes, unmap};
#[cfg(all(unix, not(target_os = "linux")))]
pub(crate) use other_unix::*;
#[cfg(unix)]
pub(crate) use output::*;
pub(crate) use start::{REGISTER_AT_EXIT, after_main, before_main};
#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(windows)]
pub(crate) use windows::*;

/// Bits of an address that a program may have.
pub(crate) const ADDRESS_BITS: u32 = if usize::BITS < 48 {
    usize::BITS
} else if cfg!(target_arch = "x86_64") {
    47
} else {
    48
};

/// Of a child process that nobody has waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(unix), allow(dead_code))] // elsewhere nothing is left of one that ended
pub(crate) enum ChildState {
    Running,
    Ended,
}

/// Whether `address` lies in the program or in a library of it, as far as that is known.
#[cfg(native)]
pub(crate) fn in_module(address: usize) -> bool {
    find_module(address).is_some()
}
#[cfg(not(native))]
pub(crate) fn in_module(_address: usize) -> bool {
    false
}
