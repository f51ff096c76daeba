//! What the runtime's diagnostics cost a tokio program, over plain tokio and beside its peers.
//!
//! ```sh
//! cargo bench --bench runtime                       # some minutes
//! cargo bench --bench runtime -- spawn echo         # some shapes only
//! cargo bench --bench runtime -- watchdog           # only what the watchdog takes, on Linux
//! cargo bench --bench runtime -- --rounds 0         # builds the programs and runs none
//! ```
//!
//! | shape | an operation |
//! |---|---|
//! | `spawn` | spawn a task that is ready at once, and join it |
//! | `yield` | a task wakes itself, `yield_now` |
//! | `channel` | a message through an mpsc channel of 64 |
//! | `echo` | 64 bytes over loopback TCP and back |
//!
//! Each on a current-thread runtime and on two workers. The programs are `benches/fixtures/runtime`, each allocator and
//! each peer in a binary of its own; every run is a process, the rows take turns, and the least of the rounds counts. The
//! same shapes under asyncio, with its debug mode over without, stand below for the record where there is a `python3`.
//!
//! tokio-console's `console-subscriber` and tokio's task hooks need a tokio built with `--cfg tokio_unstable`: they have a table of
//! their own, over that tokio, by `benches/fixtures/runtime_unstable`.

#[allow(dead_code)]
#[path = "../overhead/cargo.rs"]
mod cargo;
#[allow(dead_code)]
#[path = "../overhead/runs.rs"]
mod runs;

use std::path::PathBuf;

use cargo::{Build, LINE_TABLES, fixture};
use runs::{Best, Run, Variables, interleaved};

const SHAPES: [&str; 4] = ["spawn", "yield", "channel", "echo"];
/// What a program does while its watchdog looks on.
const PROGRAMS: [&str; 3] = ["waits", "timers", "computes"];
/// Those that look on: the watchdog of an attached program, and threads that sleep so many milliseconds and do nothing else.
const LOOKERS: [(&str, &str); 3] =
    [("the watchdog", "watchdog"), ("sleeps 10 ms", "10"), ("sleeps 40 ms", "40")];

const FLAVOURS: [(&str, &str); 2] = [("one", "current thread"), ("workers", "two workers")];

const OFF: (&str, &str) = ("BIRTHMARK_MALLOC", "0");
const ON: (&str, &str) = ("BIRTHMARK_ASYNC_DEBUG", "1");
const FRAMES: (&str, &str) = ("TRACEMALLOC", "5");

