//! What is known of a task, as plain data.

use std::fmt;
use std::panic::Location;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::super::{heap, poll};
use crate::table::accounts::Sums;
use crate::trace::RawStack;
use crate::trace::frame::{self, Frame, Owner, Traceback};

/// Which task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TaskId {
    /// A tokio task, by the number that tokio gives it.
    Task(u64),
    /// A wrapped future that is no tokio task of its own, by a number of ours.
    Future(u64),
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task(id) => f.pad(&format!("task {id}")),
            Self::Future(n) => f.pad(&format!("future {n}")),
        }
    }
}

/// What a row of the inventory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TaskKind {
    /// A tokio task.
    Task,
    /// The future that `birthmark::tokio::run` runs.
    Root,
    /// A watched future: a task of another executor, or a part of a task.
    Future,
}

/// What a task does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TaskState {
    /// It is being polled.
    Running,
    /// It was woken, and waits for a worker.
    Scheduled,
    /// It waits for something.
    Idle,
    /// It isn't being polled; whether it was woken is known of tokio's tasks alone.
    Waiting,
    /// It has ended, and its output waits to be read.
    Complete,
    /// Nothing tells.
    Unknown,
}

impl TaskState {
    /// As a table writes it: `idle`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Scheduled => "scheduled",
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Complete => "complete",
            Self::Unknown => "?",
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why something isn't known of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotKnown {
    /// The task isn't wrapped, and no hook of tokio's tells of it: nobody counts its polls; nor its blocks where tokio's words can't
    /// be read. Where a task waits its wrapper alone knows.
    NotWrapped,
    /// Tracing was off when it began to wait: no stack was kept.
    NotTraced,
    /// It was polled while async debug was off, so not all that it waits for is known.
    PolledWhileOff,
    /// Async debug and tracing aren't both on, so nobody counts for whom blocks are made.
    NotCounted,
    /// It is a part of a task, and what it allocates counts for that task.
    Part,
}

impl fmt::Display for NotKnown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotWrapped => {
                "known of wrapped tasks alone: `birthmark::tokio::spawn`, `.watched()`, `birthmark::tokio::run`"
            }
            Self::NotTraced => "tracing was off when it began to wait: TRACEMALLOC=5 keeps where",
            Self::PolledWhileOff => "it was polled while async debug was off, which follows no waker",
            Self::NotCounted => {
                "counted while async debug and tracing are both on: BIRTHMARK_ASYNC_DEBUG=1 TRACEMALLOC=5"
            }
            Self::Part => "a part of a task: what it allocates counts for the task",
        })
    }
}

impl std::error::Error for NotKnown {}

/// Where tasks were spawned; one for all that were spawned by the same stack.
#[derive(Debug)]
pub(super) struct Site {
    stack: RawStack,
    named: OnceLock<Named>,
}

#[derive(Debug)]
struct Named {
    traceback: Traceback,
    /// The type of the future, as tokio's frames tell it.
    future: Option<String>,
}

impl Site {
    pub(super) fn new(stack: RawStack) -> Self {
        Self { stack, named: OnceLock::new() }
    }

    /// The line that leads its stack.
    pub(super) fn place(&self) -> String {
        self.named().traceback.lead().place()
    }

    /// Whether a runtime's worker was started there: to tokio it is a blocking job, with an id like a task's.
    pub(super) fn is_worker(&self) -> bool {
        let traceback = &self.named().traceback;
        let above = traceback.all_frames().iter().take_while(|frame| !std::ptr::eq(*frame, traceback.lead()));
        above.filter_map(|frame| frame.function()).any(|f| f.contains("multi_thread::worker::"))
    }

    fn named(&self) -> &Named {
        self.named.get_or_init(|| {
            let (_ours, _time) = (heap::ours(), poll::our_time());
            let traceback = heap::named_stack(&self.stack);
            #[cfg(feature = "tokio")]
            let future = {
                let functions = traceback.all_frames().iter().filter_map(|frame| frame.function());
                super::super::tokio::future_type(functions)
            };
            #[cfg(not(feature = "tokio"))]
            let future = None;
            Named { traceback, future }
        })
    }
}

