//! Blocking pools whose threads are all held, and those that only look busy.

#![cfg(feature = "tokio")]

mod child_process;
mod load;

use std::time::Duration;

use child_process::{asked, run};
use load::with_every_core_busy;
use tokio::runtime::Builder;
use tokio::task::spawn_blocking;

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

const MS: Duration = Duration::from_millis(1);

/// Waits in a system call.
#[inline(never)]
fn nap(time: Duration) {
    std::thread::sleep(std::hint::black_box(time));
    std::hint::black_box(());
}

/// Computes for so long of the thread's own time on a processor.
#[inline(never)]
fn compute(time: Duration) {
    let spent = || {
        let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a valid buffer of the right type.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
        Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
    };
    let end = spent() + time;
    while spent() < end {
        std::hint::black_box(7u64.wrapping_mul(31));
    }
}

async fn jobs(n: usize, job: fn(Duration), time: Duration) {
    let jobs: Vec<_> = (0..n).map(|_| spawn_blocking(move || job(time))).collect();
    for job in jobs {
        job.await.unwrap();
    }
}

async fn body(program: &str) {
    match program {
        "naps" => jobs(3, nap, MS * 800).await,
        "computes" => jobs(2, compute, MS * 800).await,
        // Silent from here on: there are threads left.
        "room" => jobs(1, nap, MS * 600).await,
        "room_computing" => jobs(1, compute, MS * 600).await,
        "short_jobs" => jobs(60, nap, MS * 20).await,
        "idle" => tokio::time::sleep(MS * 400).await,
        "ends_meanwhile" => {
            // Ours is asked for after the limit, and begun when these end.
            jobs(2, nap, MS * 160).await;
        }
        other => panic!("no program {other}"),
    }
}

#[test]
fn program() {
    let Some(asked) = asked() else { return };
    let (how, program) = asked.split_once(' ').unwrap();
    let attached = async {
        birthmark::tokio::attach(&tokio::runtime::Handle::current());
        tokio::time::sleep(MS * 30).await;
        body(program).await;
        tokio::time::sleep(MS * 30).await; // time to see the end
    };
    let mut builder = match how {
        "mt" | "run" => Builder::new_multi_thread(),
        _ => Builder::new_current_thread(),
    };
    builder.enable_all().max_blocking_threads(2);
    match how {
        "run" => birthmark::tokio::run_on(&mut builder, true, attached),
        _ => builder.build().unwrap().block_on(attached),
    }
}

const DEBUG: (&str, &str) = ("BIRTHMARK_ASYNC_DEBUG", "1");
const HOWS: [&str; 3] = ["mt", "ct", "run"];

fn silent(how: &str, program: &str) {
    let output = run(&format!("{how} {program}"), &[DEBUG]);
    assert_eq!(output.code, Some(0), "{how} {program}\n{}", output.stderr);
    assert!(!output.stderr.contains("birthmark:"), "{how} {program}\n{}", output.stderr);
}

#[test]
fn a_pool_whose_threads_are_all_held_is_told_with_what_holds_them_and_when_it_goes_on() {
    for how in HOWS {
        for (program, function) in [("naps", "pool_starved::nap"), ("computes", "pool_starved::compute")] {
            let output = run(&format!("{how} {program}"), &[DEBUG]);
            let text = format!("{how} {program}\n{}", output.stderr);
            assert_eq!(output.code, Some(0), "{text}");
            let all = output.reports("pool-starved");
            assert_eq!(all.len(), 2, "{text}");
            assert!(
                all[0].ends_with(", limit 100 ms: 2 jobs that don't end hold its threads (#1)"),
                "{text}"
            );
            assert!(all[1].starts_with("the blocking pool began a job after at least "), "{text}");
            assert!(output.stderr.contains(function), "{text}");
            let place = "tests/pool_starved.rs:";
            assert!(output.stderr.contains(place) || output.stderr.contains("line numbers need"), "{text}");
        }
    }
}

#[test]
fn a_pool_with_a_thread_left_short_jobs_and_a_runtime_that_ends_are_silent() {
    for how in HOWS {
        for program in ["room", "room_computing", "short_jobs", "idle", "ends_meanwhile"] {
            silent(how, program);
        }
    }
}

#[test]
fn near_misses_stay_silent_with_every_core_kept_busy() {
    with_every_core_busy(2, || {
        for program in ["room", "room_computing", "short_jobs", "idle"] {
            silent("mt", program);
            silent("ct", program);
        }
    });
}
