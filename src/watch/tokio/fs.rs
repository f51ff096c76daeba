//! `tokio::fs` with a file that tells of writes whose end nobody saw: a changed `use` line.
//!
//! `write_all` to a [`tokio::fs::File`](::tokio::fs::File) returns once the bytes are copied: a thread of the blocking pool writes them
//! later, and the error, where there is one, is kept for the next call. Without a next call it is lost, and who opens the file
//! right after the drop may miss the bytes. While async debug is on ([`crate::set_debug`]) such a drop is told as a
//! `resource-warning`, by what is so at the drop: the last write has failed and nobody was told, or it is still under way and
//! nobody will be. One that had ended well by then has lost nothing: it is silent, with or without a `flush`.
//!
//! Silent, too, is a file that is dropped by a panic. Everything else of `tokio::fs` is here under its own name; its functions
//! (`write`, `copy`) wait for what they write.
//!
//! ```
//! use ::tokio::io::AsyncWriteExt as _;
//! use birthmark::tokio::fs::File;
//!
//! # let path = std::env::temp_dir().join(format!("birthmark-doc-{}", std::process::id()));
//! # birthmark::tokio::run(false, async {
//! let mut file = File::create(&path).await?;
//! file.write_all(b"hello").await?;
//! file.flush().await?;
//! # drop(file);
//! # std::fs::remove_file(&path)?;
//! # std::io::Result::Ok(()) }).unwrap();
//! ```

use std::fmt::{self, Debug};
use std::future::{Future, poll_fn};
use std::io::{IoSlice, Result, SeekFrom};
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::path::Path;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use ::tokio::fs::File as TokioFile;
use ::tokio::fs::OpenOptions as TokioOptions;
use ::tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf};
use ::tokio::task::unconstrained;

pub use ::tokio::fs::*;

use super::super::guard::count;
use super::super::warning::Row;
use crate::ResourceGuard;

/// As [`tokio::fs::File`](::tokio::fs::File), and tells when it is dropped with a write that failed or is under way: see
/// [the module](self).
///
/// What tokio's file does through `&self` it does through `Deref`.
pub struct File {
    guard: ResourceGuard,
    /// Taken where this is dropped or taken apart.
    inner: ManuallyDrop<TokioFile>,
}

impl File {
    /// Opens a file to read it.
    ///
    /// # Errors
    /// As [`tokio::fs::File::open`](::tokio::fs::File::open).
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::over(TokioFile::open(path).await?))
    }

    /// Opens a file to write it, made where it isn't there and emptied where it is.
    ///
    /// # Errors
    /// As [`tokio::fs::File::create`](::tokio::fs::File::create).
    pub async fn create(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::over(TokioFile::create(path).await?))
    }

    /// Opens a new file to read and write it.
    ///
    /// # Errors
    /// As [`tokio::fs::File::create_new`](::tokio::fs::File::create_new); when there is one already.
    pub async fn create_new<P: AsRef<Path>>(path: P) -> Result<Self> {
        Ok(Self::over(TokioFile::create_new(path).await?))
    }

    /// Options to open a file with.
    #[must_use]
    pub fn options() -> OpenOptions {
        OpenOptions::new()
    }

    /// Takes over a file of std's.
    pub fn from_std(file: std::fs::File) -> Self {
        Self::over(TokioFile::from_std(file))
    }

    fn over(inner: TokioFile) -> Self {
        let guard = ResourceGuard::new("File", "flush().await").unit("bytes being written");
        Self { guard, inner: ManuallyDrop::new(inner) }
    }

    /// Another handle of the same open file.
    ///
    /// # Errors
    /// As [`tokio::fs::File::try_clone`](::tokio::fs::File::try_clone).
    pub async fn try_clone(&self) -> Result<Self> {
        Ok(Self::over(self.inner.try_clone().await?))
    }

    /// std's file, once what is under way has ended. A write that failed is told, since this doesn't return its error.
    pub async fn into_std(mut self) -> std::fs::File {
        if self.guard.is_on() {
            let end = poll_fn(|cx| Pin::new(&mut *self.inner).poll_flush(cx)).await;
            self.tell(Poll::Ready(end));
        }
        let (inner, guard) = self.apart();
        guard.settle();
        drop(guard);
        inner.into_std().await
    }

    /// std's file, if nothing is under way. A write that failed is told, since this doesn't return its error.
    ///
    /// # Errors
    /// The file, when something is under way.
    #[allow(clippy::result_large_err)] // as tokio's
    pub fn try_into_std(mut self) -> std::result::Result<std::fs::File, Self> {
        let end = if self.guard.is_on() { end_now(&mut self.inner) } else { Poll::Pending };
        if end.is_ready() {
            self.tell(end);
        }
        let (inner, guard) = self.apart();
        match inner.try_into_std() {
            Ok(file) => {
                guard.settle();
                Ok(file)
            }
            Err(inner) => Err(Self { guard, inner: ManuallyDrop::new(inner) }),
        }
    }

    /// How many bytes one write or read takes at most.
    ///
    /// # Panics
    /// When it is 0.
    #[track_caller]
    pub fn set_max_buf_size(&mut self, max_buf_size: usize) {
        self.inner.set_max_buf_size(max_buf_size);
    }

    fn apart(self) -> (TokioFile, ResourceGuard) {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped nor used again, so each part is taken once.
        unsafe { (ManuallyDrop::take(&mut this.inner), std::ptr::read(&this.guard)) }
    }

    /// Tells of the last write, whose end nobody else will see.
    #[cold]
    fn tell(&self, end: Poll<Result<()>>) {
        let n = self.guard.undone();
        if n == 0 {
            return;
        }
        let bytes = count(n, "bytes");
        let how = match end {
            Poll::Ready(Ok(())) => return self.guard.settle(),
            Poll::Ready(Err(error)) => {
                format!("a write of {bytes} that failed, which nobody saw: {error}")
            }
            Poll::Pending => {
                format!("{bytes} still being written: nobody will see whether that fails")
            }
        };
        self.guard.lost(|what| format!("{what} was dropped with {how}"), path_of(&self.inner));
    }
}

