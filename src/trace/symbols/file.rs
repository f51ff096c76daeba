//! An ELF file, read by system calls, and whether it is the one that was loaded.
//!
//! Whatever the file says is checked against its length. One that is cut short while it is mapped faults, as the loader's
//! own mapping of it does. Runs inside an allocation.

use core::ffi::CStr;
use core::mem::MaybeUninit;

use libc::{Elf64_Ehdr, Elf64_Phdr, Elf64_Shdr, Elf64_Sym};

// The ELF specification's numbers, as far as `libc` lacks them.
const SHT_SYMTAB: u32 = 2;
const SHT_DYNSYM: u32 = 11;
const PF_R: u32 = 4;

/// An open file; closed when dropped.
pub(super) struct File {
    fd: i32,
    len: usize,
}

pub(super) enum Open {
    /// It is open.
    Yes(File),
    /// There is no such file.
    No,
    /// The process has no more descriptors or memory just now.
    NotNow,
}

impl File {
    /// Opens a regular file.
    pub(super) fn open(path: &CStr) -> Open {
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
        // SAFETY: `openat` with a C string. (The C library's `open` is a cancellation point; `syscall` isn't.)
        let fd = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags) };
        let Ok(fd) = i32::try_from(fd) else { return Open::No };
        if fd < 0 {
            // SAFETY: this thread's own `errno`, set just now.
            return match unsafe { *libc::__errno_location() } {
                libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EINTR => Open::NotNow,
                _ => Open::No,
            };
        }
        let mut file = Self { fd, len: 0 };
        let mut stat = MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: a descriptor of ours and a buffer of the right type, in which zeroes are valid too.
        let stat = unsafe {
            libc::fstat(fd, stat.as_mut_ptr());
            stat.assume_init()
        };
        file.len = usize::try_from(stat.st_size).unwrap_or(0);
        let regular = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
        if regular && file.len >= size_of::<Elf64_Ehdr>() { Open::Yes(file) } else { Open::No }
    }

    /// Maps part of the file. Nothing where it doesn't have that part, or memory has run out.
    pub(super) fn range(&self, offset: u64, len: u64) -> Option<Range> {
        const PAGE: usize = 1 << 16; // the largest that Linux has on our targets
        let (offset, len) = (usize::try_from(offset).ok()?, usize::try_from(len).ok()?);
        if len == 0 || offset.checked_add(len)? > self.len {
            return None;
        }
        let skipped = offset & PAGE.wrapping_sub(1);
        let mapped = len.checked_add(skipped)?;
        let start = libc::off_t::try_from(offset.wrapping_sub(skipped)).ok()?;
        // SAFETY: a fresh private mapping at an address of the kernel's choice touches no memory in use.
        let base = unsafe {
            libc::mmap(core::ptr::null_mut(), mapped, libc::PROT_READ, libc::MAP_PRIVATE, self.fd, start)
        };
        (base != libc::MAP_FAILED).then(|| Range { base: base.cast(), mapped, skipped })
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours and used no more. (`close` by `syscall` is no cancellation point.)
        unsafe { libc::syscall(libc::SYS_close, self.fd) };
    }
}

/// A mapped part of a file; unmapped when dropped.
pub(super) struct Range {
    base: *mut u8,
    mapped: usize,
    skipped: usize,
}

impl Range {
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `mapped` bytes lie there as long as the range does, and the first `skipped` weren't asked for.
        unsafe { core::slice::from_raw_parts(self.base, self.mapped) }.get(self.skipped..).unwrap_or_default()
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and what `bytes` lent out is over.
        unsafe { libc::munmap(self.base.cast(), self.mapped) };
    }
}

/// A table's entry, or a header, at a place in `bytes`.
fn read<T: Plain>(bytes: &[u8], at: usize) -> Option<T> {
    let part = bytes.get(at..at.checked_add(size_of::<T>())?)?;
    // SAFETY: as many readable bytes as a `T` has, and a `Plain` may hold any.
    Some(unsafe { part.as_ptr().cast::<T>().read_unaligned() })
}

/// C structs of integers: any bytes are a valid one.
trait Plain: Copy {}
impl Plain for Elf64_Ehdr {}
impl Plain for Elf64_Phdr {}
impl Plain for Elf64_Shdr {}

/// The head's part that must lie in a file's first page to tell files apart.
const HEAD: usize = 4096;
const MOST_HEADERS: usize = 64;
const LONGEST_NOTE: u64 = 4096;

fn head(bytes: &[u8]) -> Option<Elf64_Ehdr> {
    let head: Elf64_Ehdr = read(bytes, 0)?;
    // 64 bits, little-endian.
    (head.e_ident.first_chunk() == Some(b"\x7fELF\x02\x01")).then_some(head)
}

