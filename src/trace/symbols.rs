//! Which function of a loaded file holds an address, and whose it is: an index of each file's symbol table, made at the
//! first question.
//!
//! Files are read by system calls, starts of functions are sorted into memory of our own, names are looked at on demand.
//! Nobody waits: two threads may build the same index, one publishes it, the other gives its own back. Runs inside an
//! allocation.

mod file;
mod index;

use core::ffi::c_char;
use core::sync::atomic::{
    AtomicPtr, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed},
};

use self::index::Index;
use super::names::Class;
use crate::sys;

/// A loaded file, as far as its symbols need it. Code of it runs on this thread, so it stays loaded meanwhile.
#[derive(Clone, Copy)]
pub(crate) struct LoadedModule {
    /// Its first address: the file's head lies there.
    pub map_start: usize,
    /// What to add to an address in the file.
    pub load_bias: usize,
    /// Its path; null or empty for the main program.
    pub path: *const c_char,
    /// 0 for a file that was there at start and never goes; else tells apart those loaded one after the other.
    pub generation: u32,
}

/// All indexes, the newest first. None is ever changed or given back: names point into them.
static INDEXES: AtomicPtr<Index> = AtomicPtr::new(core::ptr::null_mut());
/// How many there are. A program that loads file after file is indexed up to [`MOST`] of them.
static COUNT: AtomicUsize = AtomicUsize::new(0);
const MOST: usize = 512;

/// Whose function holds `address`: [`Class::Unknown`] where no symbol tells, be it stripped, gone, replaced, or for want
/// of memory.
pub(crate) fn class_of(address: usize, module: &LoadedModule) -> Class {
    let Some(index) = index_of(module) else { return Class::Unknown };
    index.find(address.wrapping_sub(module.load_bias)).map_or(index.elsewhere, |(_, class)| class)
}

/// The mangled name of the function that holds `address`; of several at one place, the user's.
pub(crate) fn name_at(address: usize, module: &LoadedModule) -> Option<&'static [u8]> {
    index_of(module)?.find(address.wrapping_sub(module.load_bias)).map(|(name, _)| name)
}

fn index_of(module: &LoadedModule) -> Option<&'static Index> {
    // Files loaded one after the other at one place are told apart by their heads and build ids.
    let mark = if module.generation == 0 { None } else { file::mark_of_loaded(module.map_start) };
    let is_it = |index: &Index| {
        index.map_start == module.map_start
            && index.generation == module.generation
            && (module.generation == 0 || index.mark == mark)
    };
    let head = INDEXES.load(Acquire);
    known(head, core::ptr::null(), is_it).or_else(|| add(head, module, is_it))
}

/// The index that `is_it`, among those from `head` on and before `end`.
fn known(head: *const Index, end: *const Index, is_it: impl Fn(&Index) -> bool) -> Option<&'static Index> {
    let mut at = head;
    while at != end {
        // SAFETY: published indexes are never changed or unmapped, and the last one's `next` is null.
        let index = unsafe { at.as_ref() }?;
        if is_it(index) {
            return Some(index);
        }
        at = index.next;
    }
    None
}

#[cold]
#[inline(never)]
fn add(head: *mut Index, module: &LoadedModule, is_it: impl Fn(&Index) -> bool) -> Option<&'static Index> {
    if COUNT.load(Relaxed) >= MOST {
        return None;
    }
    let fresh = sys::keep_errno(|| Index::build(module))?;
    let mut seen = head;
    loop {
        // SAFETY: not published yet: ours alone.
        unsafe { (*fresh.as_ptr()).next = seen };
        match INDEXES.compare_exchange(seen, fresh.as_ptr(), AcqRel, Acquire) {
            Ok(_) => {
                COUNT.fetch_add(1, Relaxed);
                // SAFETY: published just now, so it stays as it is.
                return Some(unsafe { fresh.as_ref() });
            }
            Err(now) => {
                if let Some(theirs) = known(now, seen, &is_it) {
                    // SAFETY: ours was never published.
                    unsafe { Index::give_back(fresh) };
                    return Some(theirs);
                }
                seen = now;
            }
        }
    }
}

#[cfg(test)]
mod tests;
