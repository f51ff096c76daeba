//! The filters of this process: the variable's, and those that code added. The newest comes first.
//!
//! A list that only grows, read without a lock: a fork's child reads it too.

use std::sync::atomic::{
    AtomicPtr,
    Ordering::{AcqRel, Acquire},
};

use super::filter::Filter;
use super::heap;
use crate::config::warnings::each;

struct Node {
    /// None: the list's end.
    filter: Option<Filter>,
    next: Option<&'static Node>,
}

static END: Node = Node { filter: None, next: None };
/// Null until the variable was read.
static NEWEST: AtomicPtr<Node> = AtomicPtr::new(std::ptr::null_mut());

fn newest() -> &'static Node {
    let seen = NEWEST.load(Acquire);
    // SAFETY: not null, so it was published below: `END`, or a node that is never given back.
    if let Some(node) = unsafe { seen.as_ref() } {
        return node;
    }
    let mut list = &END;
    for written in each(heap::filters()) {
        list = Box::leak(Box::new(Node { filter: Some(written.into()), next: Some(list) }));
    }
    match NEWEST.compare_exchange(seen, std::ptr::from_ref(list).cast_mut(), AcqRel, Acquire) {
        Ok(_) => list,
        // SAFETY: as above. What this thread made stays unused.
        Err(other) => unsafe { &*other },
    }
}

/// Adds a filter before all others. Ordinary code.
pub(super) fn add(filter: Filter) {
    let _ours = heap::ours();
    let mut next = newest();
    let node = Box::into_raw(Box::new(Node { filter: Some(filter), next: Some(next) }));
    while let Err(other) = NEWEST.compare_exchange(std::ptr::from_ref(next).cast_mut(), node, AcqRel, Acquire)
    {
        // SAFETY: `other` was published, and is never null again; the node is ours alone until it is published.
        unsafe {
            next = &*other;
            (*node).next = Some(next);
        }
    }
}

/// All filters, the newest first. Ordinary code.
pub(super) fn all() -> impl Iterator<Item = &'static Filter> {
    let mut next = Some(newest());
    std::iter::from_fn(move || {
        let node = next?;
        next = node.next;
        node.filter.as_ref()
    })
}
