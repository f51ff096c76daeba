//! Whose function a mangled name names, without demangling it: the user's, plumbing, or ours.
//!
//! Reads both manglings: stable compilers mix them, since the precompiled std is v0 and user crates are legacy. Runs inside
//! an allocation: bytes in, a verdict out.

/// Whose function it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    /// The user's, or a dependency of the user's choice.
    User,
    /// Of std, its kin, or the runtime; may have user code inlined.
    Plumbing,
    /// std's mark of where the user's stack begins.
    Entry,
    /// Birthmark's, or the allocator's shims.
    Ours,
    /// C, or anything else that isn't Rust.
    Foreign,
    /// No symbol.
    Unknown,
}

/// The crates whose frames never count. The one list.
pub(crate) const PLUMBING: [&str; 6] = ["alloc", "core", "std", "hashbrown", "tokio", "test"];
/// Crates whose frames are the allocator's own.
const OURS: [&str; 3] = ["birthmark", "backtrace", "__rustc"];
/// Symbols of the allocator's shims, by their exact names.
const SHIMS: [&[u8]; 12] = [
    b"__rust_alloc",
    b"__rust_dealloc",
    b"__rust_realloc",
    b"__rust_alloc_zeroed",
    b"__rg_alloc",
    b"__rg_dealloc",
    b"__rg_realloc",
    b"__rg_alloc_zeroed",
    b"__rdl_alloc",
    b"__rdl_dealloc",
    b"__rdl_realloc",
    b"__rdl_alloc_zeroed",
];

fn is_plumbing(name: &[u8]) -> bool {
    PLUMBING.iter().any(|p| p.as_bytes() == name)
}
fn is_ours(name: &[u8]) -> bool {
    OURS.iter().any(|p| p.as_bytes() == name)
}

/// Whose function this symbol names.
pub(crate) fn classify(symbol: &[u8]) -> Class {
    if let Some(rest) = symbol.strip_prefix(b"_R") {
        return v0(rest);
    }
    if let Some(rest) = symbol.strip_prefix(b"_ZN")
        && let Some(end) = legacy_end(rest)
    {
        return legacy(rest.get(..end).unwrap_or_default());
    }
    if SHIMS.contains(&symbol) {
        Class::Ours
    } else if symbol == b"__rust_try" {
        Class::Plumbing // what `catch_unwind` compiles to
    } else {
        Class::Foreign
    }
}

/// Where a legacy name's path ends: before the hash `17h` + 16 hex digits + `E`. Nothing: C++.
fn legacy_end(rest: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let (n, digits) = number(rest.get(at..)?)?;
        let body = at.checked_add(digits)?;
        let end = body.checked_add(n)?;
        let component = rest.get(body..end)?;
        if rest.get(end) == Some(&b'E') {
            let hash = n == 17 && component.first() == Some(&b'h');
            let hex = component.get(1..).is_some_and(|h| h.iter().all(u8::is_ascii_hexdigit));
            return (hash && hex).then_some(at);
        }
        at = end;
    }
}

fn number(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut n = 0usize;
    let mut digits = 0usize;
    while let Some(d) = bytes.get(digits).filter(|b| b.is_ascii_digit()) {
        n = n.checked_mul(10)?.checked_add(usize::from(d.wrapping_sub(b'0')))?;
        digits = digits.wrapping_add(1);
    }
    (digits > 0).then_some((n, digits))
}

fn legacy(path: &[u8]) -> Class {
    let Some((n, digits)) = number(path) else { return Class::Foreign };
    let first = path.get(digits..digits.saturating_add(n)).unwrap_or_default();
    if last_component_is_entry(path) {
        return Class::Entry;
    }
    // `_$LT$` begins an impl: any root in it that isn't plumbing is the user's.
    if first.starts_with(b"_$LT$") || first.contains(&b'$') {
        return match roots(first) {
            Roots { user: true, .. } => Class::User,
            Roots { ours: true, .. } => Class::Ours,
            Roots { plumbing: true, .. } => Class::Plumbing,
            // An impl for a generic or a primitive type alone: std's.
            _ => Class::Plumbing,
        };
    }
    if is_ours(first) {
        Class::Ours
    } else if is_plumbing(first) {
        Class::Plumbing
    } else {
        Class::User
    }
}

