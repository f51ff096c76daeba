//! The faults, committed in a child. Each is what a program at fault would do through the global allocator.

// Each is wrong on purpose, or sets the stage for what is.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::alloc::{Layout, alloc, dealloc, realloc};
use std::hint::black_box;

const SIZE: usize = 24;
/// The exit status where the kernel lets nobody set system call filters.
pub const NO_FILTERS: i32 = 77;

/// The line with this mark in a comment.
pub fn line_of(mark: &str) -> u32 {
    let mark = format!("// mark: {mark}");
    let lines = include_str!("program.rs").lines();
    lines.zip(1..).find(|(line, _)| line.ends_with(&mark)).expect("the mark").1
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

#[inline(never)]
fn make(size: usize, align: usize) -> *mut u8 {
    let p = unsafe { alloc(layout(size, align)) }; // mark: made
    black_box(p)
}

#[inline(never)]
fn unmake(p: *mut u8, size: usize, align: usize) {
    unsafe { dealloc(black_box(p), layout(size, align)) }; // mark: freed
    black_box(());
}

#[inline(never)]
fn regrow(p: *mut u8, old: usize, new: usize) -> *mut u8 {
    let q = unsafe { realloc(black_box(p), layout(old, 8), new) }; // mark: moved
    black_box(q)
}

/// Writes one byte.
fn poke(p: *mut u8, at: isize) {
    unsafe { p.offset(at).write_volatile(0x21) };
}

fn double() {
    let p = make(SIZE, 8);
    unmake(p, SIZE, 8);
    unmake(p, SIZE, 8);
}

/// Runs `f` to its end on a thread of this name, which has ended then.
fn on<R: Send + 'static>(name: &str, f: impl FnOnce() -> R + Send + 'static) -> R {
    std::thread::Builder::new().name(name.into()).spawn(f).unwrap().join().unwrap()
}

/// A block that `maker` made, by its address.
fn made_by_a_thread() -> usize {
    on("maker", || make(SIZE, 8) as usize)
}

fn over_and_over(times: usize) {
    for _ in 0..times {
        let p = make(SIZE, 8);
        poke(p, 24);
        unmake(p, SIZE, 8);
    }
}

