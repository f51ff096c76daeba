//! Heap programs in every mode: time and peak RSS over the system allocator.

use crate::cargo::{self, Build, LINE_TABLES, OPTIMISED_HOOKS};
use crate::row::Row;
use crate::runs::{self, Best, Run, Variables};

pub const PROGRAMS: [&str; 10] =
    ["json", "btree", "churn", "deep", "paths", "thread1", "threads", "text", "zeroed", "growth"];
/// Those that the dev profile runs unless told otherwise: without the install lines a round of all takes many minutes.
const IN_DEV: [&str; 3] = ["json", "btree", "churn"];

/// Name, feature of the fixture, variables.
type Mode = (&'static str, &'static str, Variables);
const OFF: (&str, &str) = ("BIRTHMARK_MALLOC", "0");
const MODES: [Mode; 9] = [
    ("system", "", &[]),
    ("off", "birthmark", &[OFF]),
    ("TRACEMALLOC=1", "birthmark", &[OFF, ("TRACEMALLOC", "1")]),
    ("TRACEMALLOC=5", "birthmark", &[OFF, ("TRACEMALLOC", "5")]),
    ("TRACEMALLOC=25", "birthmark", &[OFF, ("TRACEMALLOC", "25")]),
    ("MALLOC=debug", "birthmark", &[("BIRTHMARK_MALLOC", "debug")]),
    ("DEV=1", "birthmark", &[("BIRTHMARK_DEV", "1")]),
    ("dhat-rs", "dhat", &[]),
    ("system again", "", &[]),
];
/// What a debug build does by itself: `MALLOC=debug` with a smaller quarantine.
const IN_DEV_ONLY: [Mode; 2] =
    [("nothing set", "birthmark", &[]), ("TRACEMALLOC=5 alone", "birthmark", &[("TRACEMALLOC", "5")])];

pub fn measure(part: &'static str, wanted: &[String], rounds: usize, rows: &mut Vec<Row>) {
    let release = part.starts_with("release");
    let build = Build {
        release,
        frame_pointers: part.ends_with("-fp"),
        line: if release {
            Some(LINE_TABLES)
        } else if part.starts_with("dev") {
            Some(OPTIMISED_HOOKS)
        } else {
            None
        },
    };
    let programs: Vec<&'static str> = PROGRAMS
        .into_iter()
        .filter(|p| {
            if !wanted.iter().any(|w| PROGRAMS.contains(&&**w)) {
                release || IN_DEV.contains(p)
            } else {
                wanted.iter().any(|w| w == p)
            }
        })
        .collect();
    let mut modes = MODES.to_vec();
    if !release {
        // The last one is the system's again.
        modes.splice(modes.len() - 1..modes.len() - 1, IN_DEV_ONLY);
    }
    let exe = |features: &str| cargo::build("programs", features, &build);
    let (system, birthmark, dhat) = (exe(""), exe("birthmark"), exe("dhat"));
    let table: Vec<Vec<Best>> = programs
        .iter()
        .map(|&argument| {
            let runs: Vec<Run> = modes
                .iter()
                .map(|&(_, feature, variables)| {
                    let exe = match feature {
                        "" => &system,
                        "dhat" => &dhat,
                        _ => &birthmark,
                    };
                    Run { exe: exe.clone(), argument, variables, once: feature == "dhat" }
                })
                .collect();
            runs::interleaved(rounds, &runs)
        })
        .collect();
    let cells = Cells { part, programs, modes, table };
    cells.print("time over system", |best| best.seconds);
    cells.print("peak RSS over system", |best| best.kib);
    if release { cells.judge_release(rows) } else { cells.judge_dev(rows) }
}

struct Cells {
    part: &'static str,
    programs: Vec<&'static str>,
    modes: Vec<Mode>,
    /// By program, then by mode.
    table: Vec<Vec<Best>>,
}

