//! `birthmark::tokio::fs::File` and `birthmark::tokio::sync::oneshot`: what is lost on drop is told with its places, and nothing else.
//! Each on both flavours of the runtime, some in a `LocalSet` and on another executor.

#![cfg(feature = "tokio")]

mod child_process;
mod executors;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use birthmark::tokio::fs::{File, OpenOptions};
use birthmark::tokio::sync::oneshot;
use birthmark::warnings;
use child_process::{Output, asked, run};
use executors::run_as_a_local_task;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::runtime::Builder;
use tokio::task::LocalSet;

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

const MS: Duration = Duration::from_millis(1);

/// A file of this process's own; nothing stays where it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("birthmark-resources-{}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The only thread of the blocking pool may go on.
static FREE: AtomicBool = AtomicBool::new(false);

/// Keeps the only thread of the blocking pool busy, so that a write stays under way.
fn busy_pool() {
    tokio::task::spawn_blocking(|| {
        while !FREE.load(SeqCst) {
            std::thread::sleep(MS);
        }
    });
}

/// Waits until the write that is under way has ended, without a look at it.
async fn pool_is_through() {
    FREE.store(true, SeqCst);
    tokio::task::spawn_blocking(|| {}).await.unwrap();
}

#[inline(never)]
fn lose<T>(thing: T) {
    drop(std::hint::black_box(thing));
}

async fn make_file(path: &str) -> File {
    OpenOptions::new().write(true).open(path).await.unwrap()
}

#[inline(never)]
fn make_channel() -> (oneshot::Sender<u64>, oneshot::Receiver<u64>) {
    std::hint::black_box(oneshot::channel())
}

async fn wait_for(receiver: oneshot::Receiver<u64>) {
    receiver.await.unwrap_err();
}

async fn under_way() -> File {
    let scratch = Scratch::new();
    let mut file = File::create(&scratch.0).await.unwrap();
    busy_pool();
    file.write_all(b"hello").await.unwrap();
    file
}

/// A write of 6 bytes that has failed, which nobody looked at.
async fn failed() -> File {
    let mut file = make_file("/dev/full").await;
    file.write_all(b"hello\n").await.unwrap();
    pool_is_through().await;
    file
}

async fn body(program: &str) {
    work(program).await;
    FREE.store(true, SeqCst);
}

