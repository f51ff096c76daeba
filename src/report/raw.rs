//! The body of a fatal report without names: module and offset for each frame. No heap.

use core::fmt::{self, Display, Write};

use super::buffer::Buffer;
use super::damage::{self, DamageWords};
use super::json::Escaped;
use crate::block::facts::BlockFacts;
use crate::thread::names::Name;
use crate::trace::capture;

/// The widest line of frames.
const WIDEST: usize = 100;
/// Lines of frames for each stack, unless all are asked for.
const LINES: usize = 3;

/// What is told of a fault whose names couldn't be found.
pub(super) struct Raw<'a> {
    pub facts: &'a BlockFacts,
    /// Label, what comes before the frames, return addresses, whose stack it is.
    pub stacks: [(&'static str, &'static str, &'a [usize], Option<Name>); 3],
    pub full: bool,
}

impl Raw<'_> {
    /// The rows, as text.
    pub(super) fn text(&self, out: &mut Buffer<'_>) -> fmt::Result {
        for (i, part) in damage::parts(self.facts).enumerate() {
            writeln!(out, "  {:9}  {part}", if i == 0 { "damage" } else { "" })?;
        }
        for (label, before, addresses, thread) in self.stacks {
            if addresses.is_empty() && before.is_empty() {
                continue;
            }
            write!(out, "  {label:9}  {before}")?;
            let mut column = before.len();
            let mut lines = 1usize;
            for address in addresses {
                let mut memory = [0u8; 300];
                let mut place = Buffer::new(&mut memory);
                write!(place, "{}", Place(*address))?;
                let wide = place.bytes().len().saturating_add(1);
                if column > 0 && column.saturating_add(wide) > WIDEST {
                    if lines == LINES && !self.full {
                        break;
                    }
                    lines = lines.saturating_add(1);
                    write!(out, "\n{:13}", "")?;
                    column = 0;
                }
                if column > 0 {
                    out.write_str(" ")?;
                }
                out.push(place.bytes());
                column = column.saturating_add(wide);
            }
            if let (Some(thread), false) = (thread, addresses.is_empty()) {
                write!(out, "  thread {thread}")?;
            }
            out.write_str("\n")?;
        }
        out.write_str(
            "  help       the names could not be found; `addr2line -fie MODULE OFFSET` tells what stands at MODULE+OFFSET\n",
        )
    }

    /// The end of a JSON object that was begun, with the same facts.
    pub(super) fn json(&self, out: &mut Buffer<'_>) -> fmt::Result {
        out.write_str(",\"raw\":true,\"damage\":\"")?;
        write!(Escaped(out), "{}", DamageWords(self.facts))?;
        out.write_str("\",\"damaged\":")?;
        damage::json(damage::parts(self.facts), out)?;
        for (label, before, addresses, thread) in self.stacks {
            write!(out, ",\"{label}\":{{\"note\":\"{before}\"")?;
            if let (Some(thread), false) = (thread, addresses.is_empty()) {
                out.write_str(",\"thread\":\"")?;
                write!(Escaped(out), "{thread}")?;
                out.write_str("\"")?;
            }
            out.write_str(",\"frames\":[")?;
            for (i, address) in addresses.iter().enumerate() {
                write!(out, "{}\"{}\"", if i > 0 { "," } else { "" }, Place(*address))?;
            }
            out.write_str("]}")?;
        }
        out.write_str("}\n")
    }
}

/// A return address as module and offset; the offset lies inside the call.
pub(super) struct Place(pub usize);

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = capture::address(self.0).saturating_sub(1);
        #[cfg(native)]
        if let Some(module) = crate::trace::modules::find(address) {
            let mut memory = [0u8; 256];
            let name: &[u8] = if module.name.is_null() {
                b""
            } else {
                // SAFETY: the loader's C string of a module that holds a return address of a live stack.
                unsafe { core::ffi::CStr::from_ptr(module.name) }.to_bytes()
            };
            let name = if name.is_empty() { crate::sys::program_path(&mut memory) } else { name };
            let name = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            return write!(f, "{}+{:#x}", name.escape_ascii(), address.wrapping_sub(module.bias));
        }
        write!(f, "{address:#x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::facts::{Block, Found};
    use crate::block::pattern::Damage;

    fn told(full: bool, json: bool) -> String {
        let here = told as *const () as usize + 4;
        let many = [here; 64];
        let thread = Some(Name::present());
        let stacks = [
            ("allocated", "", &many[..], None),
            ("freed", "", &[][..], thread),
            ("found", "at free", &many[..2], thread),
        ];
        let block = Block {
            start: 64,
            size: 24,
            align: 8,
            trace: 0,
            thread: 0,
            freed: false,
            free: None,
            inherited: false,
        };
        let (behind, before) = (Damage::of(&[(0, 0x21)]), Damage::of(&[(13, b'"'), (14, b'\\'), (15, b'a')]));
        let facts = BlockFacts {
            block: Some(block),
            behind: Some(behind),
            before: Some(before),
            ..BlockFacts::of(Found::Free, 64)
        };
        let raw = Raw { facts: &facts, stacks, full };
        let mut memory = vec![0u8; 16 << 10];
        let mut out = Buffer::new(&mut memory);
        if json {
            raw.json(&mut out).unwrap()
        } else {
            raw.text(&mut out).unwrap()
        }
        String::from_utf8(out.bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_raw_body_has_few_lines_and_a_place_for_each_stack() {
        let text = told(false, false);
        assert!(
            text.starts_with(
                "  damage     1 byte at +24: 0x21 in the red zone\n             3 bytes from -3 to -1: "
            ),
            "{text}"
        );
        assert!(text.contains("\n  found      at free ") && text.contains("0x"), "{text}");
        assert!(text.contains(&format!("  thread {}\n", Name::present())), "{text}");
        assert!(!text.contains("freed "), "an empty stack is left out: {text}");
        assert_eq!(text.lines().count(), 7, "{text}");
        assert!(text.lines().all(|line| line.len() < 120), "{text}");
        assert!(told(true, false).lines().count() > 10);
    }

    #[test]
    fn a_raw_json_body_closes_its_object() {
        let line = "{\"kind\":\"x\"".to_owned() + &told(false, true);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["allocated"]["frames"].as_array().unwrap().len(), 64);
        assert_eq!((&value["raw"], &value["found"]["note"]), (&true.into(), &"at free".into()));
        assert_eq!(value["found"]["thread"], Name::present().to_string());
        assert_eq!((&value["allocated"]["thread"], &value["freed"]["thread"]), (&().into(), &().into()));
        assert!(value["damage"].as_str().unwrap().contains("\"\"\\a\""), "{value}");
        assert_eq!(value["damaged"][1]["bytes"], "225c61");
    }
}
