#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new().tracemalloc(5).malloc("debug");
use std::alloc::*;
#[inline(never)]
fn make() -> *mut u8 {
    unsafe { alloc(Layout::from_size_align(24, 8).unwrap()) }
}
#[inline(never)]
fn unmake(p: *mut u8, n: usize) {
    unsafe { dealloc(p, Layout::from_size_align(n, 8).unwrap()) }
}
fn main() {
    unsafe {
        let p = make();
        match std::env::args().nth(1).as_deref().unwrap_or("") {
            "over" => {
                p.add(24).write(0x21);
                unmake(p, 24)
            }
            "under" => {
                p.sub(1).write(0x21);
                unmake(p, 24)
            }
            "double" => {
                unmake(p, 24);
                unmake(p, 24)
            }
            "uaf" => {
                unmake(p, 24);
                p.add(8).cast::<u64>().write(7);
            }
            "layout" => unmake(p, 32),
            "inside" => unmake(p.add(8), 16),
            "wild" => unmake(0xcdcdcdcdcdcdcdcdu64 as *mut u8, 16),
            "exit" => p.add(24).write(0x21),
            "check" => {
                p.add(24).write(0x21);
                for e in birthmark::check_heap().unwrap_err() {
                    println!("{e}");
                }
                p.add(24).write(0xfd);
                unmake(p, 24)
            }
            _ => unmake(p, 24),
        }
    }
}