async fn work(program: &str) {
    match program {
        "file_under_way" => lose(under_way().await),
        "file_failed" => lose(failed().await),
        "file_failed_into_std" => drop(failed().await.into_std().await),
        "file_failed_try_into_std" => drop(failed().await.try_into_std().unwrap()),
        "file_failed_after_sync" => {
            let file = failed().await;
            let _ = file.sync_all().await; // tokio keeps the error for the next write
            lose(file);
        }
        "file_aborted" => {
            let task = tokio::spawn(async {
                let _file = under_way().await;
                std::future::pending::<()>().await;
            });
            tokio::time::sleep(MS * 50).await;
            task.abort();
            let _ = task.await;
        }
        "file_at_shutdown" => {
            let (ready, is_ready) = tokio::sync::oneshot::channel();
            let task = async move {
                let _file = failed().await;
                let _ = ready.send(());
                std::future::pending::<()>().await;
            };
            tokio::spawn(birthmark::watched(task).daemon());
            is_ready.await.unwrap();
        }
        "file_budget" => {
            let file = failed().await;
            // A task whose budget is used up is told that nothing is ready.
            let channel = tokio::sync::Semaphore::new(1000);
            let mut cx = Context::from_waker(Waker::noop());
            std::future::poll_fn(|_| {
                while Pin::new(&mut Box::pin(channel.acquire())).poll(&mut cx).is_ready() {}
                Poll::Ready(())
            })
            .await;
            lose(file);
        }
        // Silent.
        "file_flushed" => {
            let scratch = Scratch::new();
            let mut file = File::create(&scratch.0).await.unwrap();
            file.write_all(b"hello").await.unwrap();
            file.flush().await.unwrap();
            lose(file);
            let mut file = OpenOptions::new().read(true).write(true).open(&scratch.0).await.unwrap();
            file.seek(std::io::SeekFrom::Start(5)).await.unwrap();
            file.write_all(b" world").await.unwrap();
            file.shutdown().await.unwrap();
            file.rewind().await.unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "hello world");
            assert_eq!(file.metadata().await.unwrap().len(), 11);
            lose(file);
        }
        "file_ended_unflushed" => {
            let scratch = Scratch::new();
            let mut file = File::create(&scratch.0).await.unwrap();
            file.write_all(b"hello").await.unwrap();
            pool_is_through().await;
            lose(file);
            let mut file = File::create(&scratch.0).await.unwrap();
            file.write_all(b"hello").await.unwrap();
            file.sync_all().await.unwrap();
            lose(file);
            let mut file = File::create(&scratch.0).await.unwrap();
            file.write_all(b"hello").await.unwrap();
            let file = file.into_std().await;
            assert_eq!(file.metadata().unwrap().len(), 5);
        }
        "file_error_seen" => {
            let mut file = failed().await;
            file.flush().await.unwrap_err();
            lose(file);
            let mut file = failed().await;
            file.write_all(b"more").await.unwrap_err();
            lose(file);
        }
        "file_given_back" => {
            let file = under_way().await.try_into_std().unwrap_err();
            pool_is_through().await;
            lose(file);
        }
        "file_panicking" => {
            let task = tokio::spawn(async {
                let _file = under_way().await;
                panic!("the panic is the news");
            });
            assert!(task.await.is_err());
        }
        "file_caught" => {
            let ((), caught) = warnings::catch_async(async { lose(failed().await) }).await;
            assert_eq!(caught.len(), 1);
            assert!(caught[0].rows().any(|row| (row.label, row.words) == ("path", "/dev/full")));
        }
        "oneshot" | "oneshot_off" => {
            let (sender, receiver) = make_channel();
            let task = tokio::spawn(wait_for(receiver));
            tokio::time::sleep(MS * 10).await;
            lose(sender);
            task.await.unwrap();
        }
        "oneshot_blocking" => {
            let (sender, receiver) = make_channel();
            let thread = std::thread::spawn(move || receiver.blocking_recv().unwrap_err());
            lose(sender);
            thread.join().unwrap();
        }
        "oneshot_asked" => {
            let (sender, mut receiver) = make_channel();
            assert_eq!(receiver.try_recv(), Err(oneshot::error::TryRecvError::Empty));
            lose(sender);
            assert_eq!(receiver.try_recv(), Err(oneshot::error::TryRecvError::Closed));
            assert_eq!(receiver.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        }
        "oneshot_aborted" => {
            let (sender, receiver) = make_channel();
            let task = tokio::spawn(async move {
                let _sender = sender;
                std::future::pending::<()>().await;
            });
            tokio::time::sleep(MS * 10).await;
            task.abort();
            wait_for(receiver).await;
        }
        // Silent.
        "oneshot_sent" => {
            let (sender, receiver) = make_channel();
            sender.send(7).unwrap();
            assert_eq!(receiver.await, Ok(7));
            let (sender, mut receiver) = make_channel();
            sender.send(7).unwrap();
            assert_eq!(receiver.try_recv(), Ok(7));
            assert_eq!(receiver.try_recv(), Err(oneshot::error::TryRecvError::Closed));
            let (sender, receiver) = make_channel();
            lose(receiver);
            assert!(sender.is_closed());
            assert_eq!(sender.send(7), Err(7));
        }
        "oneshot_nobody_waits" => {
            let (sender, receiver) = make_channel();
            lose(receiver);
            lose(sender);
            let (sender, receiver) = make_channel();
            lose(sender);
            lose(receiver);
            let (sender, mut receiver) = make_channel();
            receiver.close();
            lose(sender);
            wait_for(receiver).await;
            let (sender, receiver) = make_channel();
            let _ = tokio::time::timeout(MS * 10, receiver).await.unwrap_err();
            lose(sender);
        }
        "oneshot_signal" => {
            let (sender, receiver) = oneshot::channel::<()>();
            lose(sender);
            receiver.await.unwrap_err();
        }
        "oneshot_panicking" => {
            let (sender, receiver) = make_channel();
            let task = tokio::spawn(async move {
                let _sender = sender;
                panic!("the panic is the news");
            });
            wait_for(receiver).await;
            task.await.unwrap_err();
        }
        "oneshot_shutdown" => {
            let (sender, receiver) = make_channel();
            tokio::spawn(birthmark::watched(wait_for(receiver)).daemon());
            tokio::spawn(
                birthmark::watched(async move {
                    let _sender = sender;
                    std::future::pending::<()>().await;
                })
                .daemon(),
            );
            tokio::time::sleep(MS * 10).await;
        }
        // Nothing of tokio's runtime in it.
        "oneshot_here" => {
            let (sender, receiver) = make_channel();
            let dropped = async {
                tokio::task::yield_now().await;
                lose(sender);
            };
            tokio::join!(wait_for(receiver), dropped);
        }
        "oneshot_sent_here" => {
            let (sender, receiver) = make_channel();
            let sent = async {
                tokio::task::yield_now().await;
                sender.send(7).unwrap();
            };
            let (answer, ()) = tokio::join!(receiver, sent);
            assert_eq!(answer, Ok(7));
        }
        other => panic!("no program {other}"),
    }
}

