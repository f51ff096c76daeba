//! What each mode costs, over the system allocator and beside dhat-rs, interleaved in one run: README's table of prices.
//!
//! ```sh
//! cargo bench --bench overhead                                              # as people build
//! RUSTFLAGS="-C force-frame-pointers=yes" cargo bench --bench overhead      # with frame pointers
//! cargo bench --bench overhead --profile dev                                # a debug build without the install lines
//! cargo bench --bench overhead -- json churn                                # some programs alone
//! ```
//!
//! Every cell is a process of its own, told by its environment which allocator serves it; what is shown is the least of
//! the rounds over the least of the system allocator's. The look-up and the snapshot are measured inside one process, by
//! criterion.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant};

use criterion::Criterion;

const WORKLOAD: &str = "__OVERHEAD_WORKLOAD";
const ALLOCATOR: &str = "__OVERHEAD_ALLOCATOR";

/// One of three allocators, chosen once: the same branch for all of them.
struct Chosen;

static BIRTHMARK: birthmark::DebugAlloc = birthmark::DebugAlloc::new();
static DHAT: dhat::Alloc = dhat::Alloc;
static CHOICE: AtomicU8 = AtomicU8::new(0);

#[inline(always)]
fn choice() -> u8 {
    match CHOICE.load(Relaxed) {
        0 => first_choice(),
        n => n,
    }
}

#[cold]
fn first_choice() -> u8 {
    // SAFETY: a constant C string; `getenv` allocates nothing.
    let n = unsafe {
        let p = libc::getenv(c"__OVERHEAD_ALLOCATOR".as_ptr());
        if p.is_null() {
            1
        } else {
            match *p as u8 {
                b'b' => 2,
                b'd' => 3,
                _ => 1,
            }
        }
    };
    CHOICE.store(n, Relaxed);
    n
}

// SAFETY: every call goes to one allocator, the same for the whole process.
unsafe impl GlobalAlloc for Chosen {
    unsafe fn alloc(&self, l: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe {
            match choice() {
                2 => BIRTHMARK.alloc(l),
                3 => DHAT.alloc(l),
                _ => System.alloc(l),
            }
        }
    }
    unsafe fn alloc_zeroed(&self, l: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe {
            match choice() {
                2 => BIRTHMARK.alloc_zeroed(l),
                3 => DHAT.alloc_zeroed(l),
                _ => System.alloc_zeroed(l),
            }
        }
    }
    unsafe fn dealloc(&self, p: *mut u8, l: Layout) {
        // SAFETY: the caller's.
        unsafe {
            match choice() {
                2 => BIRTHMARK.dealloc(p, l),
                3 => DHAT.dealloc(p, l),
                _ => System.dealloc(p, l),
            }
        }
    }
    unsafe fn realloc(&self, p: *mut u8, l: Layout, n: usize) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe {
            match choice() {
                2 => BIRTHMARK.realloc(p, l, n),
                3 => DHAT.realloc(p, l, n),
                _ => System.realloc(p, l, n),
            }
        }
    }
}

#[global_allocator]
static A: Chosen = Chosen;

fn random(x: &mut u64) -> u64 {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    *x
}

fn json() {
    let mut text = String::from("[");
    for i in 0..20_000 {
        if i > 0 {
            text.push(',');
        }
        text.push_str(&format!(
            r#"{{"id":{i},"name":"user {i}","tags":["x","yy","zzz{i}"],"at":{{"x":{i}.5,"y":-{i}.25}},"ok":true}}"#
        ));
    }
    text.push(']');
    for _ in 0..5 {
        black_box(serde_json::from_str::<serde_json::Value>(&text).unwrap());
    }
}

fn btree() {
    let mut map = BTreeMap::new();
    let mut x = 1;
    for _ in 0..500_000 {
        let key = random(&mut x);
        map.insert(key, key.to_string());
    }
    black_box(&map);
}

