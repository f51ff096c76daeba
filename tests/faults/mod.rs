//! A program that does X must produce report Y: exactly one, of the right kind, with the right places and exit status.

mod child;
mod program;
mod told;

use child::{Child, DEBUG, DEV, run};
use program::line_of;
use told::Told;

/// Runs one fault with five frames and gives its one report; the program must end by SIGABRT.
#[track_caller]
fn one(fault: &str) -> Told {
    let child = run(fault, &DEBUG);
    assert!(child.aborted(), "{child}");
    Told::one(&child)
}

#[track_caller]
fn made(told: &Told) {
    told.leads("allocated", "make", line_of("made"));
}

#[track_caller]
fn freed(told: &Told) {
    told.leads("freed", "unmake", line_of("freed"));
}

#[track_caller]
fn found(told: &Told, when: &str) {
    told.leads("found", "unmake", line_of("freed"));
    assert!(told.row("found").starts_with(when), "{told}");
}

/// The child's side; does nothing of its own.
#[test]
fn child() {
    if let Ok(fault) = std::env::var(child::FAULT) {
        program::commit(&fault);
    }
}

#[test]
fn a_program_without_a_fault_is_silent() {
    for switches in [&DEBUG[..], &DEV[..], &[]] {
        let child = run("none", switches);
        assert!(child.succeeded() && child.stderr.is_empty(), "{child}");
    }
}

#[test]
fn a_byte_written_past_the_end_is_found_at_the_free() {
    let told = one("over");
    told.is("heap-buffer-overflow", "1 byte written past the end of a 24-byte block");
    assert_eq!(told.row("damage"), "1 byte at +24: 0x21 in the red zone");
    made(&told);
    found(&told, "at free in");
}

#[test]
fn a_byte_written_past_the_end_is_found_for_every_size_and_alignment() {
    for size in [1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 64, 4095, 4096, 4097, 200_000] {
        for align in [1, 8, 16, 64, 4096] {
            let child = run(&format!("over {size} {align}"), &DEBUG);
            assert!(child.aborted(), "{size} {align}: {child}");
            let bytes = format!("1 byte written past the end of a {size}-byte block");
            Told::one(&child).is("heap-buffer-overflow", &bytes);
        }
    }
}

#[test]
fn a_byte_written_before_the_start_is_an_underflow() {
    let told = one("under");
    told.is("heap-buffer-underflow", "1 byte written before the start of a 24-byte block");
    assert_eq!(told.row("damage"), "1 byte at -1: 0x21 in the red zone");
    made(&told);
}

#[test]
fn an_underflow_and_an_overflow_are_found_at_any_alignment() {
    for align in [1, 64, 4096, 2 << 20] {
        let child = run(&format!("under 24 {align}"), &DEBUG);
        assert!(child.aborted(), "{align}: {child}");
        Told::one(&child).is("heap-buffer-underflow", "1 byte written before the start of a 24-byte block");
    }
    assert_eq!(one("over 24 2097152").kind, "heap-buffer-overflow");
}

#[test]
fn a_byte_written_to_a_block_of_no_bytes_is_past_its_end() {
    one("over 0 8").is("heap-buffer-overflow", "1 byte written past the end of a 0-byte block");
}

#[test]
fn damage_is_shown_byte_by_byte_and_as_text_with_its_distance_from_the_end() {
    let told = one("over text");
    told.is("heap-buffer-overflow", "5 bytes written past the end of a 24-byte block");
    let bytes = "71 75 75 78 00 \"quux.\"";
    assert_eq!(
        told.row("damage"),
        format!("5 bytes from +26 to +30: {bytes} in the red zone, 2 past the end")
    );
    let child = run("over text", &[DEBUG[0], DEBUG[1], ("BIRTHMARK_REPORT", "json")]);
    let damaged = &child.json()["damaged"][0];
    assert_eq!((&damaged["bytes"], &damaged["first"]), (&"7175757800".into(), &26.into()), "{child}");
}

#[test]
fn damage_on_both_sides_is_one_report_with_both_places() {
    let told = one("both");
    assert!(told.row("damage").contains("at +24") && told.row("damage").contains("at -1"), "{told}");
}