fn child(asked: &str) {
    let (program, flavour) = asked.split_once('@').unwrap();
    let mut builder = match flavour {
        "multi" => Builder::new_multi_thread(),
        _ => Builder::new_current_thread(),
    };
    builder.enable_all().max_blocking_threads(1);
    birthmark::set_slow_callback_duration(MS * 60_000); // a busy machine may make any poll slow
    let own = program.to_owned();
    let task = async move { body(&own).await };
    if let Some(program) = program.strip_prefix("test:") {
        birthmark::tokio::test_on(&mut builder, MS * 10_000, body(program));
    } else if flavour == "smol" {
        run_as_a_local_task(flavour, task);
    } else if flavour == "local" {
        birthmark::tokio::run_on(&mut builder, true, async {
            LocalSet::new().run_until(async { tokio::task::spawn_local(task).await.unwrap() }).await;
        });
    } else {
        birthmark::tokio::run_on(&mut builder, !program.ends_with("_off"), task);
    }
}

#[test]
fn program() {
    if let Some(asked) = asked() {
        child(&asked);
    }
}

const TRACED: (&str, &str) = ("TRACEMALLOC", "5");
const FLAVOURS: [&str; 2] = ["multi", "current"];

/// On both flavours, exactly this report.
fn one(program: &str, sentence: &str) -> [Output; 2] {
    FLAVOURS.map(|flavour| one_in(flavour, program, sentence))
}

