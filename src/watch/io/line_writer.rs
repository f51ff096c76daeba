//! std's `LineWriter`, whose drop is std's own: a tap below it sees what it couldn't write.

use std::fmt::{self, Arguments, Debug};
use std::io::{self, ErrorKind, IoSlice, Result, Write};
use std::mem::ManuallyDrop;

use super::super::ResourceGuard;
use super::{IntoInnerError, lost};

pub(super) const FILE: &str = file!();

/// As [`std::io::LineWriter`], and tells when the flush of its drop fails: see [the module](self::super).
///
/// The writer inside must have a size, and of several slices (`write_vectored`) it is given one at a time. How much it holds
/// can't be seen before it is dropped; nor can what it held when its writer had panicked.
pub struct LineWriter<W: Write> {
    /// Taken where this is dropped or taken apart.
    inner: ManuallyDrop<io::LineWriter<Tap<W>>>,
}

/// The writer that std's `LineWriter` writes to.
struct Tap<W> {
    guard: ResourceGuard,
    /// The last call returned an error: the program knows.
    known: bool,
    /// The `LineWriter` is being dropped.
    last: bool,
    writer: W,
}

impl<W: Write> LineWriter<W> {
    /// A writer over `inner` that hands on whole lines, with std's default capacity.
    pub fn new(inner: W) -> Self {
        Self::over(io::LineWriter::new(Tap::new(inner)))
    }

    /// A writer over `inner` that hands on whole lines, with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize, inner: W) -> Self {
        Self::over(io::LineWriter::with_capacity(capacity, Tap::new(inner)))
    }

    fn over(inner: io::LineWriter<Tap<W>>) -> Self {
        Self { inner: ManuallyDrop::new(inner) }
    }

    /// The underlying writer.
    pub fn get_ref(&self) -> &W {
        &self.inner.get_ref().writer
    }

    /// The underlying writer. What is written to it directly may overtake what is buffered.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.inner.get_mut().writer
    }

    /// Writes what is buffered, and takes the underlying writer out.
    ///
    /// # Errors
    /// When what is buffered can't be written; the writer is in the error.
    pub fn into_inner(self) -> std::result::Result<W, IntoInnerError<Self>> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped nor used again.
        let inner = unsafe { ManuallyDrop::take(&mut this.inner) };
        match inner.into_inner() {
            Ok(tap) => Ok(tap.writer),
            Err(error) => {
                let (error, mut inner) = error.into_parts();
                inner.get_mut().known = true;
                Err(IntoInnerError::new(Self::over(inner), error))
            }
        }
    }

    #[inline]
    #[track_caller]
    fn noted<T>(&mut self, act: impl FnOnce(&mut io::LineWriter<Tap<W>>) -> Result<T>) -> Result<T> {
        let result = act(&mut self.inner);
        let tap = self.inner.get_mut();
        if tap.guard.is_on() {
            tap.known = result.is_err();
            tap.guard.close();
        }
        result
    }
}

impl<W: Write> Drop for LineWriter<W> {
    #[inline]
    fn drop(&mut self) {
        self.inner.get_mut().last = true;
        // SAFETY: the whole is dropped, so nobody takes or uses it after this; `into_inner` forgets the whole.
        unsafe { ManuallyDrop::drop(&mut self.inner) };
    }
}

impl<W> Tap<W> {
    fn new(writer: W) -> Self {
        let guard = ResourceGuard::new("LineWriter", "flush()` or `into_inner()");
        Self { guard, known: false, last: false, writer }
    }

    #[inline]
    fn seen(&self, bytes: usize, result: &Result<usize>) {
        if self.last && self.guard.is_on() && !self.known {
            match result {
                Ok(0) if bytes > 0 => lost(&self.guard, bytes, &"its writer takes no more"),
                Err(error) if error.kind() != ErrorKind::Interrupted => lost(&self.guard, bytes, error),
                _ => {}
            }
        }
    }
}

impl<W: Write> Write for Tap<W> {
    #[inline]
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        let result = self.writer.write(buf);
        self.seen(buf.len(), &result);
        result
    }
    #[inline]
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> Result<usize> {
        self.writer.write_vectored(bufs)
    }
    #[inline]
    fn write_all(&mut self, buf: &[u8]) -> Result<()> {
        self.writer.write_all(buf)
    }
    #[inline]
    fn flush(&mut self) -> Result<()> {
        self.writer.flush()
    }
}

impl<W: Debug> Debug for Tap<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.writer.fmt(f)
    }
}

impl<W: Write> Write for LineWriter<W> {
    #[inline]
    #[track_caller]
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        self.noted(|inner| inner.write(buf))
    }
    #[inline]
    #[track_caller]
    fn write_all(&mut self, buf: &[u8]) -> Result<()> {
        self.noted(|inner| inner.write_all(buf))
    }
    #[inline]
    #[track_caller]
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> Result<usize> {
        self.noted(|inner| inner.write_vectored(bufs))
    }
    #[inline]
    #[track_caller]
    fn write_fmt(&mut self, args: Arguments<'_>) -> Result<()> {
        self.noted(|inner| inner.write_fmt(args))
    }
    #[track_caller]
    fn flush(&mut self) -> Result<()> {
        self.noted(io::LineWriter::flush)
    }
}

impl<W: Write + Debug> Debug for LineWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (*self.inner).fmt(f)
    }
}