/// A task as it was when it was asked for.
///
/// Of a task whose spawn stack was kept, names are looked up when its future's type or its stack is first asked for.
#[derive(Clone, Debug)]
pub struct Task {
    pub(super) id: TaskId,
    pub(super) kind: TaskKind,
    pub(super) state: TaskState,
    pub(super) wrapped: Option<Wrapped>,
    pub(super) bytes: Option<usize>,
    pub(super) memory: Result<Sums, NotKnown>,
    pub(super) site: Option<Arc<Site>>,
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    pub(super) owner: u64,
}

/// What a wrapper knows of its task, or tokio's hooks do.
#[derive(Clone, Debug)]
pub(super) struct Wrapped {
    /// Nothing where tokio's hooks alone tell of it.
    pub name: Option<&'static str>,
    pub made: &'static Location<'static>,
    pub age: Duration,
    pub polls: u64,
    pub busy: Duration,
    pub parent: Option<TaskId>,
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    pub test: u64,
    /// The stacks at which its waker is kept.
    pub waits: Result<Vec<Arc<Site>>, NotKnown>,
    /// Nothing keeps its waker, while it is idle.
    pub stranded: bool,
}

impl Task {
    /// Which task.
    pub fn id(&self) -> TaskId {
        self.id
    }
    /// A task, the root future, or a part of a task.
    pub fn kind(&self) -> TaskKind {
        self.kind
    }
    /// What it does now.
    pub fn state(&self) -> TaskState {
        self.state
    }
    /// The type of its future: for an `async fn` the function's path. Nothing where neither a wrapper nor the names of its spawn
    /// stack tell it.
    pub fn future(&self) -> Option<&str> {
        match self.wrapped.as_ref().and_then(|wrapped| wrapped.name) {
            Some(name) => Some(short(name)),
            None => self.site.as_ref()?.named().future.as_deref(),
        }
    }
    /// Since when it was wrapped, or spawned where tokio's hooks tell of it.
    ///
    /// # Errors
    /// Of a task that neither is wrapped nor told of by hooks.
    pub fn age(&self) -> Result<Duration, NotKnown> {
        self.wrapped().map(|w| w.age)
    }
    /// How often it was polled, the present poll too.
    ///
    /// # Errors
    /// As [`Task::age`].
    pub fn polls(&self) -> Result<u64, NotKnown> {
        self.wrapped().map(|w| w.polls)
    }
    /// How long its polls took together, the present one too.
    ///
    /// # Errors
    /// As [`Task::age`].
    pub fn busy(&self) -> Result<Duration, NotKnown> {
        self.wrapped().map(|w| w.busy)
    }
    /// Who was polled on the thread that spawned it: a task, or the root future; of a part of a task, that task. `Ok(None)`: it was
    /// spawned outside of all.
    ///
    /// # Errors
    /// As [`Task::age`].
    pub fn parent(&self) -> Result<Option<TaskId>, NotKnown> {
        self.wrapped().map(|w| w.parent)
    }
    /// Bytes of its cell, the block that the executor keeps it in, or of the future where that block isn't known. Its spawner has
    /// allocated it: they aren't among those that it [holds](Self::held).
    pub fn bytes(&self) -> Option<usize> {
        self.bytes
    }
    /// Bytes of the live blocks that it has made, or that were last reallocated in it, whoever has them now. Exact since async
    /// debug and tracing are both on, but for what other threads free at this moment.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();
    /// # #[cfg(feature = "tokio")]
    /// # {
    /// birthmark::tracemalloc::start(5);
    /// birthmark::tokio::run(true, async {
    ///     let task = birthmark::tokio::spawn(async {
    ///         let kept = vec![0u8; 1000];
    ///         drop(vec![0u8; 5000]);
    ///         let me = birthmark::current_task().unwrap();
    ///         assert_eq!(me.held(), Ok(1000));
    ///         assert_eq!(me.peak(), Ok(6000));
    ///         assert_eq!((me.allocated(), me.allocations()), (Ok(6000), Ok(2)));
    ///         drop(kept);
    ///     });
    ///     task.await.unwrap();
    /// });
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where it isn't counted: [`NotKnown::NotCounted`], [`NotKnown::Part`] or, on targets where tokio's words can't be read,
    /// [`NotKnown::NotWrapped`].
    pub fn held(&self) -> Result<u64, NotKnown> {
        self.memory.map(|sums| sums.held)
    }
    /// Bytes that it has asked for since async debug and tracing are both on. A `realloc` asks for its whole new size.
    ///
    /// # Errors
    /// As [`Task::held`].
    pub fn allocated(&self) -> Result<u64, NotKnown> {
        self.memory.map(|sums| sums.allocated)
    }
    /// How many blocks it has asked for, a `realloc` counting as one.
    ///
    /// # Errors
    /// As [`Task::held`].
    pub fn allocations(&self) -> Result<u64, NotKnown> {
        self.memory.map(|sums| sums.allocations)
    }
    /// The most bytes that it [held](Self::held) at a time: exact, but for what another thread freed in the very moment of its
    /// highest allocation.
    ///
    /// # Errors
    /// As [`Task::held`].
    pub fn peak(&self) -> Result<u64, NotKnown> {
        self.memory.map(|sums| sums.peak)
    }
    /// The stack that spawned it, where tracing was on then.
    pub fn spawned(&self) -> Option<&Traceback> {
        Some(&self.site.as_ref()?.named().traceback)
    }
    /// Where a wrapped task, or one that tokio's hooks tell of, was spawned or its future watched.
    pub fn spawned_at(&self) -> Option<&'static Location<'static>> {
        Some(self.wrapped.as_ref()?.made)
    }
    /// Where it waits: each place at which its waker is kept now, so one for each branch of a `select!`; while it runs, those that
    /// are left of its last poll. `Ok` and empty: nothing keeps its waker. Children of a `FuturesUnordered` and its like have
    /// wakers of their own: the place that awaits them all is shown.
    ///
    /// # Errors
    /// Of a task that isn't wrapped, whether or not hooks tell of it, or began to wait while tracing was off, or was polled while
    /// async debug was.
    pub fn waits(&self) -> Result<Vec<Wait<'_>>, NotKnown> {
        let waits = self.wrapped()?.waits.as_ref().map_err(|error| *error)?;
        Ok(waits.iter().map(|site| Wait { traceback: &site.named().traceback }).collect())
    }
    /// Whether it is idle and nothing can wake it, since nothing keeps its waker: as after `pending().await`, or where what it
    /// waited for was dropped without waking it. Only of wrapped tasks of tokio.
    pub fn is_stranded(&self) -> bool {
        self.state == TaskState::Idle && self.wrapped.as_ref().is_some_and(|w| w.stranded)
    }
    /// Whether its polls are counted: by a wrapper, or by tokio's hooks.
    pub fn is_wrapped(&self) -> bool {
        self.wrapped.is_some()
    }

    /// Whether tokio's hooks alone tell of it: its polls are counted though the program didn't ask for that.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_hooked(&self) -> bool {
        self.wrapped.as_ref().is_some_and(|wrapped| wrapped.name.is_none())
    }

    /// Whether it is a test's: in the list of its runtime, or wrapped in it.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_of(&self, test: u64, owner: Option<u64>) -> bool {
        owner == Some(self.owner) || self.wrapped.as_ref().is_some_and(|w| w.test == test)
    }

    /// Whether it is a tokio task of a test's runtime.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_task_of(&self, test: u64, owner: Option<u64>) -> bool {
        match owner {
            Some(owner) if self.owner != 0 => self.owner == owner,
            _ => self.kind == TaskKind::Task && self.is_of(test, owner),
        }
    }

    /// The addresses of the stack that spawned it.
    pub(crate) fn raw_stack(&self) -> Option<Vec<usize>> {
        Some(self.site.as_ref()?.stack.addresses.to_vec())
    }

    fn wrapped(&self) -> Result<&Wrapped, NotKnown> {
        self.wrapped.as_ref().ok_or(NotKnown::NotWrapped)
    }

    /// The place that a table shows: of a stack the line that leads it.
    pub(super) fn place(&self) -> Option<String> {
        if let Some(traceback) = self.spawned() {
            return Some(traceback.lead().place());
        }
        self.spawned_at().map(frame::shown_place)
    }
}

