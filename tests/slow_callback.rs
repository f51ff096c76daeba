//! Which poll blocks its thread: programs that must be told, with the right task, and programs that must stay silent.
//! Each runs in a process of its own, on both flavours, beside a task that must go on being polled where it can; some in a `LocalSet`
//! and on another executor.

#![cfg(feature = "tokio")]

mod child_process;
mod executors;
mod load;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use birthmark::WatchExt as _;
use child_process::{Output, asked, run, run_meanwhile};
use executors::run_as_a_local_task;
use load::with_every_core_busy;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::{LocalSet, block_in_place, spawn_blocking, yield_now};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

const MS: Duration = Duration::from_millis(1);

/// Computes for so long of the thread's own time on a processor.
#[inline(never)]
fn compute(time: Duration) {
    let spent = || {
        let mut t = libc_timespec();
        // SAFETY: a valid buffer of the right type.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
        Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
    };
    let end = spent() + time;
    while spent() < end {
        std::hint::black_box(7u64.wrapping_mul(31));
    }
}

/// Waits in a system call.
#[inline(never)]
fn nap(time: Duration) {
    std::thread::sleep(std::hint::black_box(time));
    std::hint::black_box(());
}

fn libc_timespec() -> libc::timespec {
    libc::timespec { tv_sec: 0, tv_nsec: 0 }
}

fn my_id() -> String {
    tokio::task::try_id().map_or_else(|| "root".into(), |id| id.to_string())
}

fn say_culprit() {
    println!("culprit={}", my_id());
}

/// Polls of the task beside.
static BESIDE: AtomicU64 = AtomicU64::new(0);

