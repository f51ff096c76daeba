//! Runs a test's body in child processes, each with its own switches and a time limit: what crashes or hangs there fails
//! here with its output.
#![allow(dead_code)]

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Set in a child: the body runs there.
const CHILD: &str = "SOUND_CHILD";
/// What a child prints when its body came to its end.
const DONE: &str = "sound: the body came to its end";
const LIMIT: Duration = Duration::from_secs(120);

/// (`TRACEMALLOC`, `BIRTHMARK_MALLOC`)
pub const MODES: [(&str, &str); 8] = [
    ("0", "0"),
    ("1", "0"),
    ("5", "0"),
    ("25", "0"),
    ("0", "debug"),
    ("1", "debug"),
    ("5", "debug"),
    ("25", "debug"),
];

/// What became of a child.
pub struct Outcome {
    pub status: ExitStatus,
    pub timed_out: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Whether the body ran to its end and the process ended well.
    pub fn good(&self) -> bool {
        self.status.success() && !self.timed_out && self.stdout.contains(DONE)
    }

    pub fn told(&self) -> String {
        format!(
            "{} (signal {:?}{})\n--- stdout\n{}\n--- stderr\n{}",
            self.status,
            self.status.signal(),
            if self.timed_out { ", killed at the time limit" } else { "" },
            self.stdout,
            self.stderr
        )
    }
}

