//! Where wrapped tasks wait: the chain of their `.await`s with its lines, one for each branch of a `select!`, on both flavours, on
//! a `LocalSet` and on another executor; and what nothing can wake any more.

#![cfg(feature = "tokio")]

mod child_process;

use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use birthmark::tasks::{NotKnown, Task, TaskState, Tasks, Wait};
use birthmark::{WatchExt as _, all_tasks};
use child_process::{asked, ran};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio::task::{LocalSet, yield_now};
use tokio::time::{sleep, timeout};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

/// The line of this file that ends with `// mark`.
fn line_of(mark: &str) -> u32 {
    let end = format!("// {mark}");
    let at = include_str!("task_waits.rs").lines().position(|line| line.trim_end().ends_with(&end));
    at.unwrap_or_else(|| panic!("no {mark}")) as u32 + 1
}

async fn outer() {
    middle().await; // outer
}

async fn middle() {
    inner().await; // middle
}

async fn inner() {
    sleep(HOUR).await; // inner
}

async fn receives(mut from: mpsc::Receiver<u8>) {
    from.recv().await; // receives
}

async fn is_told(from: oneshot::Receiver<u8>) {
    let _ = from.await; // is told
}

async fn locks(mutex: Arc<Mutex<u8>>) {
    drop(mutex.lock().await); // locks
}

async fn is_notified(notify: Arc<Notify>) {
    notify.notified().await; // is notified
}

async fn joins() {
    let _ = tokio::spawn(sleep(HOUR)).await; // joins
}

async fn limited() {
    let _ = timeout(HOUR, inner()).await; // limited
}

async fn accepts(listener: TcpListener) {
    let _ = listener.accept().await; // accepts
}

async fn reads(mut stream: TcpStream) {
    let _ = stream.read_u8().await; // reads
}

fn recursive(depth: u32) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        match depth {
            0 => sleep(HOUR).await,          // deepest
            _ => recursive(depth - 1).await, // deeper
        }
    })
}

async fn begins() {
    recursive(5).await; // begins
}

async fn selects(mut from: mpsc::Receiver<u8>) {
    loop {
        tokio::select! {
            more = from.recv() => if more.is_none() { return }, // branch
            () = inner() => return, // other branch
        }
    }
}

async fn first_then_second(first: oneshot::Receiver<u8>) {
    let _ = first.await; // first
    sleep(HOUR).await; // second
}

async fn never() {
    pending::<()>().await;
}

/// What it waits for keeps its waker for one poll only.
async fn dropped() {
    let mut kept = None;
    poll_fn(|cx| {
        match kept.take() {
            None => kept = Some(cx.waker().clone()),
            Some(waker) => drop(waker),
        }
        Poll::<()>::Pending
    })
    .await;
}

/// Waits until the task of this future waits and is as asked: other threads may not have come so far.
async fn until(future: &str, there: impl Fn(&Task) -> bool) -> Tasks {
    for _ in 0..5000 {
        let tasks = all_tasks();
        if tasks.iter().any(|task| is_waiting(task, future) && there(task)) {
            return tasks;
        }
        yield_now().await;
        std::thread::sleep(MS);
    }
    panic!("{future} never waits so: {}", all_tasks());
}

/// Waits until the task of this future has been polled so often and waits.
async fn waiting(future: &str, polls: u64) -> Tasks {
    until(future, |task| task.polls().unwrap() >= polls).await
}

fn is_waiting(task: &Task, future: &str) -> bool {
    task.future() == Some(future) && matches!(task.state(), TaskState::Idle | TaskState::Waiting)
}

/// Whether the chain has just these functions and lines, innermost first. Without line tables functions that were inlined aren't
/// among them.
fn assert_chain(wait: &Wait<'_>, awaited: &str, chain: &[(&str, &str)]) {
    let found: Vec<(&str, u32)> =
        wait.awaits().map(|frame| (frame.function().unwrap_or("?"), frame.line())).collect();
    let said = format!("{found:?}, {:?}\n{:#}", wait.awaited(), wait.traceback());
    assert!(!found.is_empty(), "{said}");
    if found.iter().all(|(_, line)| *line == 0) {
        return;
    }
    // Optimised, the name of a function that was inlined may be bare.
    if cfg!(debug_assertions) {
        assert!(wait.awaited().is_some_and(|what| what.contains(awaited)), "no {awaited}: {said}");
    }
    let mut found = found.into_iter();
    for (function, mark) in chain {
        let line = line_of(mark);
        let (name, at) = found.next().unwrap_or_else(|| panic!("no {function}: {said}"));
        let named = name.contains(function) || !name.contains("::") && !cfg!(debug_assertions);
        assert!(named && at == line, "not {function} in line {line}: {said}");
    }
    assert_eq!(found.next(), None, "more than {chain:?}: {said}");
}

