//! Which loaded file holds an address, and its unwind tables.
//!
//! Modules present at start never go: they are listed once, before `main`. Later ones are asked of `_dl_find_object` each
//! time, without a lock, and known again by their range, their tables and their build id. Runs inside an allocation,
//! except [`list_at_start`].

use core::ffi::{c_char, c_int, c_void};
use core::sync::atomic::{
    AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use crate::sys;

/// A loaded file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Module {
    /// First address.
    pub start: usize,
    /// One past the last.
    pub end: usize,
    /// What to add to an address in the file.
    pub bias: usize,
    /// Its path; null or empty for the main program.
    pub name: *const c_char,
    /// `.eh_frame_hdr`, 0 where it has none.
    pub eh_frame_hdr: usize,
    /// 0 for a module present at start, else its number among the later ones; [`UNKNOWN`] past the last number.
    pub tag: u16,
}

/// Later modules past this number can't be told apart, so nothing of them is kept.
pub(crate) const UNKNOWN: u16 = 255;
const AT_START: usize = 256;

struct Entry {
    start: AtomicUsize,
    end: AtomicUsize,
    bias: AtomicUsize,
    name: AtomicUsize,
    eh_frame_hdr: AtomicUsize,
}

impl Entry {
    const fn new() -> Self {
        Self {
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            bias: AtomicUsize::new(0),
            name: AtomicUsize::new(0),
            eh_frame_hdr: AtomicUsize::new(0),
        }
    }
    fn module(&self, tag: u16) -> Module {
        Module {
            start: self.start.load(Relaxed),
            end: self.end.load(Relaxed),
            bias: self.bias.load(Relaxed),
            name: self.name.load(Relaxed) as *const c_char,
            eh_frame_hdr: self.eh_frame_hdr.load(Relaxed),
            tag,
        }
    }
}

static START: [Entry; AT_START] = [const { Entry::new() }; AT_START];
static START_COUNT: AtomicUsize = AtomicUsize::new(0);

/// Lists the modules that are loaded now and never go. Once, before `main`: it takes the loader's lock.
///
/// Where this code lies in a library that the program may have loaded at any time, others of that kind may go again: then
/// only the program itself, this library (which pins itself) and the C library are listed, and all others count as later.
pub(crate) fn list_at_start() {
    let here = list_at_start as fn() as usize;
    list(&mut |_, _| true);
    let main = START.first().map(|e| e.module(0));
    if main.is_some_and(|m| here >= m.start && here < m.end) {
        return;
    }
    START_COUNT.store(0, Release);
    let libc = libc::getpid as unsafe extern "C" fn() -> libc::pid_t as usize;
    let mut first = true;
    list(&mut |start, end| {
        core::mem::take(&mut first) || [here, libc].iter().any(|&a| a >= start && a < end)
    });
    pin(here);
}

/// Keeps the library that holds `address` loaded for good: its code stands in hooks of threads that go on.
fn pin(address: usize) {
    // SAFETY: `dladdr` fills the record for an address in a loaded file; `dlopen` takes its name and loads nothing new.
    unsafe {
        let mut info = core::mem::zeroed::<libc::Dl_info>();
        if libc::dladdr(address as *const c_void, &mut info) != 0 && !info.dli_fname.is_null() {
            libc::dlopen(info.dli_fname, libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE);
        }
    }
}

type Wanted<'a> = &'a mut dyn FnMut(usize, usize) -> bool;

fn list(mut wanted: Wanted<'_>) {
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> c_int {
        // SAFETY: the loader passes a valid record, whose program headers it keeps while the module is loaded.
        let (info, headers) = unsafe {
            let info = &*info;
            (info, core::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()))
        };
        let (mut start, mut end, mut hdr) = (usize::MAX, 0, 0);
        let bias = info.dlpi_addr as usize;
        for h in headers {
            let address = bias.wrapping_add(h.p_vaddr as usize);
            if h.p_type == libc::PT_LOAD {
                start = start.min(address);
                end = end.max(address.wrapping_add(h.p_memsz as usize));
            } else if h.p_type == libc::PT_GNU_EH_FRAME {
                hdr = address;
            }
        }
        let n = START_COUNT.load(Relaxed);
        let Some(entry) = START.get(n) else { return 1 };
        // SAFETY: `list` passes a pointer to its own argument, which outlives the visits.
        let wanted = unsafe { &mut *data.cast::<Wanted<'_>>() };
        if start < end && wanted(start, end) {
            entry.start.store(start, Relaxed);
            entry.end.store(end, Relaxed);
            entry.bias.store(bias, Relaxed);
            entry.name.store(info.dlpi_name as usize, Relaxed);
            entry.eh_frame_hdr.store(hdr, Relaxed);
            START_COUNT.store(n.wrapping_add(1), Release);
        }
        0
    }
    // SAFETY: the callback matches the type that `dl_iterate_phdr` asks for and doesn't unwind.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut wanted).cast()) };
}