fn program_header(bytes: &[u8], head: &Elf64_Ehdr, i: usize) -> Option<Elf64_Phdr> {
    read(bytes, usize::try_from(head.e_phoff).ok()?.checked_add(i.checked_mul(size_of::<Elf64_Phdr>())?)?)
}

/// What tells one file from another: its head, its program headers and its notes, the build id among them. `notes` gives a
/// note's bytes to the function that it is handed.
fn mark(bytes: &[u8], notes: impl Fn(&Elf64_Phdr, &mut dyn FnMut(&[u8]))) -> Option<u64> {
    let head = head(bytes)?;
    let count = usize::from(head.e_phnum);
    if count > MOST_HEADERS || usize::from(head.e_phentsize) != size_of::<Elf64_Phdr>() {
        return None;
    }
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |bytes: &[u8]| {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    };
    add(bytes.get(..size_of::<Elf64_Ehdr>())?);
    let first = usize::try_from(head.e_phoff).ok()?;
    let size = count.checked_mul(size_of::<Elf64_Phdr>())?;
    add(bytes.get(first..first.checked_add(size)?)?);
    for i in 0..count {
        let header = program_header(bytes, &head, i)?;
        if header.p_type == libc::PT_NOTE && header.p_filesz <= LONGEST_NOTE {
            notes(&header, &mut add);
        }
    }
    Some(hash)
}

/// The mark of what is loaded at `start`; nothing where that doesn't begin with a file's head.
pub(super) fn mark_of_loaded(start: usize) -> Option<u64> {
    if start == 0 || start & HEAD.wrapping_sub(1) != 0 {
        return None;
    }
    // SAFETY: a loaded file begins with a whole page, from which the loader itself reads the head.
    let bytes = unsafe { core::slice::from_raw_parts(start as *const u8, HEAD) };
    let head = head(bytes)?;
    let headers = || (0..usize::from(head.e_phnum)).filter_map(|i| program_header(bytes, &head, i));
    let base = headers().find(|h| h.p_type == libc::PT_LOAD && h.p_offset == 0)?.p_vaddr;
    mark(bytes, |note, add| {
        let is_within = |load: &Elf64_Phdr| {
            let offset = note.p_vaddr.wrapping_sub(load.p_vaddr);
            let end = offset.checked_add(note.p_filesz);
            load.p_type == libc::PT_LOAD
                && load.p_flags & PF_R != 0
                && note.p_vaddr >= load.p_vaddr
                && end.is_some_and(|end| end <= load.p_filesz)
        };
        if headers().any(|h| is_within(&h)) {
            let at = start.wrapping_add(note.p_vaddr.wrapping_sub(base) as usize);
            // SAFETY: the note lies in a readable segment of a loaded file.
            add(unsafe { core::slice::from_raw_parts(at as *const u8, note.p_filesz as usize) });
        }
    })
}

/// The mark of a file.
pub(super) fn mark_of_file(file: &File) -> Option<u64> {
    let head = file.range(0, file.len.min(HEAD) as u64)?;
    mark(head.bytes(), |note, add| {
        if let Some(note) = file.range(note.p_offset, note.p_filesz) {
            add(note.bytes());
        }
    })
}

/// A symbol table and the names that belong to it.
pub(super) struct Table {
    pub(super) symbols: Range,
    pub(super) names: Range,
    /// It is the loader's table, with exported and imported names only.
    pub(super) dynamic: bool,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        const { assert!(size_of::<Elf64_Sym>() == 24) };
        self.symbols.bytes().len() / 24
    }
}

/// The file's symbol table, else its loader's table.
pub(super) fn table(file: &File) -> Option<Table> {
    let first = file.range(0, size_of::<Elf64_Ehdr>() as u64)?;
    let head = head(first.bytes())?;
    if usize::from(head.e_shentsize) != size_of::<Elf64_Shdr>() {
        return None;
    }
    let size = usize::from(head.e_shnum).checked_mul(size_of::<Elf64_Shdr>())?;
    let sections = file.range(head.e_shoff, size as u64)?;
    let section = |i: usize| read::<Elf64_Shdr>(sections.bytes(), i.checked_mul(size_of::<Elf64_Shdr>())?);
    let of_kind = |kind: u32| {
        let table = (0..usize::from(head.e_shnum)).filter_map(section).find(|s| s.sh_type == kind)?;
        let names = section(table.sh_link as usize)?;
        (table.sh_entsize == size_of::<Elf64_Sym>() as u64).then_some(())?;
        // Symbols are read as aligned structs.
        (table.sh_offset & 7 == 0).then_some(())?;
        Some(Table {
            symbols: file.range(table.sh_offset, table.sh_size)?,
            names: file.range(names.sh_offset, names.sh_size)?,
            dynamic: kind == SHT_DYNSYM,
        })
    };
    of_kind(SHT_SYMTAB).or_else(|| of_kind(SHT_DYNSYM))
}
