//! Wakers that hold up the runtime's driver, and everything that looks like one from outside.

#![cfg(feature = "tokio")]

mod child_process;
mod load;

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use child_process::{Output, asked, run};
use load::with_every_core_busy;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

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

/// A waker that does so much before it returns.
struct Slow(fn(Duration), Duration);

static WOKEN: AtomicUsize = AtomicUsize::new(0);

impl Wake for Slow {
    fn wake(self: Arc<Self>) {
        (self.0)(self.1);
        WOKEN.fetch_add(1, SeqCst);
    }
}

fn slow(act: fn(Duration), time: Duration) -> Waker {
    Waker::from(Arc::new(Slow(act, time)))
}

/// Lets a timer call the waker, in the driver.
async fn by_timer(waker: Waker) {
    let before = WOKEN.load(SeqCst);
    let mut sleep = pin!(tokio::time::sleep(MS * 40));
    assert!(sleep.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    while WOKEN.load(SeqCst) == before {
        tokio::time::sleep(MS * 30).await;
    }
}

/// Lets a socket that can be read call it.
async fn by_socket(waker: Waker) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let far = listener.accept().await.unwrap().0.into_std().unwrap();
    let mut readable = pin!(near.readable());
    assert!(readable.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let before = WOKEN.load(SeqCst);
    std::thread::spawn(move || {
        nap(MS * 30);
        std::io::Write::write_all(&mut &far, b"x").unwrap();
        nap(MS * 1000);
    });
    while WOKEN.load(SeqCst) == before {
        tokio::time::sleep(MS * 30).await;
    }
}

async fn body(program: &str) {
    match program {
        "timer_naps" => by_timer(slow(nap, MS * 400)).await,
        "timer_computes" => by_timer(slow(compute, MS * 400)).await,
        "socket_naps" => by_socket(slow(nap, MS * 400)).await,
        "socket_computes" => by_socket(slow(compute, MS * 400)).await,
        // No slow driver from here on.
        "short_wakers" => {
            for _ in 0..12 {
                by_timer(slow(compute, MS * 15)).await;
            }
        }
        "blocking_jobs" => {
            let nap = tokio::task::spawn_blocking(|| nap(MS * 400));
            tokio::task::spawn_blocking(|| compute(MS * 400)).await.unwrap();
            nap.await.unwrap();
        }
        "plain_threads" => {
            let threads = [std::thread::spawn(|| compute(MS * 400)), std::thread::spawn(|| nap(MS * 400))];
            while !threads.iter().all(|thread| thread.is_finished()) {
                tokio::time::sleep(MS * 20).await;
            }
        }
        "idle" => tokio::time::sleep(MS * 500).await,
        "traffic" => {
            let (mut near, mut far) = tokio::io::duplex(64);
            let end = Instant::now() + MS * 400;
            let echo = tokio::spawn(async move {
                while tokio::io::AsyncReadExt::read_u8(&mut far).await.is_ok() {
                    tokio::time::sleep(MS).await;
                }
            });
            while Instant::now() < end {
                tokio::io::AsyncWriteExt::write_u8(&mut near, 1).await.unwrap();
                compute(MS * 5);
                tokio::time::sleep(MS).await;
            }
            drop(near);
            echo.await.unwrap();
        }
        "stuck_poll" => tokio::spawn(async { nap(MS * 400) }).await.unwrap(),
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
    let mut mt = Builder::new_multi_thread();
    match how {
        "mt" => mt.worker_threads(2).enable_all().build().unwrap().block_on(attached),
        "ct" => Builder::new_current_thread().enable_all().build().unwrap().block_on(attached),
        "run" => birthmark::tokio::run(true, attached),
        other => panic!("no way {other}"),
    }
}

const DEBUG: (&str, &str) = ("BIRTHMARK_ASYNC_DEBUG", "1");
const HOWS: [&str; 3] = ["mt", "ct", "run"];

fn told(how: &str, program: &str, function: &str, state: &str) -> Output {
    let output = run(&format!("{how} {program}"), &[DEBUG]);
    let text = format!("{how} {program}\n{}", output.stderr);
    assert_eq!(output.code, Some(0), "{text}");
    let all = output.reports("slow-driver");
    assert_eq!(all.len(), 2, "{text}");
    assert!(all[0].ends_with(", limit 100 ms: it is stuck in a waker (#1)"), "{text}");
    assert!(all[1].starts_with("the driver came back after at least "), "{text}");
    assert!(output.stderr.contains(function), "{text}");
    assert!(output.stderr.contains(&format!("  state      {state}")), "{text}");
    let place = "tests/slow_driver.rs:";
    assert!(output.stderr.contains(place) || output.stderr.contains("line numbers need"), "{text}");
    assert!(output.reports("slow-callback").is_empty(), "{text}");
    output
}

fn silent(how: &str, program: &str) {
    let output = run(&format!("{how} {program}"), &[DEBUG]);
    assert_eq!(output.code, Some(0), "{how} {program}\n{}", output.stderr);
    assert!(!output.stderr.contains("birthmark:"), "{how} {program}\n{}", output.stderr);
}

#[test]
fn a_waker_that_blocks_inside_the_driver_is_told_with_its_stack_and_when_it_came_back() {
    for how in HOWS {
        told(how, "timer_naps", "slow_driver::nap", "in clock_nanosleep");
        told(how, "socket_naps", "slow_driver::nap", "in clock_nanosleep");
    }
}

#[test]
fn a_waker_that_computes_inside_the_driver_is_told() {
    for how in HOWS {
        told(how, "timer_computes", "slow_driver::compute", "computing");
        told(how, "socket_computes", "slow_driver::compute", "computing");
    }
}

#[test]
fn short_wakers_blocking_jobs_plain_threads_and_traffic_are_silent() {
    for how in HOWS {
        for program in ["short_wakers", "blocking_jobs", "plain_threads", "idle", "traffic"] {
            silent(how, program);
        }
    }
}

#[test]
fn a_stuck_poll_is_no_slow_driver() {
    for how in HOWS {
        let output = run(&format!("{how} stuck_poll"), &[DEBUG]);
        assert_eq!(output.reports("slow-callback").len(), 2, "{}", output.stderr);
        assert!(output.reports("slow-driver").is_empty(), "{}", output.stderr);
    }
}

#[test]
fn near_misses_stay_silent_with_every_core_kept_busy() {
    with_every_core_busy(1, || {
        for program in ["short_wakers", "blocking_jobs", "idle", "traffic"] {
            silent("mt", program);
            silent("ct", program);
        }
    });
}
