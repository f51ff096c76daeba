//! Words, numbers, sizes and durations: the small grammar that all variables share. No allocation, no panic.

use core::time::Duration;

/// The words of a value, parted by commas. An empty word is a word, so that `debug,,full` can be refused.
pub(super) fn words(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',')
}

/// What follows `key=` in `word`, if the word begins so.
pub(super) fn after<'a>(word: &'a [u8], key: &str) -> Option<&'a [u8]> {
    word.strip_prefix(key.as_bytes())?.strip_prefix(b"=")
}

/// Digits and nothing else: no sign, no space.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        sum.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Bytes: digits, then nothing or one of `K`, `M`, `G` (powers of 1024).
pub(super) fn size(text: &[u8]) -> Option<usize> {
    let (digits, unit) = match text.split_last()? {
        (b'K', digits) => (digits, 1u64 << 10),
        (b'M', digits) => (digits, 1 << 20),
        (b'G', digits) => (digits, 1 << 30),
        _ => (text, 1),
    };
    let bytes = usize::try_from(number(digits)?.checked_mul(unit)?).ok()?;
    (bytes <= isize::MAX.unsigned_abs()).then_some(bytes)
}

/// A time: digits and one of `ns`, `us`, `ms`, `s`; `0` needs no unit.
pub(super) fn duration(text: &[u8]) -> Option<Duration> {
    if text == b"0" {
        return Some(Duration::ZERO);
    }
    // `s` last, since the others end in it.
    type Unit = (&'static [u8], fn(u64) -> Duration);
    let units: [Unit; 4] = [
        (b"ns", Duration::from_nanos),
        (b"us", Duration::from_micros),
        (b"ms", Duration::from_millis),
        (b"s", Duration::from_secs),
    ];
    let (digits, make) =
        units.iter().find_map(|(unit, make)| text.strip_suffix(*unit).map(|digits| (digits, make)))?;
    number(digits).map(make)
}

/// A file's path: not empty, no longer than the system takes, and `%` only as `%p` or `%%`.
pub(super) fn path(text: &[u8]) -> Option<&[u8]> {
    if text.is_empty() || text.len() > super::keep::LONGEST {
        return None;
    }
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        if *byte == b'%' && !matches!(bytes.next(), Some(b'p' | b'%')) {
            return None;
        }
    }
    Some(text)
}
