//! `errno` is after an allocation and a free what it was before.

mod support;

use std::ffi::CString;
use std::hint::black_box;

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap()
}

fn set_errno(n: i32) {
    // SAFETY: this thread's own errno.
    unsafe { *libc::__errno_location() = n };
}

#[inline(never)]
fn opens(name: &str) -> i32 {
    // The temporary string is freed between the failure and the question.
    // SAFETY: a C string.
    unsafe { libc::open(CString::new(name).unwrap().as_ptr(), libc::O_RDONLY) }
}

/// Different sizes from different depths: new stacks, new leaves, evictions.
#[inline(never)]
fn allocates(depth: usize, size: usize) {
    set_errno(4321);
    let block = black_box(vec![1u8; size]);
    assert_eq!(errno(), 4321, "after an allocation of {size}");
    if depth > 0 {
        allocates(depth - 1, size + 7);
    }
    set_errno(1234);
    drop(block);
    assert_eq!(errno(), 1234, "after a free of {size}");
}

#[test]
fn errno_survives_a_temporary_string_allocations_and_frees() {
    support::in_every_mode("errno_survives_a_temporary_string_allocations_and_frees", || {
        for _ in 0..1000 {
            assert_eq!(opens("/does/not/exist"), -1);
            assert_eq!(errno(), libc::ENOENT);
        }
        for size in [1, 100, 5000, 150_000, 9 << 20] {
            allocates(30, size);
        }
        // A thread's first allocation sets things up.
        for _ in 0..5 {
            std::thread::spawn(|| allocates(3, 50)).join().unwrap();
        }
        // Growing and shrinking.
        let mut v = vec![0u8; 10];
        for size in [100, 1 << 20, 9 << 20, 200_000, 50] {
            set_errno(77);
            v.resize(size, 1);
            v.shrink_to(size);
            assert_eq!(errno(), 77, "after realloc to {size}");
        }
    });
}
