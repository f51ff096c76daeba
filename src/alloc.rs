//! `DebugAlloc`: the one line that installs Birthmark. A thin generic shell over the hooks.
//!
//! Runs inside an allocation.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::null_mut;
use core::sync::atomic::{
    AtomicU32,
    Ordering::{AcqRel, Acquire},
};
use std::alloc::System;

use crate::block::heap::MOVED;
use crate::block::{inner, quarantine};
use crate::config::Defaults;
use crate::hook;
use crate::mode::{HEAP, NAMING, READY, mode};
use crate::report;

/// In a debug build the generic functions are compiled unoptimised in the user's crate, so there they only call on; else what
/// they do with nothing on is worth having inline.
const SHORT: bool = cfg!(debug_assertions);

/// Birthmark's allocator: every block it hands out can carry the mark of its birth.
///
/// Wraps another allocator, [`System`] unless told otherwise. With nothing switched on it forwards each call, asking for at
/// least 17 bytes at an alignment of 16.
///
/// ```no_run
/// #[global_allocator]
/// static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();
/// # fn main() {}
/// ```
pub struct DebugAlloc<A: GlobalAlloc = System> {
    inner: A,
    shell: Shell,
}

/// What of the shell isn't generic, compiled in this crate: in a debug build the generic rest is compiled unoptimised, in the
/// user's.
struct Shell {
    functions: &'static Functions,
    defaults: Defaults,
    /// The inner allocator's number, 0 before the first free under the debug heap.
    number: AtomicU32,
}

/// An inner allocator's functions; the first argument is the allocator.
struct Functions {
    alloc: unsafe fn(*const (), Layout) -> *mut u8,
    alloc_zeroed: unsafe fn(*const (), Layout) -> *mut u8,
    dealloc: unsafe fn(*const (), *mut u8, Layout),
    realloc: unsafe fn(*const (), *mut u8, Layout, usize) -> *mut u8,
    register: unsafe fn(*const ()) -> u8,
}

impl Functions {
    const fn of<A: GlobalAlloc>() -> &'static Self {
        const { &Self::new::<A>() }
    }

    const fn new<A: GlobalAlloc>() -> Self {
        Self {
            // SAFETY: of each: the caller passes an `A` and keeps the contract of `A`'s function.
            alloc: |a, layout| unsafe { (*a.cast::<A>()).alloc(layout) },
            // SAFETY: as above.
            alloc_zeroed: |a, layout| unsafe { (*a.cast::<A>()).alloc_zeroed(layout) },
            // SAFETY: as above.
            dealloc: |a, p, layout| unsafe { (*a.cast::<A>()).dealloc(p, layout) },
            // SAFETY: as above.
            realloc: |a, p, layout, size| unsafe { (*a.cast::<A>()).realloc(p, layout, size) },
            // SAFETY: as above; it stays at its place, as `register` asks.
            register: |a| unsafe { inner::register(&*a.cast::<A>()) },
        }
    }
}

/// A static of this crate, so that its functions are compiled here and not in the user's crate.
static OF_SYSTEM: Functions = Functions::new::<System>();

impl DebugAlloc<System> {
    /// Over the system's allocator.
    pub const fn new() -> Self {
        Self { inner: System, shell: Shell::new(&OF_SYSTEM) }
    }
}

impl Default for DebugAlloc<System> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: GlobalAlloc> DebugAlloc<A> {
    /// Over an allocator of your own.
    ///
    /// ```no_run
    /// use std::alloc::System;
    /// #[global_allocator]
    /// static A: birthmark::DebugAlloc<System> = birthmark::DebugAlloc::over(System);
    /// # fn main() {}
    /// ```
    pub const fn over(inner: A) -> Self {
        Self { inner, shell: Shell::new(Functions::of::<A>()) }
    }

    /// Traces with `frames` of the user's frames a block where `TRACEMALLOC` says nothing else; 0: not.
    pub const fn tracemalloc(mut self, frames: u16) -> Self {
        self.shell.defaults.tracemalloc = Some(frames);
        self
    }