/// Name, feature of the fixture, how tasks are spawned, variables.
type Mode = (&'static str, &'static str, &'static str, Variables);

/// The first and the last are the same.
const MODES: [Mode; 9] = [
    ("plain tokio", "", "plain", &[]),
    ("Birthmark off", "birthmark", "plain", &[OFF]),
    ("attached", "birthmark", "attached", &[OFF, ON]),
    ("attached, 5 frames", "birthmark", "attached", &[OFF, ON, FRAMES]),
    ("wrapped, off", "birthmark", "wrapped", &[OFF]),
    ("wrapped", "birthmark", "wrapped", &[OFF, ON]),
    ("wrapped, 5 frames", "birthmark", "wrapped", &[OFF, ON, FRAMES]),
    ("tokio-metrics", "metrics", "instrumented", &[]),
    ("plain tokio again", "", "plain", &[]),
];

/// With `--cfg tokio_unstable`.
const UNSTABLE: [Mode; 7] = [
    ("plain tokio", "", "plain", &[]),
    ("hooks, off", "birthmark", "hooked", &[OFF]),
    ("hooks", "birthmark", "hooked", &[OFF, ON]),
    ("hooks, 5 frames", "birthmark", "hooked", &[OFF, ON, FRAMES]),
    ("wrapped", "birthmark", "wrapped", &[OFF, ON]),
    ("console-subscriber", "console", "console", &[]),
    ("plain tokio again", "", "plain", &[]),
];

/// Without and with the debug mode.
const ASYNCIO: [(&str, Variables); 2] =
    [("asyncio", &[]), ("asyncio, debug", &[("PYTHONASYNCIODEBUG", "1")])];

fn main() {
    let mut rounds = 5;
    let mut shapes = Vec::new();
    let mut looks_on = false;
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    while let Some(argument) = arguments.next() {
        if argument == "--rounds" {
            rounds = arguments.next().and_then(|n| n.parse().ok()).expect("--rounds N");
        } else if argument == "watchdog" {
            looks_on = true;
        } else if let Some(shape) = SHAPES.into_iter().find(|s| *s == argument) {
            shapes.push(shape);
        } else {
            panic!("`{argument}` is no shape of {SHAPES:?}, nor `watchdog`");
        }
    }
    if shapes.is_empty() && !looks_on {
        shapes = SHAPES.to_vec();
        looks_on = cfg!(target_os = "linux");
    }
    if looks_on {
        watchdog(rounds);
    }
    if shapes.is_empty() {
        return;
    }
    tokio("runtime", "", &MODES, &shapes, rounds);
    tokio("runtime_unstable", ", tokio_unstable", &UNSTABLE, &shapes, rounds);
    asyncio(&shapes, rounds);
}

fn tokio(name: &str, note: &str, modes: &[Mode], shapes: &[&'static str], rounds: usize) {
    let build = Build { release: true, frame_pointers: false, line: Some(LINE_TABLES) };
    let mut built: Vec<(&str, PathBuf)> = Vec::new();
    for (_, feature, ..) in modes {
        if built.iter().all(|(other, _)| other != feature) {
            built.push((feature, cargo::build(name, feature, &build)));
        }
    }
    let exe = |feature: &str| built.iter().find(|b| b.0 == feature).expect("each feature is built").1.clone();
    if rounds == 0 {
        return;
    }
    for (flavour, title) in FLAVOURS {
        let columns: Vec<Vec<Best>> = shapes
            .iter()
            .map(|shape| {
                let runs: Vec<Run> = modes
                    .iter()
                    .map(|&(_, feature, how, variables)| Run {
                        exe: exe(feature),
                        argument: format!("{shape},{flavour},{how}").leak(),
                        variables,
                        once: false,
                    })
                    .collect();
                interleaved(rounds, &runs)
            })
            .collect();
        let rows: Vec<&str> = modes.iter().map(|mode| mode.0).collect();
        print(&format!("{title}{note}"), shapes, &rows, &columns);
    }
}

/// The share of a core that each takes.
fn watchdog(rounds: usize) {
    let build = Build { release: true, frame_pointers: false, line: Some(LINE_TABLES) };
    let exe = cargo::build("runtime", "birthmark", &build);
    if rounds == 0 {
        return;
    }
    let columns = PROGRAMS.map(|program| {
        interleaved(
            rounds,
            &LOOKERS.map(|(_, how)| Run {
                exe: exe.clone(),
                argument: format!("watchdog,{program},{how}").leak(),
                variables: if how == "watchdog" { &[OFF, ON] } else { &[OFF] },
                once: false,
            }),
        )
    });
    print!("\n{:32}", "% of a core, in a program that");
    PROGRAMS.iter().for_each(|program| print!("{program:>10}"));
    for (at, (row, _)) in LOOKERS.iter().enumerate() {
        print!("\n{row:32}");
        columns.iter().for_each(|column| print!("{:10.3}", column[at].seconds * 100.0));
    }
    println!();
}

fn asyncio(shapes: &[&'static str], rounds: usize) {
    let Ok(version) = std::process::Command::new("python3").arg("--version").output() else {
        println!("\nno python3, so nothing to tell of asyncio");
        return;
    };
    if rounds == 0 {
        return;
    }
    // A script that takes a shape is a program that takes an argument.
    let script = fixture("runtime").join("shapes.py");
    let columns: Vec<Vec<Best>> = shapes
        .iter()
        .map(|&argument| {
            let runs = ASYNCIO.map(|(_, variables)| Run {
                exe: PathBuf::from(&script),
                argument,
                variables,
                once: false,
            });
            interleaved(rounds, &runs)
        })
        .collect();
    let title = String::from_utf8_lossy(&version.stdout);
    print(title.trim(), shapes, &ASYNCIO.map(|a| a.0), &columns);
}

/// The first row's time for an operation, then each row over it.
fn print(title: &str, shapes: &[&str], rows: &[&str], columns: &[Vec<Best>]) {
    print!("\n{title:32}");
    shapes.iter().for_each(|shape| print!("{shape:>10}"));
    print!("\n{:32}", format!("{}, ns", rows[0]));
    columns.iter().for_each(|column| print!("{:10.0}", column[0].seconds * 1e9));
    for (at, row) in rows.iter().enumerate() {
        print!("\n{row:32}");
        columns.iter().for_each(|column| print!("{:10.2}", column[at].seconds / column[0].seconds));
    }
    println!();
}
