use super::*;

/// Names in the forms that rustc 1.95 writes, most of them from small programs; `a` and `b` stand for crates of the user.
const REAL: &[(&str, Class)] = &[
    // Legacy: plain paths.
    ("_ZN1a4main17h1854dee5fd9945b4E", Class::User),
    ("_ZN1a4main28_$u7b$$u7b$closure$u7d$$u7d$17h13c9585b5f575d71E", Class::User),
    ("_ZN5alloc7raw_vec20RawVecInner$LT$A$GT$16with_capacity_in17haa029d1ad6422389E", Class::Plumbing),
    ("_ZN4core3ptr47drop_in_place$LT$std..ffi..os_str..OsString$GT$17h7cd754f83347e61aE", Class::Plumbing),
    ("_ZN4core3ptr28drop_in_place$LT$a..Mine$GT$17h0123456789abcdefE", Class::Plumbing),
    ("_ZN9hashbrown3raw21RawTable$LT$T$C$A$GT$14reserve_rehash17h2481a2ffd221d94aE", Class::Plumbing),
    (
        "_ZN3std4hash6random11RandomState3new4KEYS27__rust_std_internal_init_fn17hd49c80411a0e62f5E",
        Class::Plumbing,
    ),
    ("_ZN1a5CACHE27__rust_std_internal_init_fn17hd49c80411a0e62f5E", Class::User),
    // Legacy: impls, the user's wherever one of the user's names stands in them.
    (
        "_ZN1a90_$LT$impl$u20$core..convert..From$LT$a..Mine$GT$$u20$for$u20$alloc..vec..Vec$LT$u8$GT$$GT$4from17h625618e2bbf89d37E",
        Class::User,
    ),
    (
        "_ZN92_$LT$alloc..vec..Vec$LT$u8$GT$$u20$as$u20$core..convert..From$LT$b..other_name..Mine$GT$$GT$4from17h625618e2bbf89d37E",
        Class::User,
    ),
    (
        "_ZN102_$LT$core..iter..adapters..map..Map$LT$I$C$F$GT$$u20$as$u20$core..iter..traits..iterator..Iterator$GT$9size_hint17hf7ab9ed7b01adf88E",
        Class::Plumbing,
    ),
    (
        "_ZN107_$LT$std..collections..hash..map..Values$LT$K$C$V$GT$$u20$as$u20$core..iter..traits..iterator..Iterator$GT$4fold28_$u7b$$u7b$closure$u7d$$u7d$17hc13531a9116ca28cE",
        Class::Plumbing,
    ),
    (
        "_ZN114_$LT$dyn$u20$core..ops..function..Fn$LT$$LP$u8$C$$RP$$GT$$u2b$Output$u20$$u3d$$u20$$LP$$RP$$u20$as$u20$a..Make$GT$4make17h9660c9b79687ed7dE",
        Class::User,
    ),
    ("_ZN41_$LT$$u5b$u16$u5d$$u20$as$u20$a..Make$GT$4make17hc4eeb8f92cae9d52E", Class::User),
    ("_ZN51_$LT$$u5b$u8$u3b$$u20$7$u5d$$u20$as$u20$a..Make$GT$4make17hb47927540f1dbbd0E", Class::User),
    ("_ZN57_$LT$fn$LP$u8$RP$$u20$.$GT$$u20$u8$u20$as$u20$a..Make$GT$4make17h5a9571324b7d298bE", Class::User),
    (
        "_ZN47_$LT$i32$u20$as$u20$core..iter..range..Step$GT$17forward_unchecked17h95c39e861af9edacE",
        Class::Plumbing,
    ),
    (
        "_ZN71_$LT$core..hash..sip..Hasher$LT$S$GT$$u20$as$u20$core..hash..Hasher$GT$6finish17h1acb9a43113e7c91E",
        Class::Plumbing,
    ),
    (
        "_ZN75_$LT$birthmark..DebugAlloc$LT$A$GT$$u20$as$u20$core..alloc..GlobalAlloc$GT$5alloc17h0123456789abcdefE",
        Class::Ours,
    ),
    ("_ZN44_$LT$a..Mine$u20$as$u20$birthmark..Watch$GT$4name17h0123456789abcdefE", Class::User),
    // Legacy: crates whose names only look like plumbing's, suffixes, the mark.
    ("_ZN6my_std4main17h0123456789abcdefE", Class::User),
    ("_ZN9allocator3new17h0123456789abcdefE", Class::User),
    ("_ZN10tokio_util5codec6decode17h0123456789abcdefE", Class::User),
    ("_ZN53_$LT$core_graph..Node$u20$as$u20$core..fmt..Debug$GT$3fmt17h0123456789abcdefE", Class::User),
    ("_ZN5tokio7runtime4task3raw4poll17h0123456789abcdefE.llvm.17293822569102704640", Class::Plumbing),
    ("_ZN9birthmark5alloc1f17h0123456789abcdefE", Class::Ours),
    ("_ZN9backtrace9backtrace5trace17h0123456789abcdefE", Class::Ours),
    ("_ZN3std3sys9backtrace28__rust_begin_short_backtrace17h7c6f07bd7a1ed0a2E", Class::Entry),
    ("_ZN4test28__rust_begin_short_backtrace17h0123456789abcdefE", Class::Entry),
    ("_ZN1a28__rust_begin_short_backtrace17h0123456789abcdefE", Class::User),
    ("_ZN3std3sys9backtrace26__rust_end_short_backtrace17h7c6f07bd7a1ed0a2E", Class::Plumbing),
    // v0: by the defining path.
    ("_RNvCs6xxl1lAjzDf_1a4main", Class::User),
    ("_RNCNvCs6xxl1lAjzDf_1a4mains0_0B3_", Class::User),
    ("_RINvMNtCslNYArtu3iFV_5alloc5sliceSl7sort_byNCNvCs6xxl1lAjzDf_1a4mains1_0EBJ_", Class::Plumbing),
    (
        "_RINvMNtNtNtNtCsgEmfK2I1SDS_4core5slice4sort6stable5mergeINtB3_10MergeStatelE10merge_downNCINvMNtCslNYArtu3iFV_5alloc5sliceSl7sort_byNCNvCs6xxl1lAjzDf_1a4mains1_0E0EB2a_",
        Class::Plumbing,
    ),
    (
        "_RINvNtCsgEmfK2I1SDS_4core3ptr13drop_in_placeNCINvNtNtCsjrHSEGnQ3l9_3std6thread9lifecycle15spawn_uncheckedNCNvCs6xxl1lAjzDf_1a4mains0_0uEs_0EB1J_",
        Class::Plumbing,
    ),
    ("_RNvXCs1_7mycrateNtB2_5ThingNtNtNtCs2_4core3ops4drop4Drop4drop", Class::User),
    // A trait's default method is the trait's.
    (
        "_RINvYNtCs6xxl1lAjzDf_1a4MineNtNtNtNtCsgEmfK2I1SDS_4core4iter6traits8iterator8Iterator3mapjNCNvB6_4mains2_0EB6_",
        Class::Plumbing,
    ),
    ("_RNvYINtNtCslNYArtu3iFV_5alloc3vec3VechENtCs6xxl1lAjzDf_1a4Make4makeBF_", Class::User),
    // Closures have no names: lengths of zero, one after the other.
    (
        "_RNSNvYNCNCINvCs3mSbOeLENLV_4test28test_main_with_exit_callbackNCNvBb_9test_main0Es_00INtNtNtCsgEmfK2I1SDS_4core3ops8function6FnOnceuE9call_once6vtableBb_",
        Class::Plumbing,
    ),
    // v0: the mark itself, and functions that have it among their arguments.
    (
        "_RINvNtNtCsjrHSEGnQ3l9_3std3sys9backtrace28___rust_begin_short_backtraceFEuuECs6xxl1lAjzDf_1a",
        Class::Entry,
    ),
    (
        "_RINvNtNtCsjrHSEGnQ3l9_3std3sys9backtrace28___rust_begin_short_backtraceNCNCNCINvNtNtB6_6thread9lifecycle15spawn_uncheckedNCNvCs6xxl1lAjzDf_1a4mains0_0uEs_000uEB1Z_",
        Class::Entry,
    ),
    (
        "_RINvNtCsjrHSEGnQ3l9_3std9panicking3tryNCINvNtNtB4_3sys9backtrace28___rust_begin_short_backtraceFEuuE0uECs6xxl1lAjzDf_1a",
        Class::Plumbing,
    ),
    ("_RINvCs6xxl1lAjzDf_1a28___rust_begin_short_backtraceFEuuEB2_", Class::User),
    (
        "_RINvNtNtCsjrHSEGnQ3l9_3std3sys9backtrace26___rust_end_short_backtraceNCNvNtB6_9panicking13panic_handler0zEB6_",
        Class::Plumbing,
    ),
    // v0: std's own copy of a crate, told by who instantiated it; and the user's.
    (
        "_RNvMs0_NtNtCsduwmD7cSIQq_5gimli4read5dwarfINtB5_5DwarfINtNtB7_12endian_slice11EndianSliceNtNtB9_9endianity12LittleEndianEE11attr_stringCsjrHSEGnQ3l9_3std",
        Class::Plumbing,
    ),
    (
        "_RNvMs0_NtNtCsduwmD7cSIQq_5gimli4read5dwarfINtB5_5DwarfINtNtB7_12endian_slice11EndianSliceNtNtB9_9endianity12LittleEndianEE11attr_stringCs6xxl1lAjzDf_1a",
        Class::User,
    ),
    // The compiler's shims.
    ("_RNvCsfLfy6EI15iL_7___rustc12___rust_alloc", Class::Ours),
    ("_RNvCsfLfy6EI15iL_7___rustc35___rust_no_alloc_shim_is_unstable_v2", Class::Ours),
    ("__rust_alloc", Class::Ours),
    ("__rust_try", Class::Plumbing),
    ("__rust_try.llvm.5421869174562374", Class::Plumbing),
    ("__rust_std_internal_init_fn", Class::Foreign),
    // What isn't Rust.
    ("qsort", Class::Foreign),
    ("main", Class::Foreign),
    ("_ZN3foo3barEv", Class::Foreign),
    ("_ZNSt6vectorIiSaIiEE9push_backERKi", Class::Foreign),
    ("_ZN5alloc3run17h0123456789abcdeE", Class::Foreign),
    ("_Recover", Class::Foreign),
    ("_R", Class::Foreign),
    ("_ZN", Class::Foreign),
    ("", Class::Foreign),
];

