//! Every fault of the heap in a child process of its own, over mimalloc.

#[global_allocator]
static A: birthmark::DebugAlloc<mimalloc::MiMalloc> = birthmark::DebugAlloc::over(mimalloc::MiMalloc);

mod faults;
