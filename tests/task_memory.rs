//! Memory per task: programs on both flavours, on a `LocalSet`, attached with nothing wrapped and on another executor, whose blocks
//! must count for the task that made them, whoever frees them, and in snapshots for the place that spawned it.

#![cfg(feature = "tokio")]

mod child_process;

use std::future::{Future, poll_fn};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst};
use std::task::Poll;
use std::time::Duration;

use birthmark::tasks::{NotKnown, Task, TaskId};
use birthmark::{GroupBy, Key, WatchExt as _, all_tasks, current_task, snapshot, tracemalloc};
use child_process::{asked, ran};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, LocalSet, yield_now};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

const HERE: &str = "tests/task_memory.rs";

/// A block that no optimiser leaves out.
fn block(bytes: usize) -> Vec<u8> {
    std::hint::black_box(vec![1u8; bytes])
}

/// What is counted of a task: held, allocated, allocations, peak.
fn counts(task: &Task) -> [u64; 4] {
    [task.held().unwrap(), task.allocated().unwrap(), task.allocations().unwrap(), task.peak().unwrap()]
}

fn mine() -> [u64; 4] {
    counts(&current_task().expect("in a task"))
}

fn id_of<T>(handle: &JoinHandle<T>) -> TaskId {
    TaskId::Task(handle.id().to_string().parse().unwrap())
}

fn of(id: TaskId) -> [u64; 4] {
    counts(all_tasks().by_id(id).expect("listed"))
}

/// Bytes and blocks of a row of the present snapshot; nothing where there is no such row.
fn row(by: GroupBy, wanted: impl Fn(&Key) -> bool) -> Option<(u64, u64)> {
    let statistics = snapshot().statistics(by);
    let rows: Vec<_> = statistics.iter().filter(|row| wanted(&row.key)).collect();
    assert!(rows.len() < 2, "{rows:?}");
    rows.first().map(|row| (row.size, row.count))
}

fn at_site(line: u32) -> Option<(u64, u64)> {
    let place = format!("{HERE}:{line}");
    row(GroupBy::SpawnSite, |key| matches!(key, Key::SpawnSite(Some(at)) if **at == *place))
}

fn of_task(id: TaskId) -> Option<(u64, u64)> {
    row(GroupBy::Task, |key| matches!(key, Key::Task(of, _) if *of == id))
}

fn of_no_task() -> (u64, u64) {
    row(GroupBy::Task, |key| *key == Key::NoTask).unwrap_or_default()
}