#[test]
fn an_overflow_is_found_at_realloc_too() {
    for fault in ["over realloc", "over shrink"] {
        let told = one(fault);
        told.is("heap-buffer-overflow", "1 byte written past the end of a 24-byte block");
        made(&told);
        told.leads("found", "regrow", line_of("moved"));
        assert!(told.row("found").starts_with("at realloc in "), "{told}");
    }
}

#[test]
fn damage_found_while_the_program_unwinds_is_one_report_and_aborts() {
    let told = one("over, unwinding");
    told.is("heap-buffer-overflow", "1 byte written past the end of a 24-byte block");
    made(&told);
}

#[test]
fn what_is_never_freed_is_found_at_exit() {
    let told = one("over kept");
    told.is("heap-buffer-overflow", "1 byte written past the end of a 24-byte block");
    assert_eq!(told.row("found"), "at exit");
    made(&told);
}

#[test]
fn check_heap_finds_it_and_tells_it_without_ending_anything() {
    let child = run("check", &DEBUG);
    assert!(child.succeeded() && child.stderr.is_empty(), "{child}");
}

#[test]
fn check_heap_finds_a_byte_beside_a_block_of_any_size() {
    let child = run("check every size", &DEBUG);
    assert!(child.succeeded() && child.stderr.is_empty(), "{child}");
}

#[test]
fn check_heap_finds_a_write_to_a_freed_block() {
    // Finding the names of its stacks frees many blocks of our own: the damaged one must still wait after that.
    let child =
        run("check after free", &[("TRACEMALLOC", "5"), ("BIRTHMARK_MALLOC", "debug,quarantine=256M")]);
    assert!(child.succeeded() && child.stderr.is_empty(), "{child}");
}

#[test]
fn new_and_freed_bytes_are_filled_and_zeroed_ones_are_zero() {
    let child = run("fills", &DEBUG);
    assert!(child.succeeded() && child.stderr.is_empty(), "{child}");
}

#[test]
fn a_request_that_is_too_large_has_no_memory_and_no_report() {
    for switches in [&DEBUG[..], &[("BIRTHMARK_MALLOC", "off")]] {
        let child = run("too large", switches);
        assert!(child.succeeded() && child.stderr.is_empty(), "{child}");
    }
}

#[test]
fn a_stack_overflow_is_still_told_by_std() {
    let child = run("stack overflow", &DEV);
    assert!(child.aborted() && child.stderr.contains("has overflowed its stack"), "{child}");
    assert!(!child.stderr.contains("birthmark:"), "{child}");
}

#[test]
fn check_heap_never_says_that_all_is_well_where_it_checks_nothing() {
    let child = run("check off", &[("BIRTHMARK_MALLOC", "off")]);
    assert!(child.succeeded(), "{child}");
}

#[test]
fn a_write_after_the_free_is_found_at_exit_with_both_stacks() {
    let told = one("write after free");
    told.is("use-after-free", "8 bytes written to a 24-byte block after its free");
    made(&told);
    freed(&told);
    assert_eq!(told.row("found"), "at exit");
}

#[test]
fn a_write_after_the_free_is_found_when_the_block_leaves_the_quarantine() {
    let child = run(
        "write after free, then many",
        &[("TRACEMALLOC", "5"), ("BIRTHMARK_MALLOC", "debug,quarantine=64K")],
    );
    assert!(child.aborted(), "{child}");
    let told = Told::one(&child);
    told.is("use-after-free", "8 bytes written to a 24-byte block after its free");
    assert!(told.row("found").starts_with("as the block left the quarantine"), "{told}");
    made(&told);
    freed(&told);
}

#[test]
fn a_write_to_where_a_block_was_before_its_realloc_names_the_realloc_as_its_free() {
    let told = one("write after realloc");
    told.is("use-after-free", "1 byte written to a 24-byte block after its free");
    made(&told);
    told.leads("freed", "regrow", line_of("moved"));
}

#[test]
fn a_second_free_tells_the_first_one() {
    let told = one("double");
    told.is("double-free", "a 24-byte block was freed twice");
    made(&told);
    freed(&told);
    found(&told, "at free in");
}

