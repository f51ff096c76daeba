//! A program that never had a second thread: its reports don't say which thread it was.

use std::hint::black_box;
use std::process::Command;

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();

const CHILD: &str = "ONE_THREAD_CHILD";

fn main() {
    if std::env::var_os(CHILD).is_some() {
        // A child that has forked before is one of one thread still.
        if std::env::var_os("BIRTHMARK_REPORT").is_some_and(|format| format == "json") {
            // SAFETY: a process of one thread; the parent only waits.
            unsafe {
                let child = libc::fork();
                if child != 0 {
                    libc::waitpid(child, std::ptr::null_mut(), 0);
                    libc::_exit(0);
                }
            }
        }
        let mut block = black_box(vec![1u8; 24]);
        // SAFETY: wrong on purpose, and found when the block is freed: the byte lies in the red zone.
        unsafe { block.as_mut_ptr().add(24).write_volatile(0x21) };
        drop(block);
        return;
    }
    for format in ["text", "json"] {
        let child = Command::new(std::env::current_exe().unwrap())
            .env(CHILD, "1")
            .env("BIRTHMARK_DEV", "1")
            .env("BIRTHMARK_REPORT", format)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&child.stderr);
        assert!(told.contains("heap-buffer-overflow") && told.contains("allocated"), "{told}");
        assert!(!told.contains("thread main") && !told.contains("\"thread\""), "{told}");
    }
    println!("a_program_with_one_thread_is_not_told_which: ok");
}
