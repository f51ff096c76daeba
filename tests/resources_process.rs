//! `birthmark::process` and `birthmark::tokio::process`: a child that nobody waits for is told with its places, and nothing else is.
//! tokio's on both flavours of the runtime and in a `LocalSet`, std's in a task of another executor too.

#![cfg(all(unix, feature = "tokio-process"))]

mod child_process;
mod executors;

use std::io::{Read as _, Write as _};
use std::time::Duration;

use birthmark::process::{Child, Command, Stdio};
use birthmark::tokio::process as async_process;
use birthmark::warnings;
use child_process::{Output, asked, run};
use executors::run_as_a_local_task;
use tokio::runtime::Builder;

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

const MS: Duration = Duration::from_millis(1);

#[inline(never)]
fn lose<T>(thing: T) {
    drop(std::hint::black_box(thing));
}

#[inline(never)]
fn spawn(program: &str) -> Child {
    std::hint::black_box(Command::new(program).arg("1000").stdin(Stdio::null()).spawn().unwrap())
}

#[inline(never)]
fn spawn_async(program: &str) -> async_process::Child {
    std::hint::black_box(async_process::Command::new(program).arg("1000").spawn().unwrap())
}

/// Returns once it has ended; it can be waited for as before.
fn ended(id: u32) {
    let mut found = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOWAIT;
    // SAFETY: a valid place for the answer.
    let asked = unsafe { libc::waitid(libc::P_PID, id, found.as_mut_ptr(), options) };
    assert_eq!(asked, 0);
}

/// Ends what a program let run on.
struct End(u32);

impl Drop for End {
    fn drop(&mut self) {
        // SAFETY: asks to end a child of this process, or what took its number.
        unsafe { libc::kill(self.0 as i32, libc::SIGKILL) };
    }
}

fn child(program: &str) {
    birthmark::set_debug(!program.ends_with("_off"));
    match program {
        "runs" | "runs_off" => {
            let child = spawn("sleep");
            let _end = End(child.id());
            println!("id={}", child.id());
            lose(child);
        }
        "ended" => {
            let mut child = Command::new("true").spawn().unwrap();
            println!("id={}", child.id());
            assert!(child.stdin.is_none());
            ended(child.id());
            child.kill().unwrap();
            lose(child);
        }
        // Silent.
        "waited" => {
            let mut child = Command::new("true").spawn().unwrap();
            assert!(child.wait().unwrap().success());
            lose(child);
            let mut child = Command::new("true").spawn().unwrap();
            while child.try_wait().unwrap().is_none() {
                std::thread::sleep(MS);
            }
            lose(child);
            let mut command = Command::new("cat");
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            child.stdin.as_mut().unwrap().write_all(b"meow").unwrap();
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.stdout, b"meow");
            assert!(Command::new("true").status().unwrap().success());
            assert_eq!(Command::new("echo").arg("hi").output().unwrap().stdout, b"hi\n");
            assert!(Command::new("no/such/program").spawn().is_err());
        }
        "let_go" => {
            let child = spawn("sleep");
            let _end = End(child.id());
            child.detach();
            let mut child = spawn("sleep").into_std();
            child.kill().unwrap();
            child.wait().unwrap();
        }
        "waited_elsewhere" => {
            let child = Command::new("true").spawn().unwrap();
            // SAFETY: waits for a child of this process.
            unsafe { libc::waitpid(child.id() as i32, std::ptr::null_mut(), 0) };
            lose(child);
        }
        "panicking" => {
            let _ = std::panic::catch_unwind(|| {
                let child = spawn("sleep");
                let _end = End(child.id());
                let _child = child;
                panic!("the panic is the news");
            });
        }
        "pipes" => {
            // Fields can be moved out one by one, as std's.
            let mut command = Command::new("cat");
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            drop(child.stdin.take());
            assert!(child.wait().unwrap().success());
            let mut text = String::new();
            child.stdout.unwrap().read_to_string(&mut text).unwrap();
            assert!(child.stderr.is_none());
        }
        "caught" => {
            let ((), caught) = warnings::catch(|| child("runs"));
            assert_eq!(caught.len(), 1);
            assert!(caught[0].traceback("allocated").is_some());
        }
        other => {
            let (program, flavour) = other.split_once('@').unwrap();
            let own = program.to_owned();
            match flavour {
                "local" => return run_as_a_local_task(flavour, async move { body(&own).await }),
                "smol" => return run_as_a_local_task(flavour, async move { child(&own) }),
                _ => {}
            }
            let mut builder = match flavour {
                "multi" => Builder::new_multi_thread(),
                _ => Builder::new_current_thread(),
            };
            birthmark::set_slow_callback_duration(MS * 60_000); // a busy machine may make any poll slow
            let builder = builder.enable_all();
            match program.strip_prefix("test:") {
                Some("hangs") => birthmark::tokio::test_on(builder, MS * 300, body("hangs")),
                Some(program) => birthmark::tokio::test_on(builder, MS * 10_000, body(program)),
                None => birthmark::tokio::run_on(builder, true, body(program)),
            }
        }
    }
}