#[test]
fn a_second_free_after_the_block_left_the_quarantine_is_still_a_fault() {
    let child = run(
        "double after its quarantine",
        &[("TRACEMALLOC", "5"), ("BIRTHMARK_MALLOC", "debug,quarantine=64K")],
    );
    assert!(child.aborted(), "{child}");
    let told = Told::one(&child);
    assert_eq!(told.kind, "invalid-free", "{told}");
    assert!(told.sentence.ends_with("freed so long ago that it left the quarantine"), "{told}");
    assert!(told.row("help").contains("quarantine="), "{told}");
    found(&told, "at free in");
}

#[test]
fn a_realloc_after_the_free_is_a_use_after_free() {
    let told = one("realloc after free");
    told.is("use-after-free", "a 24-byte block was reallocated after its free");
    made(&told);
    freed(&told);
    assert!(told.row("found").starts_with("at realloc in"), "{told}");
}

#[test]
fn a_free_beside_a_blocks_start_names_the_block() {
    for (at, place) in [
        (1, "1 byte inside a 24-byte block"),
        (8, "8 bytes inside a 24-byte block"),
        (16, "16 bytes inside a 24-byte block"),
        (24, "at the end of a 24-byte block"),
        (30, "6 bytes past the end of a 24-byte block"),
        (-16, "16 bytes before a 24-byte block"),
    ] {
        let told = one(&format!("beside {at}"));
        assert_eq!(told.kind, "invalid-free");
        assert!(told.sentence.ends_with(&format!("was freed, which lies {place}")), "{told}");
        made(&told);
        found(&told, "at free in");
    }
    let told = one("inside freed");
    assert!(told.sentence.ends_with("which lies 8 bytes inside a freed 24-byte block"), "{told}");
    made(&told);
    freed(&told);
}

#[test]
fn a_free_of_what_was_never_allocated_says_what_it_looks_like() {
    for (fault, end) in [
        ("stack", "which was never allocated: it lies on this thread's stack"),
        (
            "static",
            if cfg!(birthmark_portable) { "" } else { "it lies in the program's or a library's own data" },
        ),
        ("c's", "never allocated by this allocator, or freed so long ago that it left the quarantine"),
        ("no address", "which was never allocated: no program has such an address"),
        ("null", "which was never allocated: null or dangling"),
        ("dangling", "which was never allocated: null or dangling"),
        ("uninitialised", "which was never allocated: the fill of memory that nobody has written yet"),
        ("read from freed", "which was never allocated: the fill of freed memory"),
    ] {
        let told = one(fault);
        assert_eq!(told.kind, "invalid-free");
        assert!(told.sentence.ends_with(end), "{told}");
        found(&told, "at free in");
    }
}

#[test]
fn a_wrong_layout_tells_both_layouts() {
    for (fault, asked) in [
        ("layout 23 8", "23 bytes, alignment 8"),
        ("layout 25 8", "25 bytes, alignment 8"),
        ("layout 1 8", "1 byte, alignment 8"),
        ("layout 0 8", "0 bytes, alignment 8"),
        ("layout 48 8", "48 bytes, alignment 8"),
        ("layout 24 4", "24 bytes, alignment 4"),
        ("layout 24 16", "24 bytes, alignment 16"),
        ("layout 48 64", "48 bytes, alignment 64"),
    ] {
        let told = one(fault);
        told.is("layout-mismatch", &format!("a block of 24 bytes, alignment 8, was freed as {asked}"));
        made(&told);
        found(&told, "at free in");
    }
    assert!(one("layout realloc").sentence.ends_with("was reallocated as 25 bytes, alignment 8"));
    assert!(one("layout realloc align").sentence.ends_with("was reallocated as 24 bytes, alignment 4"));
    for (fault, sentence) in [
        (
            "swapped length and capacity",
            "a block of 24 bytes, alignment 1, was freed as 3 bytes, alignment 1",
        ),
        ("box of another type", "a block of 4 bytes, alignment 1, was freed as 4 bytes, alignment 4"),
        ("shortened string", "a block of 7 bytes, alignment 1, was freed as 3 bytes, alignment 1"),
    ] {
        one(fault).is("layout-mismatch", sentence);
    }
}

