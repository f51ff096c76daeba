//! Who gets a warning that is to be told: standard error, or a handler of the program's own.
//!
//! One for the process, asked on the reporter's thread. A handler that was set is never given back: another thread may be in it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{
    AtomicPtr,
    Ordering::{AcqRel, Acquire},
};

use super::warnings::Warning;

type Handler = Box<dyn Fn(&Warning) + Send + Sync>;

/// Null: standard error, or the file that `BIRTHMARK_REPORT` names.
static PRESENT: AtomicPtr<Handler> = AtomicPtr::new(std::ptr::null_mut());

pub(super) fn set(handler: Option<Handler>) {
    let handler = handler.map_or(std::ptr::null_mut(), |handler| Box::into_raw(Box::new(handler)));
    PRESENT.swap(handler, AcqRel);
}

/// Hands a warning to whoever gets it.
pub(super) fn deliver(warning: &Warning) {
    // SAFETY: null, or a handler that was published and is never given back.
    let handler = unsafe { PRESENT.load(Acquire).as_ref() };
    let told = match handler {
        Some(handler) => catch_unwind(AssertUnwindSafe(|| handler(warning))).is_ok(),
        None => false,
    };
    // What a handler failed to tell isn't lost.
    if !told {
        warning.write();
    }
}
