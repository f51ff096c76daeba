//! Every fault of the heap in a child process of its own, over the system's allocator.

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

mod faults;