/// 5 million blocks of 16 to 527 bytes, 10,000 of them alive at a time.
fn churn() {
    let mut slots: Vec<Option<Vec<u8>>> = vec![None; 10_000];
    let mut x = 88_172_645_463_325_252;
    for _ in 0..5_000_000 {
        let r = random(&mut x);
        let i = (r >> 20) as usize % slots.len();
        slots[i] = Some(Vec::with_capacity(16 + (r as usize & 0x1ff)));
    }
    black_box(&slots);
}

fn churn_on_two_threads() {
    let threads: Vec<_> = (0..2).map(|_| std::thread::spawn(churn)).collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
}

#[inline(never)]
fn down(n: usize, work: &mut dyn FnMut()) {
    if n == 0 {
        work()
    } else {
        down(black_box(n - 1), work)
    }
    black_box(n);
}

fn deep_churn() {
    down(40, &mut churn);
}

#[inline(never)]
fn left(n: u32, x: &mut u64) -> u64 {
    fork(n, x) + 1
}
#[inline(never)]
fn right(n: u32, x: &mut u64) -> u64 {
    fork(n, x) + 2
}
#[inline(always)]
fn fork(n: u32, x: &mut u64) -> u64 {
    let block = black_box(Box::new([u64::from(n); 6]));
    if n == 0 {
        return block[0];
    }
    (if random(x) & 1 == 0 { left(n - 1, x) } else { right(n - 1, x) }) + block[0]
}

/// Paths of 64 calls at random: nearly every stack is new.
fn paths() {
    let mut x = 5;
    for _ in 0..8_000 {
        black_box(left(64, &mut x));
    }
}

fn zeroed() {
    for _ in 0..2_000 {
        black_box(vec![0u8; 64 << 20]);
    }
}

fn growth() {
    for _ in 0..200 {
        let mut v: Vec<u8> = Vec::new();
        for mib in 1..=64usize {
            v.reserve_exact((mib << 20) - v.len());
            // SAFETY: the capacity is there; the bytes are never read.
            #[allow(clippy::uninit_vec)]
            unsafe {
                v.set_len(mib << 20)
            };
        }
        black_box(&v);
    }
}

/// Nothing from this run's own list: regular growth and formatting, as text processing does.
fn text() {
    let mut out = String::new();
    for i in 0..200_000u64 {
        let words: Vec<String> = (0..4).map(|k| format!("w{}", (i * 31 + k) % 977)).collect();
        out.push_str(&words.join(" "));
        if out.len() > 1 << 20 {
            out = String::new();
        }
    }
    black_box(&out);
}

const WORKLOADS: [(&str, fn()); 9] = [
    ("json", json),
    ("btree", btree),
    ("churn", churn),
    ("deep", deep_churn),
    ("paths", paths),
    ("threads", churn_on_two_threads),
    ("text", text),
    ("zeroed", zeroed),
    ("growth", growth),
];

