//! Which warnings are told, and warnings as values: Python's `warnings`, for what the runtime side finds.
//!
//! Without a filter each warning is told the first time that it comes from its site, and counted from then on.
//! `BIRTHMARK_WARNINGS=action:message:category:module:line,..` and [`filter`] say otherwise for those that match; of several
//! filters that match the last wins, and one in code is later than the variable's.
//!
//! ```sh
//! BIRTHMARK_WARNINGS=error,ignore::slow-callback       # every warning is an error, but slow polls aren't told
//! BIRTHMARK_WARNINGS=once:BufWriter                    # of the lost writers one alone
//! BIRTHMARK_WARNINGS=ignore::ResourceWarning:my_crate.cache
//! ```
//!
//! - *message*: the beginning of the sentence, in capitals or not; it can hold neither `:` nor `,`.
//! - *category*: a [`Kind`] by its name; Python's `ResourceWarning`, and `Warning` for all.
//! - *module*: a module's path with dots, and what is inside it; see [`Filter::module`].
//! - *line*: the line that leads one of its stacks; 0 or none: any.
//!
//! The report of a poll's end goes with that of its beginning, whatever the filters say. Faults of the heap aren't warnings:
//! no filter touches them.
//!
//! # Errors
//! What [`Action::Error`] matches is told at once, its level an error. Then `birthmark::tokio::run` and `run_on` panic with
//! the reports once their runtime is down, and [`check`] where it is called; what neither took ends the process with status
//! 70 when it ends. Nothing panics in a destructor, and the program isn't stopped before: what was lost is lost.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

pub use super::filter::{Filter, InvalidFilter};
pub use super::warning::Kind;
pub use crate::config::{Action, Level};

use super::catching::Catcher;
use super::{filters, handler, heap, poll, reporter, warning};
use crate::report::record::{self, Report};
use crate::report::sink;
use crate::report::text::{self, Style};
use crate::trace::frame::Traceback;

/// A warning as plain data. Its `Display` is the report, without the end of its last line.
///
/// Of one that was caught, names are looked up when its rows or its report are first asked for, which takes a while in a
/// debug build.
#[derive(Clone, Debug)]
pub struct Warning {
    kind: Kind,
    level: Level,
    sentence: String,
    /// Its facts until they have names.
    caught: Option<Box<warning::Warning>>,
    report: OnceLock<Box<Report>>,
}

/// One row of a warning: words, or a stack.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Row<'a> {
    /// Such as `dropped` or `help`.
    pub label: &'a str,
    /// The words of a row without a stack, and those that stand before a stack's first frame; may be empty.
    pub words: &'a str,
    /// The stack, where the row is one.
    pub traceback: Option<&'a Traceback>,
    /// Whose stack it is: `thread main, task 17`; may be empty.
    pub note: &'a str,
}

impl Warning {
    pub(super) fn new(kind: Kind, report: Report) -> Self {
        let (level, sentence) = (report.level, report.sentence.clone());
        Self { kind, level, sentence, caught: None, report: Box::new(report).into() }
    }

    fn caught(caught: warning::Warning) -> Self {
        let (kind, sentence) = (caught.kind, caught.sentence.clone());
        Self { kind, level: kind.level(), sentence, caught: Some(Box::new(caught)), report: OnceLock::new() }
    }

    fn report(&self) -> &Report {
        self.report.get_or_init(|| {
            let _ours = heap::ours();
            Box::new(match &self.caught {
                Some(caught) => reporter::report(caught, &heap::traceback),
                None => Report::new(self.kind.name(), self.level, &*self.sentence),
            })
        })
    }

    /// What happened, in the field's own word.
    #[doc(alias = "category")]
    pub fn kind(&self) -> Kind {
        self.kind
    }
    /// How severe it is.
    pub fn level(&self) -> Level {
        self.level
    }
    /// What happened, in one sentence.
    #[doc(alias = "message")]
    pub fn sentence(&self) -> &str {
        &self.sentence
    }
    /// The facts below the sentence; those that help come last.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let words = |label, words| Row { label, words, traceback: None, note: "" };
        let report = self.report();
        let rows = report.rows.iter().filter_map(move |row| match row {
            record::Row::Text(label, text) => Some(words(label, text)),
            record::Row::Stack(stack) => Some(Row {
                traceback: Some(&stack.traceback),
                note: &stack.behind,
                ..words(stack.label, &stack.before)
            }),
            record::Row::Damage(_) => None,
        });
        rows.chain(report.help.iter().map(move |text| words("help", text)))
    }
    /// The stack under a label, such as `allocated`, `dropped`, `spawned` or `panicked`.
    pub fn traceback(&self, label: &str) -> Option<&Traceback> {
        self.rows().find(|row| row.label == label)?.traceback
    }
}