async fn body(program: &str) {
    match program {
        "computing" => {
            tokio::spawn(async {
                say_culprit();
                compute(MS * 300);
            })
            .await
            .unwrap();
        }
        "sleeping" => {
            tokio::spawn(async {
                say_culprit();
                nap(MS * 400);
            })
            .await
            .unwrap();
        }
        "root" => {
            yield_now().await;
            say_culprit();
            compute(MS * 300);
        }
        "local" => {
            let local = LocalSet::new();
            local
                .run_until(async {
                    tokio::task::spawn_local(async {
                        say_culprit();
                        compute(MS * 300);
                    })
                    .await
                    .unwrap();
                })
                .await;
        }
        "own_thread" => {
            let thread = std::thread::spawn(|| {
                Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                    tokio::spawn(async {
                        say_culprit();
                        nap(MS * 300);
                    })
                    .await
                    .unwrap();
                });
            });
            while !thread.is_finished() {
                tokio::time::sleep(MS * 10).await;
            }
        }
        "messages" => {
            let (send, mut receive) = mpsc::unbounded_channel();
            for n in 0..250 {
                send.send(n).unwrap();
            }
            drop(send);
            tokio::spawn(async move {
                say_culprit();
                while receive.recv().await.is_some() {
                    compute(MS * 3);
                }
            })
            .await
            .unwrap();
        }
        "allocating" => {
            tokio::spawn(async {
                say_culprit();
                let mut kept = Vec::new();
                for _ in 0..120 {
                    kept.push(vec![1u8; 100_000]);
                    nap(MS * 5);
                }
                std::hint::black_box(kept);
            })
            .await
            .unwrap();
        }
        "beside_six" => {
            // Six handlers allocate in short polls, and the one that is stuck allocates nothing.
            let stop = std::sync::Arc::new(AtomicBool::new(false));
            let handlers: Vec<_> = (0..6)
                .map(|_| {
                    let stop = stop.clone();
                    tokio::spawn(async move {
                        while !stop.load(SeqCst) {
                            drop(std::hint::black_box(vec![1u8; 10_000]));
                            tokio::time::sleep(MS).await;
                        }
                    })
                })
                .collect();
            tokio::time::sleep(MS * 20).await;
            tokio::spawn(async {
                say_culprit();
                compute(MS * 300);
            })
            .await
            .unwrap();
            stop.store(true, SeqCst);
            for handler in handlers {
                handler.await.unwrap();
            }
        }
        "local_wrapped" => {
            let local = LocalSet::new();
            local
                .run_until(async {
                    birthmark::tokio::spawn_local(async {
                        say_culprit();
                        let block = vec![1u8; 3 << 20];
                        compute(MS * 300);
                        drop(std::hint::black_box(block));
                    })
                    .await
                    .unwrap();
                })
                .await;
        }
        "local_root" => {
            // Short polls of the set's tasks are no part of what its owner takes.
            LocalSet::new()
                .run_until(async {
                    let short = tokio::task::spawn_local(async {
                        for _ in 0..30 {
                            compute(MS * 8);
                            yield_now().await;
                        }
                    });
                    yield_now().await;
                    say_culprit();
                    compute(MS * 300);
                    short.await.unwrap();
                })
                .await;
        }
        "smol_block_on" => {
            tokio::spawn(async {
                say_culprit();
                smol::block_on(async { smol::Timer::after(MS * 300).await });
            })
            .await
            .unwrap();
        }
        "futures_block_on" => {
            tokio::spawn(async {
                say_culprit();
                futures_executor::block_on(tokio::time::sleep(MS * 300));
            })
            .await
            .unwrap();
        }
        "pollster_block_on" => {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            std::thread::spawn(move || {
                std::thread::sleep(MS * 300);
                sender.send(()).unwrap();
            });
            tokio::spawn(async {
                say_culprit();
                pollster::block_on(receiver).unwrap();
            })
            .await
            .unwrap();
        }
        // Silent from here on.
        "foreign_block_on_elsewhere" => {
            spawn_blocking(|| {
                smol::block_on(async { smol::Timer::after(MS * 200).await });
                pollster::block_on(tokio::time::sleep(MS * 200));
            })
            .await
            .unwrap();
        }
        "foreign_block_on_in_place" => {
            let sleep = || pollster::block_on(tokio::time::sleep(MS * 300));
            tokio::spawn(async move { block_in_place(sleep) }).await.unwrap();
        }
        "short_polls" => {
            tokio::spawn(async {
                for _ in 0..30 {
                    compute(MS * 8);
                    yield_now().await;
                }
            })
            .await
            .unwrap();
        }
        "local_short" => {
            let local = LocalSet::new();
            let short = || async {
                for _ in 0..30 {
                    compute(MS * 8);
                    yield_now().await;
                }
            };
            local.run_until(async move { tokio::task::spawn_local(short()).await.unwrap() }).await;
            local.run_until(async move { birthmark::tokio::spawn_local(short()).await.unwrap() }).await;
        }
        "local_blocking" => {
            let local = LocalSet::new();
            local.run_until(async { spawn_blocking(|| nap(MS * 400)).await.unwrap() }).await;
        }
        "forties" => {
            tokio::spawn(async {
                for _ in 0..10 {
                    compute(MS * 40);
                    yield_now().await;
                }
            })
            .await
            .unwrap();
        }
        "thirty_tasks" => {
            let tasks: Vec<_> = (0..30).map(|_| tokio::spawn(async { compute(MS * 16) })).collect();
            for task in tasks {
                task.await.unwrap();
            }
        }
        "ping_pong" => {
            let (a, mut from_a) = mpsc::channel::<u32>(1);
            let (b, mut from_b) = mpsc::channel::<u32>(1);
            let one = tokio::spawn(async move {
                for n in 0..40 {
                    a.send(n).await.unwrap();
                    compute(MS * 6);
                    from_b.recv().await.unwrap();
                }
            });
            let other = tokio::spawn(async move {
                for _ in 0..40 {
                    let n = from_a.recv().await.unwrap();
                    compute(MS * 6);
                    b.send(n).await.unwrap();
                }
            });
            one.await.unwrap();
            other.await.unwrap();
        }
        "recv_loop" => {
            let (send, mut receive) = mpsc::unbounded_channel();
            for n in 0..1500 {
                send.send(n).unwrap();
            }
            drop(send);
            tokio::spawn(async move {
                while receive.recv().await.is_some() {
                    compute(Duration::from_micros(400));
                }
            })
            .await
            .unwrap();
        }
        "block_in_place" => {
            tokio::spawn(async { block_in_place(|| std::thread::sleep(MS * 400)) }).await.unwrap();
        }
        "block_on_in_place" => {
            let handle = tokio::runtime::Handle::current();
            tokio::spawn(async move {
                block_in_place(|| {
                    handle.block_on(async {
                        compute(MS * 400);
                    });
                });
            })
            .await
            .unwrap();
            tokio::time::sleep(MS * 50).await; // for what may be looked up
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let peak = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
            println!("peak_kib={}", peak.split_whitespace().nth(1).unwrap());
        }
        "spawn_blocking" => {
            spawn_blocking(|| compute(MS * 400)).await.unwrap();
        }
        "block_on_blocking" => {
            let handle = tokio::runtime::Handle::current();
            spawn_blocking(move || handle.block_on(async { std::thread::sleep(MS * 400) })).await.unwrap();
        }
        "sixties" => {
            tokio::spawn(async {
                for _ in 0..3 {
                    compute(MS * 60);
                    tokio::time::sleep(MS * 20).await;
                }
            })
            .await
            .unwrap();
        }
        "unconstrained" => {
            tokio::spawn(tokio::task::unconstrained(async {
                say_culprit();
                compute(MS * 800);
            }))
            .await
            .unwrap();
        }
        "wrapped" => {
            birthmark::tokio::spawn(async {
                say_culprit();
                let block = vec![1u8; 3 << 20];
                compute(MS * 300);
                drop(std::hint::black_box(block));
            })
            .await
            .unwrap();
        }
        "stops_itself" => {
            for _ in 0..3 {
                tokio::time::sleep(MS * 200).await;
                birthmark::tokio::spawn(async {
                    // SAFETY: a signal to ourselves.
                    unsafe { libc::kill(libc::getpid(), libc::SIGSTOP) };
                    compute(MS * 20);
                })
                .await
                .unwrap();
            }
        }
        "wrapped_short" => {
            birthmark::tokio::spawn(async {
                for _ in 0..30 {
                    compute(MS * 8);
                    yield_now().await;
                }
            })
            .await
            .unwrap();
        }
        "slow_zero" => {
            birthmark::set_slow_callback_duration(Duration::ZERO);
            birthmark::watched(async {
                yield_now().await;
                yield_now().await;
            })
            .await;
            birthmark::set_slow_callback_duration(MS * 100);
        }
        "again" => {
            for _ in 0..4 {
                tokio::spawn(async { nap(MS * 250) }).await.unwrap();
                tokio::time::sleep(MS * 20).await;
            }
        }
        "again_wrapped" => {
            for _ in 0..4 {
                birthmark::tokio::spawn(async { nap(MS * 250) }).await.unwrap();
                tokio::time::sleep(MS * 20).await;
            }
        }
        "idle" => tokio::time::sleep(MS * 400).await,
        "stopped_wrapped" => {
            birthmark::tokio::spawn(async {
                for _ in 0..8 {
                    compute(MS * 30);
                    yield_now().await;
                    nap(MS * 30);
                    yield_now().await;
                }
            })
            .await
            .unwrap();
        }
        "stopped" => {
            // The parent stops and continues us in the middle of a poll that is short by its own time.
            tokio::spawn(async {
                println!("ready=1");
                for _ in 0..8 {
                    compute(MS * 30);
                    yield_now().await;
                }
            })
            .await
            .unwrap();
        }
        other => panic!("no program {other}"),
    }
}

