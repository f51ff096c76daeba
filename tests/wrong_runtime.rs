//! A value that belongs to one runtime, used in another one or after its own has ended; and all the ways to use it rightly.

#![cfg(feature = "tokio")]

mod child_process;

use std::panic::{AssertUnwindSafe, catch_unwind};

use birthmark::tokio::RuntimeBound;
use birthmark::tokio::fs::File;
use birthmark::tokio::io::BufWriter;
use child_process::{Output, asked, run};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

struct Client(u8);

#[inline(never)]
fn make_client() -> RuntimeBound<Client> {
    RuntimeBound::new(Client(7))
}

#[inline(never)]
fn use_client(client: &RuntimeBound<Client>) -> u8 {
    client.0
}

/// The use panics, on this thread.
fn panics<R>(act: impl FnOnce() -> R) {
    assert!(catch_unwind(AssertUnwindSafe(act)).is_err());
}

fn runtime(flavour: &str) -> Runtime {
    match flavour {
        "mt" => Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(),
        "ct" => Builder::new_current_thread().enable_all().build().unwrap(),
        other => panic!("no flavour {other}"),
    }
}

/// A connection whose other side reads everything to its end.
async fn connection() -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        runtime("ct").block_on(async move {
            let mut side = TcpStream::connect(address).await.unwrap();
            let _ = side.read_to_end(&mut Vec::new()).await;
        });
    });
    listener.accept().await.unwrap().0
}

