//! `ResourceGuard` and the writer that carries one: what is lost is told with both places, and nothing else is; in tasks of both
//! flavours of tokio, of a `LocalSet` and of another executor too.

#![cfg(feature = "tokio")]

mod child_process;
mod executors;

use birthmark::ResourceGuard;
use birthmark::tokio::io::BufWriter;
use child_process::{Output, asked, run};
use executors::{EVERYWHERE, run_as_a_task};
use tokio::io::AsyncWriteExt as _;

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

struct Export {
    guard: ResourceGuard,
}

#[inline(never)]
fn make_export() -> Export {
    std::hint::black_box(Export { guard: ResourceGuard::new("Export", "finish()") })
}

#[inline(never)]
fn lose(export: Export) {
    drop(std::hint::black_box(export));
}

#[inline(never)]
fn make_writer() -> BufWriter<Vec<u8>> {
    std::hint::black_box(BufWriter::new(Vec::new()))
}

/// A task of its own, wherever that is polled.
async fn task(program: &str) {
    match program {
        "guard" => {
            let export = make_export();
            export.guard.pending(2);
            tokio::task::yield_now().await;
            lose(export);
        }
        "guard_closed" => {
            let export = make_export();
            export.guard.pending(2);
            tokio::task::yield_now().await;
            export.guard.close();
            lose(export);
        }
        "writer" => {
            let mut out = make_writer();
            out.write_all(b"hello").await.unwrap();
            tokio::task::yield_now().await;
            drop(out);
        }
        "writer_flushed" => {
            let mut out = make_writer();
            out.write_all(b"hello").await.unwrap();
            tokio::task::yield_now().await;
            out.flush().await.unwrap();
            drop(out);
        }
        other => panic!("no program {other}"),
    }
}

fn child(program: &str) {
    if let Some((how, program)) = program.split_once(' ') {
        let program = program.to_owned();
        return run_as_a_task(how, async move { task(&program).await });
    }
    match program {
        "plain" => {
            birthmark::set_debug(true);
            let export = make_export();
            export.guard.pending(3);
            lose(export);
        }
        "many" => {
            birthmark::set_debug(true);
            for n in 1..=100 {
                let export = make_export();
                export.guard.pending(n);
                lose(export);
            }
            let export = make_export();
            export.guard.pending(1);
            drop(export);
        }
        "off" => {
            let export = make_export();
            export.guard.pending(3);
            lose(export);
        }
        "off_then_on" => {
            let export = make_export();
            export.guard.pending(3);
            birthmark::set_debug(true);
            lose(export);
        }
        "closed" => {
            birthmark::set_debug(true);
            let export = make_export();
            export.guard.pending(3);
            export.guard.close();
            lose(export);
            lose(make_export());
        }
        "moved" => {
            birthmark::set_debug(true);
            let export = Box::new(make_export());
            export.guard.pending(1);
            let moved = vec![*export];
            std::thread::spawn(move || moved.into_iter().for_each(lose)).join().unwrap();
        }
        "panicking" => {
            birthmark::set_debug(true);
            let _ = std::panic::catch_unwind(|| {
                let export = make_export();
                export.guard.pending(3);
                panic!("the panic is the news");
            });
        }
        "writer" => birthmark::tokio::run(true, async {
            let mut out = make_writer();
            out.write_all(b"hello").await.unwrap();
            drop(out);
        }),
        "flushed" => birthmark::tokio::run(true, async {
            let mut out = make_writer();
            out.write_all(b"hello").await.unwrap();
            out.flush().await.unwrap();
            drop(out);
            let mut out = make_writer();
            out.write_all(b"hello").await.unwrap();
            out.shutdown().await.unwrap();
        }),
        "taken_out" => birthmark::tokio::run(true, async {
            let mut out = make_writer();
            out.write_all(b"hello").await.unwrap();
            assert!(out.into_inner().is_empty());
        }),
        "writer_at_shutdown" => birthmark::tokio::run(true, async {
            tokio::spawn(
                birthmark::watched(async {
                    let mut out = make_writer();
                    out.write_all(b"hello").await.unwrap();
                    std::future::pending::<()>().await;
                })
                .daemon(),
            );
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }),
        "writer_failed" => birthmark::tokio::run(true, async {
            let (ours, theirs) = tokio::io::duplex(8);
            drop(theirs);
            let mut out = BufWriter::new(ours);
            out.write_all(b"hello").await.unwrap();
            out.flush().await.unwrap_err();
            assert_eq!(out.buffer(), b"hello");
        }),
        "run_false" => birthmark::tokio::run(false, async {
            let mut out = make_writer();
            out.write_all(b"hello").await.unwrap();
        }),
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

fn one(program: &str, variables: &[(&str, &str)], head: &str) -> Output {
    let output = run(program, variables);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let all = output.reports("resource-warning");
    assert_eq!(all.len(), 1, "{}", output.stderr);
    assert!(all[0].starts_with(head), "{}", output.stderr);
    output
}

fn none(program: &str, variables: &[(&str, &str)]) {
    let output = run(program, variables);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(!output.stderr.contains("birthmark:"), "{}", output.stderr);
}

/// The lines of a row and those that continue it.
fn row<'a>(output: &'a Output, label: &str) -> Vec<&'a str> {
    let mut lines = output.stderr.lines().skip_while(|l| l.split_whitespace().next() != Some(label));
    let first = lines.next().unwrap_or_else(|| panic!("no row {label}:\n{}", output.stderr));
    std::iter::once(first).chain(lines.take_while(|l| l.starts_with("      "))).collect()
}

