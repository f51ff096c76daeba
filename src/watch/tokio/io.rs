//! `tokio::io` with a writer that tells what it loses on drop: a changed `use` line. Everything else of `tokio::io` is here
//! under its own name.

use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};

pub use ::tokio::io::*;

use super::bound::{Home, is_gone};
use crate::ResourceGuard;

/// tokio's `BufWriter` that warns when it is dropped with bytes unflushed: tokio's own loses them without a word.
///
/// While async debug is on, a drop with bytes in the buffer writes a `resource-warning`: how many bytes are lost, where the
/// writer was made, last touched (both with tracing on) and dropped. `flush` and `shutdown` clear it; and where the last call
/// returned an error, the program knows. A writer in a task that is aborted, or dropped at its runtime's end, loses its
/// bytes as any other and is told; one that is dropped by a panic is silent. A call that fails since the runtime that drives the
/// socket below has ended panics with both places (`wrong-runtime`), where it is made in another runtime or outside of all.
///
/// ```
/// use ::tokio::io::AsyncWriteExt as _;
///
/// # birthmark::tokio::run(false, async {
/// let mut out = birthmark::tokio::io::BufWriter::new(Vec::new());
/// out.write_all(b"hello").await?;
/// out.flush().await?;
/// assert_eq!(out.into_inner(), b"hello");
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct BufWriter<W> {
    inner: ::tokio::io::BufWriter<W>,
    guard: ResourceGuard,
    /// What `inner` writes to may be driven by one runtime.
    home: Home,
}

impl<W: AsyncWrite> BufWriter<W> {
    /// A buffered writer over `inner` with tokio's default capacity (8 KiB).
    #[track_caller]
    pub fn new(inner: W) -> Self {
        Self::over(::tokio::io::BufWriter::new(inner))
    }

    /// A buffered writer over `inner` with room for `capacity` bytes.
    #[track_caller]
    pub fn with_capacity(capacity: usize, inner: W) -> Self {
        Self::over(::tokio::io::BufWriter::with_capacity(capacity, inner))
    }

    /// Takes over a writer of tokio's, with what it holds.
    #[track_caller]
    fn over(inner: ::tokio::io::BufWriter<W>) -> Self {
        let guard = ResourceGuard::new("BufWriter", "flush().await` or `shutdown().await")
            .unit("bytes unflushed: they are lost");
        Self { inner, guard, home: Home::here() }
    }

    /// The underlying writer.
    pub fn get_ref(&self) -> &W {
        self.inner.get_ref()
    }

    /// The underlying writer. What is written to it directly may overtake what is buffered.
    pub fn get_mut(&mut self) -> &mut W {
        self.inner.get_mut()
    }

    /// The underlying writer, pinned.
    pub fn get_pin_mut(self: Pin<&mut Self>) -> Pin<&mut W> {
        self.parts().0.get_pin_mut()
    }

    /// Takes the underlying writer out. Bytes that are still buffered are lost, and told of.
    pub fn into_inner(self) -> W {
        self.inner.into_inner()
    }

    /// The bytes that are buffered now.
    pub fn buffer(&self) -> &[u8] {
        self.inner.buffer()
    }
}

impl<W> BufWriter<W> {
    fn parts(self: Pin<&mut Self>) -> (Pin<&mut ::tokio::io::BufWriter<W>>, &ResourceGuard, &Home) {
        // SAFETY: `inner` is pinned with the whole and never moved out of a pinned one; the others aren't pinned. There is no
        // `Drop` and no `Unpin` of our own.
        unsafe {
            let whole = self.get_unchecked_mut();
            (Pin::new_unchecked(&mut whole.inner), &whole.guard, &whole.home)
        }
    }

    fn counted<T>(
        self: Pin<&mut Self>,
        act: impl FnOnce(Pin<&mut ::tokio::io::BufWriter<W>>) -> Poll<Result<T>>,
    ) -> Poll<Result<T>>
    where
        W: AsyncWrite,
    {
        let (mut inner, guard, home) = self.parts();
        let result = act(inner.as_mut());
        if guard.is_on() {
            // Of an error the program knows.
            let failed = matches!(result, Poll::Ready(Err(_)));
            guard.pending_here(if failed { 0 } else { inner.buffer().len() });
        }
        if let Poll::Ready(Err(error)) = &result
            && is_gone(error)
        {
            home.gone(&format!("BufWriter<{}>", std::any::type_name::<W>()));
        }
        result
    }
}

impl<W: AsyncWrite> AsyncWrite for BufWriter<W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        self.counted(|inner| inner.poll_write(cx, buf))
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        self.counted(|inner| inner.poll_write_vectored(cx, bufs))
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.counted(|inner| inner.poll_flush(cx))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.counted(|inner| inner.poll_shutdown(cx))
    }
}

impl<W: AsyncWrite + AsyncRead> AsyncRead for BufWriter<W> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        self.parts().0.poll_read(cx, buf)
    }
}

impl<W: AsyncWrite + AsyncBufRead> AsyncBufRead for BufWriter<W> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<&[u8]>> {
        self.parts().0.poll_fill_buf(cx)
    }
    fn consume(self: Pin<&mut Self>, amount: usize) {
        self.parts().0.consume(amount);
    }
}

impl<W: AsyncWrite + AsyncSeek> AsyncSeek for BufWriter<W> {
    fn start_seek(self: Pin<&mut Self>, position: SeekFrom) -> Result<()> {
        self.parts().0.start_seek(position)
    }
    fn poll_complete(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<u64>> {
        self.counted(|inner| inner.poll_complete(cx))
    }
}
