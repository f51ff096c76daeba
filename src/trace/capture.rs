//! The stack of a hook's caller, as a trace id: the memo first, a walk only for what is new.
//!
//! Runs inside an allocation.

use super::generation::Control;
use super::intern;
use super::memo::{Key, Look, Memo};
use super::rules::{self, Base};
use super::scratch::Lent;
use super::walk::{Foreign, Full, Own, SCRATCHES, Scratch, Walk, Words};
pub(crate) use super::walk::{Start, address};
use crate::dropped;
use crate::sys::line::Line;
use crate::thread::Slot;

/// Stack that a walk may need below the hook's caller (measured in `tests/small_stacks.rs`); far more where this crate is
/// compiled without optimisation.
const WALK_NEEDS: usize = if cfg!(unoptimised) { 24 << 10 } else { 4 << 10 };
/// Stack that a look into the memo may need.
const LOOK_NEEDS: usize = if cfg!(unoptimised) { 9 << 10 } else { 1 << 10 };

/// The trace of the stack at `start`, 0 where there is none: our own section, no stack left, memory ran out (counted).
///
/// # Safety
/// `start` holds the registers with which the hook was called on this thread; `line` and `slot` are this thread's.
#[inline(always)]
pub(crate) unsafe fn capture(line: &Line, slot: &Slot, control: Control, start: Start) -> u32 {
    if line.ours.get() != 0 {
        return 0;
    }
    let own = slot.owns(start.sp);
    let before = line.inside.get();
    // A capture that this thread began and that lies deeper in the same stack was left by a jump: its mark is stale.
    let nested = before != 0 && !(own && before <= start.sp && slot.owns(before));
    line.inside.set(start.sp);
    let id = if own && !nested && !slot.shared {
        // SAFETY: the slot is this thread's, no capture of its runs (`nested`), and `start.sp` lies in its own stack.
        unsafe { recall(slot, control, start) }
    } else if room(slot, start, own) {
        walk_only(slot, control, start, own)
    } else {
        dropped::CAPTURES.add(1);
        0
    };
    line.inside.set(if nested { before } else { 0 });
    id
}

/// # Safety
/// As [`capture`], and `start.sp` lies in the thread's own stack, and no capture of this thread uses the memo.
#[inline(always)]
unsafe fn recall(slot: &Slot, control: Control, start: Start) -> u32 {
    let room = start.sp.wrapping_sub(slot.stack_low.load(core::sync::atomic::Ordering::Relaxed));
    if room < LOOK_NEEDS {
        dropped::CAPTURES.add(1);
        return 0;
    }
    // SAFETY: the hook's return address, on this thread's own stack.
    let first = unsafe { (start.sp as *const usize).read() };
    // A key only: whatever it is, a hit is proved.
    let second = match rules::kept(first) {
        Some(rule) => match rule.base() {
            Base::Stack => start.sp.wrapping_add(rule.distance()),
            Base::Frame => start.fp.wrapping_add(rule.distance()).wrapping_sub(8),
            _ => 0,
        },
        _ => 0,
    };
    // SAFETY: the caller's: this thread owns the slot, and no other look or note of its memo is under way.
    let memo = unsafe { &mut *slot.memo.get() };
    let high = slot.stack_high.load(core::sync::atomic::Ordering::Relaxed);
    let mut key = None;
    if second > start.sp && second <= high.wrapping_sub(8) && second & 7 == 0 && !memo.skips() {
        // SAFETY: `start.sp` and `second` were found to lie in the thread's own stack.
        match unsafe { memo.look(control, start, second) } {
            Look::Hit(id) => {
                #[cfg(birthmark_check_memo)]
                prove(slot, control, start, id);
                return id;
            }
            Look::Miss(new) => key = Some(new),
            Look::Never => {}
        }
    }
    // Asked before the call, whose frame alone may be more than is left.
    if room < WALK_NEEDS {
        dropped::CAPTURES.add(1);
        return 0;
    }
    learn(slot, control, start, memo, key)
}

/// Walks the thread's own stack, on the memo's own desk if that suffices, and notes it under `key`.
#[inline(never)]
fn learn(slot: &Slot, control: Control, start: Start, memo: &mut Memo, key: Option<Key>) -> u32 {
    let limit = u32::from(control.limit());
    match (memo.desk(), key) {
        (Some(desk), Some(key)) => {
            let mut walk = Walk::new(desk, own::<true>(slot, start), start);
            if walk.run(limit).is_ok() {
                return finish(control, &mut walk, |walk, id| memo.note(key, start, walk, id));
            }
        }
        (Some(desk), None) => {
            let mut walk = Walk::new(desk, own::<false>(slot, start), start);
            if walk.run(limit).is_ok() {
                return finish(control, &mut walk, |_, _| ());
            }
        }
        _ => {}
    }
    learn_long(slot, control, start, memo, key)
}