fn last_component_is_entry(path: &[u8]) -> bool {
    const ENTRY: &[u8] = b"28__rust_begin_short_backtrace";
    path.ends_with(ENTRY)
}

#[derive(Default)]
struct Roots {
    user: bool,
    ours: bool,
    plumbing: bool,
}

/// The crates at the beginnings of the paths in a legacy impl component such as
/// `_$LT$alloc..vec..Vec$LT$my..T$GT$$u20$as$u20$core..ops..drop..Drop$GT$`.
fn roots(component: &[u8]) -> Roots {
    let mut found = Roots::default();
    let mut at = 0usize;
    // A path begins at the component's start, after an escape, and goes on while `name..name` does.
    while at < component.len() {
        let rest = component.get(at..).unwrap_or_default();
        if rest.first() == Some(&b'$') {
            let close =
                rest.iter().skip(1).position(|b| *b == b'$').map_or(rest.len(), |p| p.wrapping_add(2));
            at = at.wrapping_add(close);
            continue;
        }
        let len = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
        let word = rest.get(..len).unwrap_or_default();
        let word = if at == 0 { word.strip_prefix(b"_").unwrap_or(word) } else { word };
        let mut end = len;
        let is_path = rest.get(len..).is_some_and(|r| r.starts_with(b".."));
        if is_path && !word.is_empty() {
            if is_ours(word) {
                found.ours = true;
            } else if is_plumbing(word) {
                found.plumbing = true;
            } else {
                found.user = true;
            }
            // The rest of this path.
            while rest.get(end..).is_some_and(|r| r.starts_with(b"..")) {
                end = end.wrapping_add(2);
                let more = rest.get(end..).unwrap_or_default();
                end = end.wrapping_add(
                    more.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count(),
                );
            }
        }
        at = at.wrapping_add(end.max(1));
    }
    found
}

/// A v0 symbol behind `_R`, by the crate of its defining path (for a default method of a trait: the trait's).
fn v0(rest: &[u8]) -> Class {
    // Backward references count from here; a version number is skipped.
    let skip = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let all = rest.get(skip..).unwrap_or_default();
    let mut reader = V0 { all, at: 0, fuel: 2_000 };
    let Some(root) = reader.path(0) else { return Class::Foreign };
    let path = all.get(..reader.at).unwrap_or_default();
    const ENTRY: &[u8] = b"28___rust_begin_short_backtrace";
    if contains(path, ENTRY) && is_plumbing(root) {
        Class::Entry
    } else if is_ours(root) {
        Class::Ours
    } else if is_plumbing(root) {
        Class::Plumbing
    } else {
        Class::User
    }
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|w| w == part)
}

/// A reader of v0 names that looks only for roots. Depth and steps are bounded: the bytes may be anything.
struct V0<'a> {
    all: &'a [u8],
    at: usize,
    fuel: u32,
}

const DEEPEST: u32 = 24;

