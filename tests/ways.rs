//! Whose line a block is told to be: over a hundred ways to allocate, in the builds that people make, with both manglings.
//!
//! Each way is one marked line of the fixture; every block that it made and that lives must have that line as its first
//! frame that isn't plumbing. By default one mangling of debug and release is built; with `ALL_WAYS` all are.
#![cfg(all(target_os = "linux", target_arch = "x86_64", not(birthmark_portable)))]

mod fixture;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use fixture::{cargo, said, target_folder};

const LEGACY: &str = "legacy";
const V0: &str = "v0";

fn all() -> bool {
    std::env::var_os("ALL_WAYS").is_some_and(|v| v != "0")
}

/// The fixture's program, built.
fn build(profile: &str, names: &str) -> PathBuf {
    let mut flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    if names == V0 {
        flags.push_str(" -C symbol-mangling-version=v0");
    }
    let target = format!("ways-{names}");
    said(cargo("ways", &target).env("RUSTFLAGS", flags).args(["build", "--quiet", "--profile", profile]));
    target_folder(&target).join(if profile == "dev" { "debug" } else { profile }).join("ways")
}

#[derive(Clone, Debug, PartialEq)]
struct Frame {
    owner: String,
    function: String,
    file: String,
    line: u32,
    offset: usize,
}

impl Frame {
    fn parse(text: &str) -> Self {
        let parts: Vec<&str> = text.split('\x1f').collect();
        let [owner, function, file, line, offset] = parts[..] else { panic!("no frame: {text:?}") };
        Self {
            owner: owner.into(),
            function: function.into(),
            file: file.into(),
            line: line.parse().unwrap(),
            offset: offset.parse().unwrap(),
        }
    }
    fn is_users(&self) -> bool {
        self.owner == "user"
    }
    fn is_of_serde(&self) -> bool {
        // serde_json's own parts too: serde_core has the visitors of strings and lists.
        self.owner.starts_with("Dependency(\"serde_json-")
            || self.owner.starts_with("Dependency(\"serde_core-")
    }
}

/// What was told about one block.
#[derive(Clone, Debug)]
struct Block {
    way: String,
    /// The way's own line, then the marked ones of the user's code that it calls.
    lines: Vec<u32>,
    /// The function that holds the way.
    function: String,
    frames: Vec<Frame>,
}

impl Block {
    /// The first frame that isn't plumbing.
    fn first(&self) -> Option<&Frame> {
        self.frames.iter().find(|f| f.owner != "plumbing")
    }
    fn is_of_a_dependency(&self) -> bool {
        self.way.starts_with("dependency: ")
    }
    fn is_on_its_line(&self, frame: &Frame) -> bool {
        frame.is_users() && frame.file.contains("fixtures/ways/src/") && self.lines.contains(&frame.line)
    }
    fn tell(&self) -> String {
        let mut text = format!("{} (lines {:?}):\n", self.way, self.lines);
        for f in &self.frames {
            text.push_str(&format!(
                "    {}  {}  {}:{} +{:#x}\n",
                f.owner, f.function, f.file, f.line, f.offset
            ));
        }
        text
    }
}

/// Runs the program with `frames` user frames a trace. Its blocks, in their order.
fn run(program: &PathBuf, frames: &str) -> Vec<Block> {
    let mut command = Command::new(program);
    command.env_clear().env("TRACEMALLOC", frames).env("BIRTHMARK_MALLOC", "0");
    let text = said(&mut command);
    let blocks: Vec<Block> = text
        .lines()
        .map(|line| {
            let parts: Vec<&str> = line.split('\t').collect();
            let [way, lines, function, frames] = parts[..] else { panic!("no block: {line:?}") };
            Block {
                way: way.into(),
                lines: lines.split(',').map(|n| n.parse().unwrap()).collect(),
                function: function.into(),
                frames: frames.split('\x1e').map(Frame::parse).collect(),
            }
        })
        .collect();
    assert!(ways(&blocks).len() >= 140, "{} ways", ways(&blocks).len());
    blocks
}

fn ways(blocks: &[Block]) -> BTreeMap<&str, Vec<&Block>> {
    let mut ways = BTreeMap::<&str, Vec<&Block>>::new();
    for block in blocks {
        ways.entry(&block.way).or_default().push(block);
    }
    ways
}

fn fail_if_any(wrong: Vec<String>, of: usize, what: &str) {
    assert!(wrong.is_empty(), "{} of {of} {what}:\n{}", wrong.len(), wrong.concat());
}