pub fn commit(fault: &str) {
    let words: Vec<&str> = fault.split(' ').collect();
    let number = |at: usize| words[at].parse::<usize>().unwrap();
    match fault {
        "none" => {
            let p = make(SIZE, 8);
            unmake(p, SIZE, 8);
            std::thread::spawn(|| drop(vec![String::from("x"); 100])).join().unwrap();
        }
        "over" => {
            let p = make(SIZE, 8);
            poke(p, 24);
            unmake(p, SIZE, 8);
        }
        "over realloc" => {
            let p = make(SIZE, 8);
            poke(p, 24);
            regrow(p, SIZE, 100);
        }
        "over shrink" => {
            let p = make(SIZE, 8);
            poke(p, 24);
            regrow(p, SIZE, 8);
        }
        "over text" => {
            let p = make(SIZE, 8);
            unsafe { p.add(SIZE + 2).copy_from_nonoverlapping(c"quux".as_ptr().cast(), 5) };
            unmake(p, SIZE, 8);
        }
        "over, unwinding" => {
            struct Owner(*mut u8);
            impl Drop for Owner {
                fn drop(&mut self) {
                    unmake(self.0, SIZE, 8);
                }
            }
            std::panic::set_hook(Box::new(|_| {}));
            let owner = Owner(make(SIZE, 8));
            poke(owner.0, 24);
            panic!("with damage behind it");
        }
        "over kept" => poke(make(SIZE, 8), 24),
        "over far" => {
            let p = make(SIZE, 8);
            for at in 24..200 {
                poke(p, at);
            }
            unmake(p, SIZE, 8);
        }
        "over 1000 times" => over_and_over(1000),
        "over 3 times, then forked" => unsafe {
            over_and_over(3);
            let child = libc::fork();
            if child == 0 {
                over_and_over(2);
                std::process::exit(0);
            }
            assert_eq!(libc::waitpid(child, &mut 0, 0), child);
        },
        "under" => {
            let p = make(SIZE, 8);
            poke(p, -1);
            unmake(p, SIZE, 8);
        }
        "both" => {
            let p = make(SIZE, 8);
            poke(p, -1);
            poke(p, 24);
            unmake(p, SIZE, 8);
        }
        "over, threads" | "over, threads, traced later" => {
            if fault.ends_with("later") {
                birthmark::tracemalloc::start(5);
            }
            let p = made_by_a_thread();
            // A slot that is used again by then.
            on("other", || drop(black_box(vec![1u8; 100])));
            on("breaker", move || {
                poke(p as *mut u8, 24);
                unmake(p as *mut u8, SIZE, 8);
            });
        }
        "double, threads" | "double, threads, the naming child crashes" => {
            if fault != "double, threads" {
                break_naming(libc::SECCOMP_RET_KILL_PROCESS, 0);
            }
            let p = made_by_a_thread();
            on("first", move || unmake(p as *mut u8, SIZE, 8));
            on("second \"of\" 2", move || unmake(p as *mut u8, SIZE, 8));
        }
        "write after free, threads" => {
            let p = made_by_a_thread();
            on("first", move || unmake(p as *mut u8, SIZE, 8));
            unsafe { (p as *mut u64).add(1).write_volatile(7) };
            std::process::exit(0);
        }
        "check, threads" => {
            let p = made_by_a_thread();
            poke(p as *mut u8, 24);
            let told = birthmark::check_heap().unwrap_err();
            print!("{}", told[0]);
            std::process::abort();
        }
        "over, threads of a parent" => {
            let p = made_by_a_thread();
            in_a_child(|| {
                poke(p as *mut u8, 24);
                unmake(p as *mut u8, SIZE, 8);
            });
        }
        "70000 threads" => {
            let mut last = 0;
            for _ in 0..70_000 {
                last = std::thread::spawn(|| make(SIZE, 8) as usize).join().unwrap();
            }
            poke(last as *mut u8, 24);
            unmake(last as *mut u8, SIZE, 8);
        }
        "check" => check(),
        "check every size" => check_every_size(),
        "check after free" => check_after_free(),
        "fills" => fills(),
        "too large" => {
            for size in [isize::MAX as usize - 7, isize::MAX as usize - 63, isize::MAX as usize / 2] {
                assert!(black_box(unsafe { alloc(layout(size, 8)) }).is_null());
            }
        }
        "stack overflow" => {
            #[inline(never)]
            fn down(n: u64) -> u64 {
                let here = black_box([n; 64]);
                if n == 0 { 0 } else { down(n + 1) + here[7] }
            }
            black_box(down(1));
        }
        "check off" => {
            let told = birthmark::check_heap().unwrap_err();
            assert!(matches!(told[..], [birthmark::HeapError::NotChecking]), "{told:?}");
            assert!(told[0].to_string().contains("BIRTHMARK_MALLOC=debug"));
        }
        "write after free" => {
            let p = make(SIZE, 8);
            unmake(p, SIZE, 8);
            unsafe { p.add(8).cast::<u64>().write_volatile(7) };
            std::process::exit(0); // before this thread ends, and with it its quarantine
        }
        "write after free, then many" => {
            let p = make(SIZE, 8);
            unmake(p, SIZE, 8);
            unsafe { p.add(8).cast::<u64>().write_volatile(7) };
            for _ in 0..10_000 {
                drop(black_box(vec![0u8; 100]));
            }
        }
        "write after realloc" => {
            let p = make(SIZE, 8);
            regrow(p, SIZE, 100);
            poke(p, 3);
            std::process::exit(0);
        }
        "double" => double(),
        "double, the naming child crashes" => {
            break_naming(libc::SECCOMP_RET_KILL_PROCESS, 0);
            double();
        }
        "double, the naming child hangs" => {
            break_naming(libc::SECCOMP_RET_USER_NOTIF, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
            double();
        }
        "double after its quarantine" => {
            let p = make(SIZE, 8);
            unmake(p, SIZE, 8);
            for _ in 0..10_000 {
                drop(black_box(vec![0u8; 1000]));
            }
            unmake(p, SIZE, 8);
        }
        "realloc after free" => {
            let p = make(SIZE, 8);
            unmake(p, SIZE, 8);
            regrow(p, SIZE, 100);
        }
        "inside freed" => {
            let p = make(SIZE, 8);
            unmake(p, SIZE, 8);
            unmake(p.wrapping_add(8), SIZE, 8);
        }
        "c's" => unmake(unsafe { libc::malloc(SIZE) }.cast(), SIZE, 8),
        "null" => unmake(std::ptr::null_mut(), SIZE, 8),
        "no address" => unmake(0x1234_5678_9abc_def0 as *mut u8, SIZE, 8),
        "stack" => unmake((&raw mut *black_box(&mut [0u64; 8])).cast(), SIZE, 8),
        "static" => {
            static PLACE: u64 = 1;
            unmake((&raw const PLACE).cast_mut().cast(), SIZE, 8);
        }
        "dangling" => unmake(std::ptr::dangling_mut::<u64>().cast(), SIZE, 8),
        "uninitialised" => {
            let slot = make(SIZE, 8).cast::<*mut u8>();
            unmake(unsafe { slot.read_volatile() }, SIZE, 8);
        }
        "read from freed" => {
            let slot = make(SIZE, 8).cast::<*mut u8>();
            unmake(slot.cast(), SIZE, 8);
            unmake(unsafe { slot.read_volatile() }, SIZE, 8);
        }
        "layout realloc" => {
            regrow(make(SIZE, 8), 25, 100);
        }
        "layout realloc align" => unsafe {
            black_box(realloc(make(SIZE, 8), layout(SIZE, 4), 100));
        },
        "box of another type" => unsafe {
            let bytes: Box<[u8]> = vec![1u8; 4].into_boxed_slice();
            drop(Box::from_raw(black_box(Box::into_raw(bytes).cast::<u32>())));
        },
        "shortened string" => unsafe {
            let text = std::ffi::CString::new("longer").unwrap().into_raw();
            text.add(2).write_volatile(0);
            drop(std::ffi::CString::from_raw(black_box(text)));
        },
        "swapped length and capacity" => unsafe {
            let mut v: Vec<u8> = Vec::with_capacity(SIZE);
            v.resize(3, 0);
            let mut v = std::mem::ManuallyDrop::new(v);
            drop(Vec::from_raw_parts(v.as_mut_ptr(), 2, 3));
        },
        "double without memory" => {
            let p = make(SIZE, 8);
            unmake(p, SIZE, 8);
            let none = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &none) }, 0);
            unmake(p, SIZE, 8);
        }
        "two threads" => two_threads(),
        "race" => race(),
        "race 1000 times" => (0..1000).for_each(|_| race()),
        "main returns meanwhile" => {
            let (tell, told) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let p = make(SIZE, 8);
                unmake(p, SIZE, 8);
                tell.send(()).unwrap();
                unmake(p, SIZE, 8);
            });
            told.recv().unwrap();
            // Long enough for the thread to begin its report, far too short for its names.
            std::thread::sleep(std::time::Duration::from_millis(3));
            std::process::exit(0);
        }
        "double, children ignored" => {
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
            double();
        }
        "double, children waited for in a handler" => {
            extern "C" fn wait(_: i32) {
                unsafe { while libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) > 0 {} }
            }
            unsafe { libc::signal(libc::SIGCHLD, wait as *const () as usize) };
            double();
        }
        "double, signals blocked" => {
            unsafe {
                let mut all = std::mem::zeroed();
                libc::sigfillset(&mut all);
                libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
            }
            double();
        }
        "double, loader locked" => {
            unsafe extern "C" fn visit(_: *mut libc::dl_phdr_info, _: usize, _: *mut libc::c_void) -> i32 {
                double();
                1
            }
            unsafe { libc::dl_iterate_phdr(Some(visit), std::ptr::null_mut()) };
        }
        "double, 16 KiB thread" => small_thread(),
        "double, signal stack" => signal_stack(),
        "forked" => in_a_child(double),
        "forked, write after free" | "forked, write after free, then many" => {
            let p = make(SIZE, 8);
            in_a_child(|| {
                unmake(p, SIZE, 8);
                unsafe { p.add(8).cast::<u64>().write_volatile(7) };
                if fault.ends_with("many") {
                    for _ in 0..10_000 {
                        drop(black_box(vec![0u8; 100]));
                    }
                }
                std::process::exit(0);
            });
        }
        "forked, check" => {
            let (p, parents) = (make(SIZE, 8), make(SIZE, 8));
            unmake(parents, SIZE, 8);
            unsafe { parents.write_volatile(7) };
            in_a_child(|| {
                assert!(birthmark::check_heap().is_ok(), "what the parent did is the parent's");
                unmake(p, SIZE, 8);
                assert!(birthmark::check_heap().is_ok());
                unsafe { p.add(8).cast::<u64>().write_volatile(7) };
                let told = birthmark::check_heap().unwrap_err();
                assert_eq!(told.len(), 1);
                print!("{}", told[0]);
                std::process::abort();
            });
        }
        "forked with damage" => forked_with_damage(),
        "double, standard error closed" => {
            unsafe { libc::close(2) };
            double();
        }
        "double, full pipe" => unsafe {
            let mut ends = [0; 2];
            libc::pipe2(ends.as_mut_ptr(), 0);
            libc::fcntl(ends[1], libc::F_SETFL, libc::O_NONBLOCK);
            while libc::write(ends[1], [0u8; 512].as_ptr().cast(), 512) > 0 {}
            libc::fcntl(ends[1], libc::F_SETFL, 0);
            libc::dup2(ends[1], 2);
            double();
        },
        "double, no reader" => unsafe {
            let mut ends = [0; 2];
            libc::pipe2(ends.as_mut_ptr(), 0);
            libc::dup2(ends[1], 2);
            libc::close(ends[0]);
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            double();
        },
        _ if words[0] == "over" => {
            let (size, align) = (number(1), number(2));
            let p = make(size, align);
            poke(p, size as isize);
            unmake(p, size, align);
        }
        _ if words[0] == "under" => {
            let (size, align) = (number(1), number(2));
            let p = make(size, align);
            poke(p, -1);
            unmake(p, size, align);
        }
        // So many bytes from the block's start.
        _ if words[0] == "beside" => {
            let p = make(SIZE, 8);
            unmake(p.wrapping_offset(words[1].parse().unwrap()), SIZE, 8);
        }
        _ if words[0] == "layout" => unmake(make(SIZE, 8), number(1), number(2)),
        _ => panic!("no such fault: {fault}"),
    }
}