#[cold]
#[inline(never)]
fn learn_long(slot: &Slot, control: Control, start: Start, memo: &mut Memo, key: Option<Key>) -> u32 {
    let Some(mut lent) = SCRATCHES.lend() else {
        dropped::CAPTURES.add(1);
        return 0;
    };
    let (room, _) = scratch(&mut lent).parts();
    let mut walk = Walk::new(room, own::<true>(slot, start), start);
    let (Ok(()) | Err(Full)) = walk.run(u32::from(control.limit()));
    finish(control, &mut walk, |walk, id| {
        if let Some(key) = key {
            memo.note(key, start, walk, id);
        }
    })
}

/// A walk without a memo: inside another capture of this thread, on a stack that isn't its own, or in the shared slot.
#[cold]
#[inline(never)]
fn walk_only(slot: &Slot, control: Control, start: Start, owned: bool) -> u32 {
    let Some(mut lent) = SCRATCHES.lend() else {
        dropped::CAPTURES.add(1);
        return 0;
    };
    let (buffer, window) = scratch(&mut lent).parts();
    let limit = u32::from(control.limit());
    if owned {
        let mut walk = Walk::new(buffer, own::<false>(slot, start), start);
        let (Ok(()) | Err(Full)) = walk.run(limit);
        finish(control, &mut walk, |_, _| ())
    } else {
        let mut walk = Walk::new(buffer, Foreign { low: start.sp, window }, start);
        let (Ok(()) | Err(Full)) = walk.run(limit);
        finish(control, &mut walk, |_, _| ())
    }
}

/// The words of the thread's own stack, in which `start` was found to lie.
#[inline(always)]
fn own<const NOTES: bool>(slot: &Slot, start: Start) -> Own<NOTES> {
    let high = slot.stack_high.load(core::sync::atomic::Ordering::Relaxed);
    debug_assert!(slot.owns(start.sp));
    // SAFETY: every caller asked `slot.owns(start.sp)` of its own thread's slot first, and the hook runs below `start.sp`.
    unsafe { Own::new(start.sp, high) }
}

fn scratch(lent: &mut Lent<Scratch>) -> &mut Scratch {
    // SAFETY: numbers only: the zeroes of a fresh one are valid, and so is what others left.
    unsafe { lent.content().assume_init_mut() }
}

/// The id of a finished walk; `note` sees it with its id.
#[inline(always)]
fn finish<'s, W: Words, const N: usize>(
    control: Control,
    walk: &mut Walk<'s, W, N>,
    note: impl FnOnce(&Walk<'s, W, N>, u32),
) -> u32 {
    let id = match intern::find(control, walk.frames, walk.hash) {
        Some(id) => id,
        None => match store(control, walk) {
            Some(id) => id,
            None => return 0,
        },
    };
    note(walk, id);
    id
}

/// The id of a stack that is new, or not where most of them are.
#[cold]
#[inline(never)]
fn store<W: Words, const N: usize>(control: Control, walk: &mut Walk<'_, W, N>) -> Option<u32> {
    let (frames, hash) = (walk.frames, walk.hash);
    if frames.is_empty() {
        dropped::CAPTURES.add(1);
        return None;
    }
    intern::intern(control, frames, hash, &mut |nth| {
        if walk.cut {
            dropped::CUT.add(1);
        }
        walk.tail(nth)
    })
}

/// Whether `WALK_NEEDS` bytes of stack are left, as far as can be told.
#[inline(never)]
fn room(slot: &Slot, start: Start, own: bool) -> bool {
    if own {
        let low = slot.stack_low.load(core::sync::atomic::Ordering::Relaxed);
        return start.sp.wrapping_sub(low) >= WALK_NEEDS;
    }
    crate::sys::signal_stack_room(start.sp).is_none_or(|left| left >= WALK_NEEDS)
}

/// The present stack, from the caller outward, for ordinary code: no lock, so nobody waits while another thread finds names.
pub(crate) fn here() -> Vec<usize> {
    let mut out = vec![0; 256];
    // SAFETY: the pair and its length are those of a live buffer; the function only hands on the registers.
    let n = unsafe { here_from(out.as_mut_ptr(), out.len()) };
    out.truncate(n);
    out
}

#[unsafe(naked)]
unsafe extern "C" fn here_from(out: *mut usize, len: usize) -> usize {
    core::arch::naked_asm!("mov rdx, rsp", "mov rcx, rbp", "jmp {}", sym here_with)
}

unsafe extern "C" fn here_with(out: *mut usize, len: usize, sp: usize, fp: usize) -> usize {
    // SAFETY: `here` lends a live buffer of this length.
    let out = unsafe { core::slice::from_raw_parts_mut(out, len) };
    addresses(Start { sp, fp }, out).0
}

/// The trace of the present stack, from the caller outward, for ordinary code; 0 where tracing is off or there is none.
#[cfg(feature = "tokio")]
pub(crate) fn this_stack() -> u32 {
    // SAFETY: the function only hands on the registers.
    unsafe { this_stack_from() }
}