impl Cells {
    fn best(&self, mode: &str, program: &str) -> Option<Best> {
        let program = self.programs.iter().position(|p| *p == program)?;
        let mode = self.modes.iter().position(|m| m.0 == mode)?;
        Some(self.table[program][mode])
    }

    fn system(&self, program: &str) -> Option<Best> {
        let (one, two) = (self.best("system", program)?, self.best("system again", program)?);
        Some(Best { seconds: one.seconds.min(two.seconds), kib: one.kib.max(two.kib) })
    }

    fn noisy(&self, program: &str) -> bool {
        let seconds = |mode| self.best(mode, program).map_or(f64::NAN, |b| b.seconds);
        runs_differ(seconds("system"), seconds("system again"))
    }

    fn time(&self, mode: &str, program: &str) -> Option<f64> {
        Some(self.best(mode, program)?.seconds / self.system(program)?.seconds)
    }

    fn print(&self, title: &str, of: fn(Best) -> f64) {
        print!("\n{:32}", format!("{}: {title}", self.part));
        self.programs.iter().for_each(|p| print!("{p:>9}"));
        for &(mode, ..) in &self.modes {
            print!("\n{mode:32}");
            for program in &self.programs {
                let ratio = self.best(mode, program).zip(self.system(program)).map(|(b, s)| of(b) / of(s));
                print!("{:9.2}", ratio.unwrap_or(f64::NAN));
            }
        }
        println!();
    }

    fn row(&self, mode: &str, program: &str, rows: &mut Vec<Row>, budget: f64) {
        let Some(value) = self.time(mode, program) else { return };
        let what = format!("{}: {program}, {mode}", self.part);
        rows.push(Row::new(what, value, "x").at_most(budget).noisy(self.noisy(program)));
    }

    fn judge_release(&self, rows: &mut Vec<Row>) {
        for program in self.programs.iter().filter(|p| **p != "threads") {
            self.row("off", program, rows, 1.03);
        }
        for (mode, zeroed, growth) in
            [("TRACEMALLOC=5", 1.1, 1.2), ("MALLOC=debug", 1.6, 8.0), ("DEV=1", 2.2, 8.0)]
        {
            self.row(mode, "zeroed", rows, zeroed);
            self.row(mode, "growth", rows, growth);
        }
        for (mode, budget) in [
            ("TRACEMALLOC=1", 1.15),
            ("TRACEMALLOC=5", 1.15),
            ("TRACEMALLOC=25", 1.15),
            ("MALLOC=debug", 1.15),
            ("DEV=1", 1.3),
        ] {
            if let Some((two, one)) = self.time(mode, "threads").zip(self.time(mode, "thread1")) {
                let what = format!("{}: slowdown on two threads over one's, {mode}", self.part);
                rows.push(
                    Row::new(what, two / one, "x")
                        .at_most(budget)
                        .noisy(self.noisy("threads") || self.noisy("thread1")),
                );
            }
        }
        for (mode, times, quarantine) in
            [("TRACEMALLOC=5", 1.3, 0.0), ("MALLOC=debug", 1.8, 4096.0), ("DEV=1", 2.1, 16384.0)]
        {
            if let Some((best, system)) = self.best(mode, "btree").zip(self.system("btree")) {
                let what = format!("{}: RSS with 500,000 blocks less the quarantine's, {mode}", self.part);
                rows.push(Row::new(what, (best.kib - quarantine) / system.kib, "x").at_most(times));
            }
        }
    }

    fn judge_dev(&self, rows: &mut Vec<Row>) {
        let budgets = if self.part.starts_with("dev") { (2.0, 5.0) } else { (2.5, 15.0) };
        self.row("TRACEMALLOC=5", "json", rows, budgets.0);
        self.row("TRACEMALLOC=5", "churn", rows, budgets.1);
    }
}

/// The same thing measured twice: so far apart that nothing can be told.
pub fn runs_differ(one: f64, two: f64) -> bool {
    (one / two - 1.0).abs() >= 0.08
}
