//! One handler for all warnings: the program's own, `tracing`, or standard error; and what is told at the level debug.

#![cfg(all(feature = "tokio", feature = "tracing"))]

mod child_process;

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use birthmark::ResourceGuard;
use birthmark::WatchExt as _;
use birthmark::warnings::{self, Action, Filter, Kind, Level};
use child_process::{asked, ran};
use tokio::runtime::Builder;
use tokio::task::LocalSet;

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

// Warnings, each of a place of its own.

#[inline(never)]
fn export() {
    let guard = ResourceGuard::new("Export", "finish()");
    guard.pending(3);
}

#[inline(never)]
fn import() {
    let guard = ResourceGuard::new("Import", "finish()");
    guard.pending(3);
}

#[inline(never)]
fn log() {
    let guard = ResourceGuard::new("Log", "finish()");
    guard.pending(3);
}

#[inline(never)]
fn scan() {
    let guard = ResourceGuard::new("Scan", "finish()");
    guard.pending(3);
}

/// Waits until the reporter has nothing left to do.
fn flush() {
    warnings::check();
}

fn as_a_callback() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ours = Arc::clone(&heard);
    warnings::set_handler(move |warning| ours.lock().unwrap().push(warning.clone()));
    export();
    import();
    flush();
    let heard = heard.lock().unwrap();
    let sentences: Vec<_> = heard.iter().map(|warning| warning.sentence()).collect();
    assert_eq!(sentences, ["Export was dropped with 3 left undone", "Import was dropped with 3 left undone"]);
    assert_eq!((heard[0].kind(), heard[0].level()), (Kind::ResourceWarning, Level::Warning));
    assert!(heard[0].rows().any(|row| row.label == "dropped"));
}

fn that_passes_some_on() {
    warnings::set_handler(|warning| {
        if warning.sentence().starts_with("Import") {
            warning.write();
        }
    });
    export();
    import();
    flush();
    warnings::reset_handler();
    scan();
}

fn that_panics() {
    warnings::set_handler(|_| panic!("no log"));
    export();
    flush();
}

fn that_loses_in_turn() {
    warnings::set_handler(|warning| {
        if warning.sentence().starts_with("Export") {
            log();
        } else {
            warning.write();
        }
    });
    export();
    flush();
}

fn with_filters() {
    warnings::filter(Filter::new(Action::Ignore).message("Export"));
    warnings::set_handler(|warning| println!("heard={}", warning.sentence()));
    export();
    import();
    flush();
}

/// What a subscriber of `tracing` gets.
struct Subscriber;

struct Words(String);

impl tracing::field::Visit for Words {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, "{field}={value:?};");
    }
}

