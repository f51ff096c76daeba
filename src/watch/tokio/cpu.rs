//! What the kernel tells of a thread's time on and off the processor.

use std::time::Duration;

fn nth(tid: i32, n: usize) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{tid}/schedstat")).ok()?;
    Some(Duration::from_nanos(text.split_whitespace().nth(n)?.parse().ok()?))
}

/// How long the thread has run.
pub(crate) fn ran(tid: i32) -> Option<Duration> {
    nth(tid, 0)
}

/// How long the thread has been ready and waited for a processor.
pub(crate) fn waited(tid: i32) -> Option<Duration> {
    nth(tid, 1)
}

/// The name of a thread.
pub(crate) fn name(tid: i32) -> String {
    match std::fs::read_to_string(format!("/proc/self/task/{tid}/comm")) {
        Ok(name) => format!("thread {}", name.trim_end()),
        Err(_) => format!("thread {tid}"),
    }
}
