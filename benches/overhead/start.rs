//! The start of a large program: what tracing adds before it has done anything, when its file is in memory already.

use std::path::PathBuf;
use std::time::Instant;

use crate::cargo::{self, Build};
use crate::row::Row;
use crate::runs::{Variables, command};

pub fn measure(rounds: usize, rows: &mut Vec<Row>) {
    let build = Build { release: true, frame_pointers: false, line: None };
    let exe = cargo::build("many_functions", "", &build);
    let variants: [Variables; 3] = [&[], &[("TRACEMALLOC", "5")], &[("BIRTHMARK_DEV", "1")]];
    let mut times = variants.map(|_| Vec::new());
    for _ in 0..rounds * 50 {
        for (variables, times) in variants.into_iter().zip(&mut times) {
            times.push(once(&exe, variables));
        }
    }
    let [nothing, traced, dev] = times.map(|mut t| {
        t.sort_by(f64::total_cmp);
        t.get(t.len() / 2).copied().unwrap_or(f64::NAN)
    });
    println!(
        "\nstart of 40,000 functions, medians: {nothing:.3} ms; TRACEMALLOC=5 {traced:.3} ms; DEV=1 {dev:.3} ms"
    );
    rows.push(Row::new("start, 40,000 functions: TRACEMALLOC=5 adds", traced - nothing, "ms").at_most(3.0));
    rows.push(Row::new("start, 40,000 functions: DEV=1 adds", dev - nothing, "ms"));
}

/// Milliseconds from the call to its end.
fn once(exe: &PathBuf, variables: Variables) -> f64 {
    let mut command = command(exe, variables);
    let begin = Instant::now();
    let status = command.status().expect("it starts");
    let took = begin.elapsed().as_secs_f64() * 1e3;
    assert!(status.success(), "{exe:?} {variables:?}: {status}");
    took
}
