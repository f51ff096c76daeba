//! One line in a fixed buffer, sent by one `write`. Runs inside an allocation, and in a process about to end.

use core::fmt;

/// Bytes that a line can hold; what is longer is cut.
const MOST: usize = 1000;

/// A line under construction.
pub(crate) struct Line {
    bytes: [u8; MOST + 1],
    len: usize,
}

impl Line {
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; MOST + 1], len: 0 }
    }

    fn push(&mut self, bytes: &[u8]) {
        for b in bytes {
            if let Some(place) = self.bytes.get_mut(self.len).filter(|_| self.len < MOST) {
                *place = *b;
                self.len = self.len.wrapping_add(1);
            }
        }
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.push(text.as_bytes());
        self
    }

    /// Bytes of the user's, printable ones as they are, `most` of them.
    pub(crate) fn escaped(&mut self, bytes: &[u8], most: usize) -> &mut Self {
        for b in bytes.iter().take(most) {
            if b.is_ascii_graphic() || *b == b' ' {
                self.push(&[*b]);
            } else {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let digit = |n: u8| HEX.get(usize::from(n & 15)).copied().unwrap_or(b'?');
                self.push(&[b'\\', b'x', digit(*b >> 4), digit(*b)]);
            }
        }
        if bytes.len() > most {
            self.text("..");
        }
        self
    }

    /// Writes the line and its end to a descriptor.
    pub(crate) fn send(&mut self, descriptor: i32) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = b'\n';
        }
        write_all(descriptor, self.bytes.get(..=self.len).unwrap_or_default());
        self.len = 0;
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.push(s.as_bytes());
        Ok(())
    }
}

/// Writes all bytes, as long as the descriptor takes them. `errno` is put back.
pub(crate) fn write_all(descriptor: i32, mut bytes: &[u8]) {
    crate::sys::keep_errno(|| {
        while !bytes.is_empty() {
            // SAFETY: a live buffer and its length.
            let n = unsafe { libc::write(descriptor, bytes.as_ptr().cast(), bytes.len()) };
            match usize::try_from(n) {
                Ok(n) if n > 0 => bytes = bytes.get(n..).unwrap_or_default(),
                _ if std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) => {}
                _ => return,
            }
        }
    });
}
