//! The guard of a build without the heap: zero-sized, and every call compiles to nothing.

/// Says what is lost when its owner is dropped with work undone.
///
/// In a build without the feature `heap` it is nothing at all; the binary that installs Birthmark's allocator switches it on
/// for every library that carries one.
///
/// ```
/// # use birthmark::ResourceGuard;
/// let guard = ResourceGuard::new("Export", "finish()").unit("rows unsent");
/// guard.pending(3);
/// guard.close();
/// ```
#[derive(Debug)]
#[must_use = "a guard belongs into a field of the object that it guards"]
pub struct ResourceGuard(());

impl ResourceGuard {
    /// A guard for a `what`; `call_instead` is what its owner's user should have called.
    // Not `const`, as in the build with the heap it can't be.
    #[inline(always)]
    pub fn new(_what: &'static str, _call_instead: &'static str) -> Self {
        Self(())
    }

    /// The words that follow the number in the report, of several: `"rows unsent"`.
    #[inline(always)]
    pub fn unit(self, _words: &'static str) -> Self {
        self
    }

    /// There are `n` pieces of work undone now; 0: none.
    #[inline(always)]
    pub fn pending(&self, _n: usize) {}

    /// Nothing is undone.
    #[inline(always)]
    pub fn close(&self) {}
}

// As the build with the heap has one: a guard can't be moved out of, nor copied.
impl Drop for ResourceGuard {
    #[inline(always)]
    fn drop(&mut self) {}
}
