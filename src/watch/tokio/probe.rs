//! Finds where tokio keeps the current task's id and what is left of its budget, and what a task's cell looks like.
//!
//! Measured once a process by tasks on two threads with runtimes of their own: what they don't agree on counts as not found.
//! Where tokio's thread-local lies in the executable, every thread has it at the same distance from its thread pointer.

#![cfg_attr(not(native), allow(unused_imports, dead_code))]

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Poll, Waker};

use ::tokio::task::consume_budget;

use super::super::heap;
use super::super::reporter::spawn_ours;
use super::{cell, words};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub id: Option<usize>,
    pub budget: Option<usize>,
    pub cell: Option<cell::Shape>,
}

static FOUND: OnceLock<Found> = OnceLock::new();

/// What was measured, where it was.
pub(crate) fn known() -> Option<&'static Found> {
    FOUND.get()
}

/// Measures and publishes, once a process. Ordinary code; returns when it is done, in a few milliseconds.
pub(crate) fn probe() -> &'static Found {
    FOUND.get_or_init(|| {
        let found = on_two_threads();
        if let Some(id) = found.id {
            words::publish(id, found.budget);
        }
        if let Some(shape) = found.cell {
            cell::publish(shape);
            if let Some(id) = found.id.filter(|_| shape.functions != 0) {
                heap::tasks_by_word(id);
            }
        }
        found
    })
}

fn on_two_threads() -> Found {
    let nothing = Found { id: None, budget: None, cell: None };
    let Some(range) = thread_local_range() else { return nothing };
    let results = Arc::new(Mutex::new(Vec::new()));
    let (done, waits) = std::sync::mpsc::channel::<()>();
    for _ in 0..2 {
        let (results, done, range) = (Arc::clone(&results), done.clone(), range.clone());
        spawn_ours("birthmark-probe", move || {
            let one = on_this_thread(range);
            results.lock().unwrap_or_else(PoisonError::into_inner).push(one);
            drop(results);
            drop(done);
        });
    }
    drop(done);
    let _ = waits.recv(); // until both ends are dropped
    let results = results.lock().unwrap_or_else(PoisonError::into_inner);
    let (Some(Some(a)), Some(Some(b))) = (results.first(), results.get(1)) else { return nothing };
    let ids: Vec<_> = a.ids.iter().filter(|w| b.ids.contains(w)).copied().collect();
    let bytes: Vec<_> = a.bytes.iter().filter(|w| b.bytes.contains(w)).copied().collect();
    let only = |v: &[usize]| (v.len() == 1).then(|| v[0]);
    let mut cell = a.cell.filter(|_| a.cell == b.cell);
    if let Some(shape) = &mut cell {
        // Both threads have a runtime of their own: what differs between them and is the same in each is the runtime's.
        let owner_at = a.owners.iter().find_map(|(at, value)| {
            b.owners.iter().any(|(other, b)| other == at && b != value).then_some(*at)
        });
        shape.life = shape.life.zip(owner_at).map(|(life, owner_at)| cell::Life { owner_at, ..life });
    }
    Found { id: only(&ids), budget: only(&bytes), cell }
}

/// What the probes of one thread agree on.
struct Measured {
    ids: Vec<usize>,
    bytes: Vec<usize>,
    cell: Option<cell::Shape>,
    /// Offset and value of the words that all tasks of this runtime share.
    owners: Vec<(usize, usize)>,
}

/// Distances from the thread pointer, as wrapping additions, of the words of the executable's thread-local block.
fn thread_local_range() -> Option<Vec<usize>> {
    #[cfg(native)]
    {
        // SAFETY: the kernel's auxiliary vector of this process; the headers stay mapped.
        let headers = unsafe {
            let (at, n) = (libc::getauxval(libc::AT_PHDR), libc::getauxval(libc::AT_PHNUM));
            if at == 0 {
                return None;
            }
            std::slice::from_raw_parts(at as *const libc::Elf64_Phdr, n as usize)
        };
        let tls = headers.iter().find(|h| h.p_type == libc::PT_TLS)?;
        let size = (tls.p_memsz as usize).next_multiple_of((tls.p_align as usize).max(8));
        if size > 1 << 20 {
            return None;
        }
        #[cfg(target_arch = "x86_64")]
        return Some((1..=size / 8).map(|n| 0usize.wrapping_sub(n * 8)).collect());
        // Behind the thread pointer's 16 bytes, from the next multiple of the block's alignment on.
        #[cfg(target_arch = "aarch64")]
        return Some((2..size.div_ceil(8) + 2 + tls.p_align as usize / 8).map(|n| n * 8).collect());
        #[allow(unreachable_code)]
        None
    }
    #[cfg(not(native))]
    None
}