    /// What `BIRTHMARK_MALLOC` would say, where it says nothing: `"debug"`, `"debug,quarantine=16M"`, `"off"`.
    pub const fn malloc(mut self, words: &'static str) -> Self {
        self.shell.defaults.malloc = Some(words);
        self
    }

    /// What `BIRTHMARK_DEV=1` switches on, where it says nothing.
    pub const fn dev(mut self) -> Self {
        self.shell.defaults.dev = true;
        self
    }

    #[inline(always)]
    fn data(&self) -> *const () {
        (&raw const self.inner).cast()
    }
}

impl Shell {
    const fn new(functions: &'static Functions) -> Self {
        Self { functions, defaults: Defaults::NONE, number: AtomicU32::new(0) }
    }

    #[inline(always)]
    fn ready(&self) -> u32 {
        let mode = mode();
        if mode & READY != 0 { mode } else { hook::begin(&self.defaults) }
    }

    #[inline(always)]
    fn number(&self, inner: *const ()) -> usize {
        let n = self.number.load(Acquire);
        if n != 0 { n as usize } else { self.register(inner) }
    }

    #[cold]
    #[inline(never)]
    fn register(&self, inner: *const ()) -> usize {
        // SAFETY: a global allocator never moves; one that lives on a stack gives its number back when it is dropped,
        // and can't move after that. (A `DebugAlloc` that is moved after its first free isn't used as an allocator any more.)
        let n = u32::from(unsafe { (self.functions.register)(inner) });
        match self.number.compare_exchange(0, n, AcqRel, Acquire) {
            Ok(_) => n as usize,
            Err(theirs) => {
                inner::unregister(n as u8);
                theirs as usize
            }
        }
    }

    #[inline(never)]
    unsafe fn watched_alloc(&self, inner: *const (), layout: Layout, zeroed: bool) -> *mut u8 {
        let mode = self.ready();
        if SHORT && mode == READY {
            let outer = crate::block::layout::plain(layout);
            // SAFETY: the caller's layout, made no smaller.
            return unsafe {
                if zeroed {
                    (self.functions.alloc_zeroed)(inner, outer)
                } else {
                    (self.functions.alloc)(inner, outer)
                }
            };
        }
        if mode & NAMING != 0 {
            return report::arena_alloc(layout);
        }
        let Some(outer) = hook::outer(mode, layout) else { return null_mut() };
        // SAFETY: `outer` is a valid layout of nonzero size.
        let ask = || unsafe {
            if zeroed {
                (self.functions.alloc_zeroed)(inner, outer)
            } else {
                (self.functions.alloc)(inner, outer)
            }
        };
        let mut base = ask();
        if base.is_null() && hook::relieve(mode) {
            base = ask();
        }
        if base.is_null() || mode == READY {
            return base;
        }
        // SAFETY: a fresh block of the inner allocator, asked for by `outer`.
        unsafe { hook::made(base, layout.size(), layout.align(), zeroed.into()) }
    }

    #[inline(never)]
    unsafe fn watched_dealloc(&self, inner: *const (), p: *mut u8, layout: Layout) {
        let mode = self.ready();
        if SHORT && mode == READY {
            // SAFETY: the caller's: as it was allocated.
            return unsafe { (self.functions.dealloc)(inner, p, crate::block::layout::plain(layout)) };
        }
        if mode & NAMING != 0 {
            return;
        }
        // SAFETY: the program frees `p` with this layout; under the debug heap whether it may is checked.
        unsafe {
            let back = hook::freed(
                p,
                layout.size(),
                layout.align(),
                if mode & HEAP != 0 { self.number(inner) } else { 0 },
            );
            if !back.is_null()
                && let Some(outer) = hook::outer(mode, layout)
            {
                (self.functions.dealloc)(inner, back, outer);
            }
        }
    }

