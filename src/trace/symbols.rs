//! Which function of a loaded file holds an address: an index of its symbol table, made at the first question.
//!
//! The file is read by `open` and `mmap`; starts of functions are sorted into memory of our own; names are looked at on
//! demand, so the file stays mapped. Two threads may build the same index; one is published, nobody waits. Runs inside an
//! allocation.

use core::ffi::{CStr, c_char};
use core::ptr::NonNull;
use core::sync::atomic::{
    AtomicPtr,
    Ordering::{AcqRel, Acquire},
};

use super::names::{Class, classify};
use crate::sys;

const SHT_SYMTAB: u32 = 2;
const STT_FUNC: u8 = 2;

/// A loaded file, as far as its symbols need it.
pub(crate) struct LoadedModule {
    pub map_start: usize,
    /// What to add to an address in the file.
    pub load_bias: usize,
    /// Its path; null or empty for the main program.
    pub path: *const c_char,
    /// Tells files apart that were loaded at one place one after the other.
    pub generation: u32,
}

/// One function: where it starts in the file's addresses, and its symbol.
#[repr(C)]
#[derive(Clone, Copy)]
struct Start {
    /// Low 32 bits of the address: one file's functions lie within 4 GiB.
    address: u32,
    symbol: u32,
}

struct Index {
    map_start: usize,
    generation: u32,
    starts: *const Start,
    count: usize,
    symbols: *const libc::Elf64_Sym,
    strings: *const u8,
    strings_len: usize,
    /// The index before this one in the list.
    next: *const Index,
}

static INDEXES: AtomicPtr<Index> = AtomicPtr::new(core::ptr::null_mut());

/// Whose function holds `address`, an address of code that runs on this thread.
pub(crate) fn class_of(address: usize, module: &LoadedModule) -> Class {
    match index(module) {
        Some(index) => index
            .symbol(address.wrapping_sub(module.load_bias))
            .map_or(if index.count == 0 { Class::Unknown } else { Class::Foreign }, classify),
        None => Class::Unknown,
    }
}

/// The symbol of the function that holds `address`.
pub(crate) fn name_at(address: usize, module: &LoadedModule) -> Option<&'static [u8]> {
    index(module)?.symbol(address.wrapping_sub(module.load_bias))
}

fn index(module: &LoadedModule) -> Option<&'static Index> {
    let head = INDEXES.load(Acquire);
    let mut at: *const Index = head;
    // SAFETY: published indexes are never changed or unmapped.
    while let Some(index) = unsafe { at.as_ref() } {
        if index.map_start == module.map_start && index.generation == module.generation {
            return Some(index);
        }
        at = index.next;
    }
    let fresh = sys::keep_errno(|| build(module))?;
    let mut seen = head;
    loop {
        // SAFETY: not published yet: ours alone.
        unsafe { (*fresh.as_ptr()).next = seen };
        match INDEXES.compare_exchange(seen, fresh.as_ptr(), AcqRel, Acquire) {
            // SAFETY: as above. Another thread may have published one for the same file meanwhile: both serve.
            Ok(_) => return Some(unsafe { &*fresh.as_ptr() }),
            Err(now) => seen = now,
        }
    }
}

impl Index {
    fn symbol(&self, address: usize) -> Option<&'static [u8]> {
        // SAFETY: `build` filled `count` starts in a mapping that stays.
        let starts = unsafe { core::slice::from_raw_parts(self.starts, self.count) };
        let wanted = u32::try_from(address).ok()?;
        let after = starts.partition_point(|s| s.address <= wanted);
        let mut best = None;
        let mut at = after;
        let first = starts.get(at.checked_sub(1)?)?.address;
        // Among names of one function the user's wins.
        while let Some(start) = at.checked_sub(1).and_then(|i| starts.get(i)) {
            if start.address != first {
                break;
            }
            at = at.wrapping_sub(1);
            // SAFETY: `build` checked that the symbol lies in the mapped table.
            let symbol = unsafe { self.symbols.add(start.symbol as usize).read_unaligned() };
            let size = symbol.st_size as usize;
            if size != 0 && wanted.wrapping_sub(first) as usize >= size {
                continue;
            }
            let Some(name) = self.name(symbol.st_name as usize) else { continue };
            if best.is_none() || classify(name) == Class::User {
                best = Some(name);
            }
        }
        best
    }

    fn name(&self, at: usize) -> Option<&'static [u8]> {
        // SAFETY: the string table is mapped for ever, `strings_len` bytes of it.
        let strings = unsafe { core::slice::from_raw_parts(self.strings, self.strings_len) };
        let rest = strings.get(at..)?;
        let n = rest.iter().take(4096).position(|b| *b == 0)?;
        rest.get(..n).filter(|n| !n.is_empty())
    }
}