#[cfg(not(native))]
fn on_this_thread(_range: Vec<usize>) -> Option<Measured> {
    None
}

#[cfg(native)]
fn here() -> usize {
    crate::sys::thread_pointer()
}

/// The word at a distance of [`thread_local_range`] on this thread.
#[cfg(native)]
fn word_at(distance: usize) -> u64 {
    // SAFETY: an aligned word of this thread's own static block; volatile, since its owner is other code.
    unsafe { (here().wrapping_add(distance) as *const u64).read_volatile() }
}

#[cfg(native)]
fn byte_at(distance: usize) -> u8 {
    // SAFETY: as in `word_at`.
    unsafe { (here().wrapping_add(distance) as *const u8).read_volatile() }
}

#[cfg(native)]
fn on_this_thread(range: Vec<usize>) -> Option<Measured> {
    heap::register_thread(); // modules can be asked for from here on
    let runtime = ::tokio::runtime::Builder::new_current_thread().build().ok()?;
    let range = Arc::new(range);
    runtime.block_on(async move {
        let mut ids: Option<Vec<usize>> = None;
        let mut bytes: Option<Vec<usize>> = None;
        for _ in 0..4 {
            let range = Arc::clone(&range);
            let (i, b) =
                ::tokio::spawn(async move { (id_words(&range), budget_bytes(&range).await) }).await.ok()?;
            ids = Some(i.into_iter().filter(|w| ids.as_ref().is_none_or(|all| all.contains(w))).collect());
            bytes =
                Some(b.into_iter().filter(|w| bytes.as_ref().is_none_or(|all| all.contains(w))).collect());
        }
        let (ids, mut bytes) = (ids?, bytes?);
        if let [one] = bytes[..]
            && !::tokio::spawn(obeys(one)).await.ok()?
        {
            bytes.clear();
        }
        let (cell, owners) = cell_shape().await.unzip();
        Some(Measured { ids, bytes, cell, owners: owners.unwrap_or_default() })
    })
}

/// Where the id of this very task stands.
#[cfg(native)]
fn id_words(range: &[usize]) -> Vec<usize> {
    let id = words::number(::tokio::task::id());
    range.iter().copied().filter(|&w| word_at(w) == id).collect()
}

/// Which bytes count this task's ready operations down from the full budget, with a 1 right below.
#[cfg(native)]
async fn budget_bytes(range: &[usize]) -> Vec<usize> {
    let full = super::proof::FULL;
    let mut bytes: Vec<usize> = range
        .iter()
        .flat_map(|&w| (0..8).map(move |n| w.wrapping_add(n)))
        .filter(|&b| {
            byte_at(b) == full && range.contains(&(b.wrapping_sub(1) & !7)) && byte_at(b.wrapping_sub(1)) == 1
        })
        .collect();
    consume_budget().await;
    bytes.retain(|&b| byte_at(b) == full - 1);
    consume_budget().await;
    consume_budget().await;
    bytes.retain(|&b| byte_at(b) == full - 3 && byte_at(b.wrapping_sub(1)) == 1);
    bytes
}

/// Whether tokio obeys that byte: set to 1, the second operation must wait.
#[cfg(native)]
async fn obeys(byte: usize) -> bool {
    let mut asked = false;
    poll_fn(move |cx| {
        if asked {
            return Poll::Ready(false);
        }
        asked = true;
        let at = here().wrapping_add(byte) as *mut u8;
        // SAFETY: this thread's own budget byte, as the probes agree; any value is a valid one.
        unsafe { at.write_volatile(1) };
        let first = pin!(consume_budget()).as_mut().poll(cx).is_ready();
        let second = pin!(consume_budget()).as_mut().poll(cx).is_ready();
        // SAFETY: as above.
        unsafe { at.write_volatile(super::proof::FULL) };
        Poll::Ready(first && !second)
    })
    .await
}