/// The end of what is under way, if it has ended.
fn end_now(file: &mut TokioFile) -> Poll<Result<()>> {
    // Without the task's budget, which may be used up.
    let flush = unconstrained(poll_fn(|cx| Pin::new(&mut *file).poll_flush(cx)));
    pin!(flush).poll(&mut Context::from_waker(Waker::noop()))
}

/// Which file it is, where the system tells.
fn path_of(file: &TokioFile) -> Vec<Row> {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd as _;
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        if let Ok(path) = std::fs::read_link(link) {
            return vec![Row::words("path", path.display().to_string())];
        }
    }
    let _ = file;
    Vec::new()
}

impl Drop for File {
    #[inline]
    fn drop(&mut self) {
        if self.guard.is_on() && self.guard.undone() != 0 {
            let end = end_now(&mut self.inner);
            self.tell(end);
        }
        // SAFETY: the whole is dropped, so nobody takes or uses it after this; where it was taken, the whole is forgotten.
        unsafe { ManuallyDrop::drop(&mut self.inner) };
    }
}

impl Deref for File {
    type Target = TokioFile;

    fn deref(&self) -> &TokioFile {
        &self.inner
    }
}

impl AsyncWrite for File {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        self.get_mut().counted(|inner| inner.poll_write(cx, buf))
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        self.get_mut().counted(|inner| inner.poll_write_vectored(cx, bufs))
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.get_mut().counted(|inner| inner.poll_flush(cx).map_ok(|()| 0)).map_ok(drop)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.get_mut().counted(|inner| inner.poll_shutdown(cx).map_ok(|()| 0)).map_ok(drop)
    }
}

impl File {
    /// A write returns with its bytes under way, and once the one before has ended; its error is that one's.
    fn counted(
        &mut self,
        act: impl FnOnce(Pin<&mut TokioFile>) -> Poll<Result<usize>>,
    ) -> Poll<Result<usize>> {
        let result = act(Pin::new(&mut *self.inner));
        if self.guard.is_on() {
            match &result {
                Poll::Ready(Ok(n)) => self.guard.pending_here(*n),
                Poll::Ready(Err(_)) => self.guard.pending_here(0),
                Poll::Pending => {}
            }
        }
        result
    }
}

impl AsyncRead for File {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut *self.get_mut().inner).poll_read(cx, buf)
    }
}

