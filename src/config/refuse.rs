//! What can't be read: one line on standard error that names the variable, the value and what is allowed. A fixed
//! buffer and one `write`: no heap.

use core::fmt::{self, Display, Write};

use crate::report::buffer::Buffer;
use crate::sys;

/// A value that can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadValue<'a> {
    /// The variable, or the method of `DebugAlloc`.
    pub variable: &'static str,
    /// The whole value.
    pub value: &'a [u8],
    /// Which word of it, and why.
    pub refusal: Refusal<'a>,
    /// What would be accepted.
    pub allowed: &'static str,
}

/// Why a word isn't accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal<'a> {
    /// Not in the grammar, or out of range.
    NotAllowed(&'a [u8]),
    /// In the grammar, but not built yet.
    NotBuilt(&'a [u8]),
    /// Given before in the same value.
    Twice(&'a [u8]),
}

/// Which words of one value were seen.
#[derive(Default)]
pub(super) struct Seen(u8);

impl Seen {
    /// Notes word `index` (below 8); refuses it the second time.
    pub(super) fn once<'a>(&mut self, index: u8, word: &'a [u8]) -> Result<(), Refusal<'a>> {
        let bit = 1u8.wrapping_shl(u32::from(index));
        if self.0 & bit != 0 {
            return Err(Refusal::Twice(word));
        }
        self.0 |= bit;
        Ok(())
    }
}

/// Bytes between quotes: escaped where they aren't plain ASCII, and cut after 80 of them.
struct Quoted<'a>(&'a [u8]);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 80;
        let shown = self.0.get(..SHOWN).unwrap_or(self.0);
        let cut = if shown.len() < self.0.len() { ".." } else { "" };
        write!(f, "\"{}{cut}\"", shown.escape_ascii())
    }
}

impl Display for BadValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, why) = match self.refusal {
            Refusal::NotAllowed(word) => (word, "is not understood"),
            Refusal::NotBuilt(word) => (word, "is not built yet"),
            Refusal::Twice(word) => (word, "is given twice"),
        };
        write!(f, "birthmark: {}={}: ", self.variable, Quoted(self.value))?;
        if word != self.value {
            write!(f, "{} ", Quoted(word))?;
        }
        write!(f, "{why}; allowed: {}", self.allowed)
    }
}

/// Tells the value and ends the process with status 2, running nothing of the program's.
pub(super) fn stop(bad: &BadValue<'_>) -> ! {
    tell(bad);
    sys::exit_now(2)
}

/// Tells an unknown variable.
pub(super) fn warn_unknown(name: &[u8]) {
    tell(&Unknown(name));
}

struct Unknown<'a>(&'a [u8]);

impl Display for Unknown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "birthmark: the variable {} is unknown and ignored; known are", Quoted(self.0))?;
        for (index, name) in super::KNOWN.iter().enumerate() {
            write!(f, "{} {name}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// One line, one `write`.
fn tell(line: &dyn Display) {
    let mut memory = [0u8; 1024];
    let mut buffer = Buffer::new(&mut memory);
    let _ = writeln!(buffer, "{line}"); // a line that is too long is cut; ours are not
    sys::write_all(sys::STDERR, buffer.bytes());
}