/// Reads a file's symbol table. An index without symbols where it has none, or can't be read; nothing without memory.
#[inline(never)]
fn build(module: &LoadedModule) -> Option<NonNull<Index>> {
    let mut index = Index {
        map_start: module.map_start,
        generation: module.generation,
        starts: NonNull::dangling().as_ptr(),
        count: 0,
        symbols: core::ptr::null(),
        strings: NonNull::dangling().as_ptr(),
        strings_len: 0,
        next: core::ptr::null(),
    };
    if let Some((file, len)) = map_file(module.path) {
        // SAFETY: the mapping has `len` bytes and stays. A file that is truncated meanwhile would fault, as the loader's
        // own mapping of it would.
        let bytes = unsafe { core::slice::from_raw_parts(file, len) };
        if read(bytes, &mut index).is_none() {
            index.count = 0;
        }
        if index.count == 0 {
            // SAFETY: nothing points into the mapping.
            unsafe { libc::munmap(file.cast_mut().cast(), len) };
        }
    }
    let place = sys::map(size_of::<Index>())?.cast::<Index>();
    // SAFETY: fresh pages, large enough and aligned.
    unsafe { place.as_ptr().write(index) };
    Some(place)
}

fn map_file(path: *const c_char) -> Option<(*const u8, usize)> {
    // SAFETY: the loader's path is a C string and lives as long as the module.
    let name = if path.is_null() { c"" } else { unsafe { CStr::from_ptr(path) } };
    let name = if name.is_empty() { c"/proc/self/exe" } else { name };
    // SAFETY: plain system calls on a descriptor of our own.
    unsafe {
        let fd = libc::open(name.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return None;
        }
        let mut stat = core::mem::MaybeUninit::<libc::stat>::zeroed();
        let known = libc::fstat(fd, stat.as_mut_ptr()) == 0;
        let len = usize::try_from(stat.assume_init().st_size).unwrap_or(0);
        let p = if known && len > 64 {
            libc::mmap(core::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_PRIVATE, fd, 0)
        } else {
            libc::MAP_FAILED
        };
        libc::close(fd);
        (p != libc::MAP_FAILED).then_some((p.cast_const().cast(), len))
    }
}

fn part<T: Copy>(bytes: &[u8], at: usize) -> Option<T> {
    let end = at.checked_add(size_of::<T>())?;
    let part = bytes.get(at..end)?;
    // SAFETY: `size_of::<T>()` readable bytes; used for plain integers and C structs of them only.
    Some(unsafe { part.as_ptr().cast::<T>().read_unaligned() })
}