#[cfg(feature = "tokio")]
#[unsafe(naked)]
unsafe extern "C" fn this_stack_from() -> u32 {
    core::arch::naked_asm!("mov rdi, rsp", "mov rsi, rbp", "jmp {}", sym this_stack_with)
}

#[cfg(feature = "tokio")]
unsafe extern "C" fn this_stack_with(sp: usize, fp: usize) -> u32 {
    let (line, control) = (crate::sys::line::line(), super::generation::control());
    if !control.on() {
        return 0;
    }
    // SAFETY: this thread's line and slot, and the registers with which `this_stack_from` was called: the stack pointer shows the
    // return address into its caller, whose frame lives until this returns.
    unsafe { capture(line, crate::thread::slot(line), control, Start { sp, fp }) }
}

/// The trace of the present stack as far as `high`, an address in it, for ordinary code; 0 where tracing is off or there is none.
pub(crate) fn up_to(high: usize) -> u32 {
    // SAFETY: the function only hands on the registers.
    unsafe { up_to_from(high) }
}

#[unsafe(naked)]
unsafe extern "C" fn up_to_from(high: usize) -> u32 {
    core::arch::naked_asm!("mov rsi, rsp", "mov rdx, rbp", "jmp {}", sym up_to_with)
}

unsafe extern "C" fn up_to_with(high: usize, sp: usize, fp: usize) -> u32 {
    let (line, control) = (crate::sys::line::line(), super::generation::control());
    let (slot, start) = (crate::thread::slot(line), Start { sp, fp });
    let inside = slot.owns(sp) && slot.owns(high) && high > sp;
    if !control.on() || line.ours.get() != 0 || !inside || !room(slot, start, true) {
        return 0;
    }
    let Some(mut lent) = SCRATCHES.lend() else { return 0 };
    let (buffer, _) = scratch(&mut lent).parts();
    // SAFETY: both ends lie in this thread's own stack, and this runs below `sp`.
    let mut walk = Walk::new(buffer, unsafe { Own::<false>::new(sp, high) }, start);
    let (Ok(()) | Err(Full)) = walk.run(u32::from(control.limit()));
    let (frames, hash) = (walk.frames, walk.hash);
    if frames.is_empty() {
        return 0;
    }
    let id = intern::find(control, frames, hash);
    id.or_else(|| intern::intern(control, frames, hash, &mut |nth| walk.tail(nth))).unwrap_or(0)
}

/// The stack at `start` for a report, traced or not: how many addresses were written to `out`, and how many are the user's.
#[cold]
#[inline(never)]
pub(crate) fn addresses(start: Start, out: &mut [usize]) -> (usize, u32) {
    let slot = crate::thread::slot(crate::sys::line::line());
    if room(slot, start, slot.owns(start.sp)) { addresses_from(start, out) } else { (0, 0) }
}

/// As [`addresses`], on a stack that has room for the walk: not the one that is walked.
#[cold]
#[inline(never)]
pub(crate) fn addresses_from(start: Start, out: &mut [usize]) -> (usize, u32) {
    const FRAMES: u32 = 16;
    let slot = crate::thread::slot(crate::sys::line::line());
    let Some(mut lent) = SCRATCHES.lend() else { return (0, 0) };
    let (buffer, window) = scratch(&mut lent).parts();
    if slot.owns(start.sp) {
        copy(&mut Walk::new(buffer, own::<false>(slot, start), start), FRAMES, out)
    } else {
        copy(&mut Walk::new(buffer, Foreign { low: start.sp, window }, start), FRAMES, out)
    }
}

fn copy<W: Words, const N: usize>(walk: &mut Walk<'_, W, N>, limit: u32, out: &mut [usize]) -> (usize, u32) {
    let (Ok(()) | Err(Full)) = walk.run(limit);
    for (to, from) in out.iter_mut().zip(walk.frames) {
        *to = *from;
    }
    (walk.frames.len().min(out.len()), walk.user)
}

/// Under `--cfg birthmark_check_memo`: every hit is walked again, and must be the same stack.
#[cfg(birthmark_check_memo)]
fn prove(slot: &Slot, control: Control, start: Start, id: u32) {
    let Some(mut lent) = SCRATCHES.lend() else { return };
    let (buffer, _) = scratch(&mut lent).parts();
    let mut walk = Walk::new(buffer, own::<false>(slot, start), start);
    let (Ok(()) | Err(Full)) = walk.run(u32::from(control.limit()));
    let (p, n) = intern::place(id);
    // SAFETY: `n` frames were published under this id in a mapping that stays.
    let kept = unsafe { core::slice::from_raw_parts(p, n) };
    if walk.frames != kept && super::generation::control().first() == control.first() {
        let text = b"birthmark: the memo of stacks and a walk differ\n";
        // SAFETY: a constant buffer; `abort` ends the process.
        unsafe {
            libc::write(2, text.as_ptr().cast(), text.len());
            libc::abort();
        }
    }
}
