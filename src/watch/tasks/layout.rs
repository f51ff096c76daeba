//! What a tokio task's cell looks like beyond `tokio::cell`: which words of its table are functions, who owns it, which
//! bits say that it was woken or has ended.
//!
//! Measured when an inventory is first asked for, by tasks on two threads with runtimes of their own: what they don't
//! agree on counts as not found.

use std::future::poll_fn;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Release, SeqCst},
};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::task::{Poll, Waker};

use ::tokio::runtime::Builder;
use ::tokio::task::{JoinHandle, yield_now};

use super::super::heap;
use super::super::reporter::spawn_ours;
use super::super::tokio::{Shape, is_cell, measure, shape, words};

/// Words of a cell's head that are read at once.
pub(super) const HEAD: usize = 8;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub shape: Shape,
    /// Which word of the head tells in whose list the task is; 0 there: in none, so a blocking job.
    pub owner: usize,
    /// Bit n: word n of the table is an address in a module.
    pub functions: u32,
    /// Bit of the state: it was woken.
    pub notified: u64,
    /// Bit of the state: it has ended.
    pub complete: u64,
}

/// Measures, once a process. Ordinary code; takes a few milliseconds.
pub(super) fn layout() -> Option<&'static Layout> {
    static FOUND: OnceLock<Option<Layout>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let _ours = heap::ours();
            heap::register_thread(); // modules can be asked for from here on
            measure();
            let shape = shape()?;
            let (send, receive) = mpsc::channel();
            for _ in 0..2 {
                let send = send.clone();
                spawn_ours("birthmark-probe", move || {
                    let _ = send.send(on_this_thread(shape));
                });
            }
            drop(send);
            let (a, b) = (receive.recv().ok()??, receive.recv().ok()??);
            let owners: Vec<_> = a
                .owners
                .iter()
                .filter(|(word, value)| b.owners.iter().any(|(w, v)| w == word && v != value))
                .collect();
            let &&(owner, _) = owners.first()?;
            let same = (a.functions, a.notified, a.complete) == (b.functions, b.notified, b.complete);
            (same && owners.len() == 1).then_some(Layout {
                shape,
                owner,
                functions: a.functions,
                notified: a.notified,
                complete: a.complete,
            })
        })
        .as_ref()
}

pub(super) fn head(cell: usize) -> Option<[u64; HEAD]> {
    let mut bytes = [0; HEAD * 8];
    heap::read_unsure(cell, &mut bytes).then(|| {
        let mut words = [0; HEAD];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        words
    })
}

/// Bit n: word n of the table is an address in a module; and the offset of the id that it tells.
pub(super) fn table(vtable: usize, shape: Shape) -> Option<(u32, usize)> {
    if vtable & 7 != 0 || !crate::sys::in_module(vtable) {
        return None;
    }
    let mut bytes = [0; 32 * 8];
    let bytes = bytes.get_mut(..(shape.id_index + 1) * 8)?;
    if !heap::read_unsure(vtable, bytes) {
        return None;
    }
    let words: Vec<usize> =
        bytes.as_chunks::<{ size_of::<usize>() }>().0.iter().map(|b| usize::from_ne_bytes(*b)).collect();
    let functions =
        words.iter().enumerate().map(|(n, word)| u32::from(crate::sys::in_module(*word)) << n).sum();
    Some((functions, *words.last()?))
}

struct Measured {
    /// Words of the head that may tell the owner, with what stood there.
    owners: Vec<(usize, u64)>,
    functions: u32,
    notified: u64,
    complete: u64,
}