fn child(flavour: &str, program: &str) {
    let (one, other) = (runtime(flavour), runtime(flavour));
    match program {
        "in_another" => {
            let client = one.block_on(async { make_client() });
            panics(|| other.block_on(async { use_client(&client) }));
        }
        "in_another_task" => {
            let client = one.block_on(async { make_client() });
            let task = other.spawn(async move { use_client(&client) });
            assert!(other.block_on(task).unwrap_err().is_panic());
        }
        "in_another_after_its_end" => {
            let client = one.block_on(async { make_client() });
            drop(one);
            panics(|| other.block_on(async { use_client(&client) }));
        }
        "in_another_local_set" => {
            let client = one.block_on(async { make_client() });
            let local = tokio::task::LocalSet::new();
            let task = local.spawn_local(async move { use_client(&client) });
            assert!(other.block_on(local.run_until(task)).unwrap_err().is_panic());
        }
        "on_smol_after_its_end" => {
            let client = one.block_on(async { make_client() });
            drop(one);
            panics(|| smol::block_on(async { use_client(&client) }));
        }
        "outside_after_its_end" => {
            let client = one.block_on(async { make_client() });
            drop(one);
            panics(|| use_client(&client));
        }
        "first_use" => {
            let client = make_client();
            assert_eq!(use_client(&client), 7);
            one.block_on(async { assert_eq!(use_client(&client), 7) });
            panics(|| other.block_on(async { use_client(&client) }));
        }
        "polled_in_another" => {
            let (send, receive) = oneshot::channel::<()>();
            let mut answer = {
                let _inside = one.enter();
                RuntimeBound::new(receive)
            };
            panics(|| other.block_on(async { drop((&mut answer).await) }));
            drop(send);
        }
        "writer" => {
            let mut writer = one.block_on(async { BufWriter::new(connection().await) });
            drop(one);
            panics(|| {
                other.block_on(async {
                    writer.write_all(b"hello").await.unwrap();
                    let _ = writer.flush().await;
                })
            });
        }
        // Silent from here on.
        "at_home" => {
            let client = one.block_on(async { make_client() });
            one.block_on(async {
                assert_eq!(use_client(&client), 7);
                let client = std::sync::Arc::new(client);
                let here = client.clone();
                tokio::spawn(async move { assert_eq!(use_client(&here), 7) }).await.unwrap();
                let here = client.clone();
                birthmark::tokio::spawn(async move { assert_eq!(use_client(&here), 7) }).await.unwrap();
                let here = client.clone();
                tokio::task::spawn_blocking(move || assert_eq!(use_client(&here), 7)).await.unwrap();
                let local = tokio::task::LocalSet::new();
                let here = client.clone();
                let task = local.spawn_local(async move { assert_eq!(use_client(&here), 7) });
                local.run_until(task).await.unwrap();
            });
        }
        "in_place" => {
            let client = one.block_on(async { make_client() });
            one.block_on(one.spawn(async move {
                tokio::task::block_in_place(|| {
                    assert_eq!(use_client(&client), 7);
                    tokio::runtime::Handle::current().block_on(async { assert_eq!(use_client(&client), 7) });
                });
            }))
            .unwrap();
        }
        "entered" => {
            let client = {
                let _inside = one.enter();
                make_client()
            };
            let handle = one.handle().clone();
            let _other = other.enter();
            std::thread::scope(|s| {
                s.spawn(|| {
                    let _inside = handle.enter();
                    assert_eq!(use_client(&client), 7);
                });
                s.spawn(|| handle.block_on(async { assert_eq!(use_client(&client), 7) }));
            });
        }
        "outside_while_it_runs" => {
            let client = one.block_on(async { make_client() });
            assert_eq!(use_client(&client), 7);
            assert_eq!(smol::block_on(async { use_client(&client) }), 7);
        }
        "taken_out_and_dropped" => {
            let (client, dropped) = one.block_on(async { (make_client(), make_client()) });
            drop(one);
            other.block_on(async {
                assert_eq!(client.into_inner().0, 7);
                drop(dropped);
            });
        }
        "files_and_pipes" => {
            // What no runtime drives works in any: a file's jobs run to their end, a pipe in memory has no driver.
            let path = std::env::temp_dir().join(format!("birthmark-wrong-runtime-{}", std::process::id()));
            let (near, mut far) = tokio::io::duplex(64);
            let (mut file, mut writer) = one.block_on(async {
                let mut file = File::create(&path).await.unwrap();
                file.write_all(b"hello").await.unwrap();
                (file, BufWriter::new(near))
            });
            drop(one);
            other.block_on(async {
                file.write_all(b" world").await.unwrap();
                file.flush().await.unwrap();
                writer.write_all(b"hello").await.unwrap();
                writer.shutdown().await.unwrap();
                let mut text = String::new();
                far.read_to_string(&mut text).await.unwrap();
                assert_eq!(text, "hello");
            });
            assert_eq!(std::fs::read(&path).unwrap(), b"hello world");
            std::fs::remove_file(&path).unwrap();
        }
        "writer_of_one_that_runs" => {
            let mut writer = one.block_on(async { BufWriter::new(connection().await) });
            other.block_on(async {
                writer.write_all(b"hello").await.unwrap();
                writer.shutdown().await.unwrap();
            });
        }
        other => panic!("no program {other}"),
    }
}

#[test]
fn program() {
    if let Some(asked) = asked() {
        let (flavour, program) = asked.split_once(' ').unwrap();
        child(flavour, program);
    }
}

const DEBUG: (&str, &str) = ("BIRTHMARK_ASYNC_DEBUG", "1");
const TRACED: (&str, &str) = ("TRACEMALLOC", "5");

/// The rows of one label.
fn rows<'o>(output: &'o Output, label: &str) -> Vec<&'o str> {
    let head = format!("  {label:<10} ");
    output.stderr.lines().filter(|line| line.starts_with(&head)).collect()
}

fn is_here(line: &str) -> bool {
    line.contains("tests/wrong_runtime.rs:") || !cfg!(debug_assertions)
}

fn told(flavour: &str, program: &str, made: &str, variables: &[(&str, &str)]) -> Output {
    let output = run(&format!("{flavour} {program}"), variables);
    let text = format!("{flavour} {program} {variables:?}\n{}", output.stderr);
    assert_eq!(output.code, Some(0), "{text}");
    let all = output.reports("wrong-runtime");
    assert_eq!(all.len(), 1, "{text}");
    assert!(all[0].contains(" of runtime "), "{text}");
    let (made, used) = (rows(&output, made), rows(&output, "used"));
    assert!(made.len() == 1 && is_here(made[0]), "{text}");
    assert!(used.len() == 1 && is_here(used[0]), "{text}");
    output
}