/// A task of another executor: only what is watched is seen there.
async fn on_another_executor(program: &str) {
    match program {
        "stuck" => {
            async {
                let block = vec![1u8; 3 << 20];
                compute(MS * 300);
                drop(std::hint::black_box(block));
            }
            .watched()
            .await;
        }
        // Silent from here on.
        "short" => {
            async {
                for _ in 0..30 {
                    compute(MS * 8);
                    yield_now().await;
                }
            }
            .watched()
            .await;
        }
        "unblocked" => smol::unblock(|| nap(MS * 300)).watched().await,
        "waiting" => drop(async { smol::Timer::after(MS * 300).await }.watched().await),
        "not_watched" => compute(MS * 300),
        other => panic!("no program {other}"),
    }
}

/// `attached` programs are plain tokio with one line.
fn child(asked: &str) {
    let (how, program) = asked.split_once(' ').unwrap();
    let program = program.to_string();
    let whole = async move {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let beside = tokio::spawn({
            let stop = stop.clone();
            async move {
                while !stop.load(SeqCst) {
                    BESIDE.fetch_add(1, SeqCst);
                    tokio::time::sleep(MS).await;
                }
            }
        });
        // The watchdog has begun.
        tokio::time::sleep(MS * 30).await;
        body(&program).await;
        stop.store(true, SeqCst);
        let _ = beside.await;
        println!("beside={}", BESIDE.load(SeqCst));
    };
    match how {
        "smol" => {
            let program = asked.split_once(' ').unwrap().1.to_owned();
            run_as_a_local_task("smol", async move { on_another_executor(&program).await });
        }
        "run" => birthmark::tokio::run(true, whole),
        "run_ct" => birthmark::tokio::run_on(Builder::new_current_thread().enable_all(), true, whole),
        "run_mt" => {
            birthmark::tokio::run_on(Builder::new_multi_thread().worker_threads(2).enable_all(), true, whole)
        }
        "attached_mt" => {
            Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(async {
                birthmark::tokio::attach(&tokio::runtime::Handle::current());
                whole.await;
            })
        }
        "attached_ct" => Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            birthmark::tokio::attach(&tokio::runtime::Handle::current());
            whole.await;
        }),
        "unattached" => {
            Builder::new_current_thread().enable_all().build().unwrap().block_on(whole);
        }
        "forked" => {
            // The parent has a watchdog; a child made by a bare fork makes its own.
            birthmark::tokio::run_on(Builder::new_current_thread().enable_all(), true, async {
                tokio::time::sleep(MS * 50).await;
            });
            // SAFETY: no other thread of this program holds a lock that the child needs: the runtime is gone.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                birthmark::tokio::run_on(Builder::new_current_thread().enable_all(), true, whole);
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(0) };
            }
            let mut status = 0;
            // SAFETY: waits for our own child.
            unsafe { libc::waitpid(pid, &mut status, 0) };
            assert_eq!(status, 0);
        }
        other => panic!("no way {other}"),
    }
}

