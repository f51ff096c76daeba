//! The model of all blocks, and blocks of 1 and 8 bytes, over whatever allocator the program has.

mod map;
#[path = "../support/mod.rs"]
mod support;
mod tiny;

#[test]
fn contents_alignment_and_traced_memory_agree_with_a_plain_map() {
    support::in_every_mode(
        "model::contents_alignment_and_traced_memory_agree_with_a_plain_map",
        map::contents_alignment_and_traced_memory_agree,
    );
}

#[test]
fn of_blocks_of_1_and_8_bytes_none_is_lost_and_none_doubled() {
    support::in_every_mode(
        "model::of_blocks_of_1_and_8_bytes_none_is_lost_and_none_doubled",
        tiny::none_lost_none_doubled,
    );
}