#[test]
fn real_names_of_both_manglings_are_told_apart() {
    for (name, class) in REAL {
        assert_eq!(classify(name.as_bytes()), *class, "{name}");
    }
}

#[test]
fn a_name_of_any_depth_is_read_in_the_same_room() {
    // A reference to a reference to ... the user's type, as the self type of a default method of core's.
    let deep = format!("_RNvY{}NtC1a4MineNtNtC4core5clone5Clone10clone_fromC1a", "R".repeat(3000));
    assert_eq!(classify(deep.as_bytes()), Class::Plumbing);
    let nested = format!("_RNvY{}NtC1a4MineNtNtC4core5clone5Clone10clone_fromC1a", "SP".repeat(3000));
    assert_eq!(classify(nested.as_bytes()), Class::Plumbing);
    // Brackets within brackets do take room; no more of it than there is.
    let tuples = |n| format!("_RNvY{}u{}NtC4core5Clone1xC1a", "T".repeat(n), "E".repeat(n));
    assert_eq!(classify(tuples(300).as_bytes()), Class::Plumbing);
    assert_eq!(classify(tuples(3000).as_bytes()), Class::Foreign);
}

#[test]
fn back_references_in_a_ring_end() {
    assert_eq!(classify(b"_RNvB_1a"), Class::Foreign);
    assert_eq!(classify(b"_RNvNvB_1a1b"), Class::Foreign);
    assert_eq!(classify(b"_RNvBzzz_1a"), Class::Foreign);
}