/// For tests, which may run side by side.
#[cfg(test)]
pub(crate) fn list_once() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(list_at_start);
}

/// What tells one later module from another at the same place.
struct Later {
    /// 0 free, 1 being written, 2 ready.
    state: AtomicU32,
    entry: Entry,
    build_id: AtomicU64,
}

static LATER: [Later; UNKNOWN as usize] =
    [const { Later { state: AtomicU32::new(0), entry: Entry::new(), build_id: AtomicU64::new(0) } };
        UNKNOWN as usize];

/// The module that holds `address`, an address in code that runs on this thread (so the module can't go meanwhile).
pub(crate) fn find(address: usize) -> Option<Module> {
    let n = START_COUNT.load(Acquire);
    for entry in START.iter().take(n) {
        if address >= entry.start.load(Relaxed) && address < entry.end.load(Relaxed) {
            return Some(entry.module(0));
        }
    }
    find_later(address)
}

/// A later module, as `_dl_find_object` says now.
#[cold]
#[inline(never)]
pub(crate) fn find_later(address: usize) -> Option<Module> {
    let found = sys::find_module(address)?;
    // SAFETY: the loader keeps its record of a module while the module is loaded, and code of it runs on this thread.
    let (bias, name) = match unsafe { found.map.as_ref() } {
        Some(map) => (map.bias, map.name),
        None => (found.start, core::ptr::null()),
    };
    let build_id = build_id(found.start, found.end);
    let mut module = Module {
        start: found.start,
        end: found.end,
        bias,
        name,
        eh_frame_hdr: found.eh_frame_hdr as usize,
        tag: UNKNOWN,
    };
    for (i, later) in LATER.iter().enumerate() {
        let mut state = later.state.load(Acquire);
        if state == 0 && later.state.compare_exchange(0, 1, AcqRel, Acquire).is_ok() {
            later.entry.start.store(module.start, Relaxed);
            later.entry.end.store(module.end, Relaxed);
            later.entry.bias.store(module.bias, Relaxed);
            later.entry.name.store(module.name as usize, Relaxed);
            later.entry.eh_frame_hdr.store(module.eh_frame_hdr, Relaxed);
            later.build_id.store(build_id, Relaxed);
            later.state.store(2, Release);
            state = 2;
        }
        if state != 2 {
            continue; // another thread writes it; nobody waits: the module may get a second number
        }
        if later.entry.start.load(Relaxed) == module.start
            && later.entry.end.load(Relaxed) == module.end
            && later.entry.eh_frame_hdr.load(Relaxed) == module.eh_frame_hdr
            && later.build_id.load(Relaxed) == build_id
        {
            module.tag = (i as u16).wrapping_add(1);
            return Some(module);
        }
    }
    Some(module)
}

/// Whether later module `tag` is loaded now, at its old place.
pub(crate) fn still_loaded(tag: u16, address: usize) -> bool {
    tag == 0 || find_later(address).is_some_and(|m| m.tag == tag)
}

/// A hash of the build id in the module's notes, 0 where it has none.
fn build_id(start: usize, end: usize) -> u64 {
    // SAFETY: the module is loaded (see `find`), its first page holds the file's head, and every range read below is
    // checked to lie in the module.
    unsafe {
        let head = start as *const libc::Elf64_Ehdr;
        if end.wrapping_sub(start) < size_of::<libc::Elf64_Ehdr>()
            || (*head).e_ident.first_chunk() != Some(b"\x7fELF")
        {
            return 0;
        }
        let headers = start.wrapping_add((*head).e_phoff as usize);
        let n = usize::from((*head).e_phnum);
        if headers < start || headers.wrapping_add(n.wrapping_mul(size_of::<libc::Elf64_Phdr>())) > end {
            return 0;
        }
        let headers = core::slice::from_raw_parts(headers as *const libc::Elf64_Phdr, n);
        let base =
            headers.iter().find(|h| h.p_type == libc::PT_LOAD).map_or(0, |h| h.p_vaddr as usize & !4095);
        for h in headers.iter().filter(|h| h.p_type == libc::PT_NOTE) {
            let mut at = start.wrapping_add((h.p_vaddr as usize).wrapping_sub(base));
            let stop = at.wrapping_add(h.p_memsz as usize);
            if at < start || stop > end {
                continue;
            }
            while at.wrapping_add(12) <= stop {
                let [name, content, kind] = (at as *const [u32; 3]).read_unaligned();
                let body = at.wrapping_add(12).wrapping_add((name as usize).wrapping_add(3) & !3);
                let next = body.wrapping_add((content as usize).wrapping_add(3) & !3);
                if next > stop || next <= at {
                    break;
                }
                if kind == 3 {
                    let bytes = core::slice::from_raw_parts(body as *const u8, content as usize);
                    return bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| {
                        (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3)
                    });
                }
                at = next;
            }
        }
    }
    0
}
