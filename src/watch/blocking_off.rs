//! The check of a build without the heap: it compiles to nothing.

/// Says that the function which calls this blocks its thread: told where it is called inside of a poll, in a program that has
/// Birthmark's heap.
///
/// ```
/// birthmark::blocking_call("Client::query", "Client::query_async(..).await");
/// ```
#[inline(always)]
pub fn blocking_call(_what: &str, _call_instead: &str) {}