impl Warning {
    /// Writes it as `BIRTHMARK_REPORT` says, to standard error by default: what becomes of a warning without a handler, and for a
    /// handler that passes some on.
    pub fn write(&self) {
        sink::deliver(self.report());
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (report, style) = (self.report(), Style::default());
        let head = text::head(report.kind, &report.sentence, style);
        let body = text::body(report, style);
        f.write_str(format!("{head}\n{body}").trim_end())
    }
}

/// Adds a filter, for the whole process, over all that there are: a [`Filter`], or an [`Action`] for every warning. It holds
/// for what is judged from now on, and stays.
///
/// ```
/// use birthmark::warnings::{self, Action, Filter, Kind};
///
/// warnings::filter(Action::Always);
/// warnings::filter(Filter::new(Action::Ignore).category(Kind::ResourceWarning).message("Scratch"));
/// warnings::filter("once::slow-callback:my_crate.cache".parse::<Filter>()?);
/// # Ok::<(), warnings::InvalidFilter>(())
/// ```
#[doc(alias = "filterwarnings")]
#[doc(alias = "simplefilter")]
pub fn filter(filter: impl Into<Filter>) {
    filters::add(filter.into());
}

/// Hands each warning that is to be told to `handler` from now on, instead of writing it: for a log of one's own, or with the
/// feature `tracing` [`tracing_event`]. For the whole process; a handler that is set later takes its place.
///
/// It is called on a thread of ours, one warning at a time, with those that the filters and `BIRTHMARK_REPORT`'s level let through;
/// what it allocates isn't traced. At exit it has two seconds. When it panics the warning is written after all. Faults of the heap
/// don't go through it: they are written at once.
///
/// ```
/// use birthmark::warnings;
///
/// warnings::set_handler(|warning| {
///     eprintln!("{:?} {}: {}", warning.level(), warning.kind(), warning.sentence());
/// });
/// # warnings::reset_handler();
/// ```
#[doc(alias = "showwarning")]
pub fn set_handler(handler: impl Fn(&Warning) + Send + Sync + 'static) {
    handler::set(Some(Box::new(handler)));
}

/// Writes warnings again, as without a handler.
pub fn reset_handler() {
    handler::set(None);
}

/// Emits a warning as an event of `tracing`, at its level, with the target `birthmark`: its sentence is the message; the field `kind`
/// has its kind, and `report` the rows below the sentence.
///
/// ```
/// birthmark::warnings::set_handler(birthmark::warnings::tracing_event);
/// # birthmark::warnings::reset_handler();
/// ```
#[cfg(feature = "tracing")]
pub fn tracing_event(warning: &Warning) {
    // On lines of their own in a log of text.
    let rows = format!("\n{}", text::body(warning.report(), Style::default()).trim_end());
    macro_rules! event {
        ($level:ident) => {
            tracing::event!(
                target: "birthmark",
                tracing::Level::$level,
                kind = warning.kind().name(),
                report = %rows,
                "{}",
                warning.sentence()
            )
        };
    }
    match warning.level() {
        Level::Error => event!(ERROR),
        Level::Warning => event!(WARN),
        Level::Info => event!(INFO),
        Level::Debug => event!(DEBUG),
    }
}

/// Runs `f`, and collects the warnings that arise on this thread meanwhile instead of telling them: each of them, whatever the
/// filters say. Inside another one the inner catches.
///
/// Caught are resource warnings of what is dropped on this thread (of a `oneshot`, where its receiver waits) and, with the feature `tokio`, panics of tasks of which it
/// drops the output unread. Not caught are `slow-callback`, `worker-busy` and `slow-driver`, which the watchdog finds while they last,
/// `task-destroyed` of a runtime's end, and what arises on other threads, workers of a runtime too: those are told as ever. When `f` panics, what was caught is
/// told.
///
/// ```
/// use birthmark::{ResourceGuard, warnings};
///
/// birthmark::set_debug(true);
/// let (answer, caught) = warnings::catch(|| {
///     let guard = ResourceGuard::new("Export", "finish()");
///     guard.pending(3);
///     6 * 7
/// });
/// assert_eq!(answer, 42);
/// assert_eq!(caught[0].kind(), warnings::Kind::ResourceWarning);
/// assert_eq!(caught[0].sentence(), "Export was dropped with 3 left undone");
/// ```
#[doc(alias = "catch_warnings")]
pub fn catch<R>(f: impl FnOnce() -> R) -> (R, Vec<Warning>) {
    let catcher = Catcher::default();
    let answer = {
        let _entered = catcher.enter();
        f()
    };
    (answer, plain(catcher.take()))
}

