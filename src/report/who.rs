//! The threads of a fault, as a report names them; none where the program never had a second one. Takes no heap.

use core::fmt::{self, Display, Write};

use crate::block::fault::Facts;
use crate::thread::names::{self, Name};

/// Who made the block, who freed it, and who found what is wrong.
#[derive(Clone, Copy, Default)]
pub(crate) struct Threads {
    pub allocated: Option<Name>,
    pub freed: Option<Name>,
    pub found: Option<Name>,
}

impl Threads {
    /// Those of a block.
    pub(crate) fn of(facts: &Facts) -> Self {
        if !names::several() {
            return Self::default();
        }
        let freed = facts.free.and_then(|free| Name::of(free.thread));
        Self { allocated: Name::of(facts.thread), freed, found: None }
    }

    /// With the present one as the one that found it.
    pub(super) fn found_here(self) -> Self {
        Self { found: names::several().then(Name::present), ..self }
    }
}

/// A text between the quotes of a JSON string.
pub(super) struct Quoted<'a>(pub &'a dyn Display);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escape<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl Write for Escape<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                for letter in text.chars() {
                    match letter {
                        '"' | '\\' => write!(self.0, "\\{letter}")?,
                        letter if letter < ' ' => write!(self.0, "\\u{:04x}", letter as u32)?,
                        letter => self.0.write_char(letter)?,
                    }
                }
                Ok(())
            }
        }
        write!(Escape(f), "{}", self.0)
    }
}