/// The shape of a cell, as a plain future and one aligned to 512 agree on it, and the words that they share.
#[cfg(native)]
async fn cell_shape() -> Option<(cell::Shape, Vec<(usize, usize)>)> {
    #[repr(align(512))]
    struct Wide(u64);
    let plain = observe(|| async { 0u64 }).await?;
    let wide = observe(|| async {
        let wide = Wide(1);
        ::tokio::task::yield_now().await;
        wide.0
    })
    .await?;
    // The ids must stand at different places, or it isn't the table that told.
    let mut shapes = plain.shapes.iter().filter(|(vtable, k, at)| {
        wide.shapes.iter().any(|(v, j, other)| (v, j) == (vtable, k) && other != at)
    });
    let &(vtable_at, id_index, _) = shapes.next()?;
    let running = plain.running & wide.running;
    if shapes.next().is_some() || running.count_ones() != 1 {
        return None;
    }
    let notified = plain.notified & wide.notified;
    let output = output(vtable_at, id_index).await;
    let life = ending().await.map(|(cancelled, complete)| cell::Life {
        notified,
        cancelled,
        complete,
        owner_at: 0,
        output,
    });
    let life = life.filter(|life| {
        let bits = [running, life.notified, life.cancelled, life.complete];
        bits.iter().all(|bit| bit.count_ones() == 1)
            && bits.iter().fold(0, |all, bit| all | bit).count_ones() == 4
            && plain.by_handle
            && wide.by_handle
    });
    let owners = plain.head.iter().zip(&wide.head).enumerate();
    let owners = owners.filter(|(_, (a, b))| a == b && **a != 0).map(|(i, (a, _))| (i * 8, *a)).collect();
    let table = |head: &[usize; 8]| cell::functions(*head.get(vtable_at / 8)?, id_index);
    let functions = table(&plain.head).filter(|functions| table(&wide.head) == Some(*functions)).unwrap_or(0);
    Some((cell::Shape { vtable_at, id_index, running, functions, life }, owners))
}

/// The bit that an abort sets in the state of a task that waits in the queue already, and the one that a task's end sets.
#[cfg(native)]
async fn ending() -> Option<(u64, u64)> {
    let aborted = ::tokio::spawn(std::future::pending::<()>());
    let cell = cell::of_handle(&aborted);
    let before = state_of(cell);
    aborted.abort();
    let cancelled = state_of(cell) & !before;
    aborted.await.err()?;
    let ended = ::tokio::spawn(async {});
    let cell = cell::of_handle(&ended);
    let before = state_of(cell);
    for _ in 0..100 {
        if ended.is_finished() {
            break;
        }
        ::tokio::task::yield_now().await;
    }
    let complete = state_of(cell) & !before;
    ended.await.ok()?;
    Some((cancelled, complete))
}

/// Where a cell tells whether its output was read, as two types of output agree.
#[cfg(native)]
async fn output(vtable_at: usize, id_index: usize) -> Option<cell::Output> {
    let one = outputs(async {}, vtable_at, id_index).await?;
    let other = outputs(async { String::from("of another type") }, vtable_at, id_index).await?;
    one.into_iter().find(|output| other.contains(output))
}

/// The places behind the id that differ between a task that runs, one that has ended and one whose output was taken.
#[cfg(native)]
async fn outputs<F>(future: F, vtable_at: usize, id_index: usize) -> Option<Vec<cell::Output>>
where
    F: Future<Output: Send> + Send + 'static,
{
    let mut task = ::tokio::spawn(future);
    let cell = cell::of_handle(&task);
    let id_at = cell::id_offset(cell, vtable_at, id_index, words::number(task.id()))?;
    let look = || [8, 16, 24].map(|after_id| (after_id, state_of(cell + id_at + after_id) as u32));
    let runs = look();
    for _ in 0..100 {
        if task.is_finished() {
            break;
        }
        ::tokio::task::yield_now().await;
    }
    let ended = look();
    (&mut task).await.ok()?;
    let taken = look();
    let places = ended.iter().zip(runs).zip(taken);
    let places = places
        .filter(|(((_, ended), (_, runs)), (_, taken))| ended != runs && ended != taken && runs != taken);
    Some(places.map(|((&(after_id, unread), _), _)| cell::Output { after_id, unread }).collect())
}

/// The first word at `cell`; 0 where nothing is mapped.
#[cfg(native)]
fn state_of(cell: usize) -> u64 {
    let mut bytes = [0; 8];
    let _ = heap::read_unsure(cell, &mut bytes);
    u64::from_ne_bytes(bytes)
}

#[cfg(native)]
struct Observed {
    /// (the table's offset, the word in it, the id's offset).
    shapes: Vec<(usize, usize, usize)>,
    /// Bits of the state that are set in a poll and clear outside.
    running: u64,
    /// Bits of the state that a wake sets.
    notified: u64,
    /// The task's handle is a pointer to the cell.
    by_handle: bool,
    /// The cell's first words.
    head: [usize; 8],
}