/// Every block of every way is told with its marked line.
fn every_way_is_told_with_its_line(profile: &str, names: &str) {
    let program = build(profile, names);
    for limit in ["1", "25"] {
        let blocks = run(&program, limit);
        let right = |b: &Block| {
            b.first()
                .is_some_and(|f| if b.is_of_a_dependency() { f.is_of_serde() } else { b.is_on_its_line(f) })
        };
        let wrong = blocks.iter().filter(|b| !right(b)).map(Block::tell).collect();
        fail_if_any(
            wrong,
            blocks.len(),
            &format!("blocks with the wrong line, {profile}, {names}, N={limit}"),
        );
        // A line that was marked is the user's code under std's or the runtime's: some block must be its own.
        for (way, blocks) in ways(&blocks) {
            let marks = blocks.iter().flat_map(|b| &b.lines[1..]);
            for mark in marks {
                let seen = |b: &&&Block| b.first().is_some_and(|f| f.line == *mark);
                assert!(
                    blocks.iter().find(seen).is_some(),
                    "{way}: no block of line {mark}, {profile}, {names}"
                );
            }
        }
        if limit == "25" {
            let dependencies = blocks.iter().filter(|b| b.is_of_a_dependency());
            let lost =
                |b: &&Block| !b.frames.iter().find(|f| f.is_users()).is_some_and(|f| b.is_on_its_line(f));
            let wrong = dependencies.clone().filter(lost).map(Block::tell).collect();
            fail_if_any(
                wrong,
                dependencies.count(),
                "blocks of a dependency without the user's line after it",
            );
        }
    }
}

#[test]
fn in_a_debug_build_the_first_frame_of_every_way_is_its_line() {
    every_way_is_told_with_its_line("dev", LEGACY);
    if all() {
        every_way_is_told_with_its_line("dev", V0);
    }
}

#[test]
fn in_a_release_build_with_line_tables_the_first_frame_of_every_way_is_its_line() {
    every_way_is_told_with_its_line("release", LEGACY);
    if all() {
        every_way_is_told_with_its_line("release", V0);
    }
}

#[test]
fn with_fat_lto_one_unit_and_no_unwinding_the_first_frame_of_every_way_is_its_line() {
    if all() {
        every_way_is_told_with_its_line("lto", LEGACY);
        every_way_is_told_with_its_line("lto", V0);
    }
}

#[test]
fn without_line_tables_the_function_is_the_users_and_stripped_its_place_is_among_the_frames() {
    if !all() {
        return;
    }
    let program = build("bare", LEGACY);
    let named = run(&program, "1");
    // What ways of a plain function have on their stack, whatever was inlined into std: that function. Those of `tasks`
    // are polled by the runtime, into whose functions the optimiser puts them: without line tables nothing tells.
    let plain: Vec<&Block> = named
        .iter()
        .filter(|b| b.function.starts_with("ways::plain::") && b.lines.len() == 1 && !b.is_of_a_dependency())
        .filter(|b| !b.function.ends_with("::threads") && !b.way.starts_with("a user's"))
        .collect();
    assert!(plain.len() > 200, "{}", plain.len());
    let right = |b: &Block| {
        b.first()
            .is_some_and(|f| f.is_users() && f.file.is_empty() && f.function.starts_with("ways::plain::"))
    };
    let wrong = plain.iter().filter(|b| !right(b)).map(|b| b.tell()).collect();
    fail_if_any(wrong, plain.len(), "blocks with the wrong function");

    let stripped = program.with_file_name("stripped");
    said(Command::new("strip").arg("--strip-all").arg("-o").arg(&stripped).arg(&program));
    let bare = run(&stripped, "1");
    // (Frames of C's library further out have its exported names.)
    let without_names = |b: &Block| b.frames[0].function.is_empty() && b.frames.iter().all(|f| f.offset != 0);
    let wrong = bare.iter().filter(|b| !without_names(b)).map(Block::tell).collect();
    fail_if_any(wrong, bare.len(), "blocks with names, or without offsets, when stripped");
    // The same code at the same places: the user's frame of the program with symbols is kept in the stripped one too.
    let bare = ways(&bare);
    let lost = |b: &&&Block| {
        let offset = b.first().expect("judged above").offset;
        !bare[&*b.way].iter().any(|s| s.frames.iter().any(|f| f.offset == offset))
    };
    let wrong = plain.iter().filter(lost).map(|b| b.tell()).collect();
    fail_if_any(wrong, plain.len(), "blocks without the user's place when stripped");
}
