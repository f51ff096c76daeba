//! Random alloc, alloc_zeroed, realloc and free on several threads against one plain map of what must be there.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};
use std::collections::HashMap;
use std::sync::{Barrier, Mutex};

use super::support::Random;
use birthmark::tracemalloc;

const THREADS: usize = 4;
const SLOTS: usize = 400;
const ROUNDS: usize = 6;
const STEPS: usize = 1000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Known {
    size: usize,
    align: usize,
    seed: u8,
}

/// The plain map: every live block of the model by its address.
type Map = HashMap<usize, Known>;

fn size_of(random: &mut Random) -> usize {
    match random.below(100) {
        0..50 => 1 + random.below(64),
        50..80 => 1 + random.below(2000),
        80..95 => 1 + random.below(40_000),
        95..99 => (100 << 10) + random.below(200 << 10),
        _ => (8 << 20) - 40 + random.below(80),
    }
}

fn fill(p: usize, known: Known) {
    // Large blocks are only touched at both ends: the rest tells nothing more.
    for i in places(known.size) {
        // SAFETY: within the block.
        unsafe { (p as *mut u8).add(i).write(known.seed.wrapping_add(i as u8)) };
    }
}

fn places(size: usize) -> impl Iterator<Item = usize> {
    (0..size.min(5000)).chain(size.saturating_sub(5000).max(5000).min(size)..size)
}

fn check(p: usize, known: Known, upto: usize) {
    assert_eq!(p % known.align, 0, "alignment of {p:#x} {known:?}");
    for i in places(known.size).take_while(|i| *i < upto) {
        // SAFETY: within the block.
        let byte = unsafe { (p as *const u8).add(i).read() };
        assert_eq!(byte, known.seed.wrapping_add(i as u8), "byte {i} of {p:#x} {known:?}");
    }
}

fn insert(map: &Mutex<Map>, p: usize, known: Known) {
    assert_eq!(map.lock().unwrap().insert(p, known), None, "{p:#x} was given out twice");
}

fn remove(map: &Mutex<Map>, p: usize) -> Known {
    map.lock().unwrap().remove(&p).expect("a block of the model")
}

fn step(random: &mut Random, mine: &mut [usize; SLOTS], map: &Mutex<Map>, others: &Mutex<Vec<usize>>) {
    let slot = &mut mine[random.below(SLOTS)];
    if *slot == 0 {
        let most = if random.below(20) == 0 { 13 } else { 7 };
        let (size, align) = (size_of(random), 1usize << random.below(most));
        let known = Known { size, align, seed: random.next() as u8 };
        let layout = Layout::from_size_align(size, align).unwrap();
        let zeroed = random.below(3) == 0;
        // SAFETY: the size isn't zero.
        let p = unsafe { if zeroed { alloc_zeroed(layout) } else { alloc(layout) } } as usize;
        assert_ne!(p, 0);
        if zeroed {
            for i in places(size) {
                // SAFETY: within the block.
                assert_eq!(
                    // SAFETY: a byte of the block, which this thread owns.
                    unsafe { (p as *const u8).add(i).read() },
                    0,
                    "byte {i} of zeroed {p:#x} {known:?}"
                );
            }
        }
        fill(p, known);
        insert(map, p, known);
        *slot = p;
        return;
    }
    let p = *slot;
    match random.below(4) {
        0 => {
            let old = remove(map, p);
            check(p, old, old.size);
            let known = Known { size: size_of(random), ..old };
            // SAFETY: a block of this layout, and the new size isn't zero.
            let q = unsafe {
                realloc(p as *mut u8, Layout::from_size_align(old.size, old.align).unwrap(), known.size)
            } as usize;
            assert_ne!(q, 0);
            check(q, known, old.size.min(known.size).min(5000));
            fill(q, known);
            insert(map, q, known);
            *slot = q;
        }
        1 => {
            // Changes hands: another thread frees it.
            let mut others = others.lock().unwrap();
            if others.len() < others.capacity() {
                others.push(p);
                *slot = 0;
            }
        }
        _ => {
            free(map, p);
            *slot = 0;
            let other = others.lock().unwrap().pop();
            if let Some(p) = other {
                free(map, p);
            }
        }
    }
}

fn free(map: &Mutex<Map>, p: usize) {
    let known = remove(map, p);
    check(p, known, known.size);
    // SAFETY: a live block of this layout.
    unsafe { dealloc(p as *mut u8, Layout::from_size_align(known.size, known.align).unwrap()) };
}

fn agree(map: &Mutex<Map>, before: u64, sampled: &mut Random) {
    let map = map.lock().unwrap();
    let mut live = 0u64;
    for (&p, known) in &*map {
        check(p, *known, known.size);
        live += known.size as u64;
    }
    if tracemalloc::is_tracing() {
        assert_eq!(tracemalloc::traced_memory().0, before + live, "live bytes");
    }
    for (&p, known) in map.iter().take(5) {
        let inner = p + sampled.below(known.size);
        assert_eq!(
            tracemalloc::traceback_of_ptr(inner as *const u8).is_some(),
            tracemalloc::is_tracing(),
            "{inner:#x} in {p:#x} {known:?}"
        );
    }
}

/// The whole test, over whatever allocator the program has.
pub fn contents_alignment_and_traced_memory_agree() {
    let map = Mutex::new(Map::with_capacity(4 * THREADS * SLOTS));
    let others = Mutex::new(Vec::with_capacity(SLOTS));
    let barrier = Barrier::new(THREADS + 1);
    std::thread::scope(|scope| {
        for number in 0..THREADS {
            let (map, others, barrier) = (&map, &others, &barrier);
            scope.spawn(move || {
                let mut random = Random(0x9e37_79b9 + number as u64);
                let mut mine = [0usize; SLOTS];
                barrier.wait();
                barrier.wait();
                for _ in 0..ROUNDS {
                    for _ in 0..STEPS {
                        step(&mut random, &mut mine, map, others);
                    }
                    barrier.wait(); // the main thread compares
                    barrier.wait();
                }
                for p in mine.into_iter().filter(|p| *p != 0) {
                    free(map, p);
                }
                barrier.wait();
                barrier.wait(); // nothing of the thread's end before the last look
            });
        }
        barrier.wait();
        // Whatever the look itself leaves behind (names, caches) is made before the first one counts.
        let warm = vec![0u8; 100];
        let _ = tracemalloc::traceback_of_ptr(warm.as_ptr());
        drop(warm);
        let mut random = Random(77);
        let before = tracemalloc::traced_memory().0;
        barrier.wait();
        for _ in 0..ROUNDS {
            barrier.wait();
            agree(&map, before, &mut random);
            barrier.wait();
        }
        barrier.wait();
        for p in others.lock().unwrap().drain(..) {
            free(&map, p);
        }
        assert!(map.lock().unwrap().is_empty());
        if tracemalloc::is_tracing() {
            assert_eq!(tracemalloc::traced_memory().0, before, "everything was freed");
        }
        barrier.wait();
    });
    match birthmark::check_heap() {
        Ok(()) => {}
        Err(errors) => {
            assert!(matches!(errors[..], [birthmark::HeapError::NotChecking]), "{errors:?}");
        }
    }
}