/// Waits until it is so: a worker lets go of a task a moment after its end.
async fn until(what: &str, so: impl Fn() -> bool) {
    for _ in 0..2000 {
        if so() {
            return;
        }
        yield_now().await;
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("never {what}: {}", all_tasks());
}

/// Spawned as the program says: by tokio's own `spawn`, or wrapped.
#[track_caller]
fn spawn<F>(wrapped: bool, future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    if wrapped { birthmark::tokio::spawn(future) } else { tokio::spawn(future) }
}

/// As `yield_now`, for which tokio allocates.
async fn pause() {
    let mut woken = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut woken, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

async fn counted_inside() {
    let before = mine();
    let kept = block(1000);
    drop(std::hint::black_box(block(5000)));
    let [held, allocated, allocations, peak] = mine();
    assert_eq!(held, before[0] + 1000);
    assert_eq!((allocated, allocations), (before[1] + 6000, before[2] + 2));
    assert_eq!(peak, before[3].max(before[0] + 6000));
    pause().await;
    assert_eq!(mine(), [held, allocated, allocations, peak]);
    drop(std::hint::black_box(kept));
    assert_eq!(mine(), [before[0], allocated, allocations, peak]);
}

async fn body(program: &str, wrapped: bool) {
    match program {
        "inside" => {
            spawn(wrapped, counted_inside()).await.unwrap();
            // As well as a task that nobody awaits, beside it.
            let (one, other) = (spawn(wrapped, counted_inside()), spawn(wrapped, counted_inside()));
            one.await.unwrap();
            other.await.unwrap();
        }
        "elsewhere" => {
            // Freed by a plain thread, by another task, and grown by one.
            let (send, receive) = oneshot::channel::<Vec<u8>>();
            let (done, is_done) = oneshot::channel();
            let (go, theirs) = oneshot::channel();
            let (give, given) = oneshot::channel::<Vec<u8>>();
            let maker = spawn(wrapped, async move {
                let before = mine();
                send.send(block(10_000)).unwrap();
                give.send(block(3000)).unwrap();
                let _ = is_done.await;
                let after = mine();
                // What the channel itself took may have been freed or not.
                assert!(after[0] < before[0] + 3000, "{before:?} {after:?}");
                assert!(after[1] >= before[1] + 13_000, "{before:?} {after:?}");
                let _: Result<(), _> = theirs.await;
            });
            let taker = spawn(wrapped, async move {
                let mut taken = given.await.unwrap();
                let before = mine();
                taken.reserve_exact(200_000); // a `realloc`: the block is this task's from here on
                assert_eq!(mine()[0], before[0] + 203_000);
                taken.shrink_to(150_000);
                assert_eq!(mine()[0], before[0] + 150_000);
                drop(taken);
                assert_eq!(mine()[0], before[0]);
            });
            let made = receive.await.unwrap();
            std::thread::spawn(move || drop(made)).join().unwrap();
            taker.await.unwrap();
            let _ = done.send(());
            let _ = go.send(());
            maker.await.unwrap();
        }
        "ended" => {
            let work = async { block(100_000) };
            let line = line!() + 1;
            let handle = if wrapped { birthmark::tokio::spawn(work) } else { tokio::spawn(work) };
            let id = id_of(&handle);
            let left = handle.await.unwrap();
            until("gone", || all_tasks().by_id(id).is_none()).await;
            let named = |key: &Key| key.to_string() == format!("{id} spawned at {HERE}:{line}");
            assert_eq!(at_site(line), Some((100_000, 1)));
            assert_eq!(row(GroupBy::Task, named), Some((100_000, 1)));
            drop(left);
            assert_eq!((at_site(line), of_task(id)), (None, None));
        }
        "site" => {
            // While they go on, and what they leave behind: one row.
            let mut gates = Vec::new();
            let before = snapshot();
            let line = line!() + 11;
            for n in 0..10 {
                let (go, theirs) = oneshot::channel::<()>();
                gates.push(go);
                let work = async move {
                    let kept = block(1000);
                    if n >= 5 {
                        let _ = theirs.await;
                    }
                    kept.leak();
                };
                let handle = if wrapped { birthmark::tokio::spawn(work) } else { tokio::spawn(work) };
                if n < 5 {
                    handle.await.unwrap();
                }
            }
            until("there", || at_site(line).is_some_and(|(size, _)| size >= 10_000)).await;
            assert_eq!(at_site(line), Some((10_000, 10)));
            std::thread::sleep(Duration::from_millis(1100));
            let changes = snapshot().compare_to(&before, GroupBy::SpawnSite);
            assert!(changes.apart() >= Duration::from_millis(1100));
            println!("changes={}", changes.to_string().replace('\n', "|"));
            println!("place={HERE}:{line}");
            drop(gates);
        }
        "outside" => {
            let before = of_no_task();
            let kept = std::thread::spawn(|| block(300_000)).join().unwrap();
            let after = of_no_task();
            // Others free and make some, too.
            assert!(after.0.abs_diff(before.0 + 300_000) < 10_000, "{before:?} {after:?}");
            drop(kept);
        }
        "late" => {
            tracemalloc::stop();
            let (go, theirs) = oneshot::channel::<()>();
            let ((ready, is_ready), (done, is_done)) = (oneshot::channel(), oneshot::channel());
            let work = async move {
                assert_eq!(current_task().unwrap().held(), Err(NotKnown::NotCounted));
                let early = block(500);
                ready.send(()).unwrap();
                theirs.await.unwrap();
                let late = block(1000);
                drop(std::hint::black_box(early)); // of before: it counts nowhere
                assert_eq!(mine(), [1000, 1000, 1, 1000]);
                done.send(late).unwrap();
            };
            let line = line!() + 1;
            let handle = if wrapped { birthmark::tokio::spawn(work) } else { tokio::spawn(work) };
            is_ready.await.unwrap();
            tracemalloc::start(5);
            go.send(()).unwrap();
            let late = is_done.await.unwrap();
            let id = id_of(&handle);
            handle.await.unwrap();
            until("gone", || all_tasks().by_id(id).is_none()).await;
            if wrapped {
                assert_eq!(at_site(line), Some((1000, 1)));
            } else {
                let unknown = row(GroupBy::SpawnSite, |key| *key == Key::SpawnSite(None));
                assert_eq!(unknown, Some((1000, 1)));
            }
            drop(late);
            assert_eq!(of_task(id), None);
        }
        "generation" => {
            let handle = spawn(wrapped, async {
                let old = block(4000);
                tracemalloc::clear_traces();
                assert_eq!(mine()[0], 0);
                let new = block(1000);
                drop(old);
                assert_eq!(mine(), [1000, 1000, 1, 1000]);
                drop(new);
                assert_eq!(mine(), [0, 1000, 1, 1000]);
            });
            handle.await.unwrap();
        }
        "paused" => {
            let handle = spawn(wrapped, async {
                let counted = block(4000);
                birthmark::set_debug(false);
                let not = block(1000);
                assert_eq!(current_task().unwrap().held(), Err(NotKnown::NotCounted));
                drop(std::hint::black_box((counted, not)));
                birthmark::set_debug(true);
                pause().await;
                let again = block(100);
                let [held, allocated, ..] = mine();
                assert_eq!(held, 100);
                // What `set_debug` needs itself is allocated here, too.
                assert!((4100..5000).contains(&allocated), "{allocated}");
                drop(again);
            });
            handle.await.unwrap();
        }
        "block_in_place" => {
            let handle = spawn(wrapped, async {
                let before = mine();
                let kept = tokio::task::block_in_place(|| block(7000));
                let held = mine()[0] - before[0];
                assert!((7000..9000).contains(&held), "{held}: tokio starts a worker there");
                drop(kept);
            });
            handle.await.unwrap();
        }
        "job" => {
            let line = line!() + 1;
            let kept = tokio::task::spawn_blocking(|| block(50_000)).await.unwrap();
            assert_eq!(at_site(line), Some((50_000, 1)));
            drop(kept);
        }
        "local" => {
            let local = LocalSet::new();
            local
                .run_until(async {
                    let line = line!() + 1;
                    let handle = tokio::task::spawn_local(async {
                        counted_inside().await;
                        block(20_000)
                    });
                    let watched = tokio::task::spawn_local(counted_inside().watched());
                    let ours = birthmark::tokio::spawn_local(counted_inside());
                    let left = handle.await.unwrap();
                    watched.await.unwrap();
                    ours.await.unwrap();
                    assert_eq!(at_site(line), Some((20_000, 1)));
                    drop(left);
                })
                .await;
        }
        "part" => {
            let handle = spawn(wrapped, async {
                let before = mine();
                let part = async {
                    let kept = block(2000);
                    yield_now().await;
                    let tasks = all_tasks();
                    let parts: Vec<_> = tasks.iter().filter(|t| t.held() == Err(NotKnown::Part)).collect();
                    assert_eq!(parts.len(), 1, "{tasks}");
                    kept
                };
                let kept = Box::pin(part.watched()).await;
                assert!(mine()[0] >= before[0] + 2000);
                drop(kept);
            });
            handle.await.unwrap();
        }
        "root" => {
            // The future of `run` is a row, and counts.
            let before = mine();
            let kept = block(9000);
            assert_eq!(mine()[0], before[0] + 9000);
            drop(kept);
        }
        "many" => {
            // More than there are accounts.
            for _ in 0..1100 {
                let handles: Vec<_> = (0..500).map(|_| spawn(wrapped, async { Box::new(1) })).collect();
                for handle in handles {
                    let _ = handle.await;
                }
            }
            assert_eq!(snapshot().dropped().tasks, 0);
        }
        "unseen" => {
            let held = tokio::spawn(async { (block(10), current_task().unwrap().held()).1 }).await.unwrap();
            assert_eq!(held, Err(NotKnown::NotWrapped));
            println!("statistics={}", snapshot().statistics(GroupBy::Task).to_string().replace('\n', "|"));
        }
        "model" => model(wrapped).await,
        "table" => {
            let (go, theirs) = oneshot::channel::<()>();
            let (done, is_done) = oneshot::channel();
            let handle = spawn(wrapped, async move {
                let kept = block(3 << 20);
                let _ = done.send(());
                let _ = theirs.await;
                drop(kept);
            });
            is_done.await.unwrap();
            println!("table={}", all_tasks().to_string().replace('\n', "|"));
            let _ = go.send(());
            handle.await.unwrap();
        }
        other => panic!("no program {other}"),
    }
}

/// A block in everybody's reach, and who made it.
type Shared = (usize, Vec<u8>);

const TASKS: usize = 8;
static POOL: Mutex<Vec<Shared>> = Mutex::new(Vec::new());
static HELD: [AtomicI64; TASKS] = [const { AtomicI64::new(0) }; TASKS];
static BLOCKS: [AtomicI64; TASKS] = [const { AtomicI64::new(0) }; TASKS];
static MADE: [AtomicI64; TASKS] = [const { AtomicI64::new(0) }; TASKS];

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % n
    }
}

