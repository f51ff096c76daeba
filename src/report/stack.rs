//! A stack for a fatal report: the thread that is at fault may have little of its own left (a signal handler's 8 KiB).

use core::ffi::c_void;
use core::ptr;

/// Enough for every frame of the report's in a build without optimisation; touched as used.
const BYTES: usize = 128 << 10;

/// Memory for a stack.
#[repr(C, align(64))]
pub(super) struct Stack([u8; BYTES]);

impl Stack {
    pub(super) const NEW: Self = Self([0; BYTES]);

    /// Runs `f` on this stack; on the present one on processors for which the switch isn't written, and where stacks are
    /// walked by `backtrace`, which doesn't find its way from ours to the thread's.
    pub(super) fn run(&mut self, f: &mut dyn FnMut()) {
        if cfg!(not(native)) {
            return f();
        }
        // SAFETY: ours alone while it is borrowed.
        unsafe { run_on(self.0.as_mut_ptr(), f) };
    }
}

extern "C" fn call(f: *mut c_void) {
    // SAFETY: `run_on` passes a pointer to the reference that it holds, and waits for us.
    let f = unsafe { &mut *f.cast::<&mut dyn FnMut()>() };
    f();
}

/// # Safety
/// The `BYTES` bytes from `stack` on, 16-aligned, are used by nobody else during the call.
unsafe fn run_on(stack: *mut u8, mut f: &mut dyn FnMut()) {
    let argument: *mut c_void = ptr::from_mut(&mut f).cast();
    // SAFETY: one past the last byte of the stack.
    let top = unsafe { stack.add(BYTES) };
    // SAFETY: the present stack pointer is kept in a register that `call` must preserve and put back after it, so this
    // function's own frame is untouched; `call` gets a 16-aligned stack that is the caller's loan, takes one pointer by the
    // C calling convention, whose clobbers are declared, and doesn't unwind (`extern "C"` ends the process instead).
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::asm!(
            "mov r12, rsp",
            "mov rsp, {top}",
            "call {call}",
            "mov rsp, r12",
            top = in(reg) top,
            call = in(reg) call as extern "C" fn(*mut c_void),
            in("rdi") argument,
            out("r12") _,
            clobber_abi("C"),
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        core::arch::asm!(
            "mov x20, sp",
            "mov sp, {top}",
            "blr {call}",
            "mov sp, x20",
            top = in(reg) top,
            call = in(reg) call as extern "C" fn(*mut c_void),
            in("x0") argument,
            out("x20") _,
            clobber_abi("C"),
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = top;
        call(argument);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address in the present frame.
    #[inline(never)]
    fn here() -> usize {
        let local = 0u8;
        core::hint::black_box(&raw const local) as usize
    }

    #[test]
    fn a_function_runs_on_another_stack_and_comes_back() {
        let (before, mut inside, mut sum) = (here(), [0, 0], 0u64);
        let (mut one, mut two) = (Box::new(Stack::NEW), Box::new(Stack::NEW));
        one.run(&mut || {
            inside[0] = here();
            two.run(&mut || inside[1] = here());
            sum = (0..1000).sum();
        });
        assert_eq!(sum, 499_500);
        let far = |a: usize, b: usize| a.abs_diff(b) > 4096;
        if cfg!(native) {
            assert!(far(before, inside[0]) && far(inside[0], inside[1]), "one inside the other has its own");
        }
        assert!(!far(before, here()));
    }
}
