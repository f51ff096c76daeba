#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new().tracemalloc(5);
use birthmark::{GroupBy, snapshot};
fn grow(v: &mut Vec<String>) {
    for i in 0..1000 {
        v.push(format!("entry {i}"));
    }
}
fn main() {
    let before = snapshot();
    let mut v = Vec::new();
    grow(&mut v);
    let b = std::sync::Arc::new([0u8; 4096]);
    let x: Vec<Box<u32>> = (0..100).map(|i| Box::new(i)).collect();
    let h: std::collections::HashMap<i32, String> = (0..100).map(|i| (i, i.to_string())).collect();
    println!("{}", snapshot().compare_to(&before, GroupBy::Line));
    println!("{}", snapshot().statistics(GroupBy::Traceback).top(4));
    println!("{}", birthmark::tracemalloc::traceback_of(&**x.last().unwrap()).unwrap());
    drop((v, b, x, h));
    println!("{:?}", birthmark::tracemalloc::traced_memory());
}