fn count(who: usize, bytes: usize, blocks: i64) {
    HELD[who].fetch_add(bytes as i64 * blocks, SeqCst);
    BLOCKS[who].fetch_add(blocks, SeqCst);
    if blocks > 0 {
        MADE[who].fetch_add(bytes as i64, SeqCst);
    }
}

/// Takes a block of anybody's out of everybody's reach.
fn taken(random: &mut Random) -> Option<Shared> {
    let mut pool = POOL.lock().unwrap();
    if pool.is_empty() {
        return None;
    }
    let n = random.below(pool.len());
    Some(pool.swap_remove(n))
}

/// Several tasks and two plain threads make, grow, shrink and free each other's blocks, counted plainly beside.
async fn model(wrapped: bool) {
    POOL.lock().unwrap().reserve_exact(100_000); // it doesn't grow in a task
    static RUNNING: AtomicUsize = AtomicUsize::new(TASKS);
    let mut tasks = Vec::new();
    for who in 0..TASKS {
        let (go, theirs) = oneshot::channel::<()>();
        let handle = spawn(wrapped, async move {
            let mut random = Random(0x9e37_79b9 + who as u64);
            for step in 0..3000 {
                match random.below(10) {
                    0..5 => {
                        let most = if random.below(50) == 0 { 300_000 } else { 600 };
                        let size = 1 + random.below(most);
                        let made = block(size);
                        count(who, size, 1);
                        POOL.lock().unwrap().push((who, made));
                    }
                    5..8 => {
                        if let Some((maker, block)) = taken(&mut random) {
                            count(maker, block.capacity(), -1);
                            drop(block);
                        }
                    }
                    _ => {
                        if let Some((maker, mut block)) = taken(&mut random) {
                            let before = block.capacity();
                            if random.below(2) == 0 {
                                block.reserve_exact(1 + random.below(2 * before));
                            } else {
                                block.truncate(1 + random.below(before));
                                block.shrink_to_fit();
                            }
                            if block.capacity() != before {
                                count(maker, before, -1);
                                count(who, block.capacity(), 1);
                                POOL.lock().unwrap().push((who, block));
                            } else {
                                POOL.lock().unwrap().push((maker, block));
                            }
                        }
                    }
                }
                if step % 64 == 0 {
                    pause().await;
                }
            }
            RUNNING.fetch_sub(1, SeqCst);
            let _ = theirs.await;
        });
        tasks.push((id_of(&handle), handle, go));
    }
    let frees = |seed: u64| {
        move || {
            let mut random = Random(seed);
            while RUNNING.load(SeqCst) != 0 {
                if let Some((maker, block)) = taken(&mut random) {
                    count(maker, block.capacity(), -1);
                    drop(block);
                }
                std::thread::sleep(Duration::from_micros(20));
            }
        }
    };
    let threads = [std::thread::spawn(frees(77)), std::thread::spawn(frees(99))];
    until("idle", || RUNNING.load(SeqCst) == 0).await;
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let held = |who: usize| HELD[who].load(SeqCst) as u64;
    let blocks = |who: usize| BLOCKS[who].load(SeqCst) as u64;
    for (who, (id, ..)) in tasks.iter().enumerate() {
        let [counted, allocated, allocations, peak] = of(*id);
        assert_eq!(counted, held(who), "task {who}");
        assert_eq!(allocated, MADE[who].load(SeqCst) as u64, "task {who}");
        assert!(peak >= counted && peak <= allocated && allocations >= blocks(who), "task {who}");
        assert_eq!(of_task(*id), (blocks(who) != 0).then(|| (held(who), blocks(who))), "task {who}");
    }
    let ids: Vec<TaskId> = tasks.iter().map(|(id, ..)| *id).collect();
    for (_, handle, go) in tasks {
        let _ = go.send(());
        handle.await.unwrap();
    }
    // What they left is still theirs, and none of it when all is freed.
    let left = || {
        let statistics = snapshot().statistics(GroupBy::Task);
        let theirs = |key: &Key| matches!(key, Key::Task(of, _) if ids.contains(of));
        statistics.iter().filter(|row| theirs(&row.key)).map(|row| row.size).sum::<u64>()
    };
    assert_eq!(left(), (0..TASKS).map(held).sum::<u64>());
    POOL.lock().unwrap().clear();
    assert_eq!(left(), 0);
}