#[test]
fn without_tracing_the_help_names_the_switch() {
    let child = run("double", &[("BIRTHMARK_MALLOC", "debug")]);
    assert!(child.aborted(), "{child}");
    let told = Told::one(&child);
    assert!(told.row("help").contains("TRACEMALLOC=5"), "{told}");
    found(&told, "at free in");
}

#[test]
fn a_build_with_debug_assertions_checks_by_itself_and_says_why() {
    // Without the checks a second free is the inner allocator's to bear.
    if cfg!(debug_assertions) {
        let child = run("double", &[]);
        assert!(child.aborted(), "{child}");
        let told = Told::one(&child);
        assert!(told.row("help").contains("because of debug_assertions; BIRTHMARK_MALLOC=0"), "{told}");
    }
    let child = run("check off", &[("BIRTHMARK_MALLOC", "0")]);
    assert!(child.succeeded(), "{child}");
}

#[test]
fn the_same_fault_again_is_counted_and_the_count_told_at_exit() {
    let child =
        run("over 1000 times", &[("TRACEMALLOC", "5"), ("BIRTHMARK_MALLOC", "debug,on_error=continue")]);
    assert!(child.succeeded(), "{child}");
    let count = "birthmark: heap-buffer-overflow: 1 byte written past the end of a 24-byte block: 1000 times in all, told once";
    let mut lines: Vec<&str> = child.stderr.lines().collect();
    assert_eq!(lines.pop(), Some(count), "{child}");
    Told::of(&lines.join("\n")).is("heap-buffer-overflow", "1 byte written past the end of a 24-byte block");
}

#[test]
fn a_count_is_an_object_under_json_and_a_forked_child_counts_its_own() {
    let go_on = [("TRACEMALLOC", "5"), ("BIRTHMARK_MALLOC", "debug,on_error=continue")];
    let child = run("over 1000 times", &[go_on[0], go_on[1], ("BIRTHMARK_REPORT", "json")]);
    let lines: Vec<serde_json::Value> =
        child.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[1]["count"]), (2, &1000.into()), "{child}");
    assert_eq!(lines[1]["kind"], "heap-buffer-overflow", "{child}");

    let child = run("over 3 times, then forked", &go_on);
    assert!(child.succeeded(), "{child}");
    let counts: Vec<&str> =
        child.stderr.lines().filter_map(|line| line.strip_suffix(" times in all, told once")).collect();
    // The child ends first.
    assert!(matches!(counts[..], [a, b] if a.ends_with(": 2") && b.ends_with(": 3")), "{child}");
}

#[test]
fn the_own_line_stands_among_the_first_five() {
    for fault in ["over", "under", "double", "beside 8", "layout 23 8", "write after free", "over kept"] {
        let told = one(fault);
        let own = told.whole.lines().position(|line| line.contains("make"));
        assert!(own.is_some_and(|at| at < 5) && told.whole.lines().count() <= 12, "{told}");
    }
}

#[test]
fn a_naming_child_that_crashes_or_hangs_leaves_the_raw_report() {
    for fault in ["double, the naming child crashes", "double, the naming child hangs"] {
        let child = run(fault, &DEBUG);
        if child.status.code() == Some(program::NO_FILTERS) {
            println!("not tested: `{fault}` needs seccomp filters with listeners");
            continue;
        }
        assert!(child.aborted(), "{child}");
        let told = Told::one(&child);
        told.is("double-free", "a 24-byte block was freed twice");
        for label in ["allocated", "freed", "found"] {
            assert!(told.row(label).contains("+0x") || cfg!(birthmark_portable), "{told}");
        }
        assert!(told.row("help").contains("addr2line"), "{told}");
        let child = run(fault, &[DEBUG[0], DEBUG[1], ("BIRTHMARK_REPORT", "json")]);
        let value = child.json();
        assert_eq!((&value["kind"], &value["raw"]), (&"double-free".into(), &true.into()), "{child}");
    }
}

