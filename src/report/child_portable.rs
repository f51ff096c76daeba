//! No process of its own finds names where there is no raw `clone`: `fork` runs the program's handlers, with locks that
//! the thread at fault may hold. The report stands with module and offset, or the bare address.

/// What would run in the child.
pub(crate) type Work<'a> = dyn FnMut(&mut dyn FnMut(&[u8])) + 'a;

/// Always false: there is no child to ask.
pub(crate) fn ask(_limit_ms: i64, _work: &mut Work<'_>, _with: &mut dyn FnMut(&[u8])) -> bool {
    false
}