fn on_another_executor() {
    birthmark::set_debug(true);
    let executor = smol::Executor::new();
    let line = line!() + 1;
    let task = executor.spawn(async { (counted_inside().await, block(30_000)).1 }.watched());
    let idle = executor.spawn(std::future::pending::<()>().watched());
    let (left, freed) = smol::block_on(executor.run(async {
        let mut made = executor.spawn(async { block(8000) }.watched()).await;
        let of = async {
            let before = mine();
            made.reserve_exact(10_000);
            assert_eq!(mine()[0], before[0] + 18_000);
            made
        };
        let freed = executor.spawn(of.watched()).await;
        (task.await, freed)
    }));
    assert_eq!(at_site(line), Some((30_000, 1)));
    drop((left, freed));
    assert_eq!(at_site(line), None);
    let left = snapshot().statistics(GroupBy::Task);
    assert!(left.iter().all(|row| row.key == Key::NoTask), "{left}");
    drop(idle);
}

#[test]
fn program() {
    let Some(asked) = asked() else { return };
    let (how, program) = asked.split_once(' ').unwrap();
    let attached = |builder: &mut Builder| {
        birthmark::set_debug(true);
        let runtime = builder.enable_all().build().unwrap();
        runtime.block_on(async {
            birthmark::tokio::attach(&Handle::current());
            body(program, false).await;
        });
    };
    match how {
        "mt" => birthmark::tokio::run(true, body(program, true)),
        "ct" => {
            birthmark::tokio::run_on(Builder::new_current_thread().enable_all(), true, body(program, true))
        }
        "attached" => attached(Builder::new_multi_thread().worker_threads(4)),
        "attached-ct" => attached(&mut Builder::new_current_thread()),
        "off" => {
            let runtime = Builder::new_multi_thread().worker_threads(2).build().unwrap();
            runtime.block_on(async {
                let (kept, held) = tokio::spawn(async {
                    let kept = block(1000);
                    (kept, current_task().unwrap().held())
                })
                .await
                .unwrap();
                assert_eq!(held, Err(NotKnown::NotCounted));
                let statistics = snapshot().statistics(GroupBy::SpawnSite);
                assert_eq!((statistics.len(), &statistics[0].key), (1, &Key::NoTask));
                assert!(statistics.to_string().contains("BIRTHMARK_ASYNC_DEBUG=1"), "{statistics}");
                drop(kept);
            });
        }
        "smol" => on_another_executor(),
        other => panic!("no way {other}"),
    }
    println!("done=yes");
}

