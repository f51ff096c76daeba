//! Tasks whose `Err` somebody should read: their own handle tells whether anybody did.

use std::fmt::{self, Debug, Write};
use std::future::Future;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use ::tokio::task::{JoinError, JoinHandle};

use super::super::destroyed::bare;
use super::super::task::soon;
use super::super::warning::{Kind, Row, Warning};
use super::super::{heap, reporter, switch};
use super::{cell, words};

/// So much of an error's text is kept.
const LONGEST: usize = 240;

/// The handle of a task from [`spawn_fallible`](super::spawn_fallible) or
/// [`spawn_local_fallible`](super::spawn_local_fallible): a `JoinHandle` of which is known whether it was read.
/// Dropping it detaches the task, as ever.
#[derive(Debug)]
pub struct FallibleTask<T, E> {
    handle: JoinHandle<Result<T, E>>,
    watch: Option<Arc<Watch>>,
}

/// What handle and task share while async debug is on. Its block's trace is the place of the spawn.
#[derive(Debug)]
pub(super) struct Watch {
    made: &'static Location<'static>,
    name: &'static str,
    stage: Mutex<Stage>,
}

#[derive(Debug)]
enum Stage {
    Runs,
    /// It runs, and its handle is gone.
    Detached,
    Failed(Box<Failure>),
    /// Read, told, or ended well.
    Settled,
}

#[derive(Debug)]
struct Failure {
    process: u32,
    id: u64,
    message: String,
}

/// Those that have failed and whose handle somebody has still.
static HELD: Mutex<Vec<Arc<Watch>>> = Mutex::new(Vec::new());

/// A task's future that notes its error.
#[derive(Debug)]
pub(super) struct Noted<F> {
    future: F,
    watch: Option<Arc<Watch>>,
}

impl<F> Noted<F> {
    #[track_caller]
    pub(super) fn new(future: F) -> Self {
        let made = Location::caller();
        let name = std::any::type_name::<F>();
        let watch = switch::on().then(|| Arc::new(Watch { made, name, stage: Mutex::new(Stage::Runs) }));
        Self { future, watch }
    }

    pub(super) fn watch(&self) -> Option<Arc<Watch>> {
        self.watch.clone()
    }
}

impl<F, T, E> Future for Noted<F>
where
    F: Future<Output = Result<T, E>>,
    E: Debug,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: `future` is pinned with the whole: it is never moved out, and there is no `Drop` of our own on the whole; `watch`
        // isn't pinned with it.
        let (future, watch) = unsafe {
            let whole = self.get_unchecked_mut();
            (Pin::new_unchecked(&mut whole.future), &mut whole.watch)
        };
        let result = ready!(future.poll(cx));
        if let Some(watch) = watch.take() {
            watch.ended(result.as_ref().err().map(|error| error as &dyn Debug));
        }
        Poll::Ready(result)
    }
}

impl<T, E> FallibleTask<T, E> {
    pub(super) fn new(handle: JoinHandle<Result<T, E>>, watch: Option<Arc<Watch>>) -> Self {
        Self { handle, watch }
    }
}

impl<T, E> Future for FallibleTask<T, E> {
    type Output = Result<Result<T, E>, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let output = ready!(Pin::new(&mut self.handle).poll(cx));
        if let Some(watch) = self.watch.take() {
            watch.settle();
        }
        Poll::Ready(output)
    }
}

/// `abort`, `abort_handle`, `id`, `is_finished`.
impl<T, E> Deref for FallibleTask<T, E> {
    type Target = JoinHandle<Result<T, E>>;
    fn deref(&self) -> &Self::Target {
        &self.handle
    }
}

impl<T, E> Drop for FallibleTask<T, E> {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.dropped(heap::trace_of(cell::of_handle(&self.handle)));
        }
    }
}

impl Watch {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task has ended.
    fn ended(self: Arc<Self>, error: Option<&dyn Debug>) {
        let Some(error) = error.filter(|_| switch::on()) else {
            *self.stage() = Stage::Settled;
            return;
        };
        let _ours = heap::ours();
        let failure =
            Box::new(Failure { process: std::process::id(), id: words::own_id(), message: text(error) });
        let mut stage = self.stage();
        match std::mem::replace(&mut *stage, Stage::Settled) {
            Stage::Runs => {
                *stage = Stage::Failed(failure);
                drop(stage);
                if let Some(mut held) = soon(&HELD) {
                    reporter::stand_by(); // it asks for what is held at exit
                    held.push(self);
                }
            }
            Stage::Detached => {
                drop(stage);
                self.tell(*failure, None, Until::Detached);
            }
            Stage::Failed(_) | Stage::Settled => {}
        }
    }

    /// The output was read, or nobody needs to; what it was.
    fn settle(&self) -> Stage {
        let stage = std::mem::replace(&mut *self.stage(), Stage::Settled);
        if matches!(stage, Stage::Failed(_))
            && let Some(mut held) = soon(&HELD)
        {
            held.retain(|watch| !std::ptr::eq(&**watch, self));
        }
        stage
    }