fn on_this_thread(shape: Shape) -> Option<Measured> {
    let runtime = Builder::new_current_thread().max_blocking_threads(1).build().ok()?;
    runtime.block_on(async move {
        #[repr(align(512))]
        struct Wide(u64);
        // The state counts wakers too: with another number of them its other bits change otherwise.
        let plain = Watching::spawn(async { 0u64 }, 0).await?;
        let wide = Watching::spawn(
            async {
                let wide = Wide(1);
                yield_now().await;
                wide.0
            },
            2,
        )
        .await?;
        let (p, w) = (head(plain.cell)?, head(wide.cell)?);
        let (gate, waits) = mpsc::channel::<()>();
        let job = ::tokio::task::spawn_blocking(move || {
            let _ = waits.recv();
        });
        let job_cell = address(&job, plain.cell, &plain.handle)?;
        let job_id = words::number(job.id());
        let j = is_cell(job_cell, job_id).then(|| head(job_cell)).flatten();
        drop(gate);
        let j = j?;
        // A number, not the address of the runtime's.
        let is_number = |word: u64| word != 0 && !heap::read_unsure(word as usize, &mut [0]);
        let owners = (1..HEAD)
            .filter(|n| n * 8 != shape.vtable_at && is_number(p[*n]) && p[*n] == w[*n] && j[*n] == 0)
            .map(|n| (n, p[n]))
            .collect();
        let functions = |head: [u64; HEAD]| Some(table(*head.get(shape.vtable_at / 8)? as usize, shape)?.0);
        let (functions, others) = (functions(p)?, [functions(w)?, functions(j)?]);
        if functions == 0 || others.iter().any(|f| *f != functions) {
            return None;
        }
        let (p, w) = (plain.end().await?, wide.end().await?);
        let notified = p.0 & w.0;
        let complete = p.1 & w.1 & !notified & !shape.running;
        (notified.count_ones() == 1 && complete.count_ones() == 1).then_some(Measured {
            owners,
            functions,
            notified,
            complete,
        })
    })
}

/// The cell of a handle's task: its first word, as a task whose cell is known by its waker shows.
fn address<T>(handle: &JoinHandle<T>, known: usize, of: &JoinHandle<u64>) -> Option<usize> {
    fn first<T>(handle: &JoinHandle<T>) -> Option<usize> {
        // SAFETY: the handle is one word, so that word is its pointer, which may be copied.
        (size_of::<JoinHandle<T>>() == 8)
            .then(|| unsafe { std::ptr::from_ref(handle).cast::<usize>().read() })
    }
    (first(of)? == known).then(|| first(handle)).flatten()
}

/// A task that waits until it is told to go on.
struct Watching {
    cell: usize,
    handle: JoinHandle<u64>,
    go: Arc<AtomicBool>,
    waker: Waker,
    /// Further wakers, which are counted in its state.
    _others: Vec<Waker>,
}

impl Watching {
    async fn spawn(future: impl Future<Output = u64> + Send + 'static, others: usize) -> Option<Self> {
        let go = Arc::new(AtomicBool::new(false));
        let waker = Arc::new(Mutex::new(None::<Waker>));
        let (theirs, gate) = (Arc::clone(&waker), Arc::clone(&go));
        let handle = ::tokio::spawn(async move {
            poll_fn(|cx| {
                if gate.load(Acquire) {
                    return Poll::Ready(());
                }
                *theirs.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
                Poll::Pending
            })
            .await;
            future.await
        });
        for _ in 0..100 {
            if waker.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                break;
            }
            yield_now().await;
        }
        let waker = waker.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let cell = waker.data() as usize;
        let others = (0..others).map(|_| waker.clone()).collect();
        is_cell(cell, words::number(handle.id())).then_some(Self { cell, handle, go, waker, _others: others })
    }

    fn state(&self) -> u64 {
        // SAFETY: a cell lives as long as a waker of its task, which `self` has; its first word is tokio's atomic state.
        unsafe { AtomicU64::from_ptr(self.cell as *mut u64) }.load(SeqCst)
    }

    /// Bits that are set once it is woken, and once it has ended, beyond those while it waits.
    async fn end(self) -> Option<(u64, u64)> {
        let before = self.state();
        self.go.store(true, Release);
        self.waker.wake_by_ref();
        let woken = self.state() & !before;
        for _ in 0..100 {
            if self.handle.is_finished() {
                let ended = self.state() & !before;
                return Some((woken, ended));
            }
            yield_now().await;
        }
        None
    }
}

#[cfg(all(test, native))]
mod tests {
    use super::*;

    #[test]
    fn the_probes_agree_on_the_owners_word_and_on_the_bits() {
        let layout = layout().expect("measured");
        assert_eq!(layout.notified & (layout.complete | layout.shape.running), 0, "{layout:?}");
        assert!(layout.functions.count_ones() >= 2, "{layout:?}");
    }
}
