//! Real work, traced: under `--cfg birthmark_check_memo` each hit of the memo is proved against a plain walk; in every build the
//! counters and the table agree in the end.

mod support;

use std::hint::black_box;

use birthmark::tracemalloc;
use support::{in_every_mode, tracing};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

fn agree() {
    if tracing() {
        let now = tracemalloc::traced_memory().0;
        let told: u64 = birthmark::snapshot().traces().map(|t| t.size).sum();
        assert_eq!(now, told, "the counters and the table agree");
    }
}

fn sources() -> Vec<String> {
    let mut left = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut sources = Vec::new();
    while let Some(at) = left.pop() {
        if at.is_dir() {
            left.extend(std::fs::read_dir(at).unwrap().map(|e| e.unwrap().path()));
        } else {
            sources.push(std::fs::read_to_string(at).unwrap());
        }
    }
    sources
}

#[test]
fn a_large_json_document_is_parsed_and_written() {
    in_every_mode("a_large_json_document_is_parsed_and_written", || {
        let mut text = String::from("[");
        for n in 0..3000 {
            text += &format!(
                r#"{{"id":{n},"name":"item {n}","tags":["a","b{n}"],"nested":{{"deep":[{n},[{n}]]}}}},"#
            );
        }
        text += "null]";
        for _ in 0..3 {
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value[2999]["nested"]["deep"][1][0], 2999);
            black_box(serde_json::to_string_pretty(&value).unwrap());
        }
        agree();
    });
}

#[test]
fn rust_sources_are_parsed_by_syn() {
    in_every_mode("rust_sources_are_parsed_by_syn", || {
        // Every third one: they are alike, and unoptimised this is slow.
        for source in sources().iter().step_by(3) {
            assert!(!black_box(syn::parse_file(source).unwrap()).items.is_empty());
        }
        agree();
    });
}

#[test]
fn regexes_are_compiled() {
    in_every_mode("regexes_are_compiled", || {
        for n in 0..15 {
            let regex = regex::Regex::new(&format!(r"(?i)(foo|b[a-z]{{{n},20}}|\d+)\s*=\s*([\w.]+|'[^']*')"))
                .unwrap();
            assert!(regex.is_match("foo = 'x'"));
        }
        agree();
    });
}

#[test]
fn tasks_of_tokio_run() {
    in_every_mode("tasks_of_tokio_run", || {
        for _ in 0..3 {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let sum: usize = runtime.block_on(async {
                let (to, mut from) = tokio::sync::mpsc::channel::<Vec<u8>>(16);
                for n in 0..200 {
                    let to = to.clone();
                    tokio::spawn(async move {
                        tokio::task::yield_now().await;
                        to.send(vec![1; n]).await.unwrap();
                    });
                }
                drop(to);
                let mut sum = 0;
                while let Some(block) = from.recv().await {
                    sum += block.len();
                }
                sum
            });
            assert_eq!(sum, 19_900);
            drop(runtime);
        }
        agree();
    });
}