/// Runs `f` in a fork's child, which must end by SIGABRT, and ends likewise.
fn in_a_child(f: impl FnOnce()) {
    unsafe {
        let child = libc::fork();
        if child == 0 {
            f();
            libc::_exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGABRT);
        libc::abort();
    }
}

/// A filter for this thread and the processes that it makes: what asks to die with its parent, as the naming child does
/// and nobody else here, dies (or waits for an answer that never comes) instead.
fn break_naming(action: u32, flags: libc::c_ulong) {
    let word = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    let (number, first_argument) = (0, 16);
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        step(word, number, 0, 0),
        step(equal, libc::SYS_prctl as u32, 0, 3),
        step(word, first_argument, 0, 0),
        step(equal, libc::PR_SET_PDEATHSIG as u32, 0, 1),
        step(answer, action, 0, 0),
        step(answer, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let filter = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let set = libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter);
        if set < 0 {
            std::process::exit(NO_FILTERS);
        }
    }
}

fn check() {
    assert!(birthmark::check_heap().is_ok());
    let p = make(SIZE, 8);
    let was = unsafe { p.add(24).read() };
    poke(p, 24);
    let told = birthmark::check_heap().unwrap_err();
    let [birthmark::HeapError::Damaged(damaged)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(
        (damaged.kind(), damaged.address(), damaged.size()),
        ("heap-buffer-overflow", p as usize, SIZE)
    );
    let frame = damaged.allocated().unwrap().frames().next().unwrap();
    assert!(frame.function().unwrap().ends_with("::make"), "{frame}");
    let text = told[0].to_string();
    assert!(text.starts_with("birthmark: heap-buffer-overflow: 1 byte written past the end"), "{text}");
    unsafe { p.add(24).write(was) };
    assert!(birthmark::check_heap().is_ok());
    unmake(p, SIZE, 8);
}

fn check_every_size() {
    for size in (1..=34).chain(63..=65).chain(4095..=4097) {
        for align in [1, 2, 4, 8, 16] {
            let p = make(size, align);
            for (at, kind) in [(size as isize, "heap-buffer-overflow"), (-1, "heap-buffer-underflow")] {
                let was = unsafe { p.offset(at).read() };
                poke(p, at);
                let told = birthmark::check_heap().unwrap_err();
                let [birthmark::HeapError::Damaged(damaged)] = &told[..] else { panic!("{told:?}") };
                assert_eq!((damaged.kind(), damaged.size()), (kind, size), "{size} {align}");
                unsafe { p.offset(at).write(was) };
            }
            unmake(p, size, align);
        }
    }
}

fn check_after_free() {
    let p = make(SIZE, 8);
    unmake(p, SIZE, 8);
    let was = unsafe { p.add(5).read_volatile() };
    poke(p, 5);
    let told = birthmark::check_heap().unwrap_err();
    let [birthmark::HeapError::Damaged(damaged)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((damaged.kind(), damaged.address()), ("use-after-free", p as usize));
    let text = told[0].to_string();
    assert!(text.contains("1 byte at +5: 0x21 in the freed block"), "{text}");
    assert!(text.contains("  freed      "), "{text}");
    unsafe { p.add(5).write_volatile(was) };
}

/// New bytes have a fill of their own, zeroes where zeroes were asked for, and what was there stays.
fn fills() {
    let p = make(SIZE, 8);
    let fresh = unsafe { p.read_volatile() };
    assert!(fresh != 0 && (0..SIZE).all(|i| unsafe { p.add(i).read_volatile() } == fresh));
    (0..SIZE).for_each(|i| unsafe { p.add(i).write_volatile(i as u8) });
    let q = regrow(p, SIZE, 3000);
    assert!((0..SIZE).all(|i| unsafe { q.add(i).read_volatile() } == i as u8));
    assert!((SIZE..3000).all(|i| unsafe { q.add(i).read_volatile() } == fresh));
    unmake(q, 3000, 8);
    let freed = unsafe { q.read_volatile() };
    assert!(freed != 0 && freed != fresh && (0..3000).all(|i| unsafe { q.add(i).read_volatile() } == freed));
    for size in [1, 24, 3000, 200_000, 4 << 20] {
        let dirty = make(size, 8);
        unsafe { dirty.write_bytes(1, size) };
        unmake(dirty, size, 8);
        let zeroed = black_box(unsafe { std::alloc::alloc_zeroed(layout(size, 8)) });
        assert!((0..size).all(|i| unsafe { zeroed.add(i).read() } == 0));
        unmake(zeroed, size, 8);
    }
}

/// A child frees what its parent damaged, damages a block of its own and frees it, and leaves another damaged block of its
/// parent's alone.
fn forked_with_damage() {
    let (freed, kept) = (make(SIZE, 8), make(SIZE + 1, 8));
    poke(freed, 24);
    poke(kept, 25);
    unsafe {
        let child = libc::fork();
        if child == 0 {
            unmake(freed, SIZE, 8);
            let own = make(SIZE + 2, 8);
            poke(own, 26);
            unmake(own, SIZE + 2, 8);
            std::process::exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        assert_eq!(status, 0);
        libc::_exit(0); // the parent's own damage is another test's
    }
}

fn two_threads() {
    let barrier = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let p = make(SIZE, 8);
            unmake(p, SIZE, 8);
            barrier.wait();
            unmake(p, SIZE, 8);
        });
        scope.spawn(|| {
            let p = make(SIZE, 8);
            barrier.wait();
            unmake(p, SIZE - 1, 8);
        });
    });
}

