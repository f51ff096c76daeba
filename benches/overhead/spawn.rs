//! What a plain `tokio::spawn` of a small task costs more.

use crate::cargo::{self, Build, LINE_TABLES};
use crate::heap::runs_differ;
use crate::row::Row;
use crate::runs::{self, Run, Variables};

const OFF: (&str, &str) = ("BIRTHMARK_MALLOC", "0");

pub fn measure(rounds: usize, rows: &mut Vec<Row>) {
    for frame_pointers in [true, false] {
        let build = Build { release: true, frame_pointers, line: Some(LINE_TABLES) };
        let system = cargo::build("programs", "tokio", &build);
        let birthmark = cargo::build("programs", "birthmark,tokio", &build);
        for (plain, attached, tasks) in [
            ("spawn", "spawn_attached", "one by one"),
            ("spawn_workers", "spawn_workers_attached", "64 at a time on two workers"),
        ] {
            let ours = |argument, variables: Variables| Run {
                exe: birthmark.clone(),
                argument,
                variables,
                once: false,
            };
            let theirs = Run { exe: system.clone(), argument: plain, variables: &[], once: false };
            let best = runs::interleaved(
                rounds * 2,
                &[
                    theirs.clone(),
                    ours(plain, &[OFF, ("TRACEMALLOC", "5")]),
                    ours(attached, &[OFF]),
                    ours(attached, &[OFF, ("TRACEMALLOC", "5")]),
                    ours(plain, &[("BIRTHMARK_DEV", "1")]),
                    theirs,
                ],
            );
            let noisy = runs_differ(best[0].seconds, best[5].seconds);
            let over = best[0].seconds.min(best[5].seconds);
            let with = if frame_pointers { "with" } else { "without" };
            for (i, mode, budget) in [
                (1, "5 frames", Some(if frame_pointers { 1.3 } else { 1.6 })),
                (2, "attached, tracing off", Some(1.05)),
                (3, "attached, 5 frames", None),
                (4, "DEV=1", None),
            ] {
                let what = format!("spawn {tasks}, {with} frame pointers: {mode}");
                let mut row = Row::new(what, best[i].seconds / over, "x").noisy(noisy);
                row.budget = budget;
                rows.push(row);
            }
        }
    }
}
