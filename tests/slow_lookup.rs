//! Names that the system's resolver is slow to find: which is told, and what isn't the resolver's fault.

#![cfg(all(target_os = "linux", target_env = "gnu", feature = "tokio-net"))]

mod child_process;

use std::ffi::{CStr, c_char, c_int};
use std::time::Duration;

use birthmark::tokio::net::lookup_host;
use child_process::{asked, run, run_meanwhile};
use tokio::runtime::Builder;

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

const MS: Duration = Duration::from_millis(1);

/// The system's resolver for this program: numbers only, and a name says how long its look-up takes.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
unsafe extern "C" fn getaddrinfo(
    node: *const c_char,
    service: *const c_char,
    hints: *const libc::addrinfo,
    result: *mut *mut libc::addrinfo,
) -> c_int {
    type Real = unsafe extern "C" fn(
        *const c_char,
        *const c_char,
        *const libc::addrinfo,
        *mut *mut libc::addrinfo,
    ) -> c_int;
    // SAFETY: the caller's name is a C string, and what `dlsym` finds under this one has this type.
    unsafe {
        let name = CStr::from_ptr(node).to_str().unwrap();
        std::thread::sleep(match name {
            "slow.test" => MS * 300,
            "wrong.test" => MS * 200,
            _ => MS * 5,
        });
        if name == "wrong.test" {
            return libc::EAI_NONAME;
        }
        let real = libc::dlsym(libc::RTLD_NEXT, c"getaddrinfo".as_ptr());
        let real: Real = std::mem::transmute(real);
        real(c"127.0.0.1".as_ptr(), service, hints, result)
    }
}

async fn body(program: &str) {
    match program {
        "slow" => assert_eq!(lookup_host("slow.test:80").await.unwrap().count(), 1),
        "slow_in_a_task" => {
            tokio::spawn(async { lookup_host(("slow.test", 80)).await.unwrap().count() }).await.unwrap();
        }
        "slow_in_a_local_set" => {
            let local = tokio::task::LocalSet::new();
            let found = local.spawn_local(async { lookup_host(("slow.test", 80)).await.unwrap().count() });
            local.run_until(async { assert_eq!(found.await.unwrap(), 1) }).await;
        }
        "fails" => assert!(lookup_host(String::from("wrong.test:80")).await.is_err()),
        "given_up" => {
            assert!(tokio::time::timeout(MS * 200, lookup_host("slow.test:80")).await.is_err());
        }
        "again" => {
            for _ in 0..5 {
                drop(lookup_host("slow.test:80").await);
            }
        }
        // Silent from here on.
        "quick" => {
            for _ in 0..5 {
                assert_eq!(lookup_host("quick.test:80").await.unwrap().count(), 1);
            }
            let local = tokio::task::LocalSet::new();
            let found = local.spawn_local(async { lookup_host("quick.test:80").await.unwrap().count() });
            local.run_until(async { assert_eq!(found.await.unwrap(), 1) }).await;
            assert_eq!(lookup_host("127.0.0.1:80").await.unwrap().count(), 1);
            drop(lookup_host("slow.test:80")); // never asked
        }
        "polled_late" => {
            // The task does something else when the answer comes.
            let mut lookup = std::pin::pin!(lookup_host("quick.test:80"));
            for _ in 0..4 {
                if tokio::time::timeout(MS, &mut lookup).await.is_ok() {
                    break;
                }
                tokio::time::sleep(MS * 150).await;
            }
        }
        "stopped" => {
            println!("ready=1");
            for _ in 0..60 {
                assert_eq!(lookup_host("quick.test:80").await.unwrap().count(), 1);
            }
        }
        other => panic!("no program {other}"),
    }
}

#[test]
fn program() {
    if let Some(asked) = asked() {
        let (flavour, program) = asked.split_once(' ').unwrap();
        let mut builder = match flavour {
            "mt" => Builder::new_multi_thread(),
            _ => Builder::new_current_thread(),
        };
        birthmark::tokio::run_on(builder.enable_all(), false, body(program));
    }
}

const DEBUG: (&str, &str) = ("BIRTHMARK_ASYNC_DEBUG", "1");

#[test]
fn a_slow_look_up_is_told_with_its_name_and_its_line() {
    for flavour in ["mt", "ct"] {
        for (program, told) in [
            ("slow", "the look-up of `slow.test:80` took "),
            ("slow_in_a_task", "the look-up of `(\"slow.test\", 80)` took "),
            ("slow_in_a_local_set", "the look-up of `(\"slow.test\", 80)` took "),
            ("fails", "the look-up of `wrong.test:80` failed after "),
            ("given_up", "the look-up of `slow.test:80` was given up after "),
        ] {
            let output = run(&format!("{flavour} {program}"), &[DEBUG]);
            let text = format!("{flavour} {program}\n{}", output.stderr);
            assert_eq!(output.code, Some(0), "{text}");
            let all = output.reports("slow-lookup");
            assert_eq!(all.len(), 1, "{text}");
            assert!(all[0].starts_with(told) && all[0].ends_with(", limit 100 ms"), "{text}");
            assert!(output.stderr.contains("  looked up  tests/slow_lookup.rs:"), "{text}");
        }
    }
}

#[test]
fn look_ups_from_one_line_are_told_once_and_counted() {
    let output = run("mt again", &[DEBUG]);
    let all = output.reports("slow-lookup");
    assert_eq!(all.len(), 2, "{}", output.stderr);
    // On a busy machine not every one of them is proved slow.
    assert!(all[1].ends_with(" times in all, told once"), "{}", output.stderr);
}

#[test]
fn quick_look_ups_are_silent_and_so_are_those_whose_task_is_polled_late() {
    for program in ["mt quick", "ct quick", "mt polled_late", "ct polled_late"] {
        let output = run(program, &[DEBUG]);
        assert_eq!(output.code, Some(0), "{program}\n{}", output.stderr);
        assert!(!output.stderr.contains("birthmark:"), "{program}\n{}", output.stderr);
    }
}

#[test]
fn a_process_that_is_stopped_meanwhile_is_silent() {
    let output = run_meanwhile("mt stopped", &[DEBUG], |pid| {
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
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(!output.stderr.contains("birthmark:"), "{}", output.stderr);
}

#[test]
fn off_nothing_is_told() {
    let output = run("mt slow", &[]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(!output.stderr.contains("birthmark:"), "{}", output.stderr);
}

#[test]
fn at_the_level_debug_each_look_up_is_told_and_a_slow_one_once() {
    let output = run("mt quick", &[DEBUG, ("BIRTHMARK_REPORT", "level=debug")]);
    let all = output.reports("lookup");
    assert_eq!(all.len(), 7, "{}", output.stderr);
    assert!(all[..6].iter().all(|line| line.starts_with("the look-up of `quick.test:80` took ")), "{all:?}");
    let output = run("mt slow", &[DEBUG, ("BIRTHMARK_REPORT", "level=debug")]);
    assert_eq!(
        (output.reports("lookup").len(), output.reports("slow-lookup").len()),
        (0, 1),
        "{}",
        output.stderr
    );
}