/// The future waits in one place.
async fn waits_in(
    future: impl Future<Output = ()> + Send + 'static,
    name: &str,
    awaited: &str,
    chain: &[(&str, &str)],
) {
    let handle = birthmark::tokio::spawn(future);
    let tasks = waiting(name, 1).await;
    let task = tasks.iter().find(|task| is_waiting(task, name)).unwrap();
    let waits = task.waits().unwrap();
    assert_eq!(waits.len(), 1, "{name}: {tasks}\n{}", tasks.tree());
    assert!(!task.is_stranded(), "{name}: {tasks}");
    assert_chain(&waits[0], awaited, chain);
    handle.abort();
    let _ = handle.await;
}

async fn chains() {
    let nested = [("inner", "inner"), ("middle", "middle"), ("outer", "outer")];
    waits_in(outer(), "task_waits::outer", "Sleep", &nested).await;
    let (_to, from) = mpsc::channel(1);
    waits_in(receives(from), "task_waits::receives", "recv", &[("receives", "receives")]).await;
    let (_to, from) = oneshot::channel();
    waits_in(is_told(from), "task_waits::is_told", "Receiver", &[("is_told", "is told")]).await;
    let mutex = Arc::new(Mutex::new(0));
    let held = mutex.lock().await;
    waits_in(locks(Arc::clone(&mutex)), "task_waits::locks", "lock", &[("locks", "locks")]).await;
    drop(held);
    let notify = Arc::new(Notify::new());
    let chain = [("is_notified", "is notified")];
    waits_in(is_notified(notify), "task_waits::is_notified", "Notified", &chain).await;
    waits_in(joins(), "task_waits::joins", "JoinHandle", &[("joins", "joins")]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let _theirs = listener.accept().await.unwrap();
    waits_in(accepts(listener), "task_waits::accepts", "accept", &[("accepts", "accepts")]).await;
    waits_in(reads(stream), "task_waits::reads", "ReadU8", &[("reads", "reads")]).await;
}

async fn recursion() {
    let chain: Vec<_> = std::iter::once(("recursive", "deepest"))
        .chain(std::iter::repeat_n(("recursive", "deeper"), 5))
        .collect();
    let chain: Vec<_> = chain.into_iter().chain([("begins", "begins")]).collect();
    waits_in(begins(), "task_waits::begins", "Sleep", &chain).await;
}

async fn branches() {
    let (to, from) = mpsc::channel(1);
    let handle = birthmark::tokio::spawn(selects(from));
    // Again and again: what a branch of before kept is no more.
    for _ in 0..5 {
        waiting("task_waits::selects", 1).await;
        to.send(1).await.unwrap();
    }
    let tasks = until("task_waits::selects", |task| task.waits().unwrap().len() == 2).await;
    let task = tasks.iter().find(|task| is_waiting(task, "task_waits::selects")).unwrap();
    let mut waits = task.waits().unwrap();
    assert_eq!(waits.len(), 2, "{}", tasks.tree());
    waits.sort_by_key(|wait| wait.awaited().is_some_and(|what| what.contains("Sleep")));
    let functions = |wait: &Wait<'_>| {
        wait.awaits().filter_map(|frame| frame.function()).map(str::to_owned).collect::<Vec<_>>()
    };
    if cfg!(debug_assertions) {
        assert!(waits[0].awaited().unwrap().contains("recv"), "{}", tasks.tree());
        assert!(waits[1].awaited().unwrap().contains("Sleep"), "{}", tasks.tree());
        assert!(functions(&waits[1])[0].contains("inner"), "{}", tasks.tree());
        assert!(functions(&waits[1]).last().unwrap().contains("selects"), "{}", tasks.tree());
    }
    println!("tree={}", tasks.tree().to_string().replace('\n', "|"));
    println!("table={}", tasks.to_string().replace('\n', "|"));
    // A time limit waits for both, too.
    drop(to);
    handle.await.unwrap();
    let handle = birthmark::tokio::spawn(limited());
    let tasks = waiting("task_waits::limited", 1).await;
    let task = tasks.iter().find(|task| is_waiting(task, "task_waits::limited")).unwrap();
    let waits = task.waits().unwrap();
    assert_eq!(waits.len(), 2, "{}", tasks.tree());
    handle.abort();
}

