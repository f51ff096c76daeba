//! Builds the crates under `benches/fixtures`, each variant in a folder of its own beside this build.

use std::path::{Path, PathBuf};
use std::process::Command;

/// README's line for the dev profile.
pub const OPTIMISED_HOOKS: &str = "profile.dev.package.birthmark.opt-level=3";
/// README's line for the release profile.
pub const LINE_TABLES: &str = "profile.release.debug=\"line-tables-only\"";

/// Variables that would change what a program does.
const OURS: [&str; 2] = ["BIRTHMARK_", "TRACEMALLOC"];

pub fn is_ours(variable: &str) -> bool {
    OURS.iter().any(|o| variable.starts_with(o))
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/fixtures").join(name)
}

/// Where what we build and copy stays for the next run.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("overhead")
}

/// How a fixture is built.
pub struct Build<'a> {
    pub release: bool,
    pub frame_pointers: bool,
    /// A line of the manifest, in dots.
    pub line: Option<&'a str>,
}

impl Build<'_> {
    fn name(&self) -> String {
        let profile = match (self.release, self.line) {
            (true, _) => "release",
            (false, Some(_)) => "dev",
            (false, None) => "bare",
        };
        format!("{profile}{}", if self.frame_pointers { "-fp" } else { "" })
    }
}

/// Cargo in a crate of its own; flags and profiles of our own build don't go on to it.
pub fn cargo(at: &Path, target: &str, frame_pointers: bool) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let theirs =
            ["CARGO_PROFILE_", "CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BUILD_", "RUSTC", "RUSTFLAGS"];
        let named = ["CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR"];
        if theirs.iter().any(|o| text.starts_with(o)) || named.contains(&&*text) || is_ours(&text) {
            command.env_remove(&name);
        }
    }
    command.current_dir(at).env("CARGO_TARGET_DIR", folder().join("build").join(target));
    if frame_pointers {
        command.env("RUSTFLAGS", "-C force-frame-pointers=yes");
    }
    command
}

/// The binary of `fixture` with these features, put beside its other variants.
pub fn build(name: &str, features: &str, build: &Build) -> PathBuf {
    let variant = build.name();
    // Flags of its own: what it shares with others is built another time.
    let has_flags = fixture(name).join(".cargo").exists();
    let target = if has_flags { format!("{variant}-{name}") } else { variant.clone() };
    let mut command = cargo(&fixture(name), &target, build.frame_pointers);
    command.args(["build", "-q", "--features", features]);
    if build.release {
        command.arg("--release");
    }
    if let Some(line) = build.line {
        command.args(["--config", line]);
    }
    let status = command.status().expect("cargo starts");
    assert!(status.success(), "{name} isn't built: {command:?}");
    let profile = if build.release { "release" } else { "debug" };
    let made = folder().join("build").join(&target).join(profile).join(name);
    let kept = folder().join("bin").join(format!("{name}-{variant}-{}", features.replace(',', "-")));
    std::fs::create_dir_all(folder().join("bin")).expect("a folder for binaries");
    // Not over a binary that still runs.
    let _ = std::fs::remove_file(&kept);
    std::fs::copy(&made, &kept).expect("the binary is there");
    kept
}