fn read(bytes: &[u8], index: &mut Index) -> Option<()> {
    let head: libc::Elf64_Ehdr = part(bytes, 0)?;
    if head.e_ident.first_chunk() != Some(b"\x7fELF") || head.e_ident.get(4) != Some(&2) {
        return None;
    }
    let section = |i: usize| -> Option<libc::Elf64_Shdr> {
        let at =
            usize::try_from(head.e_shoff).ok()?.checked_add(i.checked_mul(usize::from(head.e_shentsize))?)?;
        part(bytes, at)
    };
    let mut table = None;
    for i in 0..usize::from(head.e_shnum) {
        let s = section(i)?;
        if s.sh_type == SHT_SYMTAB {
            table = Some(s);
        }
    }
    let table = table?;
    let strings = section(table.sh_link as usize)?;
    let inside = |s: &libc::Elf64_Shdr| {
        let end = s.sh_offset.checked_add(s.sh_size)?;
        (usize::try_from(end).ok()? <= bytes.len()).then_some(s.sh_offset as usize)
    };
    let (at, names) = (inside(&table)?, inside(&strings)?);
    let total = (table.sh_size as usize) / size_of::<libc::Elf64_Sym>();
    // SAFETY: both tables lie within the mapped file.
    unsafe {
        index.symbols = bytes.as_ptr().add(at).cast();
        index.strings = bytes.as_ptr().add(names);
    }
    index.strings_len = strings.sh_size as usize;
    let symbol = |i: usize| -> libc::Elf64_Sym {
        // SAFETY: `i < total`, within the mapped table.
        unsafe { index.symbols.add(i).read_unaligned() }
    };
    let is_function =
        |s: &libc::Elf64_Sym| s.st_info & 15 == STT_FUNC && s.st_shndx != 0 && s.st_value >> 32 == 0;
    let count = (0..total).filter(|i| is_function(&symbol(*i))).count();
    if count == 0 {
        return None;
    }
    // Two arrays: the sort goes back and forth between them, by two bytes at a time.
    let room = count.checked_mul(size_of::<Start>())?;
    let (a, b) = (sys::map(room)?.cast::<Start>(), sys::map(room)?.cast::<Start>());
    // SAFETY: fresh mappings of `count` starts each; zeroes are valid ones.
    let (mut from, mut to) = unsafe {
        (
            core::slice::from_raw_parts_mut(a.as_ptr(), count),
            core::slice::from_raw_parts_mut(b.as_ptr(), count),
        )
    };
    let mut n = 0usize;
    for i in 0..total {
        let s = symbol(i);
        if is_function(&s)
            && let Some(place) = from.get_mut(n)
        {
            *place = Start { address: s.st_value as u32, symbol: i as u32 };
            n = n.wrapping_add(1);
        }
    }
    let counts = sys::map(DIGITS.wrapping_mul(4))?;
    for shift in [0, 11, 22] {
        // SAFETY: a mapping of our own with room for DIGITS counts.
        let counts = unsafe { core::slice::from_raw_parts_mut(counts.as_ptr().cast::<u32>(), DIGITS) };
        sort_by_digit(from, to, shift, counts);
        core::mem::swap(&mut from, &mut to);
    }
    index.starts = from.as_ptr();
    index.count = count;
    // SAFETY: nothing points into these any more.
    unsafe {
        sys::unmap(counts, DIGITS.wrapping_mul(4));
        if let Some(spare) = NonNull::new(to.as_mut_ptr()) {
            sys::unmap(spare.cast(), room);
        }
    }
    Some(())
}

const DIGITS: usize = 1 << 11;

/// One stable pass of a radix sort: cheap even where this crate is compiled without optimisation.
fn sort_by_digit(from: &[Start], to: &mut [Start], shift: u32, counts: &mut [u32]) {
    counts.fill(0);
    let digit = |s: &Start| (s.address >> shift) as usize & DIGITS.wrapping_sub(1);
    for s in from {
        if let Some(c) = counts.get_mut(digit(s)) {
            *c = c.wrapping_add(1);
        }
    }
    let mut sum = 0u32;
    for c in counts.iter_mut() {
        let n = *c;
        *c = sum;
        sum = sum.wrapping_add(n);
    }
    for s in from {
        if let Some(c) = counts.get_mut(digit(s)) {
            if let Some(place) = to.get_mut(*c as usize) {
                *place = *s;
            }
            *c = c.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::modules;

    #[inline(never)]
    fn marked() -> usize {
        std::hint::black_box(marked as *const () as usize)
    }

    fn class(address: usize) -> Class {
        modules::list_once();
        let m = modules::find(address).expect("the address lies in a module");
        class_of(
            address,
            &LoadedModule { map_start: m.start, load_bias: m.bias, path: m.name, generation: 0 },
        )
    }

    #[test]
    fn functions_of_this_very_program_are_told_apart() {
        assert_eq!(class(marked()), Class::Ours, "Birthmark's own function");
        assert_eq!(class(std::thread::yield_now as *const () as usize), Class::Plumbing);
        assert_eq!(
            class(serde_json::Value::is_null as *const () as usize),
            Class::User,
            "a dependency's function"
        );
    }

    #[test]
    fn a_file_that_is_no_program_has_no_symbols_and_does_no_harm() {
        let path = std::env::temp_dir().join("birthmark-no-program");
        std::fs::write(&path, vec![0x7f; 5000]).unwrap();
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        let module = LoadedModule { map_start: 1, load_bias: 0, path: name.as_ptr(), generation: 9 };
        assert_eq!(class_of(4096, &module), Class::Unknown);
        let truncated = std::fs::read("/proc/self/exe").unwrap();
        std::fs::write(&path, &truncated[..truncated.len() / 2]).unwrap();
        let module = LoadedModule { map_start: 2, load_bias: 0, path: name.as_ptr(), generation: 9 };
        assert_eq!(class_of(4096, &module), Class::Unknown);
    }
}
