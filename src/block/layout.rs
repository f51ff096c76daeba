//! How a block lies in what is asked of the inner allocator.
//!
//! ```text
//! without the debug heap    | block .......... (at least 17 bytes, 16-aligned)
//! with it                   | front >= 16 | block | 16 behind |
//! ```
//! Two blocks never share 32 bytes of heap, since each has one word of the table. Decided for the process at its first
//! allocation, so a free never has to guess. Runs inside an allocation.

use core::alloc::Layout;

/// Bytes of red zone behind a block, and at least so many before it.
pub(crate) const ZONE: usize = 16;
/// The most that is filled and checked of a larger front.
pub(crate) const MOST_FRONT: usize = 64;
const ALIGN: usize = 16;
const SMALLEST: usize = 17;
/// The largest size that is valid with an alignment of [`ALIGN`].
pub(crate) const LARGEST: usize = isize::MAX as usize - (ALIGN - 1);

/// Bytes before the block.
#[inline(always)]
pub(crate) fn front(align: usize) -> usize {
    if align > ZONE { align } else { ZONE }
}

/// Bytes of red zone right before the block.
#[inline(always)]
pub(crate) fn front_zone(align: usize) -> usize {
    front(align).min(MOST_FRONT)
}

/// What is asked of the inner allocator without the debug heap.
#[inline(always)]
pub(crate) fn plain(layout: Layout) -> Layout {
    let size = if layout.size() < SMALLEST { SMALLEST } else { layout.size() };
    if size > LARGEST {
        return layout; // nobody has so much, and if somebody had, it shares its 32 bytes with nobody
    }
    let align = if layout.align() < ALIGN { ALIGN } else { layout.align() };
    // SAFETY: `align` is a power of two: the layout's own, for which the size is valid, or 16, for which it is up to
    // `LARGEST`.
    unsafe { Layout::from_size_align_unchecked(size, align) }
}

/// What is asked of the inner allocator under the debug heap; nothing where it is more than a layout can say.
/// `size` and `align` are a layout's.
#[inline(always)]
pub(crate) fn guarded(size: usize, align: usize) -> Option<Layout> {
    debug_assert!(Layout::from_size_align(size, align).is_ok());
    // A layout's size is below 2^63, and so is what is added here.
    let outer = size.wrapping_add(front(align)).wrapping_add(ZONE);
    let align = if align < ALIGN { ALIGN } else { align };
    // SAFETY: `align` is a power of two, and the size rounded up to it is checked to be at most `isize::MAX`.
    (outer <= (isize::MAX as usize).wrapping_sub(align.wrapping_sub(1)))
        .then(|| unsafe { Layout::from_size_align_unchecked(outer, align) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_request_is_smaller_than_17_bytes_or_less_than_16_aligned() {
        for size in [1, 8, 16, 17, 100] {
            for align in [1, 2, 8, 16, 64] {
                let outer = plain(Layout::from_size_align(size, align).unwrap());
                assert!(
                    outer.size() >= 17
                        && outer.size() >= size
                        && outer.align() >= 16
                        && outer.align() >= align
                );
            }
        }
    }

    #[test]
    fn a_size_too_large_for_our_alignment_is_asked_for_as_it_is() {
        for size in [LARGEST, LARGEST + 1, isize::MAX as usize] {
            let asked = Layout::from_size_align(size, 1).unwrap();
            let outer = plain(asked);
            assert_eq!((outer.size(), outer.align()), (size, if size > LARGEST { 1 } else { ALIGN }));
        }
    }

    #[test]
    fn a_guarded_block_has_a_red_zone_on_both_sides_at_any_alignment() {
        for align in [1, 8, 16, 32, 4096, 1 << 20] {
            let outer = guarded(24, align).unwrap();
            assert_eq!(front(align) % align, 0);
            assert!(front(align) >= ZONE && outer.size() == front(align) + 24 + ZONE);
        }
        assert!(guarded(isize::MAX as usize - 20, 1).is_none());
    }
}