/// Two threads free the same block, again and again until both do it at once or one after the other: always a fault.
fn race() {
    let p = make(SIZE, 8) as usize;
    let barrier = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                barrier.wait();
                unmake(p as *mut u8, SIZE, 8);
            });
        }
    });
}

fn small_thread() {
    extern "C" fn body(_: *mut libc::c_void) -> *mut libc::c_void {
        double();
        std::ptr::null_mut()
    }
    unsafe {
        let mut attributes = std::mem::zeroed();
        libc::pthread_attr_init(&mut attributes);
        assert_eq!(libc::pthread_attr_setstacksize(&mut attributes, 16 << 10), 0);
        let mut thread = 0;
        assert_eq!(libc::pthread_create(&mut thread, &attributes, body, std::ptr::null_mut()), 0);
        libc::pthread_join(thread, std::ptr::null_mut());
    }
}

fn signal_stack() {
    extern "C" fn handler(_: i32) {
        double();
    }
    unsafe {
        let stack = libc::stack_t {
            ss_sp: libc::mmap(
                std::ptr::null_mut(),
                8 << 10,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            ),
            ss_flags: 0,
            ss_size: 8 << 10,
        };
        assert_eq!(libc::sigaltstack(&stack, std::ptr::null_mut()), 0);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_ONSTACK;
        libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut());
        libc::raise(libc::SIGUSR1);
    }
}
