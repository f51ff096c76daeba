//! SIGQUIT tells what goes on and the program goes on, while async debug is on; where it is off, or somebody else handles the signal,
//! all is as it was. Tasks of a `LocalSet`, and watched futures of other executors, are told too.

#![cfg(all(feature = "tokio", target_os = "linux"))]

mod child_process;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use birthmark::WatchExt as _;
use child_process::{asked, run};
use tokio::runtime::Builder;
use tokio::task::LocalSet;

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

const MS: Duration = Duration::from_millis(1);

static THEIRS: AtomicBool = AtomicBool::new(false);

extern "C" fn their_handler(_signal: libc::c_int) {
    THEIRS.store(true, SeqCst);
}

fn quit_myself() {
    // SAFETY: a signal to this process.
    unsafe { libc::kill(libc::getpid(), libc::SIGQUIT) };
}

#[inline(never)]
fn nap(time: Duration) {
    std::thread::sleep(std::hint::black_box(time));
    std::hint::black_box(());
}

/// Sends the signal while all workers are stuck, and waits until the answer must be there.
fn from_outside() {
    std::thread::spawn(|| {
        nap(MS * 300);
        quit_myself();
    });
}

async fn body() {
    from_outside();
    let tasks: Vec<_> = (0..3).map(|_| tokio::spawn(async { nap(MS * 1500) })).collect();
    for task in tasks {
        task.await.unwrap();
    }
    println!("went_on=yes");
}

/// Two tasks on one thread: one is stuck there, the other waits.
async fn stuck() {
    nap(MS * 1500);
}

async fn waits() {
    std::future::pending::<()>().await;
}

async fn local_body() {
    from_outside();
    let other = birthmark::tokio::spawn_local(waits());
    tokio::task::yield_now().await;
    birthmark::tokio::spawn_local(stuck()).await.unwrap();
    other.abort();
    println!("went_on=yes");
}

fn on_another_executor() {
    birthmark::set_debug(true);
    let executor = smol::LocalExecutor::new();
    let other = executor.spawn(waits().watched());
    from_outside(); // with the first watched future the signal is ours
    smol::block_on(executor.run(async {
        smol::future::yield_now().await;
        executor.spawn(stuck().watched()).await;
        other.cancel().await;
    }));
    println!("went_on=yes");
}

/// Ends by the signal in a child process: how it ended.
fn forked(program: impl FnOnce()) -> libc::c_int {
    // SAFETY: the child only does what a forked child may: it signals itself and ends.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            program();
            libc::_exit(7);
        }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        status
    }
}

#[test]
fn program() {
    let Some(asked) = asked() else { return };
    // Whoever runs the tests in the background of a shell hands on that the signal is ignored.
    // SAFETY: the default disposition, before any other thread of the program looks at it.
    unsafe { libc::signal(libc::SIGQUIT, libc::SIG_DFL) };
    match asked.as_str() {
        "mt" => {
            birthmark::tokio::run_on(Builder::new_multi_thread().worker_threads(2).enable_all(), true, body())
        }
        "ct" => birthmark::tokio::run_on(Builder::new_current_thread().enable_all(), true, body()),
        "local" => birthmark::tokio::run_on(Builder::new_current_thread().enable_all(), true, async {
            LocalSet::new().run_until(local_body()).await;
        }),
        "smol" => on_another_executor(),
        "off" => {
            birthmark::tokio::run(true, async {});
            assert!(libc::WIFSIGNALED(forked(quit_myself)), "it is off again");
            birthmark::tokio::run(false, async {});
            assert!(libc::WIFSIGNALED(forked(quit_myself)), "it was never on");
        }
        "child" => birthmark::tokio::run(true, async {
            assert!(libc::WIFSIGNALED(forked(quit_myself)), "a child without our threads");
            println!("went_on=yes");
        }),
        "theirs" => {
            // SAFETY: a handler that only stores a flag.
            unsafe { libc::signal(libc::SIGQUIT, their_handler as *const () as libc::sighandler_t) };
            birthmark::tokio::run(true, async {
                quit_myself();
                let end = Instant::now() + MS * 5000;
                while !THEIRS.load(SeqCst) && Instant::now() < end {
                    nap(MS);
                }
            });
            assert!(THEIRS.load(SeqCst));
            nap(MS * 300);
            println!("went_on=yes");
        }
        other => panic!("no program {other}"),
    }
}

#[test]
fn with_every_worker_stuck_the_tasks_and_the_stacks_are_told_and_the_program_goes_on() {
    for how in ["mt", "ct"] {
        let output = run(how, &[("TRACEMALLOC", "5")]);
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        assert_eq!(output.said("went_on"), "yes");
        let told = output.stderr.split_once("birthmark: tasks: what goes on now").unwrap().1;
        assert!(told.contains("  busy in    sigquit::nap"), "{told}");
        assert!(told.contains("  tasks      4 tasks: "), "{told}");
        assert!(told.contains("sigquit::body"), "{told}");
        assert!(told.contains("tests/sigquit.rs:"), "{told}");
    }
    // Of a `LocalSet`, and watched futures of another executor; one after the other, since an answer takes its time on a busy machine.
    for how in ["local", "smol"] {
        let output = run(how, &[("TRACEMALLOC", "5")]);
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        assert_eq!(output.said("went_on"), "yes");
        let told = output.stderr.split_once("birthmark: tasks: what goes on now").unwrap().1;
        let text = format!("{how}\n{told}");
        assert!(told.contains("  busy in    sigquit::nap"), "{text}");
        assert!(told.contains("sigquit::stuck") && told.contains("sigquit::waits"), "{text}");
        assert!(told.contains("tests/sigquit.rs:"), "{text}");
    }
}

#[test]
fn without_async_debug_and_in_a_forks_child_the_signal_ends_the_process() {
    for how in ["off", "child"] {
        let output = run(how, &[]);
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        assert!(output.reports("tasks").is_empty(), "{}", output.stderr);
    }
}

#[test]
fn another_handler_is_left_alone() {
    let output = run("theirs", &[]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert_eq!(output.said("went_on"), "yes");
    assert!(output.reports("tasks").is_empty(), "{}", output.stderr);
}
