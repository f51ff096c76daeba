//! The model of all blocks, and blocks of 1 and 8 bytes, over jemalloc.

#[global_allocator]
static A: birthmark::DebugAlloc<tikv_jemallocator::Jemalloc> =
    birthmark::DebugAlloc::over(tikv_jemallocator::Jemalloc);

mod model;
