//! The model of all blocks, and blocks of 1 and 8 bytes, over mimalloc.

#[global_allocator]
static A: birthmark::DebugAlloc<mimalloc::MiMalloc> = birthmark::DebugAlloc::over(mimalloc::MiMalloc);

mod model;
