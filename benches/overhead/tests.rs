//! What `BIRTHMARK_DEV=1 cargo test` costs: the test binaries of crates of the registry, without Birthmark and with the lines
//! that README tells people to add.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use crate::cargo::{self, cargo, fixture};
use crate::heap::runs_differ;
use crate::row::Row;
use crate::runs::{Variables, command};

pub const CRATES: [&str; 3] = ["regex-syntax", "bytes", "gimli"];

pub fn measure(wanted: &[String], rounds: usize, rows: &mut Vec<Row>) {
    for (name, version, source) in sources() {
        if wanted.iter().any(|w| CRATES.contains(&&**w)) && !wanted.contains(&name) {
            continue;
        }
        let without = executables(&copy(&source, &name, false), "tests");
        let with = executables(&copy(&source, &name, true), "tests");
        assert_eq!(without.len(), with.len(), "{name} has the same test binaries with and without");
        let modes: [(&str, &[PathBuf], Variables); 6] = [
            ("", &without, &[]),
            ("off", &with, &[("BIRTHMARK_MALLOC", "0")]),
            ("nothing set (debug heap)", &with, &[]),
            ("TRACEMALLOC=5 alone", &with, &[("BIRTHMARK_MALLOC", "0"), ("TRACEMALLOC", "5")]),
            ("DEV=1", &with, &[("BIRTHMARK_DEV", "1")]),
            ("", &without, &[]),
        ];
        let mut best = modes.map(|(_, executables, _)| vec![f64::INFINITY; executables.len()]);
        for _ in 0..rounds * 2 {
            for ((_, executables, variables), best) in modes.iter().zip(&mut best) {
                for (exe, best) in executables.iter().zip(best) {
                    *best = best.min(seconds(exe, variables, &source));
                }
            }
        }
        let sums = best.map(|b| b.iter().sum::<f64>());
        let over = sums[0].min(sums[5]);
        println!(
            "\ntests of {name} {version}: {} binaries, {:.0} ms without Birthmark",
            without.len(),
            over * 1e3
        );
        for ((mode, ..), sum) in modes.iter().zip(sums).filter(|m| !m.0.0.is_empty()) {
            let what = format!("cargo test of {name} {version}: {mode}");
            let mut row = Row::new(what, sum / over, "x").noisy(runs_differ(sums[0], sums[5]));
            row.budget = (*mode == "DEV=1").then_some(1.5);
            rows.push(row);
        }
    }
}

/// Name, version and folder of each crate, as cargo fetched it.
fn sources() -> Vec<(String, String, PathBuf)> {
    let output = cargo(&fixture("registry"), "tests", false)
        .args(["metadata", "--format-version", "1"])
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let packages = all["packages"].as_array().expect("a list");
    CRATES
        .into_iter()
        .map(|name| {
            let package = packages.iter().find(|p| p["name"] == name).expect("a dependency of the fixture");
            let text = |key: &str| package[key].as_str().expect("a text").to_owned();
            let manifest = PathBuf::from(text("manifest_path"));
            (name.to_owned(), text("version"), manifest.parent().expect("a folder").to_owned())
        })
        .collect()
}

/// The crate's own folder with a manifest that stands alone, and with the lines that install Birthmark, if wanted.
fn copy(source: &Path, name: &str, install: bool) -> PathBuf {
    let to =
        cargo::folder().join("crates").join(format!("{name}{}", if install { "-birthmark" } else { "" }));
    let _ = std::fs::remove_dir_all(&to);
    copy_folder(source, &to);
    // Its own choice of versions is for its own development.
    let _ = std::fs::remove_file(to.join("Cargo.lock"));
    let manifest = to.join("Cargo.toml");
    let mut text = read(&manifest);
    text.push_str("\n[workspace]\n");
    if install {
        let path = env!("CARGO_MANIFEST_DIR");
        text.push_str(&format!("\n[dev-dependencies.birthmark]\npath = {path:?}\n"));
        text.push_str("\n[profile.dev.package.birthmark]\nopt-level = 3\n");
        let tests = std::fs::read_dir(to.join("tests")).into_iter().flatten().flatten().map(|e| e.path());
        for file in tests.chain([to.join("src/lib.rs")]).filter(|f| f.extension().is_some_and(|e| e == "rs"))
        {
            install_in(&file);
        }
    }
    std::fs::write(&manifest, text).expect("the copy can be written");
    to
}

/// README's two lines, where the file has no allocator of its own.
fn install_in(file: &Path) {
    let mut text = read(file);
    if !text.contains("#[global_allocator]") {
        text.push_str(
            "\n#[cfg(test)]\n#[global_allocator]\nstatic BIRTHMARK: birthmark::DebugAlloc = birthmark::DebugAlloc::new();\n",
        );
        std::fs::write(file, text).expect("the copy can be written");
    }
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the target folder can be written");
    for entry in std::fs::read_dir(from).expect("a folder that cargo unpacked").flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_folder(&from, &to);
        } else {
            // Not its permissions: some registries are read-only.
            std::fs::write(&to, std::fs::read(&from).expect("readable")).expect("writable");
        }
    }
}

/// The crate's test binaries, in the order of their names.
fn executables(at: &Path, target: &str) -> Vec<PathBuf> {
    let output = cargo(at, target, false)
        .args(["test", "-q", "--lib", "--tests", "--no-run", "--message-format", "json"])
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{}: {}", at.display(), String::from_utf8_lossy(&output.stderr));
    let mut found: Vec<PathBuf> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect();
    // Both copies have the same names, but for a hash.
    found.sort();
    found
}

fn seconds(exe: &PathBuf, variables: Variables, at: &Path) -> f64 {
    let mut command = command(exe, variables);
    command.arg("-q").current_dir(at);
    let begin = Instant::now();
    let output = command.output().expect("it starts");
    let took = begin.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {variables:?}: {} {said}", exe.display(), output.status);
    took
}
