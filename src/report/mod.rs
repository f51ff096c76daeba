//! Words for people and lines for tools: from plain facts to a report that is written once.

mod arena;
pub(crate) mod at_exit;
mod child;
pub(crate) mod fatal;
pub(crate) mod fault;
mod json;
pub(crate) mod raw;
pub(crate) mod record;
pub(crate) mod sink;
pub(crate) mod text;

pub(crate) use arena::{arena_alloc, arena_realloc};

/// A path with `%p` replaced by the process id, ended by zero. What is longer than the buffer is cut. No heap.
pub(crate) fn expand(path: &[u8]) -> [u8; 512] {
    let mut out = [0u8; 512];
    let mut n = 0;
    let mut put = |b: u8| {
        if n < 511 {
            out[n] = b;
            n += 1;
        }
    };
    let mut rest = path;
    while let Some((first, more)) = rest.split_first() {
        if rest.starts_with(b"%p") {
            let mut digits = [0u8; 10];
            let mut id = std::process::id();
            let mut k = digits.len();
            loop {
                k -= 1;
                digits[k] = b'0' + (id % 10) as u8;
                id /= 10;
                if id == 0 || k == 0 {
                    break;
                }
            }
            digits[k..].iter().for_each(|b| put(*b));
            rest = rest.get(2..).unwrap_or_default();
        } else {
            put(*first);
            rest = more;
        }
    }
    out
}