/// Name, allocator, variables.
type Mode = (&'static str, &'static str, &'static [(&'static str, &'static str)]);
const OFF: (&str, &str) = ("BIRTHMARK_MALLOC", "0");
const MODES: [Mode; 9] = [
    ("system", "system", &[]),
    ("off", "birthmark", &[OFF]),
    ("TRACEMALLOC=1", "birthmark", &[OFF, ("TRACEMALLOC", "1")]),
    ("TRACEMALLOC=5", "birthmark", &[OFF, ("TRACEMALLOC", "5")]),
    ("TRACEMALLOC=25", "birthmark", &[OFF, ("TRACEMALLOC", "25")]),
    ("MALLOC=debug", "birthmark", &[("BIRTHMARK_MALLOC", "debug")]),
    ("DEV=1", "birthmark", &[("BIRTHMARK_DEV", "1")]),
    ("dhat-rs", "dhat", &[]),
    ("system again", "system", &[]),
];

/// Runs one cell: seconds, and the peak of the resident set in KiB.
fn cell(workload: &str, mode: &Mode) -> Option<(f64, f64)> {
    let mut command = Command::new(std::env::current_exe().ok()?);
    for name in ["TRACEMALLOC", "BIRTHMARK_MALLOC", "BIRTHMARK_DEV", "BIRTHMARK_ASYNC_DEBUG"] {
        command.env_remove(name);
    }
    command.env(WORKLOAD, workload).env(ALLOCATOR, mode.1).envs(mode.2.iter().copied());
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut numbers = text.split_whitespace().map_while(|w| w.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

fn child(workload: &str) {
    let Some((_, work)) = WORKLOADS.iter().find(|(name, _)| *name == workload) else { return };
    let profiler = (choice() == 3).then(|| dhat::Profiler::builder().testing().build());
    let begin = Instant::now();
    work();
    let took = begin.elapsed().as_secs_f64();
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: a valid buffer, filled by the call.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    println!("{took:.9} {}", usage.ru_maxrss);
    drop(profiler);
}

fn table(title: &str, names: &[&str], rows: &[(&str, Vec<f64>)]) {
    print!("\n{title:28}");
    names.iter().for_each(|n| print!("{n:>9}"));
    for (name, row) in rows {
        print!("\n{name:28}");
        row.iter().for_each(|x| print!("{x:9.2}"));
    }
    println!();
}

fn prices(wanted: &[String]) {
    const ROUNDS: usize = 3;
    let names: Vec<&str> = WORKLOADS
        .iter()
        .map(|w| w.0)
        .filter(|n| wanted.is_empty() || wanted.iter().any(|w| w == n))
        .collect();
    let mut time = vec![vec![f64::INFINITY; names.len()]; MODES.len()];
    let mut rss = vec![vec![0f64; names.len()]; MODES.len()];
    for _ in 0..ROUNDS {
        for (w, name) in names.iter().enumerate() {
            for (m, mode) in MODES.iter().enumerate() {
                if let Some((seconds, kib)) = cell(name, mode) {
                    time[m][w] = time[m][w].min(seconds);
                    rss[m][w] = rss[m][w].max(kib);
                }
            }
        }
    }
    let over = |table: &[Vec<f64>]| -> Vec<(&str, Vec<f64>)> {
        MODES
            .iter()
            .zip(table)
            .map(|(m, row)| (m.0, row.iter().zip(&table[0]).map(|(x, s)| x / s).collect()))
            .collect()
    };
    table("time over system", &names, &over(&time));
    table("peak RSS over system", &names, &over(&rss));
}

fn inside() {
    let mut criterion = Criterion::default().without_plots().measurement_time(Duration::from_secs(2));
    birthmark::tracemalloc::start(5);
    if !birthmark::tracemalloc::is_tracing() {
        return;
    }
    let blocks: Vec<Box<[u8; 24]>> = (0..1_000_000).map(|i| Box::new([i as u8; 24])).collect();
    criterion.bench_function("snapshot of a million live blocks", |b| b.iter(birthmark::snapshot));
    drop(blocks);
    // A block that is recorded and not traced: the look-up alone, no names.
    let layout = Layout::from_size_align(16 << 30, 16).unwrap();
    // SAFETY: reserved, never touched, freed with the same layout.
    unsafe {
        let p = std::alloc::alloc(layout);
        if !p.is_null() {
            birthmark::tracemalloc::clear_traces();
            let inside = p.wrapping_add((16 << 30) - 12_345);
            criterion.bench_function("look-up of an address at the far end of a 16 GiB block", |b| {
                b.iter(|| birthmark::tracemalloc::traceback_of_ptr(black_box(inside)))
            });
            std::alloc::dealloc(p, layout);
        }
    }
}

fn main() {
    if let Ok(workload) = std::env::var(WORKLOAD) {
        if workload == "inside" {
            inside()
        } else {
            child(&workload)
        }
        return;
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    prices(&wanted);
    if wanted.is_empty() {
        println!();
        let status = Command::new(std::env::current_exe().unwrap())
            .env(WORKLOAD, "inside")
            .env(ALLOCATOR, "birthmark")
            .status();
        assert!(status.is_ok_and(|s| s.success()));
    }
}