impl tracing::Subscriber for Subscriber {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let (mut words, metadata) = (Words(String::new()), event.metadata());
        event.record(&mut words);
        let line = format!("event={} {} {}", metadata.level(), metadata.target(), words.0);
        println!("{}", line.replace('\n', "|"));
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

fn as_events() {
    tracing::subscriber::set_global_default(Subscriber).unwrap();
    warnings::set_handler(warnings::tracing_event);
    export();
    flush();
}

async fn works() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// One that ends and one that is aborted, and what nothing wraps.
fn of_tasks(mut builder: Builder) {
    birthmark::tokio::run_on(builder.enable_all(), true, async {
        tokio::spawn(works()).await.unwrap();
        birthmark::tokio::spawn(works()).await.unwrap();
        let never = birthmark::tokio::spawn(std::future::pending::<()>());
        tokio::time::sleep(Duration::from_millis(5)).await;
        never.abort();
        let _ = never.await;
    });
}

fn of_local_tasks() {
    birthmark::tokio::run_on(Builder::new_current_thread().enable_all(), true, async {
        let body = async {
            birthmark::tokio::spawn_local(works()).await.unwrap();
            let never = birthmark::tokio::spawn_local(std::future::pending::<()>());
            tokio::time::sleep(Duration::from_millis(5)).await;
            never.abort();
            let _ = never.await;
        };
        LocalSet::new().run_until(body).await;
    });
}

/// Watched, as tasks of another executor.
fn of_others() {
    let executor = smol::LocalExecutor::new();
    let ends = executor.spawn(smol::future::yield_now().watched());
    let never = executor.spawn(std::future::pending::<()>().watched());
    smol::block_on(executor.run(async {
        ends.await;
        never.cancel().await;
    }));
}

/// A quarter of a second in which nothing happens.
fn that_waits(mut builder: Builder) {
    birthmark::tokio::run_on(builder.enable_all(), true, async {
        tokio::spawn(async { tokio::time::sleep(Duration::from_millis(250)).await }).await.unwrap();
    });
    println!("doctor={}", birthmark::doctor().to_string().replace('\n', "|"));
}

/// The program's own hook takes the place of ours.
fn with_a_hook_of_its_own() {
    let mut builder = Builder::new_current_thread();
    birthmark::tokio::attach_builder(&mut builder);
    builder.on_thread_park(|| ()).on_thread_unpark(|| ());
    let runtime = builder.enable_all().build().unwrap();
    birthmark::tokio::attach(runtime.handle());
    runtime.block_on(async { tokio::time::sleep(Duration::from_millis(5)).await });
    println!("doctor={}", birthmark::doctor().to_string().replace('\n', "|"));
}

#[test]
fn program() {
    let Some(asked) = asked() else { return };
    birthmark::set_debug(true);
    match &*asked {
        "callback" => as_a_callback(),
        "passes" => that_passes_some_on(),
        "panics" => that_panics(),
        "loses" => that_loses_in_turn(),
        "filters" => with_filters(),
        "events" => as_events(),
        "tasks mt" => of_tasks(Builder::new_multi_thread()),
        "tasks ct" => of_tasks(Builder::new_current_thread()),
        "tasks local" => of_local_tasks(),
        "tasks smol" => of_others(),
        "waits ct" => that_waits(Builder::new_current_thread()),
        "waits mt" => that_waits(Builder::new_multi_thread()),
        "own_hook" => with_a_hook_of_its_own(),
        other => panic!("no program {other}"),
    }
    println!("done=yes");
}

#[test]
fn a_handler_gets_each_warning_instead_of_standard_error() {
    for variables in [&[][..], &[("TRACEMALLOC", "5")], &[("BIRTHMARK_DEV", "1")]] {
        let output = ran("callback", variables);
        assert!(output.reports("resource-warning").is_empty(), "{}", output.stderr);
    }
}

#[test]
fn a_handler_may_pass_a_warning_on_and_can_be_taken_away() {
    let output = ran("passes", &[]);
    let told = output.reports("resource-warning");
    assert_eq!(told.len(), 2, "{}", output.stderr);
    assert!(told[0].starts_with("Import") && told[1].starts_with("Scan"), "{told:?}");
    let output = ran("passes", &[("BIRTHMARK_REPORT", "json")]);
    assert!(output.stderr.contains("\"Import was dropped"), "{}", output.stderr);
}

#[test]
fn what_a_handler_fails_to_tell_is_written() {
    let output = ran("panics", &[]);
    assert_eq!(output.reports("resource-warning").len(), 1, "{}", output.stderr);
}

#[test]
fn a_handler_that_causes_a_warning_gets_it_in_its_turn() {
    let output = ran("loses", &[]);
    let told = output.reports("resource-warning");
    assert!(told.len() == 1 && told[0].starts_with("Log"), "{}", output.stderr);
}

#[test]
fn a_handler_gets_what_filters_and_the_level_let_through() {
    let output = ran("filters", &[]);
    assert_eq!(output.said("heard"), "Import was dropped with 3 left undone");
    let output = ran("filters", &[("BIRTHMARK_REPORT", "level=error")]);
    assert!(!output.stdout.contains("heard="), "{}", output.stdout);
}

#[test]
fn with_tracing_each_warning_is_an_event_at_its_level_with_its_rows() {
    let output = ran("events", &[("TRACEMALLOC", "5")]);
    let event = output.said("event");
    assert!(
        event.starts_with(
            "WARN birthmark message=Export was dropped with 3 left undone;kind=\"resource-warning\";report="
        ),
        "{event}"
    );
    assert!(event.contains("|  dropped    handler::export"), "{event}");
    assert!(output.reports("resource-warning").is_empty(), "{}", output.stderr);
}

#[test]
fn at_the_level_debug_each_wrapped_tasks_start_and_end_are_told() {
    for how in ["mt", "ct", "local"] {
        let output = ran(&format!("tasks {how}"), &[("BIRTHMARK_REPORT", "level=debug")]);
        let (starts, ends) = (output.reports("task-start"), output.reports("task-end"));
        assert_eq!((starts.len(), ends.len()), (2, 2), "{how}\n{}", output.stderr);
        assert!(starts[0].contains("`handler::works` was spawned"), "{starts:?}");
        assert!(
            ends[0].contains("`handler::works` has ended after ") && ends[0].contains(" polls, busy for ")
        );
        assert!(ends[1].contains("was dropped before its end, after "), "{ends:?}");
        let task = |line: &str| line.split(' ').nth(1).map(str::to_owned);
        assert_eq!((task(starts[0]), task(starts[1])), (task(ends[0]), task(ends[1])));
        assert!(output.stderr.contains("  spawned    tests/handler.rs:"), "{}", output.stderr);
        assert!(!output.stderr.contains("in this test run"), "no warnings: {}", output.stderr);
    }
    // They aren't among what a filter makes errors.
    ran("tasks mt", &[("BIRTHMARK_REPORT", "level=debug"), ("BIRTHMARK_WARNINGS", "error")]);
    for quiet in [&[][..], &[("BIRTHMARK_REPORT", "level=info")]] {
        let output = ran("tasks mt", quiet);
        assert!(output.reports("task-start").is_empty() && output.reports("task-end").is_empty());
    }
}

#[test]
fn at_the_level_debug_watched_futures_of_other_executors_are_no_tasks_as_documented() {
    let output = ran("tasks smol", &[("BIRTHMARK_REPORT", "level=debug")]);
    assert!(!output.stderr.contains("birthmark:"), "{}", output.stderr);
}

#[test]
fn at_the_level_debug_each_wait_of_the_driver_is_told() {
    for flavour in ["ct", "mt"] {
        let output = ran(&format!("waits {flavour}"), &[("BIRTHMARK_REPORT", "level=debug")]);
        let turns = output.reports("driver-turn");
        let waited = |turn: &&str| {
            let (_, waited) = turn.split_once(" waited ").unwrap();
            let ms = waited.strip_suffix(" ms for events").unwrap_or("0"); // what is in other units is short
            ms.parse::<f64>().unwrap()
        };
        // Other turns may come between.
        let all: f64 = turns.iter().map(waited).sum();
        assert!(all > 200.0, "{flavour}\n{}", output.stderr);
        assert!(output.row("runtime").contains("tests/handler.rs:"), "{}", output.stderr);
        assert!(!output.said("doctor").contains("driver turn"), "{}", output.stdout);
        let output = ran(&format!("waits {flavour}"), &[("BIRTHMARK_REPORT", "level=info")]);
        assert!(output.reports("driver-turn").is_empty(), "{}", output.stderr);
    }
}

#[test]
fn a_park_hook_that_evicts_ours_is_the_programs_right_and_doctor_says_so() {
    let output = ran("own_hook", &[("BIRTHMARK_REPORT", "level=debug")]);
    assert!(output.reports("driver-turn").is_empty(), "{}", output.stderr);
    assert!(output.said("doctor").contains("no driver turn was seen yet"), "{}", output.stdout);
    let output = ran("own_hook", &[]);
    assert!(!output.said("doctor").contains("driver turn"), "{}", output.stdout);
}
