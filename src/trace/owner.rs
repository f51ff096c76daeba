//! Whose code a source file is, told by its path: a registry, a git checkout, the toolchain, Birthmark's own, or the
//! user's. Pure: a path in, a verdict out.

use std::borrow::Cow;
use std::sync::Arc;

use super::frame::Owner;
use super::names::PLUMBING;

/// Birthmark's own sources where it is a path dependency; its examples, tests and benches are the user's.
const OWN_SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/");

/// A path, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Origin<'a> {
    pub owner: Owner,
    /// `serde_json-1.0.145`, `std`; nothing for the user's own.
    pub package: Option<Cow<'a, str>>,
    /// The path within the package; the whole path of the user's own.
    pub rest: &'a str,
}

/// Whose file this is.
pub(crate) fn origin(file: &str) -> Origin<'_> {
    if file.starts_with(OWN_SOURCES) {
        return plumbing(Cow::Borrowed("birthmark"), &file[OWN_SOURCES.len() - "src/".len()..]);
    }
    if let Some(found) = toolchain(file) {
        return found;
    }
    // `/registry/src/<index>/<crate>-<version>/..`
    if let Some((_, rest)) = file.split_once("/registry/src/")
        && let Some((_, rest)) = rest.split_once('/')
        && let Some((package, rest)) = rest.split_once('/')
    {
        return package_of(Cow::Borrowed(package), name_of(package), rest);
    }
    if let Some((_, rest)) = file.split_once("/git/checkouts/")
        && let Some(found) = checkout(rest)
    {
        return found;
    }
    // `cargo vendor`: `/vendor/<crate>/src/..`
    if let Some((_, rest)) = file.rsplit_once("/vendor/")
        && let Some((package, rest)) = rest.split_once('/')
        && rest.starts_with("src/")
    {
        return package_of(Cow::Borrowed(package), name_of(package), rest);
    }
    // With trimmed paths a dependency's begin with its name and version.
    if let Some((package, rest)) = file.split_once('/')
        && name_of(package).len() < package.len()
    {
        return package_of(Cow::Borrowed(package), name_of(package), rest);
    }
    Origin { owner: Owner::User, package: None, rest: file }
}

fn plumbing<'a>(package: Cow<'a, str>, rest: &'a str) -> Origin<'a> {
    Origin { owner: Owner::Plumbing, package: Some(package), rest }
}

fn package_of<'a>(package: Cow<'a, str>, name: &str, rest: &'a str) -> Origin<'a> {
    if PLUMBING.contains(&name) || name == "birthmark" || name == "backtrace" {
        return plumbing(package, rest);
    }
    Origin { owner: Owner::Dependency(Arc::from(&*package)), package: Some(package), rest }
}

/// `/rustc/<hash>/library/std/src/rt.rs`, the same below `rust-src`, and what std itself depends on.
fn toolchain(file: &str) -> Option<Origin<'_>> {
    let within = file.strip_prefix("/rustc/").and_then(|rest| rest.split_once("/library/"));
    let within = within.or_else(|| file.split_once("/rustlib/src/rust/library/"));
    let within = within.or_else(|| file.split_once("/rust/deps/").filter(|(before, _)| before.is_empty()));
    if let Some((_, rest)) = within {
        let (package, rest) = rest.split_once('/').unwrap_or((rest, ""));
        return Some(plumbing(Cow::Borrowed(package), rest));
    }
    file.starts_with("/rustc/").then(|| plumbing(Cow::Borrowed("rustc"), file))
}

/// `<repository>-<16 hex digits>/<revision>/[<crate>/]src/..`
fn checkout(rest: &str) -> Option<Origin<'_>> {
    let (repository, rest) = rest.split_once('/')?;
    let (revision, rest) = rest.split_once('/')?;
    let repository = match repository.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 16 => name,
        _ => repository,
    };
    // A workspace: the crate is the folder that holds `src`.
    let name = match rest.find("/src/") {
        Some(at) => rest[..at].rsplit('/').next().unwrap_or(repository),
        None => repository,
    };
    let rest = rest.split_once("src/").map_or(rest, |(before, _)| &rest[before.len()..]);
    Some(package_of(Cow::Owned(format!("{name}-{revision}")), name, rest))
}

/// `tokio-util` of `tokio-util-0.7.1`; all of it without a version.
fn name_of(package: &str) -> &str {
    // The version may hold hyphens itself (`1.0.0-rc.1`): it begins at the first `-1.`.
    let mut from = 0;
    while let Some(at) = package[from..].find('-').map(|at| from + at) {
        let version = &package[at + 1..];
        let digits = version.len() - version.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits > 0 && version[digits..].starts_with('.') {
            return &package[..at];
        }
        from = at + 1;
    }
    package
}