const TRACED: &[(&str, &str)] = &[("TRACEMALLOC", "5"), ("BIRTHMARK_MALLOC", "0")];
const DEBUG: &[(&str, &str)] = &[("TRACEMALLOC", "5"), ("BIRTHMARK_MALLOC", "debug")];
/// Whether tasks are seen with nothing wrapped.
const SEEN: bool =
    cfg!(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu", not(birthmark_portable)));
const WAYS: &[&str] = if SEEN { &["mt", "ct", "attached", "attached-ct"] } else { &["mt", "ct"] };

fn everywhere(program: &str) {
    for how in WAYS {
        for variables in [TRACED, DEBUG] {
            ran(&format!("{how} {program}"), variables);
        }
    }
}

#[test]
fn what_a_task_makes_and_frees_is_counted_exactly() {
    everywhere("inside");
    ran("mt root", TRACED);
    ran("ct root", DEBUG);
}

#[test]
fn a_block_that_another_thread_frees_or_another_task_grows_leaves_its_maker() {
    everywhere("elsewhere");
}

#[test]
fn what_an_ended_task_leaves_behind_counts_for_the_place_that_spawned_it_until_it_is_freed() {
    everywhere("ended");
}

#[test]
fn tasks_of_one_place_are_one_row_whose_growth_is_told_with_its_rate() {
    for how in WAYS {
        let output = ran(&format!("{how} site"), TRACED);
        let changes = output.said("changes");
        let head = format!("|tasks spawned at {} grew by ", output.said("place"));
        let line = changes.split(&head).nth(1).unwrap_or_else(|| panic!("{changes}"));
        assert!(line.contains(" a second: size=10000 B (+10000 B), count=10 (+10)"), "{changes}");
    }
}

#[test]
fn blocks_that_no_task_makes_count_for_none_and_jobs_count_for_their_place() {
    everywhere("outside");
    if SEEN {
        everywhere("job");
    }
}

#[test]
fn tasks_of_a_local_set_and_blocks_made_in_block_in_place_are_their_own() {
    ran("mt block_in_place", TRACED);
    if SEEN {
        everywhere("local");
        ran("attached block_in_place", DEBUG);
    }
}

#[test]
fn what_a_watched_part_makes_counts_for_its_task() {
    everywhere("part");
}

#[test]
fn counting_begins_with_tracing_begins_anew_with_a_generation_and_pauses_with_async_debug() {
    for program in ["late", "generation", "paused"] {
        everywhere(program);
    }
}

#[test]
fn with_async_debug_off_nothing_is_counted_and_nothing_is_wrong() {
    ran("off nothing", TRACED);
    ran("off nothing", DEBUG);
}

#[test]
fn on_another_executor_wrapped_tasks_are_counted() {
    ran("smol nothing", TRACED);
    ran("smol nothing", DEBUG);
}

#[test]
fn tasks_and_threads_that_take_each_others_blocks_agree_with_a_plain_count() {
    everywhere("model");
}

#[test]
fn accounts_of_ended_tasks_are_used_again() {
    ran("ct many", TRACED);
    if SEEN {
        ran("attached many", TRACED);
    } else {
        let output = ran("attached unseen", TRACED);
        assert!(output.said("statistics").contains("help: tasks that aren't wrapped can't be seen here"));
    }
}

#[test]
fn the_list_of_tasks_has_columns_for_what_is_held_and_its_peak() {
    for how in WAYS {
        let table = ran(&format!("{how} table"), TRACED).said("table").to_owned();
        let title = table.split('|').nth(1).unwrap();
        assert!(
            title.contains("  held  ") && title.contains("  peak  ") && title.contains("  cell  "),
            "{table}"
        );
        let line = table.split('|').find(|line| line.matches("3.0 MiB").count() == 2);
        assert!(line.is_some_and(|line| line.contains(HERE)), "{table}");
    }
}