/// One place where a task waits.
#[derive(Clone, Copy, Debug)]
pub struct Wait<'t> {
    traceback: &'t Traceback,
}

impl<'t> Wait<'t> {
    /// The functions that await each other there, the innermost first, each with the line of its `.await`: at most as many as
    /// tracing keeps frames. Empty where the task's future is itself the one of a library that waits.
    pub fn awaits(&self) -> impl Iterator<Item = &'t Frame> + Clone + use<'t> {
        let all = self.traceback.all_frames();
        // The wrapper's own poll ends the chain, where its name is known.
        let end = all.iter().rposition(|f| f.function().is_some_and(|name| name.contains(WRAPPER)));
        let within = &all[..end.unwrap_or(all.len())];
        within.iter().filter(|frame| *frame.owner() != Owner::Plumbing)
    }

    /// What the innermost of them awaits, as its type or function is called there: `Sleep`, `Receiver<T>::recv`.
    pub fn awaited(&self) -> Option<String> {
        let all = self.traceback.all_frames();
        let lead = all.iter().position(|frame| *frame.owner() != Owner::Plumbing).unwrap_or(all.len());
        // `select!` polls its branches in a closure of the function, whose lines are the macro's own.
        let own = all.get(lead).and_then(Frame::function).map(closures_off);
        let telling = |frame: &&Frame| {
            // An inlined function's name may be bare: `poll`, which tells nothing.
            let telling = |name: &str| name.contains("::") && !is_forwarded(name);
            frame.function().is_some_and(|name| telling(name) && Some(closures_off(name)) != own)
        };
        let name = all[..lead].iter().rev().find(telling)?.function()?;
        let name = closures_off(name);
        let short = frame::last_parts(name);
        Some(short.strip_suffix("::poll").unwrap_or(&short).to_owned())
    }