#[test]
fn program() {
    if let Some(asked) = asked() {
        child(&asked);
    }
}

const DEBUG: (&str, &str) = ("BIRTHMARK_ASYNC_DEBUG", "1");
const TRACED: (&str, &str) = ("TRACEMALLOC", "5");

/// Whether the text names a line of this file, or says that the build keeps none.
fn has_place(text: &str, place: &str) -> bool {
    text.contains(place) || text.contains("line numbers need")
}

/// The culprit is told while stuck, once, by its id, with a stack that names `function`; then once more as it ends.
fn told(how: &str, program: &str, function: &str) -> Output {
    let output = run(&format!("{how} {program}"), &[DEBUG, TRACED]);
    let (all, text) = (output.reports("slow-callback"), &output.stderr);
    assert_eq!(output.code, Some(0), "{how} {program}:\n{text}");
    let culprit = match output.said("culprit") {
        "root" => "the root future".to_string(),
        id => format!("task {id}"),
    };
    let stuck: Vec<_> = all.iter().filter(|l| l.contains("still stuck")).collect();
    assert_eq!(stuck.len(), 1, "{how} {program}: {culprit}\n{text}");
    assert!(stuck[0].starts_with(&format!("{culprit} ")), "{how} {program}: {culprit}\n{text}");
    assert!(text.contains(function), "{how} {program}: no {function}\n{text}");
    assert!(has_place(text, "tests/slow_callback.rs:"), "{how} {program}\n{text}");
    if culprit != "the root future" {
        assert!(text.contains("  spawned "), "{how} {program}\n{text}");
    }
    let over: Vec<_> = all.iter().filter(|l| !l.contains("still stuck")).collect();
    assert_eq!(over.len(), 1, "{how} {program}\n{text}");
    assert!(over[0].contains("(#1)") && stuck[0].contains("(#1)"), "{how} {program}\n{text}");
    assert!(output.said("beside").parse::<u64>().unwrap() > 5, "{how} {program}\n{text}");
    output
}

fn silent(how: &str, program: &str) {
    let output = run(&format!("{how} {program}"), &[DEBUG, TRACED]);
    check_silent(how, program, &output);
}

/// As [`told`], of a poll that is timed exactly.
fn told_exactly(how: &str, program: &str) {
    let output = told(how, program, "slow_callback::compute");
    let all = output.reports("slow-callback");
    assert!(!all[0].contains("at least"), "{}", output.stderr);
    assert!(all[1].contains("it allocated 3.0 MiB (#1): ended"), "{}", output.stderr);
}

