//! Snapshots of this very program: rows name the user's line, dependencies stand beside it, and looking changes nothing.

use std::hint::black_box;

use birthmark::{DebugAlloc, Filter, GroupBy, Key, Owner, Snapshot, snapshot, tracemalloc};

#[global_allocator]
static A: DebugAlloc = DebugAlloc::new().tracemalloc(5);

/// This file's place in a row.
fn here(line: u32) -> String {
    format!("tests/snapshots.rs:{line}")
}

/// Whether this program has line tables: a release build has them by `CARGO_PROFILE_RELEASE_DEBUG=line-tables-only`.
fn lines() -> bool {
    let block = black_box(Box::new(1u8));
    let traceback = tracemalloc::traceback_of(&*block).expect("the block is traced");
    traceback.lead().file().is_some_and(|f| f.ends_with("snapshots.rs"))
}

fn by_line(snapshot: &Snapshot, line: u32) -> Option<(u64, u64)> {
    let rows = snapshot.statistics(GroupBy::Line);
    rows.iter().find(|r| r.key.to_string() == here(line)).map(|r| (r.size, r.count))
}

#[test]
fn a_row_names_the_users_line_with_exact_size_and_count() {
    if !lines() {
        return;
    }
    let line = line!() + 1;
    let kept: Vec<Box<[u8; 1000]>> = (0..7).map(|_| black_box(Box::new([1; 1000]))).collect();
    assert_eq!(by_line(&snapshot(), line), Some((7 * 1000 + 7 * 8, 8)));
    drop(kept);
    assert_eq!(by_line(&snapshot(), line), None);
}

#[test]
fn the_line_that_grew_leads_a_comparison() {
    if !lines() {
        return;
    }
    let before = snapshot();
    let line = line!() + 1;
    let kept = black_box(vec![1u8; 8 << 20]);
    let after = snapshot();
    let diff = after.compare_to(&before, GroupBy::Line);
    assert_eq!(diff[0].key.to_string(), here(line));
    assert_eq!((diff[0].size_diff, diff[0].count_diff), (8 << 20, 1));
    drop(kept);
    let back = snapshot().compare_to(&after, GroupBy::Line);
    assert_eq!((back[0].size, back[0].size_diff), (0, -(8 << 20)));
}

#[test]
fn the_users_line_leads_where_a_dependency_allocated_and_tells_which() {
    if !lines() {
        return;
    }
    let mut map = serde_json::Map::new();
    let line = line!() + 1;
    map.insert("a key".to_owned(), serde_json::Value::Null);
    // The map's first node: made by `BTreeMap`, called by serde_json.
    let node = std::ptr::from_ref(map.values().next().unwrap()).cast();
    let traceback = tracemalloc::traceback_of_ptr(node).expect("the block is traced");
    assert_eq!(
        (traceback.lead().place(), traceback.lead().owner()),
        (here(line), &Owner::User),
        "{traceback:#}"
    );
    let via = traceback.via().expect("serde_json lies between");
    assert!(matches!(via.owner(), Owner::Dependency(name) if name.starts_with("serde_json-1.")), "{via:?}");
    assert!(via.place().starts_with("serde_json-1."), "{}", via.place());
    let first = traceback.to_string();
    let first = first.lines().next().unwrap();
    assert!(first.contains("via serde_json-1."), "{first}");
    assert!(traceback.all_frames().iter().any(|f| *f.owner() == Owner::Plumbing));
    assert!(traceback.frames().all(|f| *f.owner() != Owner::Plumbing));
    let most_recent = &traceback.all_frames()[0];
    let function = most_recent.function().unwrap();
    assert!(!function.contains("birthmark") && !function.contains("__rust"), "{most_recent}");
}

#[inline(never)]
fn maker() -> Vec<u8> {
    black_box(vec![1; 3000])
}