#[test]
fn an_object_dropped_with_work_undone_says_how_much_and_what_to_call() {
    let output = one("plain", &[TRACED], "Export was dropped with 3 left undone");
    let touched = row(&output, "touched")[0];
    assert!(touched.contains("tests/resource_guard.rs:"), "{touched}");
    assert!(row(&output, "dropped").iter().any(|l| l.contains("resource_guard::lose")
        && (l.contains("tests/resource_guard.rs:") || !cfg!(debug_assertions))));
    assert!(row(&output, "help").iter().any(|l| l.contains("call `finish()`")));
}

#[test]
fn the_same_site_is_told_once_and_counted_at_exit_and_another_site_is_told_too() {
    for report in ["text", "text,full", "text,level=warning"] {
        let output = run("many", &[TRACED, ("BIRTHMARK_REPORT", report)]);
        let all = output.reports("resource-warning");
        let text = &output.stderr;
        assert_eq!(all.len(), 3, "{text}");
        assert!(all[0].starts_with("Export was dropped with 1 left"), "{text}");
        assert!(all[1].starts_with("Export was dropped with 1 left"), "{text}");
        assert!(all[2].starts_with("allocated ") && all[2].contains(", dropped "), "{text}");
        assert!(all[2].ends_with(": 100 times in all, told once"), "{text}");
    }
    let output = run("many", &[TRACED, ("BIRTHMARK_REPORT", "level=error")]);
    assert!(output.stderr.is_empty(), "{}", output.stderr);
    let output = run("many", &[TRACED, ("BIRTHMARK_REPORT", "json")]);
    let lines: Vec<serde_json::Value> =
        output.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[2]["count"]), (4, &100.into()), "{}", output.stderr);
    assert_eq!((&lines[3]["kind"], &lines[3]["count"]), (&"summary".into(), &101.into()));
}

#[test]
fn without_tracing_the_help_names_the_switch_that_adds_the_place() {
    let output = one("plain", &[], "Export was dropped with 3 left undone");
    assert!(!output.stderr.contains("  allocated "));
    assert!(row(&output, "help").iter().any(|l| l.contains("TRACEMALLOC=5")));
}

