//! A plugin without Birthmark calls back into the host, which allocates; it is traced, unloaded, and another is loaded at
//! its place. And a library that holds Birthmark itself.

mod support;

use std::hint::black_box;
use std::process::Command;

use support::{Library, assert_stack, in_every_mode, run, rust_library, scratch, tracing};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

type Callback = extern "C" fn(usize) -> usize;
type Plugin = extern "C" fn(Callback, usize) -> usize;

#[inline(never)]
fn allocates_for_the_plugin(n: usize) -> Vec<u8> {
    black_box(vec![9u8; n])
}

extern "C" fn host(n: usize) -> usize {
    black_box(allocates_for_the_plugin(n).leak().as_ptr() as usize)
}

/// The functions' frames differ between plugins, so that rules of one at the place of the other lead astray.
fn source(name: &str, room: usize) -> String {
    format!(
        "use std::hint::black_box;
        #[unsafe(no_mangle)] #[inline(never)]
        pub extern \"C\" fn inner_{name}(f: extern \"C\" fn(usize) -> usize, n: usize) -> usize {{
            let room = black_box([n; {room}]);
            let p = f(n);
            black_box(room);
            p
        }}
        #[unsafe(no_mangle)]
        pub extern \"C\" fn plugin(f: extern \"C\" fn(usize) -> usize, n: usize) -> usize {{
            let of_its_own = black_box(vec![n; 3]);
            black_box(inner_{name}(f, of_its_own[2]))
        }}"
    )
}

#[test]
fn a_plugin_is_traced_unloaded_and_another_takes_its_place() {
    let dir = scratch("plugins");
    let paths = if let Some(paths) = std::env::var_os("SOUND_PLUGINS") {
        std::env::split_paths(&paths).collect()
    } else {
        let plugins = [("one", 3), ("two", 40), ("three", 11)];
        let paths: Vec<_> = plugins.iter().map(|(n, r)| rust_library(&dir, n, &source(n, *r))).collect();
        // SAFETY: no other thread of this process reads the environment now.
        unsafe { std::env::set_var("SOUND_PLUGINS", std::env::join_paths(&paths).unwrap()) };
        paths
    };
    in_every_mode("a_plugin_is_traced_unloaded_and_another_takes_its_place", || {
        let mut old: Vec<(usize, &str)> = Vec::new();
        for _ in 0..5 {
            for (path, name) in paths.iter().zip(["inner_one", "inner_two", "inner_three"]) {
                let library = Library::open(path);
                // SAFETY: the plugin's function has this type.
                let plugin: Plugin = unsafe { std::mem::transmute(library.symbol(c"plugin")) };
                for n in 0..3 {
                    let p = black_box(plugin)(host, 100 + n);
                    if tracing() {
                        assert_stack(p as *const u8, &["allocates_for_the_plugin"]);
                        if birthmark::tracemalloc::traceback_limit() == 25 {
                            assert_stack(
                                p as *const u8,
                                &["allocates_for_the_plugin", "host", name, "plugin", "in_modes"],
                            );
                        }
                    }
                    old.push((p, name));
                }
                drop(library);
                // Gone, and its blocks' stacks are still told, without names that aren't its own.
                if tracing() {
                    for (p, name) in &old {
                        let functions = support::functions(*p as *const u8);
                        assert!(!functions.is_empty());
                        for f in &functions {
                            assert!(!f.contains("inner_") || f.contains(name), "{name}: {functions:#?}");
                        }
                    }
                }
            }
        }
    });
    let _ = std::fs::remove_dir_all(dir);
}

const HOST: &str = r#"
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
typedef int (*work)(int);
static void *thread(void *f) { return (void *)(long)((work)f)(3); }
int main(int n, char **args) {
    for (int round = 0; round < 3; round++) {
        void *h = dlopen(args[1], RTLD_NOW | RTLD_LOCAL);
        if (!h) { fprintf(stderr, "%s\n", dlerror()); return 2; }
        work f = (work)dlsym(h, "holder_work");
        if (!f) return 3;
        int bad = f(round);
        pthread_t t[4];
        for (int i = 0; i < 4; i++) pthread_create(&t[i], 0, thread, (void *)f);
        for (int i = 0; i < 4; i++) { void *r; pthread_join(t[i], &r); bad |= (int)(long)r; }
        if (bad) return bad;
        dlclose(h);
    }
    puts("holder: right");
    return 0;
}
"#;

#[test]
fn a_library_that_holds_birthmark_works_in_a_c_host_that_loads_and_unloads_it() {
    let dir = scratch("holder");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/holder/Cargo.toml");
    let target = dir.join("target");
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--manifest-path", manifest]).env("CARGO_TARGET_DIR", &target);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let outcome = run(&mut build);
    assert!(outcome.status.success(), "{}", outcome.told());
    let library = target.join(if cfg!(debug_assertions) { "debug" } else { "release" }).join("libholder.so");
    let (from, host) = (dir.join("host.c"), dir.join("host"));
    std::fs::write(&from, HOST).unwrap();
    let outcome = run(Command::new("cc").arg("-o").arg(&host).arg(&from).args(["-ldl", "-lpthread"]));
    assert!(outcome.status.success(), "{}", outcome.told());
    for (trace, malloc) in support::MODES {
        let outcome =
            run(Command::new(&host).arg(&library).env("TRACEMALLOC", trace).env("BIRTHMARK_MALLOC", malloc));
        assert!(
            outcome.status.success() && outcome.stdout.contains("holder: right"),
            "TRACEMALLOC={trace} BIRTHMARK_MALLOC={malloc}: {}",
            outcome.told()
        );
    }
    let _ = std::fs::remove_dir_all(&dir);
}
