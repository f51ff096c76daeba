//! The bytes of one block: how it lies in what the inner allocator gave, how it is filled and checked, where it waits
//! after its free.

pub(crate) mod check;
pub(crate) mod diagnose;
pub(crate) mod facts;
pub(crate) mod fault;
pub(crate) mod fork;
pub(crate) mod heap;
pub(crate) mod inner;
pub(crate) mod layout;
pub(crate) mod pattern;
pub(crate) mod quarantine;