impl AsyncSeek for File {
    fn start_seek(self: Pin<&mut Self>, position: SeekFrom) -> Result<()> {
        Pin::new(&mut *self.get_mut().inner).start_seek(position)
    }
    fn poll_complete(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<u64>> {
        Pin::new(&mut *self.get_mut().inner).poll_complete(cx)
    }
}

impl From<std::fs::File> for File {
    fn from(file: std::fs::File) -> Self {
        Self::from_std(file)
    }
}

/// A file of tokio's; a write that it has under way is seen from the next call on.
impl From<TokioFile> for File {
    fn from(file: TokioFile) -> Self {
        Self::over(file)
    }
}

impl Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (*self.inner).fmt(f)
    }
}

#[cfg(unix)]
mod unix {
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

    use super::{File, TokioFile};

    impl From<OwnedFd> for File {
        fn from(fd: OwnedFd) -> Self {
            Self::from_std(fd.into())
        }
    }
    impl AsRawFd for File {
        fn as_raw_fd(&self) -> RawFd {
            self.inner.as_raw_fd()
        }
    }
    impl AsFd for File {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.inner.as_fd()
        }
    }
    impl FromRawFd for File {
        unsafe fn from_raw_fd(fd: RawFd) -> Self {
            // SAFETY: the caller's.
            Self::over(unsafe { TokioFile::from_raw_fd(fd) })
        }
    }
}

#[cfg(windows)]
mod windows {
    use std::os::windows::io::{
        AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle, RawHandle,
    };

    use super::{File, TokioFile};

    impl From<OwnedHandle> for File {
        fn from(handle: OwnedHandle) -> Self {
            Self::from_std(handle.into())
        }
    }
    impl AsRawHandle for File {
        fn as_raw_handle(&self) -> RawHandle {
            self.inner.as_raw_handle()
        }
    }
    impl AsHandle for File {
        fn as_handle(&self) -> BorrowedHandle<'_> {
            self.inner.as_handle()
        }
    }
    impl FromRawHandle for File {
        unsafe fn from_raw_handle(handle: RawHandle) -> Self {
            // SAFETY: the caller's.
            Self::over(unsafe { TokioFile::from_raw_handle(handle) })
        }
    }
}

/// As [`tokio::fs::OpenOptions`](::tokio::fs::OpenOptions), and opens a [`File`] of this module.
#[derive(Clone, Debug)]
pub struct OpenOptions(TokioOptions);

impl OpenOptions {
    /// Options with everything off.
    #[allow(clippy::new_without_default)] // as tokio's, whose `Default` is below
    pub fn new() -> Self {
        Self(TokioOptions::new())
    }

    /// Opens a file.
    ///
    /// # Errors
    /// As [`tokio::fs::OpenOptions::open`](::tokio::fs::OpenOptions::open).
    pub async fn open(&self, path: impl AsRef<Path>) -> Result<File> {
        Ok(File::over(self.0.open(path).await?))
    }
}

macro_rules! options {
    ($($(#[$attr:meta])* $name:ident: $type:ty, $doc:literal;)*) => {
        impl OpenOptions {
            $(
                $(#[$attr])*
                #[doc = $doc]
                pub fn $name(&mut self, $name: $type) -> &mut Self {
                    self.0.$name($name);
                    self
                }
            )*
        }
    };
}

options! {
    read: bool, "Whether it may be read.";
    write: bool, "Whether it may be written.";
    append: bool, "Whether each write goes to its end.";
    truncate: bool, "Whether it is emptied.";
    create: bool, "Whether it is made where it isn't there.";
    create_new: bool, "Whether it must not be there yet.";
    #[cfg(unix)] mode: u32, "The permissions of a file that is made.";
    #[cfg(unix)] custom_flags: i32, "Flags of `open` beside those that the other options make.";
    #[cfg(windows)] access_mode: u32, "Overrides `dwDesiredAccess`.";
    #[cfg(windows)] share_mode: u32, "Overrides `dwShareMode`.";
    #[cfg(windows)] custom_flags: u32, "Sets extra flags of `dwFileFlags`.";
    #[cfg(windows)] attributes: u32, "Sets `dwFileAttributes`.";
    #[cfg(windows)] security_qos_flags: u32, "Sets `dwSecurityQosFlags`.";
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl From<std::fs::OpenOptions> for OpenOptions {
    fn from(options: std::fs::OpenOptions) -> Self {
        Self(options.into())
    }
}
