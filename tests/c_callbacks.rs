//! An allocation inside a C callback and inside a `qsort` comparator has its whole stack, in builds with frame pointers and
//! without.

mod support;

use std::hint::black_box;
use std::sync::Mutex;

use support::{Library, assert_stack, c_library, in_every_mode, scratch, tracing};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

static MADE: Mutex<Option<Vec<u8>>> = Mutex::new(None);

#[inline(never)]
fn makes_a_block_below_c() -> Vec<u8> {
    black_box(vec![7u8; 321])
}

unsafe extern "C" fn comparator(a: *const libc::c_void, b: *const libc::c_void) -> i32 {
    // SAFETY: qsort passes two elements of the array, which are 4-byte numbers.
    let (a, b) = unsafe { (*a.cast::<i32>(), *b.cast::<i32>()) };
    *MADE.lock().unwrap() = Some(makes_a_block_below_c());
    a.cmp(&b) as i32
}

#[inline(never)]
fn sorts_by_c(n: i32) {
    let mut numbers: Vec<i32> = (0..n).rev().collect();
    // SAFETY: an array of `n` 4-byte numbers.
    unsafe { libc::qsort(numbers.as_mut_ptr().cast(), numbers.len(), 4, Some(comparator)) };
    assert!(black_box(numbers).is_sorted());
}

#[inline(never)]
fn calls_the_sorter(n: i32) {
    sorts_by_c(n);
    black_box(n);
}

#[test]
fn a_block_made_in_a_comparator_of_qsort_has_its_whole_stack() {
    in_every_mode("a_block_made_in_a_comparator_of_qsort_has_its_whole_stack", || {
        // Short arrays are sorted on the stack, long ones elsewhere.
        for n in [2, 40, 3000] {
            calls_the_sorter(n);
            let made = MADE.lock().unwrap().take().unwrap();
            check(&made, &["makes_a_block_below_c", "comparator", "sorts_by_c", "calls_the_sorter"]);
        }
    });
}

fn check(made: &[u8], whole: &[&str]) {
    if !tracing() {
        assert!(birthmark::tracemalloc::traceback_of(made).is_none());
        return;
    }
    let limit = usize::from(birthmark::tracemalloc::traceback_limit());
    // C's own frames count as the user's, as far as they have symbols: with 25 frames all of them are there.
    let seen = if limit == 25 { whole } else { &whole[..limit.min(2)] };
    assert_stack(made.as_ptr(), seen);
    let traceback = birthmark::tracemalloc::traceback_of(made).unwrap();
    if limit == 25 {
        assert_eq!(traceback.depth(), Some(traceback.kept()), "{traceback}");
    }
}

const C: &str = "
typedef void (*callback)(void *);
__attribute__((noinline)) static int inner_c_frame(callback f, void *p, int n) {
    volatile char room[200];
    room[n] = 1;
    if (n > 0) return inner_c_frame(f, p, n - 1) + room[n];
    f(p);
    return room[0];
}
int outer_c_frame(callback f, void *p, int n) {
    return inner_c_frame(f, p, n) * 2;
}
";

unsafe extern "C" fn called_back(p: *mut libc::c_void) {
    // SAFETY: the caller passed a place for the vector.
    unsafe { *p.cast::<Option<Vec<u8>>>() = Some(makes_a_block_below_c()) };
}

type Outer = unsafe extern "C" fn(unsafe extern "C" fn(*mut libc::c_void), *mut libc::c_void, i32) -> i32;

#[inline(never)]
fn calls_into_c(outer: Outer, depth: i32) -> Vec<u8> {
    let mut made = None;
    // SAFETY: the fixture calls the callback once with the pointer that it was given.
    black_box(unsafe { outer(called_back, (&raw mut made).cast(), depth) });
    made.unwrap()
}

#[test]
fn a_block_made_in_a_callback_from_c_has_its_whole_stack() {
    in_every_mode("a_block_made_in_a_callback_from_c_has_its_whole_stack", || {
        let dir = scratch("callback");
        for (name, flags) in
            [("without", &["-fomit-frame-pointer"][..]), ("with", &["-fno-omit-frame-pointer"])]
        {
            let library = Library::open(&c_library(&dir, name, C, flags));
            // SAFETY: the fixture's function has this type.
            let outer: Outer = unsafe { std::mem::transmute(library.symbol(c"outer_c_frame")) };
            for round in 0..3 {
                for depth in [0, 3] {
                    let made = calls_into_c(outer, depth);
                    let whole = [
                        "makes_a_block_below_c",
                        "called_back",
                        "inner_c_frame",
                        "outer_c_frame",
                        "calls_into_c",
                    ];
                    if tracing() && birthmark::tracemalloc::traceback_limit() == 25 {
                        let frames = support::functions(made.as_ptr());
                        let inner = frames.iter().filter(|f| f.contains("inner_c_frame")).count();
                        assert_eq!(inner, depth as usize + 1, "{name}, round {round}: {frames:#?}");
                    }
                    check(&made, &whole);
                }
            }
        }
        let _ = std::fs::remove_dir_all(dir);
    });
}
