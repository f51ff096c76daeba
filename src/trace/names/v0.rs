//! v0 names: a prefix code, read as far as the crate of the defining path.
//!
//! Nothing recurses: what has still to be skipped stands on a small stack of one-byte items, so a name of any depth needs
//! the same room. Runs inside an allocation.

use super::{Class, ENTRY, PRECOMPILED, is_one_of, may_mark_entry, number, of_crate};

/// A symbol behind `_R`, by the crate of its defining path (for a trait's default method: the trait's).
pub(super) fn classify(rest: &[u8]) -> Class {
    let read = || {
        // A digit would be the number of a later version of the mangling.
        let mut reader = Reader { all: rest, at: 0 };
        let root = reader.root()?;
        if may_mark_entry(root) && is_entry(rest) {
            return Some(Class::Entry);
        }
        let class = of_crate(root);
        // std has its own copies of `gimli` and others; what std instantiates of them isn't the user's.
        let instance = || {
            let mut reader = Reader { all: rest, at: 0 };
            reader.skip(PATH)?;
            reader.root()
        };
        if class == Class::User && instance().is_some_and(|name| is_one_of(&PRECOMPILED, name)) {
            return Some(Class::Plumbing);
        }
        Some(class)
    };
    read().unwrap_or(Class::Foreign)
}

/// Whether the function itself, not one of its arguments, has the name of std's mark.
fn is_entry(rest: &[u8]) -> bool {
    let mut reader = Reader { all: rest, at: 0 };
    let mut read = || {
        while reader.eat(b'I') {}
        if !(reader.eat(b'N') && reader.eat(b'v')) {
            return None;
        }
        reader.skip(PATH)?;
        reader.identifier()
    };
    read() == Some(ENTRY)
}

/// How many back references a root may lead through: they point backwards, but could do so in a ring.
const MOST_JUMPS: usize = 16;
/// Room for what is still to be skipped: each open bracket of the name takes up to three items.
const ROOM: usize = 320;

/// What stands next in the name.
type Item = u8;
const PATH: Item = 0;
const TYPE: Item = 1;
const CONST: Item = 2;
const IDENTIFIER: Item = 3;
const LIFETIME: Item = 4;
/// Generic arguments up to `E`.
const ARGUMENTS: Item = 5;
/// Types up to `E`.
const TYPES: Item = 6;
/// Constants up to `E`.
const CONSTS: Item = 7;
/// A constant struct's fields up to `E`.
const FIELDS: Item = 8;
/// What a constant variant holds.
const VARIANT: Item = 9;
/// A `dyn` type's traits up to `E`.
const TRAITS: Item = 10;
/// Its associated types, if any.
const ASSOCIATED: Item = 11;
/// A pattern type's pattern, and several up to `E`.
const PATTERN: Item = 12;
const PATTERNS: Item = 13;

struct Pending {
    items: [Item; ROOM],
    len: usize,
}

impl Pending {
    /// Puts items so that the first of them comes next.
    fn put<const N: usize>(&mut self, items: [Item; N]) -> Option<()> {
        for item in items.iter().rev() {
            *self.items.get_mut(self.len)? = *item;
            self.len = self.len.wrapping_add(1);
        }
        Some(())
    }
    fn take(&mut self) -> Option<Item> {
        self.len = self.len.checked_sub(1)?;
        self.items.get(self.len).copied()
    }
}

struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.all.get(self.at).copied()
    }
    fn next(&mut self) -> Option<u8> {
        let b = self.peek()?;
        self.at = self.at.wrapping_add(1);
        Some(b)
    }
    fn eat(&mut self, b: u8) -> bool {
        let there = self.peek() == Some(b);
        self.at = self.at.wrapping_add(usize::from(there));
        there
    }
    /// `_` is 0; else digits of base 62 and `_`, one more than they say.
    fn base62(&mut self) -> Option<usize> {
        let mut n = 0usize;
        let mut digits = false;
        loop {
            let digit = match self.next()? {
                b'_' => return n.checked_add(usize::from(digits)),
                d @ b'0'..=b'9' => d.wrapping_sub(b'0'),
                d @ b'a'..=b'z' => d.wrapping_sub(b'a').wrapping_add(10),
                d @ b'A'..=b'Z' => d.wrapping_sub(b'A').wrapping_add(36),
                _ => return None,
            };
            digits = true;
            // A crate's number has 64 bits; only places are ever used, and those are small.
            n = n.wrapping_mul(62).wrapping_add(usize::from(digit));
        }
    }
    fn disambiguator(&mut self) -> Option<()> {
        if self.eat(b's') {
            self.base62()?;
        }
        Some(())
    }
    fn identifier(&mut self) -> Option<&'a [u8]> {
        self.disambiguator()?;
        self.undisambiguated()
    }
    fn undisambiguated(&mut self) -> Option<&'a [u8]> {
        self.eat(b'u');
        let (len, digits) = number(self.all.get(self.at..)?)?;
        self.at = self.at.wrapping_add(digits);
        self.eat(b'_'); // parts the length from a name that begins with a digit or `_`
        let end = self.at.checked_add(len)?;
        let name = self.all.get(self.at..end)?;
        self.at = end;
        Some(name)
    }
    fn lifetime(&mut self) -> Option<()> {
        self.eat(b'L').then_some(())?;
        self.base62().map(drop)
    }
    fn binder(&mut self) -> Option<()> {
        if self.eat(b'G') {
            self.base62()?;
        }
        Some(())
    }

    /// The crate in which the path that begins here is defined. Where that ends is not told.
    fn root(&mut self) -> Option<&'a [u8]> {
        let mut jumps = 0usize;
        loop {
            let here = self.at;
            match self.next()? {
                b'C' => return self.identifier(),
                b'M' | b'X' => self.disambiguator()?,
                b'N' => drop(self.next()?),
                b'I' => {}
                b'Y' => self.skip(TYPE)?,
                b'B' => {
                    self.at = self.base62().filter(|to| *to < here)?;
                    jumps = jumps.wrapping_add(1);
                    if jumps > MOST_JUMPS {
                        return None;
                    }
                }
                _ => return None,
            }
        }
    }

    /// Skips one item. Back references aren't followed.
    #[inline(never)]
    fn skip(&mut self, item: Item) -> Option<()> {
        let mut pending = Pending { items: [0; ROOM], len: 0 };
        pending.put([item])?;
        while let Some(item) = pending.take() {
            match item {
                PATH => self.skip_path(&mut pending)?,
                TYPE => self.skip_type(&mut pending)?,
                CONST => self.skip_const(&mut pending)?,
                IDENTIFIER => drop(self.identifier()?),
                LIFETIME => self.lifetime()?,
                ARGUMENTS if self.eat(b'E') => {}
                ARGUMENTS if self.peek() == Some(b'L') => pending.put([LIFETIME, ARGUMENTS])?,
                ARGUMENTS if self.eat(b'K') => pending.put([CONST, ARGUMENTS])?,
                ARGUMENTS => pending.put([TYPE, ARGUMENTS])?,
                TYPES if self.eat(b'E') => {}
                TYPES => pending.put([TYPE, TYPES])?,
                CONSTS if self.eat(b'E') => {}
                CONSTS => pending.put([CONST, CONSTS])?,
                FIELDS if self.eat(b'E') => {}
                FIELDS => pending.put([IDENTIFIER, CONST, FIELDS])?,
                VARIANT => match self.next()? {
                    b'U' => {}
                    b'T' => pending.put([CONSTS])?,
                    b'S' => pending.put([FIELDS])?,
                    _ => return None,
                },
                TRAITS if self.eat(b'E') => {}
                TRAITS => pending.put([PATH, ASSOCIATED, TRAITS])?,
                ASSOCIATED if self.eat(b'p') => {
                    self.undisambiguated()?;
                    pending.put([TYPE, ASSOCIATED])?;
                }
                ASSOCIATED => {}
                PATTERN => match self.next()? {
                    b'R' => pending.put([CONST, CONST])?,
                    b'O' => pending.put([PATTERNS])?,
                    b'N' => {}
                    _ => return None,
                },
                PATTERNS if self.eat(b'E') => {}
                PATTERNS => pending.put([PATTERN, PATTERNS])?,
                _ => return None,
            }
        }
        Some(())
    }

    fn skip_path(&mut self, pending: &mut Pending) -> Option<()> {
        match self.next()? {
            b'C' => pending.put([IDENTIFIER]),
            b'M' => {
                self.disambiguator()?;
                pending.put([PATH, TYPE])
            }
            b'X' => {
                self.disambiguator()?;
                pending.put([PATH, TYPE, PATH])
            }
            b'Y' => pending.put([TYPE, PATH]),
            b'N' => {
                self.next()?;
                pending.put([PATH, IDENTIFIER])
            }
            b'I' => pending.put([PATH, ARGUMENTS]),
            b'B' => self.base62().map(drop),
            _ => None,
        }
    }

    fn skip_type(&mut self, pending: &mut Pending) -> Option<()> {
        let here = self.at;
        match self.next()? {
            b'a'..=b'z' => Some(()),
            b'A' => pending.put([TYPE, CONST]),
            b'S' | b'P' | b'O' => pending.put([TYPE]),
            b'R' | b'Q' => {
                if self.peek() == Some(b'L') {
                    self.lifetime()?;
                }
                pending.put([TYPE])
            }
            b'T' => pending.put([TYPES]),
            b'F' => {
                self.binder()?;
                self.eat(b'U');
                if self.eat(b'K') && !self.eat(b'C') {
                    self.undisambiguated()?;
                }
                pending.put([TYPES, TYPE])
            }
            b'D' => {
                self.binder()?;
                pending.put([TRAITS, LIFETIME])
            }
            b'W' => pending.put([TYPE, PATTERN]),
            b'B' => self.base62().map(drop),
            _ => {
                self.at = here;
                pending.put([PATH])
            }
        }
    }

    fn skip_const(&mut self, pending: &mut Pending) -> Option<()> {
        match self.next()? {
            b'p' => Some(()),
            b'B' => self.base62().map(drop),
            b'R' | b'Q' => pending.put([CONST]),
            b'A' | b'T' => pending.put([CONSTS]),
            b'V' => pending.put([PATH, VARIANT]),
            b'a'..=b'z' => {
                self.eat(b'n');
                while self.next()? != b'_' {}
                Some(())
            }
            _ => None,
        }
    }
}