#[test]
fn cumulative_rows_count_the_callers_too() {
    if !lines() {
        return;
    }
    let line = line!() + 1;
    let kept = maker();
    let taken = snapshot();
    let of = |by| {
        let rows = taken.statistics(by);
        rows.iter().find(|r| r.key.to_string() == here(line)).map(|r| (r.size, r.count))
    };
    assert_eq!(of(GroupBy::Line), None, "the line in `maker` leads");
    assert_eq!(of(GroupBy::Line.cumulative()), Some((3000, 1)));
    let functions = taken.statistics(GroupBy::Function);
    let maker = functions.iter().find(|r| matches!(&r.key, Key::Function(f, _) if f.ends_with("maker")));
    assert_eq!(maker.map(|r| (r.size, r.count)), Some((3000, 1)));
    drop(kept);
}

#[test]
fn looking_at_a_snapshot_is_in_no_snapshot() {
    let first = snapshot();
    let statistics = first.statistics(GroupBy::Traceback);
    let diff = first.compare_to(&first, GroupBy::Line.cumulative());
    let filtered = first.filter_traces(&[Filter::include("tests/*").all_frames()]);
    let clone = filtered.clone();
    let mine = snapshot().filter_traces(&[Filter::include("*")
        .function("*looking_at_a_snapshot_is_in_no_snapshot*")
        .all_frames()]);
    assert_eq!((mine.size(), mine.count()), (0, 0), "{mine}");
    drop((statistics, diff, filtered, clone));
}

#[test]
fn filters_choose_by_file_and_leave_the_snapshot_as_it_is() {
    if !lines() {
        return;
    }
    let kept = black_box(vec![1u8; 3000]);
    let all = snapshot();
    let (size, count) = (all.size(), all.count());
    let mine = all.filter_traces(&[Filter::include("tests/snapshots.rs")]);
    assert!(mine.size() >= 3000 && mine.size() <= size);
    let whole =
        all.filter_traces(&[Filter::include(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots.rs"))]);
    assert_eq!(whole.size(), mine.size());
    let rest = all.filter_traces(&[Filter::exclude("tests/snapshots.rs")]);
    assert_eq!(rest.size() + mine.size(), size);
    assert_eq!((all.size(), all.count()), (size, count));
    drop(kept);
}

#[test]
fn a_snapshot_is_named_on_another_thread_than_the_one_that_took_it() {
    if !lines() {
        return;
    }
    let line = line!() + 1;
    let kept = black_box(vec![1u8; 5000]);
    let taken = snapshot();
    let copy = taken.clone();
    let row = std::thread::spawn(move || by_line(&copy, line)).join().unwrap();
    assert_eq!(row, Some((5000, 1)));
    assert_eq!(by_line(&taken, line), row);
    drop(kept);
}

#[test]
fn a_block_of_a_thread_whose_closure_is_inlined_into_its_start_is_traced() {
    // In a release build no frame of its stack is the user's, only inlined ones are.
    let (traced, block) = std::thread::spawn(|| {
        let block = black_box(vec![1u8; 2000]);
        (tracemalloc::traceback_of(&block[0]), block)
    })
    .join()
    .unwrap();
    let traced = traced.expect("the block is traced");
    assert!(!lines() || traced.lead().place().starts_with("tests/snapshots.rs:"), "{traced:#}");
    drop(block);
}

#[test]
fn the_head_tells_how_many_frames_are_kept_and_what_birthmark_itself_takes() {
    let taken = snapshot();
    assert_eq!(taken.traceback_limit(), 5);
    let head = taken.to_string();
    let head = head.lines().next().unwrap();
    assert!(head.contains(" of 5 frames, Birthmark's own "), "{head}");
}

#[test]
fn a_traceback_tells_how_deep_the_stack_was() {
    #[inline(never)]
    fn deep(n: u32) -> (Vec<u8>, u32) {
        if n == 0 {
            (black_box(vec![1; 64]), 0)
        } else {
            let (v, d) = deep(n - 1);
            (v, d + 1)
        }
    }
    let (block, depth) = deep(20);
    let traceback = tracemalloc::traceback_of(&block[0]).unwrap();
    assert_eq!(traceback.kept(), 5);
    assert!(traceback.depth().unwrap() > depth, "{:?}", traceback.depth());
    assert_eq!(traceback.frames().count(), 5, "each of them is `deep`");
}
