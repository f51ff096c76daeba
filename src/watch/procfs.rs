//! What `/proc` tells of a thread of this process, in three system calls: the kernel writes such a file whole into one read.

use std::fs::File;
use std::io::Read as _;

/// The beginning of a file.
pub(super) struct Text {
    bytes: [u8; 256],
    len: usize,
}

impl Text {
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Its words; none where they aren't text.
    pub(super) fn words(&self) -> std::str::SplitWhitespace<'_> {
        std::str::from_utf8(self.bytes()).unwrap_or_default().split_whitespace()
    }

    /// Reads anew, from the beginning, what is there now.
    #[cfg(unix)]
    pub(super) fn again(file: &File) -> Option<Self> {
        use std::os::unix::fs::FileExt as _;
        let mut bytes = [0; 256];
        let len = file.read_at(&mut bytes, 0).ok()?;
        Some(Self { bytes, len })
    }
}

/// A file of thread `tid`; nothing where there is none.
pub(super) fn open(tid: i32, file: &str) -> Option<File> {
    File::open(format!("/proc/self/task/{tid}/{file}")).ok()
}

/// What a file of thread `tid` tells now.
pub(super) fn read(tid: i32, file: &str) -> Option<Text> {
    let mut bytes = [0; 256];
    let len = open(tid, file)?.read(&mut bytes).ok()?;
    Some(Text { bytes, len })
}