fn one_in(how: &str, program: &str, sentence: &str) -> Output {
    let output = run(&format!("{program}@{how}"), &[TRACED]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert_eq!(output.reports("resource-warning"), [sentence], "{}", output.stderr);
    output
}

fn none(program: &str) {
    FLAVOURS.iter().for_each(|flavour| none_in(flavour, program));
}

fn none_in(how: &str, program: &str) {
    let output = run(&format!("{program}@{how}"), &[TRACED]);
    assert_eq!(output.code, Some(0), "{program}@{how}: {}", output.stderr);
    assert!(!output.stderr.contains("birthmark:"), "{program}@{how}: {}", output.stderr);
}

/// `tests/resources_tokio.rs:71`, the first line with `text` after `start`.
fn line_of(start: &str, text: &str) -> String {
    let source = include_str!("resources_tokio.rs");
    let start = source.find(start).unwrap();
    let at = start + source[start..].find(text).unwrap();
    format!("tests/resources_tokio.rs:{}", source[..at].matches('\n').count() + 1)
}

const UNDER_WAY: &str =
    "File was dropped with 5 bytes still being written: nobody will see whether that fails";
const FAILED: &str = "File was dropped with a write of 6 bytes that failed, which nobody saw: \
                      No space left on device (os error 28)";

#[test]
fn a_file_with_a_write_under_way_says_how_much_and_where() {
    for output in one("file_under_way", UNDER_WAY) {
        let touched = line_of("async fn under_way", "file.write_all");
        assert!(output.row("touched").contains(&touched), "{}", output.stderr);
        let made = line_of("async fn under_way", "File::create");
        assert!(output.row("allocated").contains(&made), "{}", output.stderr);
        assert!(output.row("dropped").contains("resources_tokio::lose"), "{}", output.stderr);
        assert!(output.row("help").contains("call `flush().await`"), "{}", output.stderr);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_with_a_failed_write_tells_the_error_and_which_file() {
    for output in one("file_failed", FAILED) {
        assert!(output.row("path").ends_with(" /dev/full"), "{}", output.stderr);
        let made = line_of("async fn make_file", "OpenOptions::new()");
        assert!(output.row("allocated").contains(&made), "{}", output.stderr);
        assert!(output.row("dropped").contains("resources_tokio::lose"), "{}", output.stderr);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_error_that_tokio_keeps_to_itself_is_told_too() {
    for program in ["file_failed_into_std", "file_failed_try_into_std", "file_budget", "file_at_shutdown"] {
        one(program, FAILED);
    }
    // Then only its kind is known.
    let kind = "File was dropped with a write of 6 bytes that failed, which nobody saw: no storage space";
    one("file_failed_after_sync", kind);
}

#[test]
fn a_file_of_an_aborted_task_loses_its_write_as_any_other() {
    one("file_aborted", UNDER_WAY);
}

#[test]
fn a_file_whose_writes_ended_well_is_silent_flushed_or_not() {
    none("file_flushed");
    none("file_ended_unflushed");
    none("file_given_back");
}

#[test]
fn a_file_dropped_by_a_panic_is_silent() {
    none("file_panicking");
}

#[cfg(target_os = "linux")]
#[test]
fn an_error_that_the_program_saw_is_no_news() {
    none("file_error_seen");
}

#[cfg(target_os = "linux")]
#[test]
fn a_lost_write_is_caught_as_a_value_filters_hold_for_it_and_the_test_wrapper_fails() {
    none("file_caught");
    for flavour in FLAVOURS {
        let filter =
            |filter| run(&format!("file_failed@{flavour}"), &[TRACED, ("BIRTHMARK_WARNINGS", filter)]);
        let output = filter("ignore:File was dropped");
        assert_eq!(
            (output.code, output.reports("resource-warning").len()),
            (Some(0), 0),
            "{}",
            output.stderr
        );
        let output = filter("error::ResourceWarning");
        assert_eq!(output.code, Some(101), "{}", output.stderr);
        for (program, sentence) in [("file_failed", FAILED), ("oneshot", UNSENT)] {
            let output = run(&format!("test:{program}@{flavour}"), &[]);
            assert_eq!(output.code, Some(101), "{}", output.stderr);
            assert!(output.stderr.contains("left 1 thing behind"), "{}", output.stderr);
            assert!(output.stderr.contains(sentence), "{}", output.stderr);
        }
        let output = run(&format!("test:oneshot_sent@{flavour}"), &[]);
        assert_eq!(output.code, Some(0), "{}", output.stderr);
    }
}

const UNSENT: &str = "oneshot::Sender<u64> was dropped with nothing sent while its receiver waited";

#[test]
fn a_sender_dropped_unsent_says_where_it_was_dropped_and_who_waited() {
    for output in one("oneshot", UNSENT) {
        assert!(output.row("allocated").contains("resources_tokio::make_channel"), "{}", output.stderr);
        assert!(output.row("dropped").contains("resources_tokio::lose"), "{}", output.stderr);
        let waited = output.row("waited");
        assert!(waited.contains("resources_tokio::wait_for"), "{}", output.stderr);
        assert!(waited.contains("task "), "{}", output.stderr);
    }
    for program in ["oneshot_blocking", "oneshot_asked", "oneshot_aborted"] {
        one(program, UNSENT);
    }
}

#[test]
fn a_sender_that_sent_and_one_for_whom_nobody_waits_are_silent() {
    none("oneshot_sent");
    none("oneshot_nobody_waits");
}

#[test]
fn a_drop_as_a_signal_by_a_panic_or_at_the_runtimes_end_is_silent() {
    none("oneshot_signal");
    none("oneshot_panicking");
    none("oneshot_shutdown");
}

#[test]
fn in_a_local_set_and_on_another_executor_it_is_the_same() {
    let output = one_in("local", "file_under_way", UNDER_WAY);
    let touched = line_of("async fn under_way", "file.write_all");
    assert!(output.row("touched").contains(&touched), "{}", output.stderr);
    assert!(output.row("dropped").contains("resources_tokio::lose"), "{}", output.stderr);
    for how in ["local", "smol"] {
        let output = one_in(how, "oneshot_here", UNSENT);
        assert!(output.row("allocated").contains("resources_tokio::make_channel"), "{}", output.stderr);
        assert!(output.row("dropped").contains("resources_tokio::lose"), "{}", output.stderr);
        // Optimised, an inlined async function has no better name than its line.
        let waited = output.row("waited");
        let named = waited.contains("resources_tokio::wait_for") || !cfg!(debug_assertions);
        assert!(named && waited.contains("tests/resources_tokio.rs:"), "{}", output.stderr);
        none_in(how, "oneshot_sent_here");
    }
    none_in("local", "file_flushed");
    none_in("local", "file_ended_unflushed");
}

#[test]
fn while_async_debug_is_off_both_are_silent() {
    none("oneshot_off");
}

#[test]
fn a_write_to_a_file_is_polled_as_tokios_is() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let scratch = Scratch::new();
        let mut file = File::from(tokio::fs::File::create(&scratch.0).await.unwrap());
        assert!(file.is_write_vectored());
        file.set_max_buf_size(3);
        assert_eq!(file.write(b"hello").await.unwrap(), 3);
        file.flush().await.unwrap();
        let mut other = file.try_clone().await.unwrap();
        assert_eq!(other.max_buf_size(), 3);
        other.write_all(b"lo").await.unwrap();
        other.flush().await.unwrap();
        assert_eq!(tokio::fs::read(&scratch.0).await.unwrap(), b"hello");
        assert!(File::create_new(&scratch.0).await.is_err());
        assert!(format!("{file:?}").starts_with("tokio::fs::File"));
    });
}
