//! Times and sizes as people write them, and the numbers of cases.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The number of the next report that may be followed by another on the same poll.
pub(crate) fn next_case() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

/// "112 ms", "1.2 s".
pub(crate) fn words_of_time(time: Duration) -> String {
    match time.as_millis() {
        0 if !time.is_zero() => format!("{} us", time.as_micros()),
        ms @ 0..1000 => format!("{ms} ms"),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

/// "512 B", "1.2 MiB".
pub(crate) fn words_of_bytes(bytes: i64) -> String {
    let mut n = bytes as f64;
    for unit in ["KiB", "MiB", "GiB"] {
        if n < 1024.0 && unit == "KiB" {
            return format!("{bytes} B");
        }
        n /= 1024.0;
        if n < 1024.0 || unit == "GiB" {
            return format!("{n:.1} {unit}");
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_read_as_people_write_them() {
        assert_eq!(words_of_time(Duration::from_millis(112)), "112 ms");
        assert_eq!(words_of_time(Duration::from_millis(1240)), "1.2 s");
        assert_eq!(words_of_time(Duration::from_micros(12)), "12 us");
        assert_eq!(words_of_time(Duration::ZERO), "0 ms");
        assert_eq!(words_of_bytes(512), "512 B");
        assert_eq!(words_of_bytes(2048), "2.0 KiB");
        assert_eq!(words_of_bytes(3 << 20), "3.0 MiB");
        assert_eq!(words_of_bytes(5 << 30), "5.0 GiB");
    }
}
