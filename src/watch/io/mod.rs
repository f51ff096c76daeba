//! `std::io` with writers that tell what they lose on drop: a changed `use` line.
//!
//! `std`'s own [`BufWriter`](std::io::BufWriter) and [`LineWriter`](std::io::LineWriter) write what they hold when they are dropped,
//! and swallow the error where that fails. Those here do the same, and while async debug is on ([`crate::set_debug`]) such a
//! failure is told as a `resource-warning`: how many bytes are lost and why, where the writer was made (with tracing on), last
//! touched and dropped. A writer that is dropped unflushed and then writes all that it holds has lost nothing: it is silent.
//! So is one of which the last call returned an error to the program, which knows then, and one that is dropped by a panic.
//! What is leaked (`std::mem::forget`, `std::process::exit`) is never dropped, so it isn't seen.
//!
//! Everything else of `std::io` is here under its own name.
//!
//! ```
//! use birthmark::io::{BufWriter, Write as _};
//!
//! let mut out = BufWriter::new(Vec::new());
//! writeln!(out, "hello")?;
//! assert_eq!(out.into_inner()?, b"hello\n");
//! # std::io::Result::Ok(())
//! ```

mod buf_writer;
mod line_writer;

pub use std::io::*;

pub use buf_writer::BufWriter;
pub use line_writer::LineWriter;

use std::fmt;
use std::panic::Location;

use super::ResourceGuard;
use super::guard::count;
use super::warning::Row;

/// Whether the place lies in these writers themselves, which were called through `dyn Write` then.
pub(super) fn is_own(place: &Location<'_>) -> bool {
    [buf_writer::FILE, line_writer::FILE].contains(&place.file())
}

/// Tells what a writer's last flush, in its drop, didn't write.
#[cold]
fn lost(guard: &ResourceGuard, bytes: usize, why: &dyn fmt::Display) {
    let bytes = count(bytes, "bytes unwritten");
    guard.lost(|what| format!("{what} was dropped with {bytes}, which are lost: {why}"), Vec::<Row>::new());
}

/// As [`std::io::IntoInnerError`], of the writers here.
#[derive(Debug)]
pub struct IntoInnerError<W> {
    writer: W,
    error: Error,
}

impl<W> IntoInnerError<W> {
    fn new(writer: W, error: Error) -> Self {
        Self { writer, error }
    }

    /// Why the bytes couldn't be written.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// The writer, with the bytes that it still holds.
    pub fn into_inner(self) -> W {
        self.writer
    }

    /// Why the bytes couldn't be written; the writer is dropped.
    pub fn into_error(self) -> Error {
        self.error
    }

    /// Both.
    pub fn into_parts(self) -> (Error, W) {
        (self.error, self.writer)
    }
}

impl<W> From<IntoInnerError<W>> for Error {
    fn from(error: IntoInnerError<W>) -> Self {
        error.error
    }
}

impl<W> fmt::Display for IntoInnerError<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<W: Send + fmt::Debug> std::error::Error for IntoInnerError<W> {}
