//! std's `BufWriter`, which does in sight what std's drop does: writes what it holds, once.

use std::fmt::{self, Arguments, Debug};
use std::io::{self, ErrorKind, IoSlice, Result, Seek, SeekFrom, Write, WriterPanicked};
use std::mem::ManuallyDrop;

use super::super::ResourceGuard;
use super::{IntoInnerError, lost};

pub(super) const FILE: &str = file!();

/// As [`std::io::BufWriter`], and tells when the flush of its drop fails: see [the module](self::super).
///
/// The writer inside must have a size.
pub struct BufWriter<W: Write> {
    guard: ResourceGuard,
    /// The last call returned an error: the program knows.
    known: bool,
    /// Taken where this is dropped or taken apart.
    inner: ManuallyDrop<io::BufWriter<W>>,
}

impl<W: Write> BufWriter<W> {
    /// A buffered writer over `inner` with std's default capacity.
    pub fn new(inner: W) -> Self {
        Self::over(io::BufWriter::new(inner), Self::guard())
    }

    /// A buffered writer over `inner` with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize, inner: W) -> Self {
        Self::over(io::BufWriter::with_capacity(capacity, inner), Self::guard())
    }

    fn guard() -> ResourceGuard {
        ResourceGuard::new("BufWriter", "flush()` or `into_inner()").unit("bytes unflushed")
    }

    fn over(inner: io::BufWriter<W>, guard: ResourceGuard) -> Self {
        Self { guard, known: false, inner: ManuallyDrop::new(inner) }
    }

    /// The underlying writer.
    pub fn get_ref(&self) -> &W {
        self.inner.get_ref()
    }

    /// The underlying writer. What is written to it directly may overtake what is buffered.
    pub fn get_mut(&mut self) -> &mut W {
        self.inner.get_mut()
    }

    /// The bytes that are buffered now.
    pub fn buffer(&self) -> &[u8] {
        self.inner.buffer()
    }

    /// How many bytes the buffer has room for.
    pub fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    /// Writes what is buffered, and takes the underlying writer out.
    ///
    /// # Errors
    /// When what is buffered can't be written; the writer is in the error.
    pub fn into_inner(self) -> std::result::Result<W, IntoInnerError<Self>> {
        let (inner, guard) = self.apart();
        inner.into_inner().map_err(|error| {
            let (error, inner) = error.into_parts();
            let mut whole = Self::over(inner, guard);
            whole.known = true;
            IntoInnerError::new(whole, error)
        })
    }

    /// The underlying writer, and the bytes that it wasn't given yet; in an error, where it panicked when they were written to it.
    pub fn into_parts(self) -> (W, std::result::Result<Vec<u8>, WriterPanicked>) {
        self.apart().0.into_parts()
    }

    /// With nothing pending: whoever has both parts answers for them.
    fn apart(self) -> (io::BufWriter<W>, ResourceGuard) {
        let mut this = ManuallyDrop::new(self);
        this.guard.settle();
        // SAFETY: `this` is never dropped nor used again, so each part is taken once.
        unsafe { (ManuallyDrop::take(&mut this.inner), std::ptr::read(&this.guard)) }
    }

    #[inline]
    #[track_caller]
    fn counted<T>(&mut self, act: impl FnOnce(&mut io::BufWriter<W>) -> Result<T>) -> Result<T> {
        let result = act(&mut self.inner);
        if self.guard.is_on() {
            self.known = result.is_err();
            self.guard.pending(self.inner.buffer().len());
        }
        result
    }
}

impl<W: Write> Drop for BufWriter<W> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the whole is dropped, so nobody takes or uses it after this; `apart` forgets the whole.
        let inner = unsafe { ManuallyDrop::take(&mut self.inner) };
        if self.guard.is_on() {
            finish(inner, &self.guard, self.known);
        }
    }
}

/// Does what std's drop does, and looks at the outcome.
#[cold]
fn finish<W: Write>(inner: io::BufWriter<W>, guard: &ResourceGuard, known: bool) {
    guard.settle();
    let (mut writer, buffered) = inner.into_parts();
    match buffered {
        Ok(bytes) => {
            if let Err((left, error)) = write(&mut writer, &bytes)
                && !known
            {
                lost(guard, left, &error);
            }
        }
        // Nobody knows how much of it was written before the panic: as std does, it isn't tried again.
        Err(panicked) => {
            let bytes = panicked.into_inner();
            if !bytes.is_empty() && !known {
                lost(guard, bytes.len(), &"its writer panicked before");
            }
        }
    }
}

/// Writes all; else how many bytes are left, and why.
fn write(writer: &mut impl Write, mut bytes: &[u8]) -> std::result::Result<(), (usize, io::Error)> {
    while !bytes.is_empty() {
        match writer.write(bytes) {
            Ok(0) => {
                return Err((bytes.len(), io::Error::new(ErrorKind::WriteZero, "its writer takes no more")));
            }
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err((bytes.len(), error)),
        }
    }
    Ok(())
}

impl<W: Write> Write for BufWriter<W> {
    #[inline]
    #[track_caller]
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        self.counted(|inner| inner.write(buf))
    }
    #[inline]
    #[track_caller]
    fn write_all(&mut self, buf: &[u8]) -> Result<()> {
        self.counted(|inner| inner.write_all(buf))
    }
    #[inline]
    #[track_caller]
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> Result<usize> {
        self.counted(|inner| inner.write_vectored(bufs))
    }
    #[inline]
    #[track_caller]
    fn write_fmt(&mut self, args: Arguments<'_>) -> Result<()> {
        self.counted(|inner| inner.write_fmt(args))
    }
    #[track_caller]
    fn flush(&mut self) -> Result<()> {
        self.counted(io::BufWriter::flush)
    }
}

impl<W: Write + Seek> Seek for BufWriter<W> {
    #[track_caller]
    fn seek(&mut self, position: SeekFrom) -> Result<u64> {
        self.counted(|inner| inner.seek(position))
    }
}

impl<W: Write + Debug> Debug for BufWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (*self.inner).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, and is interrupted before each.
    struct Narrow(usize, bool);

    impl Write for Narrow {
        fn write(&mut self, buf: &[u8]) -> Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(ErrorKind::Interrupted.into());
            }
            let n = self.0.min(buf.len()).min(2);
            self.0 -= n;
            Ok(n)
        }
        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_left_is_what_the_writer_did_not_take() {
        assert!(write(&mut Narrow(5, false), b"hello").is_ok());
        let (left, error) = write(&mut Narrow(3, false), b"hello").unwrap_err();
        assert_eq!((left, error.kind()), (2, ErrorKind::WriteZero));
    }
}
