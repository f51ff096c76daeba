//! Text in memory that somebody lends: grows never, allocates never, cuts at the end of what there is.

use core::fmt;

/// A place to write text to. What doesn't fit is dropped, and `full` tells so.
pub(crate) struct Buffer<'a> {
    memory: &'a mut [u8],
    length: usize,
    full: bool,
}

impl<'a> Buffer<'a> {
    /// An empty text in `memory`.
    pub(crate) fn new(memory: &'a mut [u8]) -> Self {
        Self { memory, length: 0, full: false }
    }

    /// What was written.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.memory.get(..self.length).unwrap_or_default()
    }

    /// Adds bytes, as many as fit.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let room = self.memory.get_mut(self.length..).unwrap_or_default();
        let taken = bytes.len().min(room.len());
        if let (Some(to), Some(from)) = (room.get_mut(..taken), bytes.get(..taken)) {
            to.copy_from_slice(from);
        }
        self.length = self.length.saturating_add(taken);
        self.full |= taken < bytes.len();
    }

    /// Whether something was dropped.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }
}

impl fmt::Write for Buffer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}
