//! Legacy names: `_ZN`, components with their lengths, `17h` and the hash, `E`.
//!
//! Runs inside an allocation.

use super::{Class, ENTRY, may_mark_entry, number, of_crate};

/// A symbol behind `_ZN`. What has no hash at its end is C++.
pub(super) fn classify(rest: &[u8]) -> Class {
    match read(rest) {
        None => Class::Foreign,
        Some((first, last)) => {
            // `_$LT$` begins an impl block; an inherent method's component may begin with another escape.
            if first.contains(&b'$') {
                of_impl(first)
            } else if last == ENTRY && may_mark_entry(first) {
                Class::Entry
            } else {
                of_crate(first)
            }
        }
    }
}

/// The path's first component and its last before the hash; whatever follows the `E` (`.llvm.1234`) is left alone.
fn read(mut rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut first: Option<&[u8]> = None;
    let mut last: &[u8] = b"";
    loop {
        let (len, digits) = number(rest)?;
        let (component, after) = rest.get(digits..)?.split_at_checked(len)?;
        if after.first() == Some(&b'E') {
            let (h, hash) = component.split_first()?;
            let hashed = *h == b'h' && hash.len() == 16 && hash.iter().all(u8::is_ascii_hexdigit);
            return first.filter(|_| hashed).map(|f| (f, last));
        }
        first = first.or(Some(component));
        last = component;
        rest = after;
    }
}

/// An impl's component, such as `_$LT$alloc..vec..Vec$LT$my..T$GT$$u20$as$u20$core..ops..drop..Drop$GT$`: any root in it
/// that isn't plumbing means that the user wrote it, since type parameters aren't filled in.
fn of_impl(component: &[u8]) -> Class {
    let mut class = Class::Plumbing; // no root at all: an impl for a primitive type, which only std may write
    let mut rest = component;
    // Whether what stands before `rest` is `..`, so that a name there continues a path.
    let mut continues = false;
    while let Some(first) = rest.first() {
        let len;
        if *first == b'$' {
            let close = rest.iter().skip(1).position(|b| *b == b'$');
            len = close.map_or(rest.len(), |p| p.saturating_add(2));
            continues = false;
        } else if *first == b'.' {
            len = rest.iter().take_while(|b| **b == b'.').count();
            continues = len == 2;
        } else {
            len = rest.iter().take_while(|b| **b != b'$' && **b != b'.').count();
            let (name, after) = rest.split_at_checked(len).unwrap_or_default();
            let is_root = !continues && after.starts_with(b"..") && !after.starts_with(b"...");
            if is_root {
                match of_crate(name) {
                    Class::User => return Class::User,
                    Class::Ours => class = Class::Ours,
                    _ => {}
                }
            }
            continues = false;
        }
        rest = rest.get(len.max(1)..).unwrap_or_default();
    }
    class
}
