//! The path of a file that reports go to. No heap.

use core::ffi::CStr;

use super::buffer::Buffer;
use crate::sys;

/// The longest path with its zero, as Linux's `PATH_MAX`.
const MOST: usize = 4096;

/// Writes `path` with `%p` replaced by `id` and `%%` by `%`, ended by zero. False where it is too long.
fn expand(path: &[u8], id: u32, out: &mut Buffer<'_>) -> bool {
    let mut rest = path;
    while let Some((first, more)) = rest.split_first() {
        match (first, more.split_first()) {
            (b'%', Some((b'p', after))) => {
                let _ = core::fmt::Write::write_fmt(out, format_args!("{id}"));
                rest = after;
            }
            (b'%', Some((b'%', after))) => {
                out.push(b"%");
                rest = after;
            }
            _ => {
                out.push(&[*first]);
                rest = more;
            }
        }
    }
    out.push(b"\0");
    !out.is_full()
}

/// Opens a file to append to, made where it isn't there; nothing where that fails. The caller closes it.
pub(crate) fn open(path: &[u8]) -> Option<sys::Descriptor> {
    let mut memory = [0u8; MOST];
    let mut text = Buffer::new(&mut memory);
    if !expand(path, sys::process_id(), &mut text) {
        return None;
    }
    sys::open(CStr::from_bytes_until_nul(text.bytes()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(path: &[u8]) -> Option<Vec<u8>> {
        let mut memory = [0u8; 24];
        let mut out = Buffer::new(&mut memory);
        expand(path, 417, &mut out).then(|| out.bytes().to_vec())
    }

    #[test]
    fn the_process_id_and_the_percent_sign_are_put_in() {
        assert_eq!(expanded(b"r-%p.txt").as_deref(), Some(&b"r-417.txt\0"[..]));
        assert_eq!(expanded(b"%p%p100%%%").as_deref(), Some(&b"417417100%%\0"[..]));
    }

    #[test]
    fn what_does_not_fit_is_not_cut_but_refused() {
        assert_eq!(expanded(&[b'x'; 23]).map(|path| path.len()), Some(24));
        assert_eq!(expanded(&[b'x'; 24]), None);
    }
}
