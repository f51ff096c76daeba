//! The model of all blocks, and blocks of 1 and 8 bytes, over mimalloc.

#[path = "support/model.rs"]
mod model;
mod support;
#[path = "support/tiny.rs"]
mod tiny;

#[global_allocator]
static A: birthmark::DebugAlloc<mimalloc::MiMalloc> = birthmark::DebugAlloc::over(mimalloc::MiMalloc);

#[test]
fn contents_alignment_and_traced_memory_agree_with_a_plain_map() {
    support::in_every_mode(
        "contents_alignment_and_traced_memory_agree_with_a_plain_map",
        model::contents_alignment_and_traced_memory_agree,
    );
}

#[test]
fn of_blocks_of_1_and_8_bytes_none_is_lost_and_none_doubled() {
    support::in_every_mode(
        "of_blocks_of_1_and_8_bytes_none_is_lost_and_none_doubled",
        tiny::none_lost_none_doubled,
    );
}
