//! The thread that finds names and writes reports, so that no worker waits for either.
//!
//! Made when there is something to say, from ordinary code; after a fork made again. At exit what is under way is finished,
//! for at most two seconds (see `flush`). [`poke`] alone is called inside an allocation.

use std::collections::VecDeque;
use std::sync::atomic::{
    AtomicI32, AtomicPtr, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::sites::{self, Sites};
use super::verdict::{Case, Verdict};
use super::warning::{Row, Warning};
use super::{catching, filter, filters, handler, heap, poll, tally, trial, warnings};
use crate::config::{Action, Level};
use crate::report::record::{Report, Stack};
use crate::report::repeats::TOLD;
use crate::sys::{self, Bell};
use crate::trace::frame::Traceback;

/// Something that may turn out to be a report once names are known.
pub(crate) type Job = Box<dyn FnOnce() -> Option<Warning> + Send>;

struct Reporter {
    pid: u32,
    queue: Mutex<VecDeque<Job>>,
    /// What was told; here, since a fork's child makes a reporter of its own and inherits no lock.
    sites: Sites,
    /// Jobs that aren't done.
    open: AtomicUsize,
    bell: Bell,
    /// Its thread's id; 0 before it runs.
    thread: AtomicI32,
}

static CURRENT: AtomicPtr<Reporter> = AtomicPtr::new(std::ptr::null_mut());

/// A thread of ours: all signals blocked from its first instruction on, its blocks marked as our own.
pub(crate) fn spawn_ours(name: &str, body: impl FnOnce() + Send + 'static) -> bool {
    let _ours = heap::ours();
    let builder = std::thread::Builder::new().name(name.into());
    let body = move || {
        let _ours = heap::ours();
        body();
    };
    // A new thread inherits the mask.
    sys::without_signals(|| builder.spawn(body)).is_ok()
}

/// The reporter of this process, if it was made.
fn ours() -> Option<&'static Reporter> {
    if_ours(CURRENT.load(Acquire))
}

fn if_ours(seen: *mut Reporter) -> Option<&'static Reporter> {
    // SAFETY: null or published, and a published reporter is leaked, so it lives for ever.
    unsafe { seen.as_ref() }.filter(|reporter| reporter.pid == sys::process_id())
}

/// The reporter of this process, with its thread. Ordinary code.
fn reporter() -> Option<&'static Reporter> {
    let seen = CURRENT.load(Acquire);
    if let Some(reporter) = if_ours(seen) {
        return Some(reporter);
    }
    let pid = sys::process_id();
    let _ours = heap::ours();
    let fresh = Box::into_raw(Box::new(Reporter {
        pid,
        queue: Mutex::new(VecDeque::new()),
        sites: Sites::new(&TOLD),
        open: AtomicUsize::new(0),
        thread: AtomicI32::new(0),
        bell: Bell::new(), // used only where it stays: a reporter is leaked
    }));
    if CURRENT.compare_exchange(seen, fresh, AcqRel, Acquire).is_err() {
        // SAFETY: ours was never published.
        drop(unsafe { Box::from_raw(fresh) });
        return reporter();
    }
    // SAFETY: published, so never freed.
    let r: &'static Reporter = unsafe { &*fresh };
    if seen.is_null() {
        extern "C" fn at_exit() {
            #[cfg(feature = "tokio")]
            {
                super::destroyed::end();
                super::panics::take_held().into_iter().for_each(tell_of_others);
                super::tokio::end_fallible();
            }
            flush(Duration::from_secs(2));
        }
        sys::at_exit(at_exit);
    }
    if !spawn_ours("birthmark-say", move || r.run()) {
        // No thread to be had: jobs are done by whoever brings them.
        return None;
    }
    Some(r)
}

impl Reporter {
    /// How long its thread has waited for a processor, where the kernel tells.
    fn waited(&self) -> Duration {
        #[cfg(feature = "tokio")]
        return super::tokio::cpu::counts(self.thread.load(Relaxed)).unwrap_or_default().waited;
        #[cfg(not(feature = "tokio"))]
        Duration::ZERO
    }