async fn body(program: &str) {
    match program {
        "runs" => {
            let child = spawn_async("sleep");
            let _end = End(child.id().unwrap());
            println!("id={}", child.id().unwrap());
            lose(child);
        }
        "ended" => {
            let child = async_process::Command::new("true").spawn().unwrap();
            println!("id={}", child.id().unwrap());
            ended(child.id().unwrap());
            lose(child);
        }
        "output_cut_short" => {
            let mut command = async_process::Command::new("sleep");
            let output = command.arg("1").output();
            tokio::time::timeout(MS, output).await.unwrap_err();
        }
        "wait_cut_short" => {
            let mut child = spawn_async("sleep");
            let _end = End(child.id().unwrap());
            tokio::time::timeout(MS, child.wait()).await.unwrap_err();
            lose(child);
        }
        "at_shutdown" => {
            let mut command = async_process::Command::new("sleep");
            let child = command.arg("3").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            println!("id={}", child.id().unwrap());
            let task = async move {
                let _child = child;
                std::future::pending::<()>().await;
            };
            tokio::spawn(birthmark::watched(task).daemon());
        }
        "hangs" => {
            let mut child = spawn_async("sleep");
            let _end = End(child.id().unwrap());
            child.wait().await.unwrap();
        }
        // Silent.
        "waited" => {
            let mut child = async_process::Command::new("true").spawn().unwrap();
            assert!(child.wait().await.unwrap().success());
            assert_eq!(child.id(), None);
            lose(child);
            let mut child = async_process::Command::new("true").spawn().unwrap();
            while child.try_wait().unwrap().is_none() {
                tokio::time::sleep(MS).await;
            }
            lose(child);
            let mut command = async_process::Command::new("echo");
            assert_eq!(command.arg("hi").output().await.unwrap().stdout, b"hi\n");
            assert!(async_process::Command::new("true").status().await.unwrap().success());
            assert!(async_process::Command::new("no/such/program").status().await.is_err());
        }
        "killed" => {
            let mut child = spawn_async("sleep");
            child.kill().await.unwrap();
            lose(child);
            let mut child = spawn_async("sleep");
            child.start_kill().unwrap();
            lose(child);
            let mut command = async_process::Command::new("sleep");
            lose(command.arg("1000").kill_on_drop(true).spawn().unwrap());
            let output = command.output();
            tokio::time::timeout(MS, output).await.unwrap_err();
        }
        "let_go" => {
            let child = spawn_async("sleep");
            let _end = End(child.id().unwrap());
            child.detach();
            let mut child = spawn_async("sleep").into_tokio();
            child.kill().await.unwrap();
        }
        "panicking" => {
            let task = tokio::spawn(async {
                let child = spawn_async("sleep");
                let _end = End(child.id().unwrap());
                let _child = child;
                panic!("the panic is the news");
            });
            task.await.unwrap_err();
        }
        other => panic!("no program {other}"),
    }
}

#[test]
fn program() {
    if let Some(asked) = asked() {
        child(&asked);
    }
}

const TRACED: (&str, &str) = ("TRACEMALLOC", "5");

