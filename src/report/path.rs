//! Paths as people want to read them, and whose code lies there. Pure, no heap.

use core::fmt::{self, Display};

/// A source file's path as a report shows it: relative to the current directory below it, else from the package
/// (`crate-1.2.3/src/..`) or from `std/`, else whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Short<'a> {
    /// The whole path.
    pub path: &'a str,
    /// The current directory, without a slash at its end; empty where it isn't known.
    pub below: &'a str,
}

impl Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path;
        if let Some(rest) = in_toolchain(path) {
            return write!(f, "std/{rest}");
        }
        if let Some((package, rest)) = in_package(path) {
            return write!(f, "{package}/{rest}");
        }
        let inside = Some(self.below).filter(|below| !below.is_empty());
        let inside = inside.and_then(|below| path.strip_prefix(below)?.strip_prefix('/'));
        f.write_str(inside.unwrap_or(path).trim_start_matches("./"))
    }
}

/// The part below std's `library/`, of a file that came with the toolchain.
pub(crate) fn in_toolchain(path: &str) -> Option<&str> {
    let inside = path.starts_with("/rustc/") || path.contains("/lib/rustlib/src/rust/");
    let (_, rest) = path.split_once("/library/").filter(|_| inside)?;
    Some(rest)
}

/// The package (`bytes-1.11.0`; of a git checkout its name alone) that a file lies in, and its path inside.
pub(crate) fn in_package(path: &str) -> Option<(&str, &str)> {
    // ~/.cargo/registry/src/<registry>/<name-version>/.., ~/.cargo/git/checkouts/<name-hash>/<revision>/..
    let from = |mark: &str| path.split_once(mark).and_then(|(_, rest)| rest.split_once('/'));
    if let Some((_registry, rest)) = from("/registry/src/") {
        return rest.split_once('/');
    }
    let (name, rest) = from("/git/checkouts/")?;
    let (_revision, inside) = rest.split_once('/')?;
    Some((name.rsplit_once('-').map_or(name, |(name, _hash)| name), inside))
}

/// The last two parts of a function's path (`BytesMut::put_slice`), generic arguments left in place.
pub(crate) fn tail(function: &str) -> &str {
    let mut depth = 0i32;
    let mut parts = 0u8;
    let mut after: Option<char> = None;
    for (index, letter) in function.char_indices().rev() {
        match letter {
            '>' if function.get(..index).is_some_and(|before| before.ends_with('-')) => {} // `->`
            '>' | ')' | ']' | '}' => depth = depth.saturating_add(1),
            '<' | '(' | '[' | '{' => depth = depth.saturating_sub(1),
            ':' if depth == 0 && after == Some(':') => {
                parts = parts.saturating_add(1);
                if parts == 2 {
                    return function.get(index.saturating_add(2)..).unwrap_or(function);
                }
                after = None;
                continue;
            }
            _ => {}
        }
        after = Some(letter);
    }
    function
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTRY: &str = "/home/u/.cargo/registry/src/index.example-1949cf8c6b5b557f";

    #[test]
    fn a_path_below_the_current_directory_is_relative() {
        let short = |path, below| Short { path, below }.to_string();
        assert_eq!(short("/home/u/app/src/main.rs", "/home/u/app"), "src/main.rs");
        assert_eq!(short("/home/u/app2/src/main.rs", "/home/u/app"), "/home/u/app2/src/main.rs");
        assert_eq!(short("/home/u/app/src/main.rs", ""), "/home/u/app/src/main.rs");
        assert_eq!(short("src/main.rs", "/x"), "src/main.rs");
        assert_eq!(short("./src/main.rs", "/x"), "src/main.rs");
    }

    #[test]
    fn a_path_in_a_package_begins_with_its_name_and_version() {
        let path = format!("{REGISTRY}/bytes-1.11.0/src/bytes_mut.rs");
        assert_eq!(Short { path: &path, below: "/home/u" }.to_string(), "bytes-1.11.0/src/bytes_mut.rs");
        assert_eq!(in_package(&path), Some(("bytes-1.11.0", "src/bytes_mut.rs")));
        let git = "/home/u/.cargo/git/checkouts/my-dep-0123456789abcdef/89ab12c/core/src/lib.rs";
        assert_eq!(in_package(git), Some(("my-dep", "core/src/lib.rs")));
        assert_eq!(Short { path: git, below: "" }.to_string(), "my-dep/core/src/lib.rs");
        assert_eq!(in_package("/home/u/app/src/registry/src/x.rs"), None);
    }

    #[test]
    fn a_path_of_the_toolchain_begins_with_std() {
        for path in [
            "/rustc/4a4ef493e3a1488c6e321570238084b38948f6db/library/alloc/src/vec/mod.rs",
            "/home/u/.rustup/toolchains/stable/lib/rustlib/src/rust/library/alloc/src/vec/mod.rs",
        ] {
            assert_eq!(Short { path, below: "/home/u" }.to_string(), "std/alloc/src/vec/mod.rs");
        }
        assert_eq!(in_toolchain("/home/u/library/src/lib.rs"), None);
    }

    #[test]
    fn a_function_s_last_two_parts_are_cut_at_colons_outside_brackets() {
        assert_eq!(tail("bytes::bytes_mut::BytesMut::put_slice"), "BytesMut::put_slice");
        assert_eq!(tail("serde_json::from_str"), "serde_json::from_str");
        assert_eq!(tail("main"), "main");
        assert_eq!(tail("a::b::Map<c::D, e::F>::get<g::H>"), "Map<c::D, e::F>::get<g::H>");
        assert_eq!(tail("<a::B as c::D>::run"), "<a::B as c::D>::run");
        assert_eq!(tail("a::b::c::{{closure}}"), "c::{{closure}}");
        assert_eq!(tail("a::call<fn(b::C) -> d::E>::f"), "call<fn(b::C) -> d::E>::f");
    }
}