async fn one_after_the_other() {
    let (to, from) = oneshot::channel();
    let handle = birthmark::tokio::spawn(first_then_second(from));
    let name = "task_waits::first_then_second";
    let tasks = waiting(name, 1).await;
    let task = tasks.iter().find(|task| is_waiting(task, name)).unwrap();
    assert_chain(&task.waits().unwrap()[0], "Receiver", &[("first_then_second", "first")]);
    to.send(1).unwrap();
    let tasks = waiting(name, 2).await;
    let task = tasks.iter().find(|task| is_waiting(task, name)).unwrap();
    let waits = task.waits().unwrap();
    assert_eq!(waits.len(), 1, "{}", tasks.tree());
    assert_chain(&waits[0], "Sleep", &[("first_then_second", "second")]);
    handle.abort();
}

async fn stranded() {
    let never = birthmark::tokio::spawn(never());
    let dropped = birthmark::tokio::spawn(dropped());
    let tasks = until("task_waits::never", Task::is_stranded).await;
    let row = tasks.iter().find(|task| is_waiting(task, "task_waits::never")).unwrap();
    assert!(row.is_stranded() && row.waits().unwrap().is_empty(), "{tasks}");
    println!("table={}", tasks.to_string().replace('\n', "|"));
    println!("tree={}", tasks.tree().to_string().replace('\n', "|"));
    let tasks = waiting("task_waits::dropped", 1).await;
    let row = tasks.iter().find(|task| is_waiting(task, "task_waits::dropped")).unwrap();
    assert!(!row.is_stranded() && row.waits().unwrap().len() == 1, "{tasks}");
    never.abort();
    dropped.abort();
}

/// Tasks that are woken all the time are never told as stranded.
async fn woken_all_the_time() {
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (to, mut from) = mpsc::channel::<u8>(1);
            let sends = birthmark::tokio::spawn(async move { while to.send(1).await.is_ok() {} });
            let receives = birthmark::tokio::spawn(async move { while from.recv().await.is_some() {} });
            [sends, receives]
        })
        .collect();
    for _ in 0..300 {
        yield_now().await;
        let tasks = all_tasks();
        assert!(!tasks.iter().any(Task::is_stranded), "{tasks}");
    }
    tasks.iter().flatten().for_each(|handle| handle.abort());
}

async fn part() {
    let handle = birthmark::tokio::spawn(async {
        let part = outer().watched();
        part.await; // the part
    });
    let tasks = waiting("task_waits::part", 1).await;
    let part = tasks.iter().find(|task| task.future() == Some("task_waits::outer")).unwrap();
    let nested = [("inner", "inner"), ("middle", "middle"), ("outer", "outer")];
    assert_chain(&part.waits().unwrap()[0], "Sleep", &nested);
    let whole = tasks.iter().find(|task| is_waiting(task, "task_waits::part")).unwrap();
    let all = [nested[0], nested[1], nested[2], ("part", "the part")];
    assert_chain(&whole.waits().unwrap()[0], "Sleep", &all);
    handle.abort();
}

async fn what_is_not_known() {
    let handle = birthmark::tokio::spawn(outer());
    let plain = tokio::spawn(never());
    let tasks = waiting("task_waits::outer", 1).await;
    let task = tasks.iter().find(|task| is_waiting(task, "task_waits::outer")).unwrap();
    assert_eq!(task.waits().err(), Some(NotKnown::NotTraced), "{tasks}");
    assert!(tasks.to_string().contains("TRACEMALLOC=5 adds where each waits"), "{tasks}");
    assert!(tasks.iter().all(|task| task.is_wrapped() || task.waits().err() == Some(NotKnown::NotWrapped)));
    handle.abort();
    plain.abort();
}

async fn off_for_a_while() {
    let (to, from) = oneshot::channel();
    let handle = birthmark::tokio::spawn(first_then_second(from));
    let name = "task_waits::first_then_second";
    waiting(name, 1).await;
    birthmark::set_debug(false);
    to.send(1).unwrap();
    for _ in 0..100 {
        yield_now().await;
        std::thread::sleep(MS);
    }
    birthmark::set_debug(true);
    let tasks = waiting(name, 1).await;
    let task = tasks.iter().find(|task| is_waiting(task, name)).unwrap();
    assert_eq!(task.waits().err(), Some(NotKnown::PolledWhileOff), "{tasks}");
    assert!(!task.is_stranded());
    handle.abort();
}