/// A path as it is shown: from its package, else relative below `here`, else whole.
pub(crate) fn shown<'a>(file: &'a str, here: Option<&str>) -> Cow<'a, str> {
    let origin = origin(file);
    let below = || here.and_then(|here| file.strip_prefix(here)).and_then(|rest| rest.strip_prefix('/'));
    match origin.package {
        Some(package) if package == "birthmark" => {
            below().map_or_else(|| Cow::Owned(format!("birthmark/{}", origin.rest)), Cow::Borrowed)
        }
        Some(package) => Cow::Owned(format!("{package}/{}", origin.rest)),
        None => below().map_or(Cow::Borrowed(file), Cow::Borrowed),
    }
}

/// The path without its `.` and `..`, by its text alone.
pub(crate) fn normal(file: &str) -> Cow<'_, str> {
    if !file.split('/').any(|part| part == "." || part == "..") {
        return Cow::Borrowed(file);
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in file.split('/') {
        match part {
            "." => {}
            ".." if parts.last().is_some_and(|last| !last.is_empty() && *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    Cow::Owned(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTRY: &str = "/home/me/.cargo/registry/src/index.example-1949cf8c6b5b557f";

    #[test]
    fn a_file_is_told_by_its_path() {
        let dependency = |name: &str| Owner::Dependency(name.into());
        for (file, owner) in [
            ("/home/me/app/src/main.rs", Owner::User),
            ("src/main.rs", Owner::User),
            ("/home/me/my-1.5-app/src/main.rs", Owner::User),
            ("/rustc/59807616e/library/alloc/src/vec/mod.rs", Owner::Plumbing),
            (
                "/home/me/.rustup/toolchains/stable/lib/rustlib/src/rust/library/std/src/rt.rs",
                Owner::Plumbing,
            ),
            ("/rust/deps/hashbrown-0.16.1/src/raw/mod.rs", Owner::Plumbing),
            (&format!("{REGISTRY}/serde_json-1.0.1/src/de.rs"), dependency("serde_json-1.0.1")),
            (&format!("{REGISTRY}/tokio-1.54.1/src/lib.rs"), Owner::Plumbing),
            (&format!("{REGISTRY}/hashbrown-0.17.0/src/map.rs"), Owner::Plumbing),
            (&format!("{REGISTRY}/birthmark-0.1.0/src/alloc.rs"), Owner::Plumbing),
            (&format!("{REGISTRY}/tokio-util-0.7.1/src/lib.rs"), dependency("tokio-util-0.7.1")),
            (&format!("{REGISTRY}/log-1.0.0-rc.1/src/lib.rs"), dependency("log-1.0.0-rc.1")),
            (
                "/home/me/.cargo/git/checkouts/bytes-6d3a1f0e2b4c5d6e/3f2a1bc/src/bytes_mut.rs",
                dependency("bytes-3f2a1bc"),
            ),
            (
                "/home/me/.cargo/git/checkouts/tokio-abcdef0123456789/3f2a1bc/tokio/src/task/mod.rs",
                Owner::Plumbing,
            ),
            ("/home/me/app/vendor/itoa/src/lib.rs", dependency("itoa")),
            ("/home/me/app/vendor/tokio/src/lib.rs", Owner::Plumbing),
            ("itoa-1.0.1/src/lib.rs", dependency("itoa-1.0.1")),
            (concat!(env!("CARGO_MANIFEST_DIR"), "/src/alloc.rs"), Owner::Plumbing),
            (concat!(env!("CARGO_MANIFEST_DIR"), "/examples/service.rs"), Owner::User),
            (concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots.rs"), Owner::User),
        ] {
            assert_eq!(origin(file).owner, owner, "{file}");
        }
    }

    #[test]
    fn a_path_is_shown_from_its_package_or_relative_to_here() {
        let here = Some("/home/me");
        for (file, text) in [
            ("/home/me/app/src/main.rs", "app/src/main.rs"),
            ("/home/menace/src/main.rs", "/home/menace/src/main.rs"),
            ("/srv/app/src/main.rs", "/srv/app/src/main.rs"),
            ("/rustc/59807616e/library/alloc/src/vec/mod.rs", "alloc/src/vec/mod.rs"),
            // Below the current directory too, and yet a dependency's.
            (&format!("{REGISTRY}/serde_json-1.0.1/src/de.rs"), "serde_json-1.0.1/src/de.rs"),
            (
                "/home/me/.cargo/git/checkouts/big-6d3a1f0e2b4c5d6e/3f2a1bc/some/part/src/a.rs",
                "part-3f2a1bc/src/a.rs",
            ),
        ] {
            assert_eq!(shown(file, here), text);
        }
        assert_eq!(shown("/home/me/a.rs", None), "/home/me/a.rs");
    }

    #[test]
    fn dots_in_a_path_are_resolved_by_its_text() {
        assert_eq!(normal("/a/src/./b/../c.rs"), "/a/src/c.rs");
        assert_eq!(normal("../x/y.rs"), "../x/y.rs");
        assert_eq!(normal("/plain/path.rs"), "/plain/path.rs");
    }
}