fn check_silent(how: &str, program: &str, output: &Output) {
    assert_eq!(output.code, Some(0), "{how} {program}:\n{}", output.stderr);
    assert!(!output.stderr.contains("birthmark:"), "{how} {program}:\n{}", output.stderr);
    assert!(output.said("beside").parse::<u64>().unwrap() > 5, "{how} {program}\n{}", output.stderr);
}

const BOTH: [&str; 3] = ["run_mt", "attached_mt", "attached_ct"];

/// Under `--cfg tokio_unstable` hooks time the tasks of runtimes whose builder was attached (`tests/task_hooks.rs`).
fn is_hooked(how: &str) -> bool {
    cfg!(tokio_unstable) && how.starts_with("run")
}

#[test]
fn a_task_that_computes_is_told_while_it_is_stuck_and_when_it_ended() {
    for how in BOTH {
        let output = told(how, "computing", "slow_callback::compute");
        assert!(output.stderr.contains("computing;"), "{}", output.stderr);
        let all = output.reports("slow-callback");
        assert!(all.iter().all(|line| line.contains(" at least ")), "{}", output.stderr);
    }
}

#[test]
fn without_tracing_a_plain_task_says_which_switch_adds_its_spawn_and_a_wrapped_one_where_it_was_wrapped() {
    let untraced = |program: &str| run(program, &[DEBUG, ("BIRTHMARK_MALLOC", "0")]);
    for how in ["attached_mt", "attached_ct"] {
        let output = untraced(&format!("{how} computing"));
        assert_eq!(output.reports("slow-callback").len(), 2, "{how}\n{}", output.stderr);
        assert!(!output.stderr.contains("  spawned "), "{how}\n{}", output.stderr);
        assert!(output.row("help").contains("TRACEMALLOC=5"), "{how}\n{}", output.stderr);
    }
    for program in ["run_mt wrapped", "attached_ct wrapped", "attached_mt local_wrapped", "smol stuck"] {
        let output = untraced(program);
        assert_eq!(output.reports("slow-callback").len(), 2, "{program}\n{}", output.stderr);
        assert!(output.row("watched").contains("tests/slow_callback.rs:"), "{program}\n{}", output.stderr);
    }
}

#[test]
fn the_one_that_allocates_nothing_is_told_and_none_of_six_beside_it_that_do() {
    for how in BOTH {
        let output = told(how, "beside_six", "slow_callback::compute");
        assert!(output.stderr.contains("computing; 0 B allocated meanwhile"), "{how}\n{}", output.stderr);
    }
}

#[test]
fn what_is_stuck_ten_times_too_long_is_told_again_under_its_number_with_where_it_is_now() {
    for (how, program) in [("run_mt", "computing"), ("attached_ct", "computing"), ("run_mt", "wrapped")] {
        let output = run(&format!("{how} {program}"), &[("BIRTHMARK_ASYNC_DEBUG", "1,slow=20ms"), TRACED]);
        let all = output.reports("slow-callback");
        let of_culprit: Vec<_> = all.iter().filter(|l| l.contains("(#1)")).collect();
        assert_eq!(of_culprit.len(), 3, "{how} {program}\n{}", output.stderr);
        assert!(of_culprit[0].contains("is still stuck (#1)"), "{}", output.stderr);
        assert!(of_culprit[1].contains("is still stuck, in one poll for "), "{}", output.stderr);
        assert_eq!(output.stderr.matches("  stuck in ").count(), 2, "{}", output.stderr);
        assert!(output.stderr.matches("slow_callback::compute").count() >= 2, "{}", output.stderr);
    }
}

#[test]
fn a_task_in_thread_sleep_is_told_without_disturbing_it() {
    for how in BOTH {
        let output = told(how, "sleeping", "slow_callback::nap");
        assert!(output.stderr.contains("in clock_nanosleep;"), "{}", output.stderr);
    }
}