async fn body(program: &str) {
    match program {
        "chains" => chains().await,
        "recursion" => recursion().await,
        "branches" => branches().await,
        "after" => one_after_the_other().await,
        "stranded" => stranded().await,
        "woken" => woken_all_the_time().await,
        "part" => part().await,
        "unknown" => what_is_not_known().await,
        "off" => off_for_a_while().await,
        "local" => {
            let set = LocalSet::new();
            set.run_until(async {
                let handle = birthmark::tokio::spawn_local(outer());
                let tasks = waiting("task_waits::outer", 1).await;
                let task = tasks.iter().find(|task| is_waiting(task, "task_waits::outer")).unwrap();
                let nested = [("inner", "inner"), ("middle", "middle"), ("outer", "outer")];
                assert_chain(&task.waits().unwrap()[0], "Sleep", &nested);
                handle.abort();
            })
            .await;
        }
        other => panic!("no program {other}"),
    }
}

async fn hears(from: smol::channel::Receiver<u8>) {
    let _ = from.recv().await; // hears
}

fn on_another_executor() {
    birthmark::set_debug(true);
    let executor = smol::Executor::new();
    let (to, from) = smol::channel::bounded(1);
    let task = executor.spawn(hears(from).watched());
    smol::block_on(executor.run(async {
        for _ in 0..10 {
            smol::future::yield_now().await;
        }
        let tasks = all_tasks();
        let row = tasks.iter().find(|task| is_waiting(task, "task_waits::hears")).unwrap();
        assert!(!row.is_stranded());
        let waits = row.waits().unwrap();
        assert_eq!(waits.len(), 1, "{}", tasks.tree());
        let frames: Vec<_> = waits[0].awaits().collect();
        let here = frames.iter().find(|frame| frame.function().is_some_and(|f| f.contains("hears")));
        let line = here.unwrap_or_else(|| panic!("{:#}", waits[0].traceback())).line();
        assert!(line == 0 || line == line_of("hears"), "{:#}", waits[0].traceback());
        to.send(1).await.unwrap();
        task.await;
    }));
}

#[test]
fn program() {
    let Some(asked) = asked() else { return };
    let (how, program) = asked.split_once(' ').unwrap();
    match how {
        "mt" => birthmark::tokio::run(true, body(program)),
        "ct" => birthmark::tokio::run_on(
            tokio::runtime::Builder::new_current_thread().enable_all(),
            true,
            body(program),
        ),
        "smol" => on_another_executor(),
        other => panic!("no way {other}"),
    }
    println!("done=yes");
}

const TRACED: &[(&str, &str)] = &[("TRACEMALLOC", "25")];
const DEV: &[(&str, &str)] = &[("BIRTHMARK_DEV", "1"), ("TRACEMALLOC", "25")];
const PLAIN: &[(&str, &str)] = &[("TRACEMALLOC", "0"), ("BIRTHMARK_MALLOC", "0")];

#[test]
fn a_waiting_task_shows_the_chain_of_its_awaits_with_their_lines() {
    for how in ["mt", "ct"] {
        ran(&format!("{how} chains"), TRACED);
        ran(&format!("{how} chains"), DEV);
        ran(&format!("{how} recursion"), TRACED);
        ran(&format!("{how} local"), TRACED);
    }
}

#[test]
fn each_branch_of_a_select_is_shown_and_none_that_is_over() {
    for how in ["mt", "ct"] {
        let output = ran(&format!("{how} branches"), TRACED);
        let (tree, table) = (output.said("tree"), output.said("table"));
        assert_eq!(tree.matches("waits for ").count(), 2, "{tree}");
        assert!(table.contains(", and 1 more"), "{table}");
        ran(&format!("{how} after"), TRACED);
    }
}

#[test]
fn a_task_that_nothing_can_wake_is_told_and_one_that_is_woken_all_the_time_is_not() {
    for how in ["mt", "ct"] {
        let output = ran(&format!("{how} stranded"), TRACED);
        assert!(output.said("table").contains("nothing can wake it"), "{}", output.stdout);
        assert!(output.said("tree").contains("nothing keeps its waker"), "{}", output.stdout);
        ran(&format!("{how} stranded"), DEV);
        ran(&format!("{how} woken"), TRACED);
    }
}

#[test]
fn a_watched_part_has_its_own_chain_and_the_task_the_whole_one() {
    ran("mt part", TRACED);
    ran("ct part", TRACED);
}

#[test]
fn where_it_is_not_known_that_is_said() {
    for how in ["mt", "ct"] {
        ran(&format!("{how} unknown"), PLAIN);
        ran(&format!("{how} off"), TRACED);
    }
}

#[test]
fn on_another_executor_too() {
    ran("smol hears", TRACED);
    ran("smol hears", DEV);
}