/// [`catch`] for a future: collects what arises while it is polled, on whichever thread that is. Tasks that it spawns are on
/// their own.
///
/// ```
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(async {
/// use birthmark::{ResourceGuard, warnings};
///
/// birthmark::set_debug(true);
/// let ((), caught) = warnings::catch_async(async {
///     let guard = ResourceGuard::new("Export", "finish()");
///     guard.pending(3);
///     tokio::task::yield_now().await;
/// })
/// .await;
/// assert_eq!(caught.len(), 1);
/// # });
/// ```
pub fn catch_async<F: Future>(future: F) -> impl Future<Output = (F::Output, Vec<Warning>)> {
    Catching { future: Some(future), catcher: Catcher::default() }
}

struct Catching<F> {
    /// None once it has ended.
    future: Option<F>,
    catcher: Catcher,
}

impl<F: Future> Future for Catching<F> {
    type Output = (F::Output, Vec<Warning>);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: `future` is pinned with the whole: it is never moved, only dropped in its place; the catcher isn't pinned.
        let this = unsafe { self.get_unchecked_mut() };
        let entered = this.catcher.enter();
        // SAFETY: as above.
        let future = unsafe { Pin::new_unchecked(&mut this.future) };
        let Some(inner) = future.as_pin_mut() else { panic!("polled after its end") };
        let Poll::Ready(answer) = inner.poll(cx) else { return Poll::Pending };
        // What it still holds is dropped inside, as a closure's captures are.
        this.future = None;
        drop(entered);
        Poll::Ready((answer, plain(this.catcher.take())))
    }
}

/// Panics with the warnings that a filter made errors since the last time, if there are any. Waits for what is being written,
/// for at most two seconds. Does nothing while the thread panics already.
///
/// ```
/// birthmark::warnings::check(); // at the end of a test
/// ```
///
/// # Panics
/// When a warning is an error; with the reports.
#[track_caller]
pub fn check() {
    if std::thread::panicking() {
        return;
    }
    let time = poll::our_time(); // may be called in a poll
    reporter::flush(Duration::from_secs(2));
    drop(time);
    let (errors, more) = reporter::take_errors();
    if errors.is_empty() {
        return;
    }
    panic!("{}", words(&errors, more));
}

fn words(errors: &[Warning], more: usize) -> String {
    let head = match errors {
        [_] if more == 0 => "a filter makes this warning an error".to_owned(),
        _ => format!("a filter makes these {} warnings errors", errors.len() + more),
    };
    let mut text = head;
    for error in errors {
        text += &format!("\n{error}");
    }
    if more > 0 {
        text += &format!("\nand {more} more");
    }
    text
}

fn plain(caught: Vec<warning::Warning>) -> Vec<Warning> {
    caught.into_iter().map(Warning::caught).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(sentence: &str) -> Warning {
        let mut report = Report::new("resource-warning", Level::Warning, sentence).row("state", "open");
        report.help("call `finish()`");
        Warning::new(Kind::ResourceWarning, report)
    }

    #[test]
    fn a_warning_is_data_that_may_cross_threads_and_reads_as_the_report() {
        fn crosses<T: Clone + Send + Sync>() {}
        crosses::<Warning>();
        let lost = lost("it is lost");
        let rows: Vec<_> = lost.rows().map(|row| (row.label, row.words)).collect();
        assert_eq!(rows, [("state", "open"), ("help", "call `finish()`")]);
        assert_eq!(
            lost.to_string(),
            "birthmark: resource-warning: it is lost\n  state      open\n  help       call `finish()`"
        );
    }

    #[test]
    fn a_panic_tells_how_many_errors_there_are_and_each_report() {
        let text = words(&[lost("one"), lost("two")], 3);
        assert!(
            text.starts_with("a filter makes these 5 warnings errors\nbirthmark: resource-warning: one\n")
        );
        assert!(text.contains("resource-warning: two\n") && text.ends_with("\nand 3 more"), "{text}");
        assert!(words(&[lost("one")], 0).starts_with("a filter makes this warning an error\nbirthmark: "));
    }
}
