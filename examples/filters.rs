//! What becomes of a warning: Python's filters, `catch_warnings`, `-W error`, and the log that it goes to.
//!
//! ```sh
//! cargo run --example filters
//! BIRTHMARK_WARNINGS=ignore cargo run --example filters              # what the variable says goes for what no filter of the code matches
//! BIRTHMARK_REPORT=level=debug cargo run --example tasks             # each wrapped task's start and end too
//! BIRTHMARK_REPORT=json cargo run --example filters                  # an object a line
//! ```
//!
//! The first prints:
//!
//! ```text
//! 1. Each place tells once, and is counted from then on
//! birthmark: resource-warning: Export was dropped with 1 row unwritten
//!   allocated  filters::export  examples/filters.rs:65
//!              filters::main    examples/filters.rs:78
//!   touched    examples/filters.rs:66
//!   dropped    filters::export  examples/filters.rs:67  thread main
//!              filters::main    examples/filters.rs:78
//!   help       call `finish()` before it is dropped
//!
//! 2. A filter for a module, a kind, a message or a line; the newest that matches wins
//!
//! 3. A test catches what it expects, in a closure or in a future
//! caught: Export was dropped with 4 rows unwritten
//! caught: Export was dropped with 5 rows unwritten in examples/filters.rs:67
//!
//! 4. A handler gets each warning instead of standard error
//! warning resource-warning: Export was dropped with 6 rows unwritten
//! warning resource-warning: Export was dropped with 7 rows unwritten
//!
//! 5. An error is told, and ends the program from ordinary code: never from a destructor
//!
//! thread 'main' (27042) panicked at examples/filters.rs:110:9:
//! a filter makes this warning an error
//! birthmark: resource-warning: Export was dropped with 8 rows unwritten
//!   allocated  filters::export             examples/filters.rs:65
//!              filters::main::{{closure}}  examples/filters.rs:109
//!   touched    examples/filters.rs:66
//!   dropped    filters::export             examples/filters.rs:67  thread main
//!              filters::main::{{closure}}  examples/filters.rs:109
//!              filters::main               examples/filters.rs:108
//!   help       call `finish()` before it is dropped
//! birthmark: resource-warning: allocated examples/filters.rs:65, dropped examples/filters.rs:67: 4 times in all, told once
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};

use birthmark::ResourceGuard;
use birthmark::warnings::{self, Action, Filter, Kind};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new().tracemalloc(2);

/// Somebody else's code, which loses work all day long.
mod vendor {
    pub fn upload() {
        let upload = birthmark::ResourceGuard::new("Upload", "finish()");
        upload.pending(1);
    }
}

/// Rows that wait to be written.
fn export(rows: usize) {
    let export = ResourceGuard::new("Export", "finish()").unit("rows unwritten");
    export.pending(rows);
}

async fn export_in_a_task() {
    export(5);
}

fn main() {
    birthmark::set_debug(true);

    eprintln!("1. Each place tells once, and is counted from then on");
    for rows in 1..=3 {
        export(rows);
    }
    warnings::check(); // waits until all is told, and panics with what a filter made an error

    eprintln!("\n2. A filter for a module, a kind, a message or a line; the newest that matches wins");
    warnings::filter(Filter::new(Action::Ignore).category(Kind::ResourceWarning).module("filters::vendor"));
    vendor::upload();

    eprintln!("\n3. A test catches what it expects, in a closure or in a future");
    let ((), caught) = warnings::catch(|| export(4));
    eprintln!("caught: {}", caught[0].sentence());
    let ((), caught) = birthmark::tokio::run(true, warnings::catch_async(export_in_a_task()));
    eprintln!(
        "caught: {} in {}",
        caught[0].sentence(),
        caught[0].traceback("dropped").unwrap().lead().place()
    );

    eprintln!("\n4. A handler gets each warning instead of standard error");
    warnings::set_handler(|warning| {
        eprintln!("{} {}: {}", warning.level(), warning.kind(), warning.sentence())
    });
    warnings::filter("always::resource-warning:filters".parse::<Filter>().unwrap());
    export(6);
    export(7);
    warnings::check();
    warnings::reset_handler();

    eprintln!("\n5. An error is told, and ends the program from ordinary code: never from a destructor");
    warnings::filter("error:export was dropped".parse::<Filter>().unwrap());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        export(8);
        warnings::check();
    }));
    assert!(panicked.is_err());
}