    /// The handle is dropped, and its output wasn't read.
    fn dropped(&self, spawned: Option<Vec<usize>>) {
        {
            let mut stage = self.stage();
            if matches!(*stage, Stage::Runs) {
                *stage = Stage::Detached;
                return;
            }
        }
        // A handle that a panic took along wasn't forgotten: the panic is the news.
        if let Stage::Failed(failure) = self.settle()
            && switch::on()
            && !std::thread::panicking()
        {
            let _ours = heap::ours();
            self.tell(*failure, spawned, Until::Dropped(heap::stack_here(), heap::this_thread()));
        }
    }

    fn tell(&self, failure: Failure, spawned: Option<Vec<usize>>, until: Until) {
        let spawned = spawned.or_else(|| heap::trace_of(std::ptr::from_ref(self) as usize));
        let spawned = spawned.ok_or(self.made);
        reporter::tell(unread(self.name, failure, spawned, until));
    }
}

/// At exit: tells the errors whose handle somebody forgot, or holds to the end. Ordinary code.
pub(crate) fn end() {
    let held = soon(&HELD).map(|mut held| std::mem::take(&mut *held)).unwrap_or_default();
    for watch in held {
        let stage = std::mem::replace(&mut *watch.stage(), Stage::Settled);
        if let Stage::Failed(failure) = stage
            && switch::on()
            && failure.process == std::process::id()
        {
            watch.tell(*failure, None, Until::Exit);
        }
    }
}

/// Until when nobody had read it.
enum Until {
    /// Its handle was dropped before.
    Detached,
    /// Its handle was dropped there.
    Dropped(Vec<usize>, String),
    /// The program ends.
    Exit,
}

fn unread(
    name: &str,
    failure: Failure,
    spawned: Result<Vec<usize>, &'static Location<'static>>,
    until: Until,
) -> Warning {
    let (made, add) = match spawned {
        Ok(stack) => (Row::stack("spawned", stack), ""),
        Err(made) => (Row::place("spawned", made), "; TRACEMALLOC=5 adds how it came to be spawned"),
    };
    let mut rows = vec![made];
    let (mut when, mut gone) = ("", "");
    match until {
        Until::Detached => gone = ", which was dropped while the task ran,",
        Until::Dropped(stack, thread) => rows.push(Row::stack("dropped", stack).noted(thread)),
        Until::Exit => when = " before the program ended",
    }
    let help = format!("await its handle{gone} and look into the `Err`{add}");
    rows.push(Row::words("help", help));
    let sentence =
        format!("task {} `{}` failed and nobody read it{when}: {}", failure.id, bare(name), failure.message);
    Warning::new(Kind::TaskError, sentence, rows)
}

/// The error's text on one line, cut where it is long.
fn text(error: &dyn Debug) -> String {
    struct Bounded(String);
    impl Write for Bounded {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            for letter in s.chars() {
                if self.0.len() >= LONGEST {
                    self.0.push_str("..");
                    return Err(fmt::Error);
                }
                self.0.push(if letter.is_control() { ' ' } else { letter });
            }
            Ok(())
        }
    }
    let mut text = Bounded(String::new());
    match catch_unwind(AssertUnwindSafe(|| write!(text, "{error:?}"))) {
        Ok(_) => text.0,
        Err(_) => "an error that can't be shown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errors_text_is_one_line_and_bounded() {
        assert_eq!(text(&std::io::ErrorKind::NotFound), "NotFound");
        assert_eq!(text(&format_args!("a\nb")), "a b");
        let long = text(&"x".repeat(10_000));
        assert!(long.len() <= LONGEST + 2 && long.ends_with(".."), "{long}");
        struct Broken;
        impl Debug for Broken {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                panic!("in Debug")
            }
        }
        assert_eq!(text(&Broken), "an error that can't be shown");
    }

    #[test]
    fn an_unread_error_is_told_by_its_task_its_text_and_what_became_of_its_handle() {
        let failure = || Failure { process: 1, id: 9, message: "NotFound".into() };
        let w = unread(
            "app::job::{{closure}}",
            failure(),
            Ok(vec![1]),
            Until::Dropped(vec![2], "thread w".into()),
        );
        assert_eq!(w.sentence, "task 9 `app::job` failed and nobody read it: NotFound");
        assert_eq!((w.rows[0].label, w.rows[1].label), ("spawned", "dropped"));
        let w = unread("app::job", failure(), Err(Location::caller()), Until::Exit);
        assert_eq!(
            w.sentence,
            "task 9 `app::job` failed and nobody read it before the program ended: NotFound"
        );
        assert!(w.rows[0].place.is_some());
        assert!(w.rows[1].words.as_deref().unwrap().contains("TRACEMALLOC=5"));
    }
}