#[test]
fn another_executors_block_on_inside_a_task_is_named_with_what_to_use_instead() {
    for (how, instead) in
        [("run_mt", "block_in_place"), ("attached_mt", "block_in_place"), ("attached_ct", "spawn_blocking")]
    {
        for (program, name) in [
            ("smol_block_on", "smol"),
            ("futures_block_on", "futures::executor"),
            ("pollster_block_on", "pollster"),
        ] {
            if (how, program) == ("attached_ct", "futures_block_on") {
                continue; // nobody would drive its timer: it never ends
            }
            let output = told(how, program, "slow_callback::body");
            let help = format!("`{name}::block_on` inside a task blocks its thread");
            assert!(output.stderr.contains(&help), "{how} {program}\n{}", output.stderr);
            assert!(output.stderr.contains(&format!("or `{instead}` around it")), "{}", output.stderr);
        }
        let output = told(how, "sleeping", "slow_callback::nap");
        assert!(!output.stderr.contains("block_on` inside"), "{}", output.stderr);
    }
}

#[test]
fn another_executors_block_on_in_a_blocking_job_or_in_place_is_silent() {
    BOTH.iter().for_each(|how| silent(how, "foreign_block_on_elsewhere"));
    ["run_mt", "attached_mt"].iter().for_each(|how| silent(how, "foreign_block_on_in_place"));
}

#[test]
fn the_root_future_is_told_on_both_flavours() {
    for how in ["run", "run_mt", "run_ct", "attached_mt", "attached_ct"] {
        told(how, "root", "slow_callback::compute");
    }
    for how in ["run_mt", "attached_ct"] {
        told(how, "local_root", "slow_callback::compute");
    }
}

#[test]
fn a_task_of_a_local_set_is_told_by_its_own_id() {
    for how in BOTH {
        told(how, "local", "slow_callback::compute");
        told_exactly(how, "local_wrapped");
    }
}

#[test]
fn short_polls_and_blocking_jobs_of_a_local_set_are_silent() {
    for how in BOTH {
        silent(how, "local_short");
        silent(how, "local_blocking");
    }
}