#[test]
fn without_memory_for_a_naming_child_the_report_is_raw() {
    let told = one("double without memory");
    told.is("double-free", "a 24-byte block was freed twice");
    assert!(told.row("help").contains("addr2line"), "{told}");
}

#[test]
fn two_threads_that_fail_at_once_tell_two_whole_reports() {
    for _ in 0..5 {
        let child = run("two threads", &DEBUG);
        assert!(child.aborted(), "{child}");
        let mut kinds: Vec<String> = Told::all(&child.stderr).into_iter().map(|told| told.kind).collect();
        kinds.sort();
        assert_eq!(kinds, ["double-free", "layout-mismatch"], "{child}");
    }
}

#[test]
fn a_race_of_two_frees_is_one_report() {
    for _ in 0..5 {
        let child = run("race", &DEBUG);
        assert!(child.aborted(), "{child}");
        assert_eq!(Told::one(&child).kind, "double-free");
    }
}

#[test]
fn of_a_thousand_races_of_two_frees_each_is_a_double_free_and_the_program_lives() {
    let child =
        run("race 1000 times", &[("TRACEMALLOC", "5"), ("BIRTHMARK_MALLOC", "debug,on_error=continue")]);
    assert!(child.succeeded(), "{child}");
    let count = "birthmark: double-free: a 24-byte block was freed twice: 1000 times in all, told once";
    assert!(child.stderr.ends_with(&format!("{count}\n")), "{child}");
    Told::of(child.stderr.trim_end().strip_suffix(count).unwrap())
        .is("double-free", "a 24-byte block was freed twice");
}

#[test]
fn a_program_that_ends_meanwhile_waits_for_the_report_and_aborts() {
    let child = run("main returns meanwhile", &DEBUG);
    assert!(child.aborted(), "{child}");
    made(&Told::one(&child));
}

#[test]
fn the_program_s_own_handling_of_its_children_does_not_matter() {
    for fault in
        ["double, children ignored", "double, children waited for in a handler", "double, signals blocked"]
    {
        let told = one(fault);
        told.is("double-free", "a 24-byte block was freed twice");
        made(&told);
    }
}

#[test]
fn a_fault_inside_the_loader_s_own_callback_is_named() {
    let told = one("double, loader locked");
    made(&told);
}

#[test]
fn a_fault_in_a_small_thread_and_in_a_signal_handler_is_told() {
    // Unoptimised, the hooks themselves need more than a signal stack, and a walk more than such a thread.
    let unoptimised = cfg!(debug_assertions);
    let (switches, faults) = if unoptimised {
        (&DEBUG[1..], &["double, 16 KiB thread"][..])
    } else {
        (&DEBUG[..], &["double, 16 KiB thread", "double, signal stack"][..])
    };
    for fault in faults {
        let child = run(fault, switches);
        assert!(child.aborted(), "{fault}: {child}");
        let told = Told::one(&child);
        told.is("double-free", "a 24-byte block was freed twice");
        found(&told, "at free in");
    }
}

#[test]
fn a_damaged_inner_heap_does_not_matter() {
    let told = one("over far");
    assert_eq!(told.kind, "heap-buffer-overflow");
    assert!(told.sentence.starts_with("at least 16 bytes written past the end"), "{told}");
    made(&told);
}

#[test]
fn a_forked_child_tells_what_it_does_itself() {
    let told = one("forked");
    told.is("double-free", "a 24-byte block was freed twice");
}

#[test]
fn a_forked_child_that_writes_to_a_block_after_its_own_free_of_it_is_told() {
    for (fault, malloc) in [
        ("forked, write after free", "debug"),
        ("forked, write after free, then many", "debug,quarantine=64K"),
    ] {
        let child = run(fault, &[DEBUG[0], ("BIRTHMARK_MALLOC", malloc)]);
        assert!(child.aborted(), "{child}");
        let told = Told::one(&child);
        told.is("use-after-free", "8 bytes written to a 24-byte block after its free");
        made(&told);
        freed(&told);
    }
    // Large enough for what looking names up takes itself.
    let child = run("forked, check", &[DEBUG[0], ("BIRTHMARK_MALLOC", "debug,quarantine=256M")]);
    assert!(child.aborted() && child.stderr.is_empty(), "{child}");
    assert!(child.stdout.contains("birthmark: use-after-free: 8 bytes written"), "{child}");
}

