//! The model of all blocks, and blocks of 1 and 8 bytes, over the system's allocator.

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

mod model;