    /// The whole stack.
    pub fn traceback(&self) -> &'t Traceback {
        self.traceback
    }

    /// The place that a table shows.
    pub(super) fn place(&self) -> Option<String> {
        Some(self.awaits().next()?.place())
    }
}

/// `src/client.rs:41 Receiver<T>::recv`
impl fmt::Display for Wait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [self.place(), self.awaited()];
        f.write_str(&words.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

const WRAPPER: &str = "birthmark::watch::wrapped::Watched";

/// Whether a function only hands a poll on.
fn is_forwarded(name: &str) -> bool {
    let name = name.trim_start_matches(['<', '&', '(']);
    ["core::", "alloc::", "std::", "mut ", "birthmark::"].iter().any(|root| name.starts_with(root))
        || name.contains("::poll_fn")
}

/// A function's name without its closures.
pub(super) fn closures_off(name: &str) -> &str {
    let mut name = name;
    while let Some(outer) = name.strip_suffix("::{{closure}}").or_else(|| name.strip_suffix("::{closure#0}"))
    {
        name = outer;
    }
    name
}

/// A type's name as people write it: of an `async fn`'s future the function's path.
pub(super) fn short(name: &str) -> &str {
    let mut name = name;
    while let Some(inner) =
        name.strip_prefix("birthmark::watch::wrapped::Watched<").and_then(|inner| inner.strip_suffix('>'))
    {
        name = inner;
    }
    closures_off(name)
}

/// Why an inventory may not be complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Missing {
    /// Async debug is off: wrapped futures aren't registered.
    AsyncDebugOff,
    /// Some futures were wrapped while async debug was off.
    WrappedWhileOff,
    /// So many wrapped futures found no place.
    Full(u64),
    /// `DebugAlloc` isn't the program's allocator: tasks that aren't wrapped can't be found.
    NotInstalled,
    /// Blocks weren't recorded from the start on, and no runtime is attached whose count would show what is missing.
    NotAttached,
    /// The attached runtimes have so many tasks more, spawned while tracing was off.
    TracingWasOff(usize),
    /// Blocks weren't recorded from the start on: tasks of a `LocalSet` and of runtimes that aren't attached may be missing.
    TracingBeganLate,
    /// tokio's cells weren't recognised: it is laid out in another way than those that are known.
    NotRecognised,
    /// The system had no memory for records of some blocks.
    RecordsDropped,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AsyncDebugOff => {
                "async debug is off, so wrapped tasks aren't listed as such: BIRTHMARK_ASYNC_DEBUG=1 registers them"
            }
            Self::WrappedWhileOff => {
                "async debug was off when some futures were wrapped: they aren't listed as such"
            }
            Self::Full(n) => return write!(f, "{n} wrapped futures found no place in the list"),
            Self::NotInstalled if cfg!(tokio_unstable) => {
                "`DebugAlloc` isn't this program's allocator: tasks that neither are wrapped nor told of by tokio's hooks can't \
                 be found"
            }
            Self::NotInstalled => {
                "`DebugAlloc` isn't this program's allocator: tasks that aren't wrapped can't be found"
            }
            Self::NotAttached => {
                "no runtime is attached and blocks weren't recorded from the start on, so tasks that aren't wrapped may be \
                 missing: TRACEMALLOC=5 records them, `birthmark::tokio::attach` counts them"
            }
            Self::TracingWasOff(1) => {
                "1 task isn't listed: tracing was off when it was spawned; TRACEMALLOC=5 lists it"
            }
            Self::TracingWasOff(n) => {
                return write!(
                    f,
                    "{n} tasks aren't listed: tracing was off when they were spawned; TRACEMALLOC=5 lists them"
                );
            }
            Self::TracingBeganLate => {
                "blocks weren't recorded from the start on: tasks of a `LocalSet` that aren't wrapped may be missing; \
                 TRACEMALLOC=5 records them"
            }
            Self::NotRecognised if cfg!(tokio_unstable) => {
                "tokio keeps its tasks in another way than those that are known: tasks that neither are wrapped nor told of by \
                 its hooks aren't listed"
            }
            Self::NotRecognised => {
                "tokio keeps its tasks in another way than those that are known: tasks that aren't wrapped aren't listed"
            }
            Self::RecordsDropped => "the system had no memory to record some blocks: their tasks aren't listed",
        })
    }
}