    fn run(&self) {
        self.thread.store(heap::thread_id(), Relaxed);
        loop {
            self.bell.wait();
            self.work();
        }
    }

    fn work(&self) {
        #[cfg(feature = "tokio")]
        if super::quit::is_asked() {
            self.open.fetch_add(1, AcqRel); // `flush` waits for it
            super::quit::answer();
            self.open.fetch_sub(1, AcqRel);
        }
        #[cfg(feature = "tokio")]
        if super::panics::any_due() {
            self.open.fetch_add(1, AcqRel); // `flush` waits for it
            for warning in super::panics::take_due() {
                write(&warning);
            }
            self.open.fetch_sub(1, AcqRel);
        }
        loop {
            let job = self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(job) = job else { return };
            finish(job);
            self.open.fetch_sub(1, AcqRel);
        }
    }
}

fn finish(job: Job) {
    let _ours = heap::ours();
    if let Some(warning) = job() {
        write(&warning);
    }
}

/// The beginning of this case isn't told after all: neither will its end be.
#[cfg(feature = "tokio")]
pub(crate) fn untold(case: u64) {
    if let Some(reporter) = ours() {
        reporter.sites.untold(case);
    }
}

/// As [`untold`], of a case that may be one all the same: its end knows.
#[cfg(all(feature = "tokio", tokio_unstable))]
pub(crate) fn unsure(case: u64) {
    if let Some(reporter) = ours() {
        reporter.sites.unsure(case);
    }
}

/// Whether [`unsure`] was said of this case. Asked once, by a job.
#[cfg(all(feature = "tokio", tokio_unstable))]
pub(crate) fn was_unsure(case: u64) -> bool {
    ours().is_some_and(|reporter| reporter.sites.was_unsure(case))
}

/// Hands a job to the reporter's thread. Ordinary code.
pub(crate) fn later(job: Job) {
    let _ours = heap::ours();
    match reporter() {
        Some(r) => {
            r.open.fetch_add(1, AcqRel);
            r.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(job);
            r.bell.ring();
        }
        None => finish(job),
    }
}

/// Writes a warning that has arisen on this thread soon, unless it is caught here. Ordinary code.
pub(crate) fn tell(warning: Warning) {
    if let Some(warning) = catching::offer(warning) {
        tell_of_others(warning);
    }
}

/// Writes a warning soon, whoever catches here. Ordinary code.
pub(crate) fn tell_of_others(warning: Warning) {
    later(Box::new(move || Some(warning)));
}

/// Takes what filters made errors since the last time, and how many more there were.
pub(crate) fn take_errors() -> (Vec<warnings::Warning>, usize) {
    ours().map(|reporter| reporter.sites.errors.take()).unwrap_or_default()
}

/// Whether something that a filter made an error was taken by nobody. Waits for no lock.
pub(crate) fn errors_wait() -> bool {
    ours().is_some_and(|reporter| reporter.sites.errors.any())
}

/// Makes sure that there is somebody to [`poke`]. Ordinary code.
#[cfg(feature = "tokio")]
pub(crate) fn stand_by() {
    reporter();
}

/// Something is due that a hook found. Called inside an allocation: an atomic load and at most a system call.
#[cfg(feature = "tokio")]
pub(crate) fn poke() {
    // SAFETY: a published reporter lives for ever.
    if let Some(r) = unsafe { CURRENT.load(Acquire).as_ref() } {
        sys::keep_errno(|| r.bell.ring());
    }
}