fn random(x: &mut u64) -> usize {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    (*x >> 16) as usize
}

#[test]
fn no_bytes_make_it_panic_or_run_for_ever() {
    let mut x = 88_172_645_463_325_252;
    let alphabet = b"_RZNCMXYIBKLTSAFDEWVGUsuphvn0123456789abcz$.";
    for round in 0..200_000 {
        let mut name = Vec::from(if round % 2 == 0 { &b"_R"[..] } else { b"_ZN" });
        for _ in 0..random(&mut x) % 40 {
            name.push(alphabet[random(&mut x) % alphabet.len()]);
        }
        classify(&name);
    }
}

#[test]
fn no_truncation_or_damage_of_a_real_name_makes_it_panic() {
    let mut x = 1_234_567_891_011;
    for (name, _) in REAL {
        for end in 0..name.len() {
            classify(&name.as_bytes()[..end]);
        }
        for _ in 0..if name.is_empty() { 0 } else { 2_000 } {
            let mut bytes = name.as_bytes().to_vec();
            for _ in 0..1 + random(&mut x) % 3 {
                let at = random(&mut x) % bytes.len();
                bytes[at] = bytes[random(&mut x) % bytes.len()] ^ (random(&mut x) % 7 / 6) as u8;
            }
            classify(&bytes);
        }
    }
}
