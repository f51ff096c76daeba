//! What the kernel tells of a thread's time on and off the processor.

use std::fs::File;
use std::time::{Duration, Instant};

use super::super::procfs::{self, Text};

/// What the kernel counts of a thread.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// How long it has run.
    pub ran: Duration,
    /// How long it has been ready and waited for a processor. A wait is counted when it is over.
    pub waited: Duration,
    /// How often it has been given a processor.
    pub runs: u64,
}

impl Counts {
    fn of(text: &Text) -> Option<Self> {
        let mut numbers = text.words().map_while(|word| word.parse().ok());
        let mut next = || numbers.next();
        Some(Self {
            ran: Duration::from_nanos(next()?),
            waited: Duration::from_nanos(next()?),
            runs: next()?,
        })
    }
}

/// What the kernel has counted of a thread until now; nothing where it doesn't tell.
pub(crate) fn counts(tid: i32) -> Option<Counts> {
    Counts::of(&procfs::read(tid, "schedstat")?)
}

/// What a thread has run, by its own clock: one system call, where a file takes three. It stays the same while the thread waits.
#[cfg(native)]
pub(crate) fn clock(tid: i32) -> Option<Duration> {
    // The kernel's own way to name a thread's clock (`CPUCLOCK_SCHED`, for one thread), which `pthread_getcpuclockid` makes, too.
    let id = (!tid << 3) | 6;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid buffer of the right type; a clock that there isn't is an error.
    let result = unsafe { libc::clock_gettime(id, &mut time) };
    (result == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}
#[cfg(not(native))]
pub(crate) fn clock(_tid: i32) -> Option<Duration> {
    None
}

/// What the kernel counts of one thread, asked again and again: one system call, where opening the file takes three.
pub(crate) struct Kept(Option<File>);

impl Kept {
    pub(crate) fn of(tid: i32) -> Self {
        Self(procfs::open(tid, "schedstat"))
    }

    #[cfg(unix)]
    pub(crate) fn counts(&self) -> Option<Counts> {
        self.0.as_ref().and_then(Text::again).and_then(|text| Counts::of(&text))
    }
    #[cfg(not(unix))]
    pub(crate) fn counts(&self) -> Option<Counts> {
        let _ = &self.0; // nothing was opened
        None
    }
}

/// Whether this process has the thread.
pub(crate) fn exists(tid: i32) -> bool {
    std::path::Path::new(&format!("/proc/self/task/{tid}")).exists()
}

/// Whether the thread waits for something else than a processor, now.
pub(crate) fn sleeps(tid: i32) -> bool {
    let Some(text) = procfs::read(tid, "stat") else { return false };
    // "1234 (name, which may hold anything) S ..": the letter behind the last bracket.
    let mut parts = text.bytes().rsplitn(2, |byte| *byte == b')');
    let state = parts.next().map(<[u8]>::trim_ascii_start);
    parts.next().is_some() && matches!(state, Some([b'S' | b'D', ..]))
}

/// What a thread has done until a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    at: Instant,
    pub counts: Counts,
    pub sleeps: bool,
}

impl Spent {
    pub(crate) fn of(tid: i32) -> Self {
        Self::counted(tid, || counts(tid))
    }

    pub(crate) fn counted(tid: i32, counts: impl FnOnce() -> Option<Counts>) -> Self {
        // In this order: of a thread that sleeps every wait is counted.
        let (sleeps, at) = (sleeps(tid), Instant::now());
        Self { at, counts: counts().unwrap_or_default(), sleeps }
    }

    /// To measure [`Spent::since`] from: whether it sleeps isn't asked.
    pub(crate) fn begin(tid: i32, counts: Option<Counts>) -> Self {
        let mut counts = counts.unwrap_or_default();
        // Of a thread that runs the counts may be a few milliseconds old.
        counts.ran = clock(tid).unwrap_or(counts.ran).max(counts.ran);
        Self { at: Instant::now(), counts, sleeps: false }
    }

    /// How much of the time since `before`, of which at most `sure` surely passed, the thread spent in its poll: without its
    /// waits for a processor. The kernel counts a wait when it is over, so of a thread that is ready only what it ran counts.
    pub(crate) fn since(self, before: Self, sure: Duration) -> Duration {
        let full = self.at - before.at;
        let ran = self.counts.ran.saturating_sub(before.counts.ran).min(full);
        let waited = self.counts.waited.saturating_sub(before.counts.waited);
        if self.sleeps { ran.max(sure.min(full).saturating_sub(waited)) } else { ran }
    }
}

/// The name of a thread, as std has it.
pub(crate) fn name(tid: i32) -> String {
    if i64::from(tid) == i64::from(crate::sys::process_id()) {
        return "thread main".into(); // the system names it as the program
    }
    match std::fs::read_to_string(format!("/proc/self/task/{tid}/comm")) {
        Ok(name) => format!("thread {}", name.trim_end()),
        Err(_) => format!("thread {tid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn spent(at: u32, ran: u32, waited: u32, sleeps: bool) -> Spent {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let start = *START.get_or_init(Instant::now);
        let counts = Counts { ran: MS * ran, waited: MS * waited, runs: 0 };
        Spent { at: start + MS * at, counts, sleeps }
    }

    #[test]
    fn a_ready_thread_spends_what_it_ran_however_long_the_gap() {
        let poll = spent(10, 13, 20, false).since(spent(0, 10, 20, false), MS * 10);
        assert_eq!(poll, MS * 3, "seven are a wait that isn't counted yet");
        let poll = spent(60, 70, 0, false).since(spent(0, 10, 0, false), MS * 10);
        assert_eq!(poll, MS * 60, "it ran all the while, though the sample came late");
    }

    #[test]
    fn a_sleeping_thread_spends_what_is_sure_of_the_gap_less_its_waits() {
        assert_eq!(spent(400, 1, 0, true).since(spent(0, 1, 0, true), MS * 10), MS * 10);
        assert_eq!(spent(10, 1, 4, true).since(spent(0, 1, 0, true), MS * 10), MS * 6);
        assert_eq!(spent(10, 1, 40, true).since(spent(0, 1, 0, true), MS * 10), Duration::ZERO);
        assert_eq!(spent(3, 1, 0, true).since(spent(0, 1, 0, true), MS * 10), MS * 3);
    }

    #[cfg(native)] // elsewhere a thread's id isn't known
    #[test]
    fn a_thread_of_ours_is_seen_asleep() {
        let (tid_out, tid_in) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tid_out.send(super::super::super::heap::thread_id()).unwrap();
            let _ = wait.recv();
        });
        let tid = tid_in.recv().unwrap();
        let asleep = (0..500).any(|_| {
            std::thread::sleep(MS * 2);
            sleeps(tid)
        });
        drop(go);
        thread.join().unwrap();
        assert!(asleep);
    }
}