fn wait(mut child: Child) -> Outcome {
    fn drain(from: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut from) = from {
                let _ = from.read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    }
    let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let end = Instant::now() + LIMIT;
    let mut timed_out = false;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > end {
            timed_out = true;
            child.kill().unwrap();
            break child.wait().unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Outcome { status, timed_out, stdout: out.join().unwrap(), stderr: err.join().unwrap() }
}

/// Runs a command to its end or the time limit.
pub fn run(command: &mut Command) -> Outcome {
    wait(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// Runs the test `name` of this very binary again, as a child with these variables.
pub fn child(name: &str, variables: &[(&str, &str)]) -> Outcome {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    for (key, _) in std::env::vars_os() {
        let key = key.to_string_lossy().into_owned();
        if key.starts_with("BIRTHMARK_") || key == "TRACEMALLOC" {
            command.env_remove(key);
        }
    }
    command.env(CHILD, name).envs(variables.iter().copied());
    run(&mut command)
}

/// Whether this process is the child that runs the body of `name`.
pub fn is_child(name: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|n| n == name)
}

/// Runs the body once for each of [`MODES`], in children, and asks that each comes to its end.
pub fn in_every_mode(name: &str, body: impl FnOnce()) {
    in_modes(name, &MODES, body);
}

/// Waits until libtest's own thread, which goes on for a moment after it started this one, allocates no more.
fn settle() {
    let mut quiet = 0;
    let mut before = 0;
    while quiet < 10 {
        std::thread::sleep(Duration::from_millis(5));
        let now = birthmark::tracemalloc::traced_memory().0;
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
}

/// As [`in_every_mode`], where tracing is on.
pub fn in_every_tracing_mode(name: &str, body: impl FnOnce()) {
    let modes: Vec<_> = MODES.into_iter().filter(|m| m.0 != "0").collect();
    in_modes(name, &modes, body);
}

/// As [`in_every_mode`], in these.
pub fn in_modes(name: &str, modes: &[(&str, &str)], body: impl FnOnce()) {
    if is_child(name) {
        settle();
        body();
        println!("{DONE}");
        return;
    }
    // Two children at once: most of a child's time is one thread's.
    let next = AtomicUsize::new(0);
    let one = || {
        let mut bad = String::new();
        while let Some((trace, malloc)) = modes.get(next.fetch_add(1, Relaxed)) {
            let outcome = child(name, &[("TRACEMALLOC", trace), ("BIRTHMARK_MALLOC", malloc)]);
            if !outcome.good() {
                bad += &format!("TRACEMALLOC={trace} BIRTHMARK_MALLOC={malloc}: {}\n", outcome.told());
            }
        }
        bad
    };
    let bad = std::thread::scope(|scope| {
        let other = scope.spawn(one);
        one() + &other.join().unwrap()
    });
    assert!(bad.is_empty(), "{bad}");
}

/// Whether blocks are traced in this child.
pub fn tracing() -> bool {
    birthmark::tracemalloc::is_tracing()
}

/// The functions on a block's stack, plumbing too, most recent first.
pub fn functions(p: *const u8) -> Vec<String> {
    let traceback = birthmark::tracemalloc::traceback_of_ptr(p);
    traceback.map_or(Vec::new(), |t| {
        t.all_frames().iter().map(|f| f.function().unwrap_or("?").to_owned()).collect()
    })
}

/// Asserts that the block's stack holds functions with these names, in this order, most recent first.
#[track_caller]
pub fn assert_stack(p: *const u8, names: &[&str]) {
    let functions = functions(p);
    let mut rest = functions.iter();
    for name in names {
        assert!(rest.any(|f| f.contains(name)), "no `{name}`, or not in the order {names:?}: {functions:#?}");
    }
}

/// What was left out so far, as far as a snapshot tells: 0 of everything without tracing.
pub fn captures_dropped() -> u64 {
    birthmark::try_snapshot().map_or(0, |s| {
        let d = s.dropped();
        d.captures + d.traces + d.table
    })
}

/// A small generator: the same numbers on every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n
    }
}

/// Allocates and frees at the end of `depth` calls.
#[inline(never)]
pub fn churn(random: &mut Random, kept: &mut Vec<Vec<u8>>, depth: usize) {
    if depth > 0 {
        churn(random, kept, depth - 1);
        std::hint::black_box(depth);
        return;
    }
    if kept.len() > 50 {
        kept.swap_remove(random.below(50));
    }
    let mut block = vec![0u8; 1 + random.below(3000)];
    if random.below(4) == 0 {
        block.resize(block.len() + 1 + random.below(200_000), 1);
    }
    kept.push(block);
}

/// A directory of this test's own, below the target directory.
pub fn scratch(name: &str) -> std::path::PathBuf {
    let dir =
        std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Compiles C into a shared library.
pub fn c_library(dir: &std::path::Path, name: &str, source: &str, flags: &[&str]) -> std::path::PathBuf {
    let (from, to) = (dir.join(format!("{name}.c")), dir.join(format!("{name}.so")));
    std::fs::write(&from, source).unwrap();
    let outcome =
        run(Command::new("cc").args(["-shared", "-fPIC", "-O2"]).args(flags).arg("-o").arg(&to).arg(&from));
    assert!(outcome.status.success(), "{}", outcome.told());
    to
}

/// Compiles a Rust library without Birthmark into a shared one.
pub fn rust_library(dir: &std::path::Path, name: &str, source: &str) -> std::path::PathBuf {
    let (from, to) = (dir.join(format!("{name}.rs")), dir.join(format!("{name}.so")));
    std::fs::write(&from, source).unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let outcome = run(Command::new(rustc)
        .args(["--crate-type", "cdylib", "--edition", "2024", "-g", "-O"])
        .arg("-o")
        .arg(&to)
        .arg(&from));
    assert!(outcome.status.success(), "{}", outcome.told());
    to
}

/// A library opened by the loader; closed when dropped.
pub struct Library(*mut libc::c_void);

impl Library {
    #[track_caller]
    pub fn open(path: &std::path::Path) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let name = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: a C string; the libraries opened here are this test's own.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        // SAFETY: asked right after the failure.
        assert!(!handle.is_null(), "{:?}", unsafe { std::ffi::CStr::from_ptr(libc::dlerror()) });
        Self(handle)
    }
    /// The address of a symbol.
    pub fn symbol(&self, name: &std::ffi::CStr) -> *mut libc::c_void {
        // SAFETY: an open handle and a C string.
        let p = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!p.is_null(), "{name:?}");
        p
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: open until now.
        unsafe { libc::dlclose(self.0) };
    }
}
