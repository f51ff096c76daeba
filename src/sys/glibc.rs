//! Linux with glibc: the functions that are looked up by name, the stack's bounds, the thread pointer.
//!
//! Linking `_dl_find_object` and `__libc_stack_end` would bind glibc 2.35, so they are looked up once, before `main`.
//! Runs inside an allocation, except [`look_up_names`].

use core::ffi::{c_char, c_void};
use core::mem::{MaybeUninit, transmute};
use core::sync::atomic::{
    AtomicPtr,
    Ordering::{Acquire, Relaxed, Release},
};

use super::{keep_errno, thread_id};

/// What `_dl_find_object` tells of the module that holds an address (glibc's `struct dl_find_object`).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Found {
    flags: u64,
    /// First address of the module.
    pub start: usize,
    /// One past its last address.
    pub end: usize,
    /// The loader's record of it.
    pub map: *const LinkMap,
    /// Its `.eh_frame_hdr`.
    pub eh_frame_hdr: *const u8,
    reserved: [u64; 7],
}

/// The public head of glibc's `struct link_map`.
#[repr(C)]
pub(crate) struct LinkMap {
    /// What to add to an address in the file.
    pub bias: usize,
    /// The file's path; empty for the main program.
    pub name: *const c_char,
}

type FindObject = unsafe extern "C" fn(*const c_void, *mut Found) -> i32;

static FIND_OBJECT: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());
static STACK_END: AtomicPtr<*mut c_void> = AtomicPtr::new(core::ptr::null_mut());

/// Looks up what isn't linked. Once, before `main`: `dlsym` takes the loader's lock.
pub(crate) fn look_up_names() {
    // SAFETY: `dlsym` with a C string and the default scope.
    unsafe {
        FIND_OBJECT.store(libc::dlsym(libc::RTLD_DEFAULT, c"_dl_find_object".as_ptr()), Release);
        STACK_END.store(libc::dlsym(libc::RTLD_DEFAULT, c"__libc_stack_end".as_ptr()).cast(), Release);
    }
}

/// The module that holds `address`, asked without a lock; nothing where there is none, or before glibc 2.35.
pub(crate) fn find_module(address: usize) -> Option<Found> {
    let f = FIND_OBJECT.load(Acquire);
    if f.is_null() {
        return None;
    }
    let mut found = MaybeUninit::<Found>::zeroed();
    // SAFETY: the pointer was looked up under this name, whose type glibc's manual gives; it is safe in a signal handler
    // and takes no lock. The result is read only where it says so.
    unsafe {
        let f: FindObject = transmute(f);
        (f(address as *const c_void, found.as_mut_ptr()) == 0).then(|| found.assume_init())
    }
}

/// The program's path, as much of it as fits; empty where it isn't known.
pub(crate) fn program_path(memory: &mut [u8]) -> &[u8] {
    // SAFETY: a constant path and the buffer that was lent, with its length.
    let length = keep_errno(|| unsafe {
        libc::readlink(c"/proc/self/exe".as_ptr(), memory.as_mut_ptr().cast(), memory.len())
    });
    memory.get(..usize::try_from(length).unwrap_or(0)).unwrap_or_default()
}

/// The thread pointer.
pub(crate) fn thread_pointer() -> usize {
    let p: usize;
    // SAFETY: the first word at `fs` holds the thread pointer itself (x86-64 ABI).
    unsafe { core::arch::asm!("mov {}, qword ptr fs:[0]", out(reg) p, options(pure, readonly, nostack)) };
    p
}

/// Lowest and one past the highest address of this thread's own stack; both 0 where they can't be told.
pub(crate) fn stack_bounds() -> (usize, usize) {
    keep_errno(|| {
        // SAFETY: `getpid` and `getrlimit` with a valid buffer; `__libc_stack_end` was looked up under its name and is a
        // word that glibc writes once at start. `pthread_getattr_np` fills the attributes that are destroyed below.
        unsafe {
            let end = STACK_END.load(Relaxed);
            if thread_id() == libc::getpid() && !end.is_null() {
                // The arguments and the environment lie above `__libc_stack_end`; no frame does.
                let high = end.read() as usize;
                let mut limit = MaybeUninit::<libc::rlimit>::zeroed();
                libc::getrlimit(libc::RLIMIT_STACK, limit.as_mut_ptr());
                let size = limit.assume_init().rlim_cur;
                let size = if size == libc::RLIM_INFINITY { 8 << 20 } else { size.min(1 << 30) as usize };
                return (high.saturating_sub(size), high);
            }
            let mut attributes = MaybeUninit::<libc::pthread_attr_t>::zeroed();
            if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
                return (0, 0);
            }
            let (mut low, mut size) = (core::ptr::null_mut(), 0);
            let known = libc::pthread_attr_getstack(attributes.as_ptr(), &mut low, &mut size) == 0;
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
            if known { (low as usize, (low as usize).saturating_add(size)) } else { (0, 0) }
        }
    })
}

/// Copies `bytes.len()` bytes from an address that may not be mapped. False where it isn't.
pub(crate) fn read_unsure(address: usize, bytes: &mut [u8]) -> bool {
    keep_errno(|| {
        let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let remote = libc::iovec { iov_base: address as *mut c_void, iov_len: bytes.len() };
        // SAFETY: the kernel checks the remote range and fails where it isn't readable; the local one is a live buffer.
        let n = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
        usize::try_from(n) == Ok(bytes.len())
    })
}

/// So many places [`read_unsure_many`] reads at most.
#[cfg(feature = "tokio")]
pub(crate) const READ_MANY: usize = 256;

/// Copies `N` bytes from each of the first addresses that are mapped: from how many.
#[cfg(feature = "tokio")]
pub(crate) fn read_unsure_many<const N: usize>(
    addresses: impl Iterator<Item = usize>,
    bytes: &mut [[u8; N]; READ_MANY],
) -> usize {
    let mut remote = [libc::iovec { iov_base: core::ptr::null_mut(), iov_len: N }; READ_MANY];
    let mut many = 0_usize;
    for (place, address) in remote.iter_mut().zip(addresses) {
        place.iov_base = address as *mut c_void;
        many = many.wrapping_add(1);
    }
    keep_errno(|| {
        let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: many.wrapping_mul(N) };
        // SAFETY: the kernel checks the remote ranges, `many` of which are filled in, and ends at the first that isn't readable;
        // the local one has room for all of them.
        let n = unsafe {
            libc::process_vm_readv(libc::getpid(), &local, 1, remote.as_ptr(), many as libc::c_ulong, 0)
        };
        usize::try_from(n).map_or(0, |n| n.checked_div(N).unwrap_or(0))
    })
}

/// Bytes left below `sp` on the signal stack that this thread runs on; nothing where it doesn't.
pub(crate) fn signal_stack_room(sp: usize) -> Option<usize> {
    keep_errno(|| {
        let mut stack = MaybeUninit::<libc::stack_t>::zeroed();
        // SAFETY: asks only, into a buffer of the right type.
        let stack = unsafe {
            if libc::sigaltstack(core::ptr::null(), stack.as_mut_ptr()) != 0 {
                return None;
            }
            stack.assume_init()
        };
        let low = stack.ss_sp as usize;
        (stack.ss_flags & libc::SS_ONSTACK != 0 && sp >= low && sp < low.saturating_add(stack.ss_size))
            .then(|| sp.saturating_sub(low))
    })
}
