//! A thread that sits in a system call: its registers as `/proc` tells them, its stack as the kernel copies it.

use super::super::procfs;
use super::{At, Registers, is_wait};

/// How much of a stack is copied at most.
pub(super) const COPY: usize = 256 << 10;

/// The system call and the registers of a thread that isn't running; nothing while it runs.
pub(super) fn registers(tid: i32) -> Option<(Option<i64>, Registers)> {
    parse(procfs::read(tid, "syscall")?.words())
}

/// Where a thread is now.
pub(super) fn at(tid: i32) -> Option<At> {
    where_is(procfs::read(tid, "syscall")?.words())
}

fn where_is<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<At> {
    Some(match words.next()? {
        "running" => At::Running,
        "-1" => At::Ready,
        number => {
            let number = number.parse().ok()?;
            if is_wait(number) { At::Waits } else { At::Call }
        }
    })
}

fn parse<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<(Option<i64>, Registers)> {
    // "202 0x.. (six arguments) 0xSP 0xPC", "-1 0xSP 0xPC" or "running".
    let number: i64 = words.next()?.parse().ok()?;
    let rest: Vec<&str> = words.collect();
    let [.., sp, pc] = rest[..] else { return None };
    let hex = |w: &str| u64::from_str_radix(w.strip_prefix("0x")?, 16).ok();
    let registers = Registers {
        pc: hex(pc)?,
        sp: hex(sp)?,
        // Unknown, and 1 is no address: a rule that needs it fails, where 0 would pass for the stack's end.
        fp: 1,
        #[cfg(target_arch = "aarch64")]
        lr: 0,
    };
    Some(((number >= 0).then_some(number), registers))
}

/// The words of a stack from `sp` up: as many as are mapped, at most [`COPY`] bytes.
pub(super) fn stack(sp: usize) -> Vec<usize> {
    let mut words = vec![0usize; COPY / 8];
    let n = copy(sp, &mut words);
    words.truncate(n);
    words
}

/// Copies words from `from` up, as many as are mapped. System calls only, so that a signal handler may use it.
pub(super) fn copy(from: usize, words: &mut [usize]) -> usize {
    const PAGE: usize = 4096;
    const PARTS: usize = 64;
    let mut done = 0;
    let total = size_of_val(words);
    // The kernel copies whole pieces: one a page, so that it stops at the first page that isn't mapped.
    while done < total {
        let mut remote = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PARTS];
        let (mut at, mut parts) = (from.wrapping_add(done), 0);
        let mut asked = 0;
        for part in &mut remote {
            let left = total - done - asked;
            if left == 0 {
                break;
            }
            let bytes = (PAGE - at % PAGE).min(left);
            *part = libc::iovec { iov_base: at as *mut _, iov_len: bytes };
            at = at.wrapping_add(bytes);
            asked += bytes;
            parts += 1;
        }
        let local =
            libc::iovec { iov_base: words.as_mut_ptr().wrapping_byte_add(done).cast(), iov_len: asked };
        // SAFETY: the local range lies in `words`; the remote ones are checked by the kernel.
        let n = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, remote.as_ptr(), parts, 0) };
        let Ok(n) = usize::try_from(n) else { break };
        done += n;
        if n < asked {
            break;
        }
    }
    done / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_read_from_each_form_of_the_line() {
        let parse = |text: &str| parse(text.split_whitespace());
        let (call, r) = parse("202 0x1 0x80 0x0 0x0 0x0 0x0 0x7ffe10 0x401000\n").unwrap();
        assert_eq!((call, r.sp, r.pc), (Some(202), 0x7ffe10, 0x401000));
        let (call, r) = parse("-1 0x7ffe10 0x401000\n").unwrap();
        assert_eq!((call, r.sp, r.pc), (None, 0x7ffe10, 0x401000));
        assert!(parse("running\n").is_none());
        assert!(parse("").is_none());
    }

    #[test]
    fn a_thread_waits_for_events_or_for_a_notice_or_is_elsewhere() {
        let at = |text: &str| where_is(text.split_whitespace());
        let rest = "0x55c0 0x400 0x3 0x0 0x0 0x7ffe10 0x401000";
        let call = |number: libc::c_long| at(&format!("{number} 0x7 {rest}"));
        assert_eq!(call(libc::SYS_epoll_pwait), Some(At::Waits));
        assert_eq!(call(libc::SYS_futex), Some(At::Waits));
        assert_eq!(call(libc::SYS_clock_nanosleep), Some(At::Call));
        assert_eq!(at("-1 0x7ffe10 0x401000"), Some(At::Ready));
        assert_eq!(at("running"), Some(At::Running));
        assert_eq!(at(""), None);
    }

    #[test]
    fn a_copy_ends_where_nothing_is_mapped() {
        // SAFETY: two fresh pages, of which the second is taken away again.
        let base = unsafe {
            let p = libc::mmap(
                std::ptr::null_mut(),
                8192,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            libc::munmap(p.byte_add(4096), 4096);
            p as usize
        };
        let mut words = vec![1usize; 1024];
        assert_eq!(copy(base + 4096 - 64, &mut words), 8);
        assert_eq!(copy(8, &mut words), 0);
        // SAFETY: the page mapped above.
        unsafe { libc::munmap(base as *mut _, 4096) };
    }
}