    #[inline(never)]
    unsafe fn watched_realloc(&self, inner: *const (), p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let mode = self.ready();
        if SHORT && mode == READY {
            if size > crate::block::layout::LARGEST {
                return null_mut();
            }
            // SAFETY: the caller's: as it was allocated, and grown to no less.
            return unsafe {
                (self.functions.realloc)(
                    inner,
                    p,
                    crate::block::layout::plain(layout),
                    if size < 17 { 17 } else { size },
                )
            };
        }
        let Ok(new) = Layout::from_size_align(size, layout.align()) else { return null_mut() };
        // SAFETY: the caller's: `p` is a block of this layout, `size` isn't zero.
        unsafe {
            if mode & NAMING != 0 {
                return report::arena_realloc(p, layout, size);
            }
            let number = if mode & HEAP != 0 { self.number(inner) } else { 0 };
            let in_place = mode & HEAP == 0
                || layout.size() >= crate::block::heap::LARGE && size >= crate::block::heap::LARGE;
            if in_place
                && let Some(before) = hook::outer(mode, layout)
                && let Some(after) = hook::outer(mode, new)
            {
                let lifted = hook::lift(p, layout.size(), layout.align(), number);
                if lifted != 0 {
                    let front =
                        if mode & HEAP != 0 { crate::block::layout::front(layout.align()) } else { 0 };
                    let base = p.sub(front);
                    let mut moved = (self.functions.realloc)(inner, base, before, after.size());
                    if moved.is_null() && hook::relieve(mode) {
                        moved = (self.functions.realloc)(inner, base, before, after.size());
                    }
                    if moved.is_null() {
                        hook::put_back(lifted, p, layout.size());
                        return null_mut();
                    }
                    hook::settle(lifted, layout.size());
                    return hook::land(moved.add(front), size, layout.align(), layout.size());
                }
            }
            if hook::may_move(p, layout.size(), layout.align(), number) == 0 {
                return null_mut();
            }
            let q = self.watched_alloc(inner, new, false);
            if !q.is_null() {
                q.copy_from_nonoverlapping(p, layout.size().min(size));
                if mode & HEAP != 0 {
                    hook::freed(p, layout.size(), layout.align(), number | usize::from(MOVED));
                } else {
                    self.watched_dealloc(inner, p, layout);
                }
            }
            q
        }
    }
}

impl<A: GlobalAlloc> Drop for DebugAlloc<A> {
    fn drop(&mut self) {
        let n = *self.shell.number.get_mut();
        if n != 0 {
            quarantine::empty();
            inner::unregister(n as u8);
        }
    }
}

// SAFETY: with nothing on each call is forwarded to the inner allocator's own counterpart with a layout of at least the
// same size and alignment, and a block is freed with the layout that it was asked for with, since padding is
// decided once. Under the debug heap a block lies inside what the inner allocator gave, at the layout's alignment. Nothing here unwinds.
unsafe impl<A: GlobalAlloc> GlobalAlloc for DebugAlloc<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe {
            if !SHORT && mode() == READY {
                return self.inner.alloc(crate::block::layout::plain(layout));
            }
            self.shell.watched_alloc(self.data(), layout, false)
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe {
            if !SHORT && mode() == READY {
                return self.inner.alloc_zeroed(crate::block::layout::plain(layout));
            }
            self.shell.watched_alloc(self.data(), layout, true)
        }
    }

    // A call of its own: inlined into a loop that frees one cold block after the other, the misses didn't overlap any more, and
    // dropping a B-tree with nothing on took 1.5 times the system allocator's time instead of 1.0.
    #[inline(never)]
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe {
            if !SHORT && mode() == READY {
                return self.inner.dealloc(p, crate::block::layout::plain(layout));
            }
            self.shell.watched_dealloc(self.data(), p, layout);
        }
    }

    #[inline]
    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe {
            if !SHORT && mode() == READY {
                if size > crate::block::layout::LARGEST {
                    return null_mut(); // more than is valid with our alignment, and than anybody has
                }
                let size = if size < 17 { 17 } else { size };
                return self.inner.realloc(p, crate::block::layout::plain(layout), size);
            }
            self.shell.watched_realloc(self.data(), p, layout, size)
        }
    }
}