#[test]
fn a_use_in_another_runtime_panics_there_with_both_places_and_both_runtimes() {
    for flavour in ["mt", "ct"] {
        for program in ["in_another", "in_another_task", "in_another_local_set"] {
            for variables in [&[DEBUG][..], &[DEBUG, TRACED]] {
                let output = told(flavour, program, "made", variables);
                let line = output.reports("wrong-runtime")[0].to_owned();
                assert!(line.starts_with("wrong_runtime::Client of runtime "), "{line}");
                let (own, other) = line.split_once(" was used in runtime ").unwrap();
                assert!(!own.contains("ended") && !own.ends_with(other), "{line}");
                assert!(rows(&output, "used")[0].contains("wrong_runtime::use_client"), "{}", output.stderr);
                if variables.len() > 1 {
                    assert!(rows(&output, "made")[0].contains("wrong_runtime::make_client"));
                } else {
                    assert!(output.stderr.contains("TRACEMALLOC=5"), "{}", output.stderr);
                }
            }
        }
    }
}

#[test]
fn a_use_after_its_runtime_has_ended_says_so_inside_of_another_and_outside_of_all() {
    for flavour in ["mt", "ct"] {
        let output = told(flavour, "in_another_after_its_end", "made", &[DEBUG, TRACED]);
        let line = output.reports("wrong-runtime")[0];
        assert!(line.contains(", which ended ") && line.contains(" ago, was used in runtime "), "{line}");
        for program in ["outside_after_its_end", "on_smol_after_its_end"] {
            let output = told(flavour, program, "made", &[DEBUG, TRACED]);
            let line = output.reports("wrong-runtime")[0];
            assert!(line.ends_with(" ago, was used outside of all runtimes"), "{line}");
        }
    }
}

#[test]
fn made_outside_of_a_runtime_it_belongs_to_the_one_of_its_first_use() {
    for flavour in ["mt", "ct"] {
        told(flavour, "first_use", "used first", &[DEBUG, TRACED]);
    }
}

#[test]
fn a_future_inside_is_checked_at_each_poll() {
    for flavour in ["mt", "ct"] {
        told(flavour, "polled_in_another", "made", &[DEBUG, TRACED]);
    }
}

#[test]
fn a_writer_over_a_socket_whose_runtime_has_ended_says_so_where_it_fails() {
    for flavour in ["mt", "ct"] {
        told(flavour, "writer", "made", &[DEBUG]);
        let output = told(flavour, "writer", "made", &[DEBUG, TRACED]);
        let line = output.reports("wrong-runtime")[0];
        assert!(line.contains("BufWriter<") && line.contains(", which ended "), "{line}");
    }
}

#[test]
fn every_use_in_its_own_runtime_or_outside_of_all_while_it_runs_is_silent() {
    for (flavour, program) in [
        ("mt", "at_home"),
        ("ct", "at_home"),
        ("mt", "in_place"),
        ("mt", "entered"),
        ("ct", "entered"),
        ("mt", "outside_while_it_runs"),
        ("ct", "outside_while_it_runs"),
        ("mt", "taken_out_and_dropped"),
        ("ct", "taken_out_and_dropped"),
        ("mt", "files_and_pipes"),
        ("ct", "files_and_pipes"),
        ("mt", "writer_of_one_that_runs"),
    ] {
        // Not all of them attach a runtime, which is told as a note.
        let output =
            run(&format!("{flavour} {program}"), &[DEBUG, TRACED, ("BIRTHMARK_REPORT", "level=warning")]);
        assert_eq!(output.code, Some(0), "{flavour} {program}\n{}", output.stderr);
        assert!(!output.stderr.contains("birthmark:"), "{flavour} {program}\n{}", output.stderr);
    }
}

#[test]
fn off_nothing_is_checked() {
    let output = run("ct taken_out_and_dropped", &[]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let output = run("ct in_another", &[]);
    assert_eq!(output.code, Some(101), "the use in another runtime didn't panic\n{}", output.stderr);
    assert!(output.reports("wrong-runtime").is_empty(), "{}", output.stderr);
}