fn one(program: &str) -> (Output, String) {
    let output = run(program, &[TRACED]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let reports = output.reports("resource-warning");
    assert_eq!(reports.len(), 1, "{}", output.stderr);
    let sentence = reports[0].to_owned();
    (output, sentence)
}

fn on_both(program: &str) -> [(Output, String); 2] {
    ["multi", "current"].map(|flavour| one(&format!("{program}@{flavour}")))
}

fn none(programs: &[&str]) {
    for program in programs {
        let output = run(program, &[TRACED]);
        assert_eq!(output.code, Some(0), "{program}: {}", output.stderr);
        assert!(!output.stderr.contains("birthmark:"), "{program}: {}", output.stderr);
    }
}

fn told(output: &Output, rest: &str) -> String {
    format!("Child was dropped and not waited for: process {} {rest}", output.said("id"))
}

#[test]
fn a_child_that_nobody_waits_for_says_which_it_is_and_what_becomes_of_it() {
    let (output, sentence) = one("runs");
    assert_eq!(sentence, told(&output, "`sleep` still runs, and stays a zombie once it ends"));
    assert!(output.row("allocated").contains("resources_process::spawn"), "{}", output.stderr);
    assert!(output.row("dropped").contains("resources_process::lose"), "{}", output.stderr);
    assert!(output.row("help").contains("call `wait()`"), "{}", output.stderr);
    let (output, sentence) = one("ended");
    assert_eq!(sentence, told(&output, "`true` has ended, and stays a zombie"));
    assert!(output.row("touched").contains("tests/resources_process.rs:"), "{}", output.stderr);
}

#[test]
fn a_child_of_tokios_that_nobody_waits_for_says_that_nobody_will_know_how_it_ends() {
    for (output, sentence) in on_both("runs") {
        assert_eq!(sentence, told(&output, "`sleep` still runs, and nobody will know how it ends"));
        assert!(output.row("allocated").contains("resources_process::spawn_async"), "{}", output.stderr);
        assert!(output.row("dropped").contains("resources_process::lose"), "{}", output.stderr);
        assert!(output.row("help").contains("`wait().await`"), "{}", output.stderr);
    }
    for (output, sentence) in on_both("at_shutdown") {
        assert_eq!(sentence, told(&output, "`sleep` still runs, and nobody will know how it ends"));
    }
    for (output, sentence) in on_both("ended") {
        assert_eq!(sentence, told(&output, "`true` has ended, and nobody knows how"));
    }
}

#[test]
fn in_a_local_set_and_on_another_executor_it_is_the_same() {
    let (output, sentence) = one("runs@local");
    assert_eq!(sentence, told(&output, "`sleep` still runs, and nobody will know how it ends"));
    assert!(output.row("allocated").contains("resources_process::spawn_async"), "{}", output.stderr);
    assert!(output.row("dropped").contains("resources_process::lose"), "{}", output.stderr);
    let (output, sentence) = one("runs@smol");
    assert_eq!(sentence, told(&output, "`sleep` still runs, and stays a zombie once it ends"));
    assert!(output.row("allocated").contains("resources_process::spawn"), "{}", output.stderr);
    assert!(output.row("dropped").contains("resources_process::lose"), "{}", output.stderr);
    none(&["waited@local", "waited@smol"]);
}

#[test]
fn a_time_out_that_cuts_a_wait_short_lets_the_child_run_on_and_is_told() {
    for program in ["output_cut_short", "wait_cut_short"] {
        for (_, sentence) in on_both(program) {
            assert!(sentence.ends_with("`sleep` still runs, and nobody will know how it ends"), "{sentence}");
        }
    }
}

#[test]
fn a_child_that_was_waited_for_is_silent_whoever_waited() {
    none(&["waited", "pipes", "waited_elsewhere", "waited@multi", "waited@current"]);
}

#[test]
fn a_child_let_go_killed_or_dropped_by_a_panic_is_silent() {
    none(&["let_go", "panicking"]);
    for program in ["killed", "let_go", "panicking"] {
        none(&[&format!("{program}@multi"), &format!("{program}@current")]);
    }
}

#[test]
fn while_async_debug_is_off_a_child_is_stds_own() {
    none(&["runs_off"]);
}

#[test]
fn a_lost_child_is_caught_as_a_value_filters_hold_for_it_and_the_test_wrapper_fails() {
    none(&["caught"]);
    let output = run("runs", &[TRACED, ("BIRTHMARK_WARNINGS", "ignore:Child was dropped")]);
    assert!(output.reports("resource-warning").is_empty(), "{}", output.stderr);
    let output = run("runs", &[TRACED, ("BIRTHMARK_WARNINGS", "error::resource-warning")]);
    assert_eq!(output.code, Some(70), "{}", output.stderr);
    for flavour in ["multi", "current"] {
        let output = run(&format!("test:runs@{flavour}"), &[]);
        assert_eq!(output.code, Some(101), "{}", output.stderr);
        assert!(output.stderr.contains("left 1 thing behind"), "{}", output.stderr);
    }
}

#[test]
fn a_test_that_hangs_says_which_children_it_has_not_waited_for() {
    let output = run("test:hangs@multi", &[]);
    assert_eq!(output.code, Some(101), "{}", output.stderr);
    assert!(output.stderr.contains("Child with 1 process that nobody has waited for"), "{}", output.stderr);
}
