use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::trace::modules;
use crate::trace::names::{PLUMBING, classify};

#[inline(never)]
fn marked() -> usize {
    std::hint::black_box(marked as *const () as usize)
}

/// The module of this very program that holds `address`.
fn of_this(address: usize) -> LoadedModule {
    modules::list_once();
    let m = modules::find(address).expect("the address lies in a module");
    LoadedModule { map_start: m.start, load_bias: m.bias, path: m.name, generation: 0 }
}

fn class(address: usize) -> Class {
    class_of(address, &of_this(address))
}

/// A directory of the test's own.
fn place(test: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("birthmark-symbols-{test}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn rustc(dir: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let source = dir.join("program.rs");
    std::fs::write(
        &source,
        "#[inline(never)] fn mine(v: &[u32]) -> Vec<String> { v.iter().map(|x| x.to_string()).collect() }
         mod core_of { pub struct Mine; impl std::fmt::Display for Mine {
             fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(\"mine\") } } }
         #[unsafe(no_mangle)] #[inline(never)] extern \"C\" fn in_c(x: u32) -> u32 { x + 1 }
         fn main() {
             std::thread::spawn(|| println!(\"{:?} {} {}\", mine(&[1, 2]), core_of::Mine, in_c(1))).join().unwrap();
         }",
    )
    .unwrap();
    let program = dir.join(name);
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let built = Command::new(rustc)
        .args(["--edition=2024", "--crate-name=program"])
        .args(flags)
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .status()
        .expect("rustc, which builds these tests, builds a program for them");
    assert!(built.success());
    program
}

/// A file that is mapped as if it had been loaded, so far as its head goes. For ever: indexes may name it.
struct Image {
    module: LoadedModule,
    bytes: &'static [u8],
}

impl Image {
    fn new(path: &Path, generation: u32) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let len = bytes.len().max(4096);
        // SAFETY: a fresh mapping, filled with the file and never unmapped.
        let bytes: &'static [u8] = unsafe {
            let p = libc::mmap(
                core::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(p, libc::MAP_FAILED);
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), p.cast(), bytes.len());
            core::slice::from_raw_parts(p.cast(), bytes.len())
        };
        let start = bytes.as_ptr() as usize;
        let path = CString::new(path.to_str().unwrap()).unwrap().into_raw();
        Self { module: LoadedModule { map_start: start, load_bias: start, path, generation }, bytes }
    }
    fn class(&self, symbol: &Function) -> Class {
        class_of(symbol.address.wrapping_add(self.module.load_bias), &self.module)
    }
}

struct Function {
    address: usize,
    size: usize,
    name: String,
}

/// A second, simple reader of symbol tables: the functions of an ELF file.
fn functions(file: &[u8]) -> Vec<Function> {
    let n =
        |at: usize, len: usize| file[at..at + len].iter().rev().fold(0usize, |n, b| n << 8 | usize::from(*b));
    let (sections, count) = (n(0x28, 8), n(0x3c, 2));
    let section = |i: usize| sections + 64 * i;
    let Some(table) = (0..count).map(section).find(|s| n(s + 4, 4) == 2) else { return Vec::new() };
    let names = n(section(n(table + 40, 4)) + 24, 8);
    let (start, size) = (n(table + 24, 8), n(table + 32, 8));
    let mut found = Vec::new();
    for at in (start..start + size).step_by(24) {
        if file[at + 4] & 15 == 2 && n(at + 6, 2) != 0 {
            let name = &file[names + n(at, 4)..];
            let end = name.iter().position(|b| *b == 0).unwrap();
            let name = String::from_utf8(name[..end].to_vec()).unwrap();
            found.push(Function { address: n(at + 8, 8), size: n(at + 16, 8), name });
        }
    }
    found
}

#[test]
fn functions_of_this_very_program_are_told_apart() {
    assert_eq!(class(marked()), Class::Ours, "Birthmark's own function");
    assert_eq!(class(std::thread::yield_now as *const () as usize), Class::Plumbing);
    assert_eq!(class(std::vec::Vec::<u8>::reserve as *const () as usize), Class::Plumbing);
    assert_eq!(class(serde_json::Value::is_null as *const () as usize), Class::User, "a dependency's");
    assert_eq!(class(libc::qsort as *const () as usize), Class::Foreign, "the C library's");
    let name = name_at(marked(), &of_this(marked())).unwrap();
    assert!(String::from_utf8_lossy(name).contains("6marked"));
}

#[test]
fn every_function_of_this_program_is_found_at_its_first_and_its_last_byte() {
    let program = std::fs::read("/proc/self/exe").unwrap();
    let module = of_this(marked());
    let all = functions(&program);
    assert!(all.len() > 1_000);
    let mut by_place = std::collections::HashMap::<usize, Vec<&Function>>::new();
    for f in &all {
        by_place.entry(f.address).or_default().push(f);
    }
    for f in &all {
        for at in [f.address, f.address + f.size.saturating_sub(1)] {
            let name = name_at(at + module.load_bias, &module).map(String::from_utf8_lossy);
            let name = name.unwrap_or_else(|| panic!("nothing at {at:#x}, in {}", f.name));
            let here = &by_place[&f.address];
            if here.iter().any(|f| f.name == name) {
                let users = here.iter().any(|f| classify(f.name.as_bytes()) == Class::User);
                assert!(!users || classify(name.as_bytes()) == Class::User, "{name} is the user's");
            } else {
                // Another function begins within this one.
                let other = all.iter().find(|f| f.name == name && f.address <= at && at < f.address + f.size);
                assert!(other.is_some_and(|o| o.address > f.address), "{name} for {}", f.name);
            }
        }
    }
}

/// The crate that a demangled name begins with, where it begins with one.
fn root(demangled: &str) -> Option<&str> {
    let end = demangled.find("::")?;
    let root = &demangled[..end];
    root.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_').then_some(root)
}

#[test]
fn classes_agree_with_the_roots_of_demangled_names() {
    let of_root = |root: &str| match root {
        "birthmark" | "backtrace" | "__rustc" => Class::Ours,
        "compiler_builtins" | "panic_abort" | "panic_unwind" | "std_detect" => Class::Plumbing,
        _ if PLUMBING.contains(&root) => Class::Plumbing,
        _ => Class::User,
    };
    let (mut compared, mut impls, mut std_own) = (0, 0, 0);
    for f in functions(&std::fs::read("/proc/self/exe").unwrap()) {
        let class = classify(f.name.as_bytes());
        let demangled = format!("{:#}", backtrace::SymbolName::new(f.name.as_bytes()));
        if demangled == f.name {
            assert!(class != Class::User, "{} isn't mangled", f.name);
        } else if class == Class::Entry {
            assert!(demangled.contains("__rust_begin_short_backtrace"));
        } else if let Some(root) = root(&demangled) {
            compared += 1;
            // What std instantiated of its own copies of crates is plumbing, whatever the root.
            if class == Class::Plumbing && of_root(root) == Class::User {
                std_own += 1;
            } else {
                assert_eq!(class, of_root(root), "{demangled} {}", f.name);
            }
        } else if demangled.starts_with('<') {
            impls += 1;
            let words = demangled.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
            let mut roots = words.filter_map(root).map(of_root);
            assert!(
                class == Class::Plumbing || roots.any(|r| r == class),
                "{class:?} {demangled} {}",
                f.name
            );
        }
    }
    println!("{compared} by their root, {impls} impls, {std_own} of std's own copies");
    assert!(compared > 1_000 && impls > 500, "{compared} {impls}");
    assert!(std_own * 20 < compared, "{std_own} of {compared}");
}

#[test]
fn programs_of_both_manglings_are_told_apart_and_stripping_line_tables_changes_nothing() {
    let dir = place("manglings");
    for (name, flags) in [
        ("legacy", &["-g"][..]),
        ("v0", &["-g", "-Csymbol-mangling-version=v0"]),
        ("bare", &["-g", "-Cstrip=debuginfo"]),
        ("release", &["-O"]),
    ] {
        let image = Image::new(&rustc(&dir, name, flags), 0);
        let all = functions(image.bytes);
        let class = |part: &str| {
            let is_it = |f: &&Function| f.name.contains(&format!("{part}17h")) || f.name.ends_with(part);
            let f = all.iter().find(is_it).unwrap_or_else(|| panic!("{part} in {name}"));
            image.class(f)
        };
        let mark = |f: &&Function| {
            f.name.contains("28__rust_begin_short_backtrace17h")
                || f.name.contains("28___rust_begin_short_backtraceFEuuE")
        };
        assert_eq!(image.class(all.iter().find(mark).unwrap()), Class::Entry, "{name}");
        assert_eq!(class("program4main"), Class::User, "{name}");
        assert_eq!(class("program4mine"), Class::User, "{name}");
        assert_eq!(class("lang_start_internal"), Class::Plumbing, "{name}");
        assert_eq!(class("12___rust_alloc"), Class::Ours, "{name}");
        let c = all.iter().find(|f| f.name == "in_c").unwrap();
        assert_eq!(image.class(c), Class::Foreign, "{name}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_program_without_symbols_is_unknown_and_not_a_users() {
    let dir = place("stripped");
    let image = Image::new(&rustc(&dir, "whole", &["-g"]), 0);
    let stripped = Image::new(&rustc(&dir, "stripped", &["-Cstrip=symbols"]), 0);
    assert!(functions(stripped.bytes).is_empty());
    for f in functions(image.bytes) {
        assert_ne!(image.class(&f), Class::Unknown, "{}", f.name);
        assert_eq!(stripped.class(&f), Class::Unknown, "{}", f.name);
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_file_that_is_gone_or_was_replaced_since_it_was_loaded_names_nothing() {
    let dir = place("replaced");
    let program = rustc(&dir, "program", &["-g"]);
    let other = rustc(&dir, "other", &["-g", "-Copt-level=1"]);
    let image = Image::new(&program, 0);
    let all = functions(image.bytes);
    std::fs::rename(&other, &program).unwrap();
    assert!(all.iter().all(|f| image.class(f) == Class::Unknown), "replaced");
    let image = Image::new(&program, 0);
    std::fs::remove_file(&program).unwrap();
    assert!(all.iter().all(|f| image.class(f) == Class::Unknown), "gone");
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn files_loaded_one_after_the_other_at_one_place_are_not_taken_for_each_other() {
    let dir = place("later");
    let first = Image::new(&rustc(&dir, "first", &["-g"]), 255);
    let second = Image::new(&rustc(&dir, "second", &["-g", "-Csymbol-mangling-version=v0"]), 255);
    let main = |image: &Image| functions(image.bytes).into_iter().find(|f| f.name.contains("4mine")).unwrap();
    let (a, b) = (main(&first), main(&second));
    let name = |f: &Function, m: &LoadedModule| {
        name_at(f.address + m.load_bias, m).map(|n| String::from_utf8_lossy(n).into_owned())
    };
    assert_eq!(name(&a, &first.module), Some(a.name.clone()));
    // The second takes the first one's place.
    let len = first.bytes.len().min(second.bytes.len());
    // SAFETY: both are mappings of ours, writable, of at least `len` bytes, and nobody else looks at them meanwhile.
    unsafe {
        core::ptr::copy_nonoverlapping(second.bytes.as_ptr(), first.bytes.as_ptr().cast_mut(), len);
    }
    let there = LoadedModule { path: second.module.path, ..first.module };
    assert_eq!(name(&b, &there), Some(b.name.clone()));
    std::fs::remove_dir_all(dir).unwrap();
}

fn random(x: &mut u64) -> usize {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    (*x >> 16) as usize
}

/// Whether its notes would lie in the image: a loader maps what the headers say, or nothing.
fn could_be_loaded(file: &[u8]) -> bool {
    let n = |at: usize, len: usize| {
        let mut word = [0; 8];
        word[..len].copy_from_slice(file.get(at..at.checked_add(len)?)?);
        Some(u64::from_le_bytes(word))
    };
    let header = |i: usize| {
        let at = usize::try_from(n(0x20, 8)?).ok()?.checked_add(i * 56)?;
        // Type, offset, address and size.
        Some((n(at, 4)?, n(at.checked_add(8)?, 8)?, n(at + 16, 8)?, n(at + 32, 8)?))
    };
    let all: Vec<_> = (0..n(0x38, 2).unwrap_or(0) as usize).filter_map(header).collect();
    let Some(base) = all.iter().find(|h| h.0 == 1 && h.1 == 0).map(|h| h.2) else { return true };
    let notes = all.iter().filter(|h| h.0 == u64::from(libc::PT_NOTE));
    notes.into_iter().all(|h| {
        h.2.wrapping_sub(base).checked_add(h.3).is_some_and(|end| end <= file.len().max(4096) as u64)
    })
}

#[test]
fn no_damage_to_a_file_does_harm() {
    let dir = place("damaged");
    let whole = std::fs::read(rustc(&dir, "whole", &["-g", "-Cstrip=debuginfo"])).unwrap();
    let n = |at: usize| u64::from_le_bytes(whole[at..at + 8].try_into().unwrap()) as usize;
    let sections = n(0x28);
    let path = dir.join("damaged");
    let mut x = 99_194_853_094_755_497;
    let mut found = 0;
    for round in 0..400 {
        let mut file = whole.clone();
        match round % 4 {
            0 => file.truncate(random(&mut x) % whole.len()),
            // Heads of the file and of its sections, with numbers that are wrong and those that overflow.
            1 | 2 => {
                for _ in 0..1 + random(&mut x) % 4 {
                    let near = if round % 4 == 1 { 0..64 } else { sections..whole.len() };
                    let at = near.start + random(&mut x) % near.len();
                    file[at] = [0, 1, 0x7f, 0x80, 0xff, random(&mut x) as u8][random(&mut x) % 6];
                }
            }
            _ => {
                for _ in 0..2_000 {
                    let at = random(&mut x) % file.len();
                    file[at] = random(&mut x) as u8;
                }
            }
        }
        if !could_be_loaded(&file) {
            continue;
        }
        std::fs::write(&path, &file).unwrap();
        let image = Image::new(&path, 0);
        let Some(index) = Index::build(&image.module) else { continue };
        // SAFETY: built just now; nothing is published.
        let it: &'static Index = unsafe { &*index.as_ptr() };
        for _ in 0..200 {
            let name = it.find(random(&mut x) % (2 * whole.len())).map(|(n, _)| n.len());
            found += usize::from(name.is_some_and(|n| n > 0));
        }
        // SAFETY: as above; what was found isn't looked at any more.
        unsafe { Index::give_back(index) };
    }
    assert!(found > 1_000, "some of the damage leaves names: {found}");
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn threads_that_ask_at_once_get_the_same_answer_and_errno_stays() {
    let dir = place("threads");
    let image = Image::new(&rustc(&dir, "program", &["-g"]), 0);
    let all = functions(image.bytes);
    let mine = all.iter().find(|f| f.name.contains("4mine")).unwrap();
    let (address, module) = (mine.address + image.module.load_bias, image.module);
    let start = module.map_start;
    let path = module.path as usize;
    let barrier = std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                barrier.wait();
                let module = LoadedModule {
                    map_start: start,
                    load_bias: start,
                    path: path as *const c_char,
                    generation: 0,
                };
                // SAFETY: this thread's own `errno`.
                unsafe { *libc::__errno_location() = 4321 };
                let class = class_of(address, &module);
                // SAFETY: as above.
                assert_eq!(unsafe { *libc::__errno_location() }, 4321);
                assert_eq!(class, Class::User);
            });
        }
    });
    let missing = c"/nowhere/to/be/found";
    let module = LoadedModule { map_start: 0, load_bias: 0, path: missing.as_ptr(), generation: 0 };
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = 4321 };
    assert_eq!(class_of(1, &module), Class::Unknown);
    // SAFETY: as above.
    assert_eq!(unsafe { *libc::__errno_location() }, 4321);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn without_memory_nothing_is_known_and_later_it_is() {
    let dir = place("memory");
    let image = Image::new(&rustc(&dir, "program", &["-g"]), 0);
    let all = functions(image.bytes);
    let mine = all.iter().find(|f| f.name.contains("4mine")).unwrap();
    let address = mine.address + image.module.load_bias;
    // SAFETY: the child only makes system calls, as a hook may.
    let status = unsafe {
        let child = libc::fork();
        if child == 0 {
            let mut limit = core::mem::MaybeUninit::<libc::rlimit>::uninit();
            libc::getrlimit(libc::RLIMIT_AS, limit.as_mut_ptr());
            let whole = limit.assume_init();
            libc::setrlimit(libc::RLIMIT_AS, &libc::rlimit { rlim_cur: 4096, ..whole });
            let without = class_of(address, &image.module) == Class::Unknown;
            libc::setrlimit(libc::RLIMIT_AS, &whole);
            let with = class_of(address, &image.module) == Class::User;
            libc::_exit(i32::from(!without) + 2 * i32::from(!with));
        }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        status
    };
    assert_eq!(status, 0, "1: known without memory, 2: unknown with it");
    std::fs::remove_dir_all(dir).unwrap();
}