#[test]
fn while_async_debug_is_off_a_guard_is_silent_for_good() {
    none("off", &[TRACED]);
    none("off_then_on", &[TRACED]);
    none("run_false", &[TRACED]);
}

#[test]
fn the_variable_switches_guards_on_and_dev_mode_does() {
    one("off", &[("BIRTHMARK_ASYNC_DEBUG", "1")], "Export was dropped");
    one("off", &[("BIRTHMARK_DEV", "1"), ("BIRTHMARK_MALLOC", "0")], "Export was dropped");
    one("run_false", &[("BIRTHMARK_ASYNC_DEBUG", "1")], "BufWriter was dropped");
    none("writer", &[("BIRTHMARK_ASYNC_DEBUG", "0")]);
}

#[test]
fn a_closed_guard_and_one_with_nothing_pending_are_silent() {
    none("closed", &[TRACED]);
}

#[test]
fn after_moves_and_on_another_thread_the_place_is_still_where_it_was_made() {
    let output = one("moved", &[TRACED], "Export was dropped with 1 left undone");
    assert!(
        row(&output, "allocated").iter().any(|l| l.contains("resource_guard::make_export")),
        "{}",
        output.stderr
    );
}

#[test]
fn inside_a_future_the_place_is_the_objects_and_not_the_tasks_spawn() {
    for how in EVERYWHERE {
        let (guard, writer) = (format!("{how} guard"), format!("{how} writer"));
        let export = one(&guard, &[TRACED], "Export was dropped with 2 left undone");
        assert!(row(&export, "allocated")[0].contains("resource_guard::make_export"), "{}", export.stderr);
        assert!(row(&export, "dropped")[0].contains("resource_guard::lose"), "{}", export.stderr);
        let writer = one(&writer, &[TRACED], "BufWriter was dropped with 5 bytes unflushed");
        assert!(row(&writer, "allocated")[0].contains("resource_guard::make_writer"), "{}", writer.stderr);
        assert!(row(&writer, "touched")[0].contains("tests/resource_guard.rs:"), "{}", writer.stderr);
        for output in [export, writer] {
            // Another executor's tasks have no number.
            let dropped = row(&output, "dropped").concat();
            assert_eq!(dropped.contains("task "), how != "smol", "{how}\n{}", output.stderr);
        }
    }
}

#[test]
fn inside_a_future_what_is_closed_or_flushed_is_silent() {
    for how in EVERYWHERE {
        none(&format!("{how} guard_closed"), &[TRACED]);
        none(&format!("{how} writer_flushed"), &[TRACED]);
    }
}

#[test]
fn an_owner_dropped_by_a_panic_is_silent() {
    none("panicking", &[TRACED]);
}

#[test]
fn a_buffered_writer_dropped_with_bytes_says_how_many_are_lost() {
    let output = one("writer", &[TRACED], "BufWriter was dropped with 5 bytes unflushed");
    assert!(
        row(&output, "allocated").iter().any(|l| l.contains("resource_guard::make_writer")),
        "{}",
        output.stderr
    );
    assert!(row(&output, "help").iter().any(|l| l.contains("`flush().await` or `shutdown().await`")));
    if cfg!(debug_assertions) {
        assert!(row(&output, "touched").iter().any(|l| l.contains("resource_guard::child")));
    }
    one("taken_out", &[TRACED], "BufWriter was dropped with 5 bytes unflushed");
}

#[test]
fn a_writer_of_a_task_that_its_runtimes_end_takes_loses_its_bytes_as_any_other() {
    one("writer_at_shutdown", &[TRACED], "BufWriter was dropped with 5 bytes unflushed");
}

#[test]
fn a_writer_that_told_the_program_its_error_is_silent() {
    none("writer_failed", &[TRACED]);
}

#[test]
fn a_flushed_or_shut_down_writer_is_silent() {
    none("flushed", &[TRACED]);
}