/// The tasks of the process at a moment, as plain data. Its `Display` is a table, one line a task, grouped by where they were spawned
/// when there are many; [`Tasks::tree`] shows who spawned whom.
#[derive(Clone, Debug)]
pub struct Tasks {
    pub(super) all: Vec<Task>,
    pub(super) missing: Vec<Missing>,
}

impl Tasks {
    /// Each task: those of wrapped futures first, the oldest first.
    pub fn iter(&self) -> std::slice::Iter<'_, Task> {
        self.all.iter()
    }
    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
    /// The task of this id.
    pub fn by_id(&self, id: TaskId) -> Option<&Task> {
        self.all.iter().find(|task| task.id == id)
    }
    /// Whether these are all tasks, as far as can be proved.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
    /// Forgets the others.
    #[cfg(feature = "tokio")]
    pub(crate) fn keep(&mut self, wanted: impl Fn(&Task) -> bool) {
        self.all.retain(wanted);
    }
    /// Why some may be missing; empty: none is.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }
    /// The tasks as a tree: each below the one that spawned it. Shown by its `Display`.
    #[doc(alias = "print_call_graph")]
    pub fn tree(&self) -> Tree<'_> {
        Tree(self)
    }
}

impl<'a> IntoIterator for &'a Tasks {
    type Item = &'a Task;
    type IntoIter = std::slice::Iter<'a, Task>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for Tasks {
    type Item = Task;
    type IntoIter = std::vec::IntoIter<Task>;
    fn into_iter(self) -> Self::IntoIter {
        self.all.into_iter()
    }
}

/// [`Tasks`] as a tree.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a>(pub(super) &'a Tasks);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_futures_type_reads_as_the_function_that_made_it() {
        for (name, shown) in [
            ("app::serve::{{closure}}", "app::serve"),
            ("app::main::{{closure}}::{{closure}}", "app::main"),
            ("birthmark::watch::wrapped::Watched<app::serve::{{closure}}>", "app::serve"),
            ("app::Mine<u8>", "app::Mine<u8>"),
        ] {
            assert_eq!(short(name), shown);
        }
    }

    #[test]
    fn each_reason_names_what_would_help_or_what_is_so() {
        for missing in [
            Missing::AsyncDebugOff,
            Missing::NotAttached,
            Missing::TracingWasOff(1),
            Missing::TracingWasOff(3),
            Missing::TracingBeganLate,
        ] {
            let words = missing.to_string();
            assert!(words.contains("=5") || words.contains("=1"), "{words}");
        }
    }
}