/// Whether the first line of this stack ends with the thread of this name; no name: with none.
#[track_caller]
fn of_thread(told: &Told, label: &str, name: &str) {
    let line = told.lines(label).first().unwrap_or_else(|| panic!("no row {label:?} {told}"));
    let thread = line.rsplit_once("  thread ").map_or("", |(_, thread)| thread);
    assert_eq!(thread, name, "{label} {told}");
}

#[test]
fn threads_are_named_though_they_have_ended_and_their_slot_is_another_s() {
    for (fault, switches) in
        [("over, threads", &DEBUG[..]), ("over, threads", &DEV), ("over, threads, traced later", &DEBUG[1..])]
    {
        let child = run(fault, switches);
        assert!(child.aborted(), "{child}");
        let told = Told::one(&child);
        made(&told);
        of_thread(&told, "allocated", "maker");
        of_thread(&told, "found", "breaker");
    }
    let told = one("double, threads");
    of_thread(&told, "allocated", "maker");
    of_thread(&told, "freed", "first");
    of_thread(&told, "found", "second \"of\" 2");
    let told = one("write after free, threads");
    of_thread(&told, "allocated", "maker");
    of_thread(&told, "freed", "first");
    let told = one("forked, write after free");
    of_thread(&told, "allocated", "faults::child");
    let child = run("check, threads", &DEBUG);
    assert!(child.stdout.contains("  thread maker\n"), "{child}");
    of_thread(&one("over, threads of a parent"), "allocated", "maker");
}

#[test]
fn json_and_the_raw_report_name_the_threads_too() {
    const RAW: &str = "double, threads, the naming child crashes";
    let filters = run(RAW, &DEBUG).status.code() != Some(program::NO_FILTERS);
    for fault in ["double, threads", RAW].into_iter().take(1 + usize::from(filters)) {
        let child = run(fault, &[DEBUG[0], DEBUG[1], ("BIRTHMARK_REPORT", "json")]);
        let value = child.json();
        for (label, thread) in [("allocated", "maker"), ("freed", "first"), ("found", "second \"of\" 2")] {
            assert_eq!(value[label]["thread"], thread, "{child}");
        }
    }
    if !filters {
        println!("not tested: `{RAW}` needs seccomp filters");
        return;
    }
    let told = one(RAW);
    for (label, thread) in [("allocated", "maker"), ("freed", "first"), ("found", "second \"of\" 2")] {
        assert!(told.row(label).ends_with(&format!("  thread {thread}")), "{told}");
    }
}

#[test]
fn past_the_names_that_are_kept_a_thread_is_told_by_its_id() {
    let told = one("70000 threads");
    let line = told.lines("allocated").first().unwrap();
    let id = line.rsplit_once("  thread ").map_or("", |(_, thread)| thread);
    assert!(id.parse::<u32>().is_ok(), "{told}");
}

#[test]
fn a_forked_child_tells_its_parents_damage_only_where_it_frees_it_and_says_so() {
    let go_on = [("TRACEMALLOC", "5"), ("BIRTHMARK_MALLOC", "debug,on_error=continue")];
    let child = run("forked with damage", &go_on);
    assert!(child.succeeded(), "{child}");
    let all = Told::all(&child.stderr);
    let [parents, own] = &all[..] else { panic!("{child}") };
    parents.is("heap-buffer-overflow", "1 byte written past the end of a 24-byte block");
    assert_eq!(parents.row("note"), "made before the fork, may be the parent's");
    own.is("heap-buffer-overflow", "1 byte written past the end of a 26-byte block");
    assert!(own.lines("note").is_empty(), "{own}");
}

#[test]
fn a_closed_standard_error_and_one_that_nobody_reads_do_not_hang_the_program() {
    for fault in ["double, standard error closed", "double, full pipe", "double, no reader"] {
        let child = run(fault, &DEBUG);
        assert!(child.aborted(), "{fault}: {child}");
    }
}