/// Waits until everything under way is written, for at most `limit`; on a busy machine longer by what the reporter waits for a
/// processor, at most five times as long.
pub(crate) fn flush(limit: Duration) {
    let Some(r) = ours() else { return };
    #[cfg(feature = "tokio")]
    super::tokio::settle();
    let (begun, waited) = (Instant::now(), r.waited());
    let in_time = || {
        let passed = begun.elapsed();
        passed < limit || passed < limit * 5 && passed < limit + r.waited().saturating_sub(waited)
    };
    let open = || {
        #[cfg(feature = "tokio")]
        if super::panics::any_due() {
            return true;
        }
        r.open.load(Acquire) != 0
    };
    while open() && in_time() {
        r.bell.ring();
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What the filters of this process make of a warning.
fn filtered(seen: &filter::Seen<'_>) -> Action {
    filter::action(filters::all(), seen)
}

/// What a check at a call panics with: names are found at once, in our time.
pub(crate) fn refused(warning: &Warning) -> String {
    let _time = poll::our_time();
    warnings::Warning::new(warning.kind, report(warning, &heap::traceback)).to_string()
}

/// The same; nothing where a filter ignores it.
pub(crate) fn refusal(warning: &Warning) -> Option<String> {
    let _time = poll::our_time();
    let report = report(warning, &heap::traceback);
    let ignored = sites::action(&report, warning, &filtered) == Action::Ignore;
    (!ignored).then(|| warnings::Warning::new(warning.kind, report).to_string())
}

/// Writes one report, unless the same was told before.
fn write(warning: &Warning) {
    let name = || report(warning, &heap::traceback);
    let (verdict, told) = match ours() {
        Some(reporter) => reporter.sites.judge(warning, &filtered, &name),
        None => (Verdict::Tell, Some(name())),
    };
    let counts = warning.kind.level() <= Level::Warning && !matches!(warning.case, Case::Ends(_));
    if verdict != Verdict::Drop && counts {
        tally::note(warning.kind);
        let report = || told.clone().unwrap_or_else(name);
        trial::hear(warning.test, || warnings::Warning::new(warning.kind, report()));
    }
    if let Some(report) = told {
        handler::deliver(&warnings::Warning::new(warning.kind, report));
    }
}

/// The report that a warning makes once its stacks have names.
pub(super) fn report(warning: &Warning, name: &dyn Fn(&[usize]) -> Traceback) -> Report {
    let mut report = Report::new(warning.kind.name(), warning.kind.level(), &*warning.sentence);
    let mut help = Vec::new();
    for Row { label, words, stack, note, .. } in &warning.rows {
        let words = words.clone().unwrap_or_default();
        if *label == "help" {
            help.push(words);
        } else if stack.is_empty() {
            report = report.row(label, words);
        } else {
            let behind = note.clone().unwrap_or_default();
            report = report.stack(Stack {
                label,
                before: words,
                traceback: name(stack),
                thread: String::new(),
                behind,
            });
        }
    }
    if let Some(name) = trial::name(warning.test) {
        report = report.row("test", name);
    }
    for text in help {
        report.help(text);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::super::warning::Kind;
    use super::*;
    use crate::report::text::{self, Style};
    use crate::trace::Depth;
    use crate::trace::frame::{Frame, Owner};

    #[test]
    fn the_users_frames_lead_and_plumbing_is_folded() {
        let frame = |function: &str, owner| Frame {
            function: Some(function.into()),
            file: Some("src/a.rs".into()),
            line: 7,
            module: "app".into(),
            offset: 0,
            inlined: false,
            owner,
        };
        let frames = vec![frame("std::thread::sleep", Owner::Plumbing), frame("app::f", Owner::User)];
        let name = move |_: &[usize]| Traceback::new(frames.clone(), 1, Depth::Exactly(1));
        let rows = vec![
            Row::words("help", "sleep less".into()),
            Row::stack("stuck in", vec![1]).noted("thread w".into()),
        ];
        let w = Warning::new(Kind::SlowCallback, "task 3 is stuck".into(), rows);
        let report = report(&w, &name);
        assert_eq!(
            text::body(&report, Style::default()),
            "  stuck in   app::f  src/a.rs:7  thread w\n  help       sleep less\n"
        );
    }
}
