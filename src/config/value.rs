//! Numbers, sizes and times as they are written in a variable. Bytes in, no heap.

use core::time::Duration;

/// Digits, then a unit.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let (number, unit) = text.split_at_checked(digits)?;
    if number.is_empty() {
        return None;
    }
    let mut n = 0u64;
    for d in number {
        n = n.checked_mul(10)?.checked_add(u64::from(d.wrapping_sub(b'0')))?;
    }
    Some((n, unit))
}

/// A plain number.
pub(super) fn plain(text: &[u8]) -> Option<u64> {
    let (n, unit) = number(text)?;
    unit.is_empty().then_some(n)
}

/// `4M`, `512K`, `1G`, or bytes.
pub(super) fn size(text: &[u8]) -> Option<usize> {
    let (n, unit) = number(text)?;
    let shift = match unit {
        b"" => 0,
        b"K" | b"k" => 10,
        b"M" | b"m" => 20,
        b"G" | b"g" => 30,
        _ => return None,
    };
    let bytes = n.checked_mul(1u64.wrapping_shl(shift))?;
    usize::try_from(bytes).ok().filter(|b| *b <= isize::MAX as usize)
}

/// `50ms`, `2s`, `200us`, or 0.
pub(super) fn time(text: &[u8]) -> Option<Duration> {
    let (n, unit) = number(text)?;
    match unit {
        b"us" => Some(Duration::from_micros(n)),
        b"ms" => Some(Duration::from_millis(n)),
        b"s" => Some(Duration::from_secs(n)),
        b"" if n == 0 => Some(Duration::ZERO),
        _ => None,
    }
}

/// The words of a list, without the spaces around them.
pub(super) fn words(text: &'static [u8]) -> impl Iterator<Item = &'static [u8]> {
    text.split(|b| *b == b',').map(<[u8]>::trim_ascii)
}

/// `name=value`.
pub(super) fn pair(word: &'static [u8]) -> Option<(&'static [u8], &'static [u8])> {
    let at = word.iter().position(|b| *b == b'=')?;
    Some((word.get(..at)?, word.get(at.wrapping_add(1)..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_have_units_and_nothing_else_behind_them() {
        assert_eq!(size(b"4M"), Some(4 << 20));
        assert_eq!(size(b"512K"), Some(512 << 10));
        assert_eq!(size(b"17"), Some(17));
        for bad in [&b""[..], b"M", b"4 M", b"4MB", b"-1", b"99999999999999999999", b"18446744073709551615G"]
        {
            assert_eq!(size(bad), None, "{bad:?}");
        }
        assert_eq!(time(b"50ms"), Some(Duration::from_millis(50)));
        assert_eq!(time(b"0"), Some(Duration::ZERO));
        for bad in [&b"50"[..], b"ms", b"5m", b"-5ms"] {
            assert_eq!(time(bad), None, "{bad:?}");
        }
    }
}