#[test]
fn a_report_goes_to_the_file_that_is_named() {
    let file = std::env::temp_dir().join(format!("birthmark-faults-{}-%p", std::process::id()));
    let words = format!("text,file={}", file.display());
    let child = run("double", &[DEBUG[0], DEBUG[1], ("BIRTHMARK_REPORT", &words)]);
    assert!(child.aborted() && child.stderr.is_empty(), "{child}");
    let file = file.to_str().unwrap().replace("%p", &child.id.to_string());
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    made(&Told::of(&text));
}

#[test]
fn json_is_one_object_with_the_same_facts() {
    let child = run("over", &[DEBUG[0], DEBUG[1], ("BIRTHMARK_REPORT", "json")]);
    assert!(child.aborted(), "{child}");
    let value = child.json();
    assert_eq!(value["kind"], "heap-buffer-overflow");
    assert_eq!(value["message"], "1 byte written past the end of a 24-byte block");
    assert_eq!(value["damage"], "1 byte at +24: 0x21 in the red zone");
    assert_eq!(value["pid"].as_u64(), Some(child.id.into()));
    for label in ["allocated", "found"] {
        let frames = value[label]["frames"].as_array().unwrap();
        assert!(frames.iter().any(|frame| frame["owner"] == "user"), "{child}");
    }
}

#[test]
fn colour_is_for_terminals_unless_it_is_asked_for() {
    let colored = |words: &str, more: (&str, &str)| {
        let child = run("double", &[DEBUG[0], DEBUG[1], ("BIRTHMARK_REPORT", words), more]);
        child.stderr.contains('\x1b')
    };
    assert!(!colored("text", ("NO_COLOR", "")));
    assert!(colored("text,color=always", ("NO_COLOR", "1")));
    assert!(colored("text", ("CLICOLOR_FORCE", "1")));
    assert!(!colored("text,color=never", ("CLICOLOR_FORCE", "1")));
}

#[test]
fn full_shows_the_folded_frames() {
    let child = run("double", &[DEBUG[0], DEBUG[1], ("BIRTHMARK_REPORT", "full")]);
    assert!(child.stderr.contains("__rust_begin_short_backtrace"), "{child}");
    assert!(!run("double", &DEBUG).stderr.contains("__rust_begin_short_backtrace"));
}

#[test]
fn a_bad_value_ends_the_program_before_main() {
    for (name, value) in [
        ("TRACEMALLOC", "5x"),
        ("TRACEMALLOC", "-1"),
        ("TRACEMALLOC", "70000"),
        ("TRACEMALLOC", "5,sample=512K"),
        ("BIRTHMARK_MALLOC", "debug,guard_pages=1/1000"),
        ("BIRTHMARK_MALLOC", "debug,on_error=deferred"),
        ("BIRTHMARK_ASYNC_DEBUG", "yes"),
        ("BIRTHMARK_DEV", "2"),
        ("BIRTHMARK_REPORT", "sarif"),
        ("BIRTHMARK_SNAPSHOT", "over=2G:x"),
        ("BIRTHMARK_WARNINGS", "explode"),
        ("BIRTHMARK_WARNINGS", "error::leak"),
        ("BIRTHMARK_WARNINGS", "error:::my_crate:zero"),
        ("BIRTHMARK_BUDGETS", "update"),
    ] {
        let child = run("none", &[(name, value)]);
        assert_eq!(child.status.code(), Some(2), "{name}={value}: {child}");
        assert!(child.stdout.is_empty() && child.stderr.lines().count() == 1, "{child}");
        assert!(child.stderr.starts_with(&format!("birthmark: {name}=\"{value}\": ")), "{child}");
        assert!(child.stderr.contains("; allowed: "), "{child}");
    }
}

#[test]
fn an_unknown_variable_of_ours_is_told_once() {
    let child: Child = run("none", &[("BIRTHMARK_MALOC", "debug")]);
    assert!(child.succeeded() && child.stderr.lines().count() == 1, "{child}");
    assert!(child.stderr.contains("\"BIRTHMARK_MALOC\" is unknown and ignored"), "{child}");
}