#[test]
fn a_watched_future_of_another_executor_is_told_while_stuck_and_exactly_when_it_ended() {
    let output = run("smol stuck", &[TRACED]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let all = output.reports("slow-callback");
    assert_eq!(all.len(), 2, "{}", output.stderr);
    assert!(all[0].starts_with("a watched future ") && all[0].contains("is still stuck (#1)"), "{all:?}");
    assert!(all[1].contains("it allocated 3.0 MiB (#1): ended"), "{all:?}");
    assert!(output.stderr.contains("slow_callback::compute"), "{}", output.stderr);
    assert!(has_place(output.row("stuck"), "tests/slow_callback.rs:"), "{}", output.stderr);
    for program in ["short", "unblocked", "waiting", "not_watched"] {
        let output = run(&format!("smol {program}"), &[TRACED]);
        assert_eq!(output.code, Some(0), "{program}\n{}", output.stderr);
        assert!(!output.stderr.contains("birthmark:"), "{program}\n{}", output.stderr);
    }
}

#[test]
fn a_task_of_a_runtime_on_a_thread_of_its_own_is_told() {
    for how in BOTH {
        told(how, "own_thread", "slow_callback::nap");
    }
}

#[test]
fn a_recv_loop_that_never_waits_is_told() {
    // Where hooks tell its polls apart there are two that are slow.
    BOTH.iter().filter(|how| !is_hooked(how)).for_each(|how| {
        told(how, "messages", "slow_callback::compute");
    });
}

#[test]
fn bytes_allocated_in_the_stuck_poll_are_told() {
    let output = told("attached_mt", "allocating", "slow_callback::nap");
    assert!(
        output.stderr.contains("MiB allocated meanwhile")
            || output.stderr.contains("KiB allocated meanwhile")
    );
}

#[test]
fn the_same_line_of_tasks_from_the_same_spawn_is_told_once_and_counted_at_exit() {
    for program in ["again", "again_wrapped"] {
        let output = run(&format!("attached_mt {program}"), &[DEBUG, TRACED]);
        let (all, text) = (output.reports("slow-callback"), &output.stderr);
        assert_eq!(all.len(), 3, "stuck, over and the count: {text}");
        assert!(all[0].contains("still stuck (#1)") && all[1].contains("(#1)"), "{text}");
        assert!(all[2].starts_with("stuck in ") && all[2].contains(", spawned "), "{text}");
        assert!(all[2].ends_with(": 4 times in all, told once"), "{text}");
    }
}

#[test]
fn thirty_polls_of_8_ms_are_silent() {
    BOTH.iter().for_each(|how| silent(how, "short_polls"));
}

#[test]
fn ten_polls_of_40_ms_are_silent() {
    BOTH.iter().for_each(|how| silent(how, "forties"));
}

#[test]
fn thirty_tasks_of_16_ms_are_silent() {
    BOTH.iter().for_each(|how| silent(how, "thirty_tasks"));
}

#[test]
fn ping_pong_over_channels_is_silent() {
    BOTH.iter().for_each(|how| silent(how, "ping_pong"));
}

#[test]
fn a_recv_loop_whose_polls_end_below_the_limit_is_silent() {
    BOTH.iter().for_each(|how| silent(how, "recv_loop"));
}

#[test]
fn block_in_place_is_silent_and_so_is_a_block_on_inside() {
    for how in ["run_mt", "attached_mt"] {
        silent(how, "block_in_place");
        silent(how, "block_on_in_place");
    }
}

#[test]
fn what_is_silent_by_its_symbols_alone_loads_no_debug_information() {
    let output = run("attached_mt block_on_in_place", &[DEBUG]);
    let peak: u32 = output.said("peak_kib").parse().unwrap();
    // Optimised, what says it may be inlined, and then debug information alone tells.
    assert!(peak < 50 << 10 || !cfg!(debug_assertions), "{peak} KiB; with debug information over 80 MiB");
}

#[test]
fn spawn_blocking_is_silent_and_so_is_a_block_on_inside() {
    for how in BOTH {
        silent(how, "spawn_blocking");
        silent(how, "block_on_blocking");
    }
}

#[test]
fn three_polls_of_60_ms_with_sleeps_between_are_silent() {
    BOTH.iter().for_each(|how| silent(how, "sixties"));
}

#[test]
fn an_idle_runtime_is_silent() {
    BOTH.iter().for_each(|how| silent(how, "idle"));
}

#[test]
fn a_process_that_is_stopped_and_continued_is_silent() {
    let wrapped = [("run_mt", "stopped_wrapped"), ("attached_ct", "stopped_wrapped")];
    for (how, program) in BOTH.map(|how| (how, "stopped")).into_iter().chain(wrapped) {
        let output = run_meanwhile(&format!("{how} {program}"), &[DEBUG, TRACED], |pid| {
            std::thread::sleep(MS * 150);
            for _ in 0..2 {
                // SAFETY: signals to a child of ours that hasn't been waited for.
                unsafe { libc::kill(pid as i32, libc::SIGSTOP) };
                std::thread::sleep(MS * 400);
                // SAFETY: as above.
                unsafe { libc::kill(pid as i32, libc::SIGCONT) };
                std::thread::sleep(MS * 30);
            }
        });
        check_silent(how, program, &output);
    }
}

#[test]
fn a_stop_that_is_hardly_longer_than_the_limit_is_no_part_of_a_poll() {
    for how in BOTH {
        let output = run_meanwhile(&format!("{how} stops_itself"), &[DEBUG, TRACED], |pid| {
            for _ in 0..3 {
                // SAFETY: a child of ours that hasn't been waited for, and whose end is left to others.
                unsafe { libc::waitpid(pid as i32, std::ptr::null_mut(), libc::WUNTRACED) };
                std::thread::sleep(MS * 110);
                // SAFETY: as above.
                unsafe { libc::kill(pid as i32, libc::SIGCONT) };
            }
        });
        check_silent(how, "stops_itself", &output);
    }
}

#[test]
fn where_the_variable_was_set_and_no_runtime_attached_one_line_at_exit_says_so() {
    let note = "birthmark: BIRTHMARK_ASYNC_DEBUG is set, and no runtime was attached";
    let notes = |how: &str, variables: &[_]| {
        let output = run(&format!("{how} idle"), variables);
        (output.stderr.matches(note).count(), output.stderr.matches("birthmark").count())
    };
    let (told, lines) = notes("unattached", &[DEBUG]);
    assert_eq!((told, lines), (1, 2), "the line names `birthmark::tokio::attach`, and nothing else is told");
    assert_eq!(notes("unattached", &[("BIRTHMARK_DEV", "1")]).0, 0, "dev mode asks for all there is");
    assert_eq!(notes("unattached", &[DEBUG, ("BIRTHMARK_REPORT", "level=warning")]).0, 0);
    for how in ["attached_ct", "run_mt"] {
        assert_eq!(notes(how, &[DEBUG]), (0, 0), "{how}");
    }
}

#[test]
fn near_misses_stay_silent_with_every_core_kept_busy() {
    with_every_core_busy(1, || {
        for program in ["short_polls", "ping_pong", "recv_loop", "sixties", "spawn_blocking", "idle"] {
            silent("attached_mt", program);
        }
        silent("attached_mt", "block_on_in_place");
        silent("attached_ct", "short_polls");
        silent("run_mt", "local_short");
    });
}

#[test]
fn a_wrapped_poll_is_told_while_stuck_and_exactly_when_it_ended() {
    for how in BOTH {
        told_exactly(how, "wrapped");
    }
}

#[test]
fn short_wrapped_polls_are_silent() {
    BOTH.iter().for_each(|how| silent(how, "wrapped_short"));
}

#[test]
fn at_limit_zero_every_poll_of_a_wrapped_future_is_told() {
    let output = run("run_mt slow_zero", &[DEBUG, TRACED]);
    let of = |who: &str| {
        let all = output.reports("slow-callback").into_iter();
        all.filter(|line| line.starts_with(&format!("one poll of {who}"))).count()
    };
    assert_eq!(of("a watched future"), 3, "{}", output.stderr);
    assert!(of("the root future") >= 1, "{}", output.stderr);
}

#[test]
fn an_unconstrained_task_is_told_as_worker_busy_by_its_id() {
    for how in ["run_mt", "attached_mt"].into_iter().filter(|how| !is_hooked(how)) {
        let output = run(&format!("{how} unconstrained"), &[DEBUG, TRACED]);
        let all = output.reports("worker-busy");
        assert_eq!(all.len(), 1, "{}", output.stderr);
        assert!(all[0].contains(&format!("it polls task {}", output.said("culprit"))), "{}", output.stderr);
        assert!(output.stderr.contains("slow_callback::compute"), "{}", output.stderr);
        assert!(output.reports("slow-callback").is_empty(), "{}", output.stderr);
    }
}

#[test]
fn on_one_thread_and_in_a_local_set_only_the_budget_tells_a_plain_tasks_polls_apart_as_documented() {
    let output = run("attached_ct unconstrained", &[DEBUG, TRACED]);
    check_silent("attached_ct", "unconstrained", &output);
    for how in ["attached_ct", "run_mt"] {
        let output = run(&format!("{how} local"), &[("BIRTHMARK_ASYNC_DEBUG", "1,coop=off"), TRACED]);
        check_silent(how, "local", &output);
    }
}

#[test]
fn with_the_budget_left_alone_a_blocked_worker_is_told_as_worker_busy() {
    let output = run("attached_mt sleeping", &[("BIRTHMARK_ASYNC_DEBUG", "1,coop=off"), TRACED]);
    assert_eq!(output.reports("worker-busy").len(), 1, "{}", output.stderr);
    assert!(output.reports("slow-callback").is_empty(), "{}", output.stderr);
}

#[test]
fn a_limit_in_the_variable_is_the_limit() {
    let output = run("attached_mt sixties", &[("BIRTHMARK_ASYNC_DEBUG", "1,slow=20ms"), TRACED]);
    let all = output.reports("slow-callback");
    assert!(all.iter().any(|l| l.contains("limit 20 ms") && l.contains("still stuck")), "{}", output.stderr);
}

#[test]
fn after_a_fork_the_child_makes_a_watchdog_of_its_own() {
    told("forked", "computing", "slow_callback::compute");
}

#[test]
fn with_async_debug_off_nothing_is_told_and_no_thread_of_ours_exists() {
    let output = run("attached_mt computing", &[TRACED]);
    assert!(!output.stderr.contains("birthmark:"), "{}", output.stderr);
    let output = run("run_mt computing", &[("BIRTHMARK_ASYNC_DEBUG", "0")]);
    assert!(!output.stderr.contains("birthmark:"), "{}", output.stderr);
}
