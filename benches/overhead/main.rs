//! What each mode costs, over the system allocator and beside dhat-rs, each figure beside its budget: README's table of
//! prices.
//!
//! ```sh
//! cargo bench --bench overhead                        # everything: some twenty minutes
//! cargo bench --bench overhead -- release json churn  # a part, and some of its programs
//! cargo bench --bench overhead -- tests bytes --rounds 5
//! cargo bench --bench overhead -- --rounds 0          # builds the programs and runs none
//! ```
//!
//! | part | what runs |
//! |---|---|
//! | `release`, `release-fp` | heap programs built as people ship, without and with frame pointers |
//! | `dev`, `dev-fp` | the same in the dev profile with README's two install lines |
//! | `bare`, `bare-fp` | the dev profile without them |
//! | `spawn` | `tokio::spawn`, traced and attached, with and without frame pointers |
//! | `start` | the start of a program of 40,000 functions |
//! | `tests` | the tests of some crates of the registry, under `BIRTHMARK_DEV=1` |
//! | `inside` | a look-up, a snapshot, a wrapped poll, by criterion |
//!
//! The programs are crates of their own under `benches/fixtures`, built here as each part needs them, each allocator in a
//! binary of its own. Every run is a process; the variants take turns, and the least of the rounds counts. Ratios to a
//! least possible prototype, which the budgets of the hot paths are, can't be had here: those cells stand in the tables of a
//! part, without a budget.

mod cargo;
mod heap;
mod inside;
mod row;
mod runs;
mod spawn;
mod start;
mod tests;

/// For the part `inside`; the others run programs of their own.
#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

const PARTS: [&str; 10] =
    ["release", "release-fp", "dev", "dev-fp", "bare", "bare-fp", "spawn", "start", "tests", "inside"];

fn main() {
    let mut rounds = 3;
    let (mut parts, mut programs) = (Vec::new(), Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--rounds" {
            rounds = arguments.next().and_then(|n| n.parse().ok()).expect("--rounds takes a number");
        } else if let Some(part) = PARTS.iter().find(|p| **p == argument) {
            parts.push(*part);
        } else if !argument.starts_with('-') {
            let known: Vec<_> = heap::PROGRAMS.into_iter().chain(tests::CRATES).collect();
            assert!(
                known.contains(&&*argument),
                "`{argument}` is neither a part {PARTS:?} nor a program {known:?}"
            );
            programs.push(argument);
        }
    }
    if parts.is_empty() {
        parts = if programs.is_empty() { PARTS.to_vec() } else { vec!["release"] };
    }
    let mut rows = Vec::new();
    for part in parts {
        match part {
            "spawn" => spawn::measure(rounds, &mut rows),
            "start" => start::measure(rounds, &mut rows),
            "tests" => tests::measure(&programs, rounds, &mut rows),
            "inside" if rounds > 0 => inside::measure(&mut rows),
            "inside" => {}
            _ => heap::measure(part, &programs, rounds, &mut rows),
        }
    }
    if rounds > 0 {
        row::print(&rows);
    }
}