/// Watches one task from its inside and, while it waits, from outside.
#[cfg(native)]
async fn observe<F>(future: impl FnOnce() -> F + Send + 'static) -> Option<Observed>
where
    F: Future<Output = u64> + Send + 'static,
{
    #[derive(Default)]
    struct Shared {
        cell: AtomicUsize,
        id: AtomicU64,
        inside: AtomicU64,
        go: Mutex<(bool, Option<Waker>)>,
    }
    // SAFETY: of all reads below: `cell` is the task that this waker wakes, alive while the task isn't finished; its first
    // words are its header, and a mapped page holds at least its 64 bytes.
    let state = |cell: usize| unsafe { AtomicU64::from_ptr(cell as *mut u64) }.load(SeqCst);
    let shared = Arc::new(Shared::default());
    let theirs = Arc::clone(&shared);
    let task = ::tokio::spawn(async move {
        poll_fn(|cx| {
            let cell = cx.waker().data() as usize;
            if theirs.cell.swap(cell, SeqCst) == 0 {
                theirs.id.store(words::number(::tokio::task::id()), SeqCst);
                theirs.inside.store(state(cell), SeqCst);
            }
            let mut go = theirs.go.lock().unwrap_or_else(PoisonError::into_inner);
            if go.0 {
                return Poll::Ready(());
            }
            go.1 = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        future().await
    });
    for _ in 0..100 {
        if shared.cell.load(SeqCst) != 0 {
            break;
        }
        ::tokio::task::yield_now().await;
    }
    let (cell, id) = (shared.cell.load(SeqCst), shared.id.load(SeqCst));
    let mut idle = 0;
    let mut observed = (cell != 0).then(|| {
        idle = state(cell);
        let running = shared.inside.load(SeqCst) & !idle;
        let mut shapes = Vec::new();
        for vtable_at in [8, 16, 24, 32] {
            for id_index in 0..16 {
                if let Some(at) = cell::id_offset(cell, vtable_at, id_index, id) {
                    shapes.push((vtable_at, id_index, at));
                }
            }
        }
        let mut head = [0; 8];
        for (i, word) in head.iter_mut().enumerate() {
            // SAFETY: as above.
            *word = unsafe { ((cell + i * 8) as *const usize).read_volatile() };
        }
        Observed { shapes, running, notified: 0, by_handle: cell::of_handle(&task) == cell, head }
    });
    let waker = {
        let mut go = shared.go.lock().unwrap_or_else(PoisonError::into_inner);
        go.0 = true;
        go.1.take()
    };
    waker?.wake();
    if let Some(observed) = &mut observed {
        observed.notified = state(cell) & !idle;
    }
    task.await.ok()?;
    observed
}

#[cfg(all(test, native))]
mod tests {
    use super::*;

    #[test]
    fn probes_find_the_ids_word_the_budgets_byte_and_the_shape_of_a_cell() {
        let found = probe();
        assert!(found.id.is_some() && found.budget.is_some() && found.cell.is_some(), "{found:?}");
        assert!(found.cell.and_then(|cell| cell.life?.output).is_some(), "{found:?}");
    }

    #[test]
    fn a_cell_shows_whether_its_task_is_polled_queued_aborted_or_ended_and_whose_it_is() {
        probe();
        let build = || ::tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (runtime, other) = (build(), build());
        let theirs = cell::owner_of_handle(&other.spawn(async {})).unwrap();
        runtime.block_on(async {
            let waits = ::tokio::spawn(std::future::pending::<()>());
            let (cell, owner) = (cell::of_handle(&waits), cell::owner_of_handle(&waits).unwrap());
            assert_ne!(owner, theirs);
            assert_eq!(cell::look(cell, theirs), None);
            let look = || cell::look(cell, owner).unwrap();
            let fresh = look();
            assert_eq!(fresh.id, words::number(waits.id()));
            assert!(fresh.notified && !fresh.running && !fresh.cancelled && !fresh.complete);
            ::tokio::task::yield_now().await;
            assert!(!look().notified);
            waits.abort();
            assert!(look().cancelled && look().notified && !look().complete);
            ::tokio::task::yield_now().await;
            assert!(look().cancelled && look().complete && !look().running);
            let ends = ::tokio::spawn(async {});
            ::tokio::task::yield_now().await;
            let ended = cell::look(cell::of_handle(&ends), cell::owner_of_handle(&ends).unwrap()).unwrap();
            assert!(ended.complete && !ended.cancelled);
            let here = ::tokio::spawn(async {
                let cell = poll_fn(|cx| Poll::Ready(cx.waker().data() as usize)).await;
                (cell, ::tokio::task::id())
            });
            let owner = cell::owner_of_handle(&here).unwrap();
            let cell = cell::of_handle(&here);
            let (seen, _) = here.await.unwrap();
            assert_eq!((seen, owner == theirs), (cell, false));
        });
    }

    #[test]
    fn a_threads_own_word_says_what_try_id_says() {
        probe();
        let runtime = ::tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            assert_eq!(words::own_id(), 0);
            ::tokio::spawn(async {
                assert_eq!(words::own_id(), words::number(::tokio::task::id()));
                let cell = poll_fn(|cx| Poll::Ready(cx.waker().data() as usize)).await;
                assert!(cell::is_cell(cell, words::own_id()));
                assert!(!cell::is_cell(cell, words::own_id() + 1));
                // SAFETY: our own task's cell.
                assert!(unsafe { cell::is_running(cell) });
            })
            .await
            .unwrap();
        });
    }
}