impl<'a> V0<'a> {
    fn peek(&self) -> Option<u8> {
        self.all.get(self.at).copied()
    }
    fn next(&mut self) -> Option<u8> {
        self.fuel = self.fuel.checked_sub(1)?;
        let b = self.peek()?;
        self.at = self.at.wrapping_add(1);
        Some(b)
    }
    fn eat(&mut self, b: u8) -> bool {
        let there = self.peek() == Some(b);
        self.at = self.at.wrapping_add(usize::from(there));
        there
    }
    /// `_` is 0, else base 62 and one more, ended by `_`.
    fn base62(&mut self) -> Option<usize> {
        if self.eat(b'_') {
            return Some(0);
        }
        let mut n = 0usize;
        loop {
            let digit = match self.next()? {
                b'_' => return n.checked_add(1),
                d @ b'0'..=b'9' => d.wrapping_sub(b'0'),
                d @ b'a'..=b'z' => d.wrapping_sub(b'a').wrapping_add(10),
                d @ b'A'..=b'Z' => d.wrapping_sub(b'A').wrapping_add(36),
                _ => return None,
            };
            n = n.checked_mul(62)?.checked_add(usize::from(digit))?;
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
        self.eat(b'u');
        let (n, digits) = number(self.all.get(self.at..)?)?;
        self.at = self.at.wrapping_add(digits);
        self.eat(b'_');
        let end = self.at.checked_add(n)?;
        let name = self.all.get(self.at..end)?;
        self.at = end;
        Some(name)
    }
    /// Reads what a back reference points to, and comes back.
    fn back<T>(&mut self, depth: u32, read: impl FnOnce(&mut Self, u32) -> Option<T>) -> Option<T> {
        let here = self.at.checked_sub(1)?;
        let to = self.base62()?;
        if to >= here {
            return None;
        }
        let after = core::mem::replace(&mut self.at, to);
        let found = read(self, depth);
        self.at = after;
        found
    }
    /// Reads a path; its root crate.
    fn path(&mut self, depth: u32) -> Option<&'a [u8]> {
        let depth = (depth < DEEPEST).then(|| depth.wrapping_add(1))?;
        match self.next()? {
            b'C' => self.identifier(),
            b'M' => {
                self.disambiguator()?;
                let root = self.path(depth)?;
                self.kind(depth)?;
                Some(root)
            }
            b'X' => {
                self.disambiguator()?;
                let root = self.path(depth)?;
                self.kind(depth)?;
                self.path(depth)?;
                Some(root)
            }
            b'Y' => {
                self.kind(depth)?;
                self.path(depth)
            }
            b'N' => {
                self.next()?;
                let root = self.path(depth)?;
                self.identifier()?;
                Some(root)
            }
            b'I' => {
                let root = self.path(depth)?;
                while !self.eat(b'E') {
                    self.argument(depth)?;
                }
                Some(root)
            }
            b'B' => self.back(depth, Self::path),
            _ => None,
        }
    }
    fn argument(&mut self, depth: u32) -> Option<()> {
        if self.eat(b'L') {
            self.base62()?;
            return Some(());
        }
        if self.eat(b'K') {
            return self.constant(depth);
        }
        self.kind(depth)
    }
    fn constant(&mut self, depth: u32) -> Option<()> {
        if self.eat(b'p') {
            return Some(());
        }
        if self.eat(b'B') {
            self.base62()?;
            return Some(());
        }
        self.kind(depth)?;
        self.eat(b'n');
        while self.next()? != b'_' {}
        Some(())
    }
    /// Reads a type.
    fn kind(&mut self, depth: u32) -> Option<()> {
        let depth = (depth < DEEPEST).then(|| depth.wrapping_add(1))?;
        match self.peek()? {
            b'a'..=b'z' => {
                self.next()?;
                Some(())
            }
            b'A' => {
                self.next()?;
                self.kind(depth)?;
                self.constant(depth)
            }
            b'S' | b'P' | b'O' => {
                self.next()?;
                self.kind(depth)
            }
            b'R' | b'Q' => {
                self.next()?;
                if self.eat(b'L') {
                    self.base62()?;
                }
                self.kind(depth)
            }
            b'T' => {
                self.next()?;
                while !self.eat(b'E') {
                    self.kind(depth)?;
                }
                Some(())
            }
            b'F' => {
                self.next()?;
                if self.eat(b'G') {
                    self.base62()?;
                }
                self.eat(b'U');
                if self.eat(b'K') && !self.eat(b'C') {
                    self.identifier()?;
                }
                while !self.eat(b'E') {
                    self.kind(depth)?;
                }
                self.kind(depth)
            }
            b'D' => {
                self.next()?;
                if self.eat(b'G') {
                    self.base62()?;
                }
                while !self.eat(b'E') {
                    self.path(depth)?;
                    while self.eat(b'p') {
                        self.identifier()?;
                        self.kind(depth)?;
                    }
                }
                self.eat(b'L').then_some(())?;
                self.base62()?;
                Some(())
            }
            b'B' => {
                self.next()?;
                self.back(depth, Self::kind)
            }
            _ => self.path(depth).map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legacy_names_are_told_by_their_root_and_impls_by_any_root_of_the_users() {
        for (name, class) in [
            ("_ZN5alloc5alloc15exchange_malloc17h0123456789abcdefE", Class::Plumbing),
            ("_ZN4core3ops8function6FnOnce9call_once17h0123456789abcdefE", Class::Plumbing),
            ("_ZN6my_std4main17h0123456789abcdefE", Class::User),
            ("_ZN9allocator4main17h0123456789abcdefE", Class::User),
            ("_ZN10tokio_util5codec17h0123456789abcdefE", Class::User),
            ("_ZN5tokio7runtime4task17h0123456789abcdefE.llvm.123456", Class::Plumbing),
            ("_ZN9birthmark5alloc1f17h0123456789abcdefE", Class::Ours),
            ("_ZN3std3sys9backtrace28__rust_begin_short_backtrace17h0123456789abcdefE", Class::Entry),
            ("_ZN4test28__rust_begin_short_backtrace17h0123456789abcdefE", Class::Entry),
            (
                "_ZN62_$LT$mycrate..Thing$u20$as$u20$core..ops..drop..Drop$GT$4drop17h0123456789abcdefE",
                Class::User,
            ),
            (
                "_ZN68_$LT$alloc..vec..Vec$LT$T$GT$$u20$as$u20$core..ops..drop..Drop$GT$4drop17h0123456789abcdefE",
                Class::Plumbing,
            ),
            ("_ZN3foo3barE", Class::Foreign),
            ("qsort", Class::Foreign),
            ("__rust_alloc", Class::Ours),
            ("__rust_try", Class::Plumbing),
            ("__rust_std_internal_init_fn", Class::Foreign),
        ] {
            // The component's length need not be right by hand: mend it for the impls.
            let name = mend(name);
            assert_eq!(classify(name.as_bytes()), class, "{name}");
        }
    }

    fn mend(name: &str) -> String {
        match name.split_once("_$LT$") {
            Some((head, rest)) if head.starts_with("_ZN") => {
                let end = rest.rfind("$GT$").map_or(0, |p| p + 4);
                let body = format!("_$LT${}", &rest[..end]);
                format!("_ZN{}{}{}", body.len(), body, &rest[end..])
            }
            _ => name.to_owned(),
        }
    }

    #[test]
    fn v0_names_are_told_by_the_crate_of_their_defining_path() {
        for (name, class) in [
            ("_RNvCskwGfYPst2Cb_3foo16example_function", Class::User),
            ("_RNvNtCs1234_7mycrate3foo3bar", Class::User),
            ("_RNvNtCs1234_5alloc5alloc15exchange_malloc", Class::Plumbing),
            ("_RINvNtCs1_3std2rt10lang_startuECs2_7mycrate", Class::Plumbing),
            ("_RNvMs0_NtCs1_5alloc3vecINtB5_3VecpE4pushCs2_1a", Class::Plumbing),
            ("_RNvXCs1_7mycrateNtB2_5ThingNtNtNtCs2_4core3ops4drop4Drop4drop", Class::User),
            ("_RINvNtNtCs1_3std3sys9backtrace28___rust_begin_short_backtraceFEuuECs2_1a", Class::Entry),
            ("_RNvCs5QKde7ScR4H_7___rustc12___rust_alloc", Class::Ours),
        ] {
            assert_eq!(classify(name.as_bytes()), class, "{name}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_run_for_ever() {
        let mut x = 88172645463325252u64;
        let alphabet = b"_RZNCMXYIBKLTSAFDEsup0123456789abcz$.";
        for _ in 0..200_000 {
            let mut name = Vec::from(if x & 1 == 0 { &b"_R"[..] } else { b"_ZN" });
            for _ in 0..x % 40 {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                name.push(alphabet[(x >> 20) as usize % alphabet.len()]);
            }
            x = x.wrapping_add(1);
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            classify(&name);
        }
    }
}
