//! One file's functions in the order of their addresses: eight bytes each, names left in the file.
//!
//! Its loops are plain and its sort is by digits, since this crate may be compiled without optimisation. Runs inside an
//! allocation.

use core::ffi::{CStr, c_char};
use core::ptr::NonNull;

use libc::Elf64_Sym;

use super::LoadedModule;
use super::file::{self, File, Open, Table};
use crate::sys;
use crate::trace::names::{Class, classify};

const STT_FUNC: u8 = 2;
const STT_GNU_IFUNC: u8 = 10;

/// An index, at the beginning of a mapping of its own in which the starts follow.
pub(super) struct Index {
    pub(super) map_start: usize,
    pub(super) generation: u32,
    /// What tells the loaded file from another at its place.
    pub(super) mark: Option<u64>,
    /// Whose an address is that lies in no function.
    pub(super) elsewhere: Class,
    /// The one made before this.
    pub(super) next: *const Index,
    /// The file's symbols. Nothing where it has none.
    table: Option<Table>,
    /// The file's lowest address: starts count from it.
    low: usize,
    /// `count` times the start in the upper half and the symbol's number in the lower one, sorted.
    starts: *const u64,
    count: usize,
    /// Bytes of the mapping.
    mapped: usize,
}

impl Index {
    /// Reads a file's symbols. An index without any where it has none or isn't the one that was loaded; nothing where
    /// memory or descriptors have run out, so that the next question tries again.
    #[inline(never)]
    pub(super) fn build(module: &LoadedModule) -> Option<NonNull<Self>> {
        let mark = file::mark_of_loaded(module.map_start);
        let table = match open(module, mark) {
            Open::Yes(file) => file::table(&file),
            Open::No => None,
            Open::NotNow => return None,
        };
        let elsewhere = table.as_ref().map_or(Class::Unknown, of_the_rest);
        let low = module.map_start.wrapping_sub(module.load_bias);
        let count = table.as_ref().map_or(0, |t| count(t, low));
        let mapped = count.checked_mul(8)?.checked_add(size_of::<Self>())?;
        let place = sys::map(mapped)?.cast::<Self>();
        let starts = place.as_ptr().wrapping_add(1).cast::<u64>();
        let sorted = match table.as_ref().filter(|_| count > 0) {
            Some(table) => sort(table, low, starts, count),
            None => Some(0),
        };
        let Some(count) = sorted else {
            // SAFETY: nobody has seen it.
            unsafe { sys::unmap(place.cast(), mapped) };
            return None;
        };
        let index = Self {
            map_start: module.map_start,
            generation: module.generation,
            mark,
            elsewhere,
            next: core::ptr::null(),
            table: table.filter(|_| count > 0),
            low,
            starts,
            count,
            mapped,
        };
        // SAFETY: fresh pages, aligned and large enough.
        unsafe { place.as_ptr().write(index) };
        Some(place)
    }

    /// Gives an index back.
    ///
    /// # Safety
    /// It came from [`Index::build`] and was never published.
    pub(super) unsafe fn give_back(this: NonNull<Self>) {
        sys::keep_errno(|| {
            // SAFETY: the caller says that nobody else knows it; dropping it unmaps its parts of the file.
            unsafe {
                let mapped = this.as_ref().mapped;
                this.as_ptr().drop_in_place();
                sys::unmap(this.cast(), mapped);
            }
        });
    }

    /// The function that holds an address of the file: its name, and whose it is. Of several names at one place the user's
    /// wins, then what else is Rust's.
    pub(super) fn find(&'static self, address: usize) -> Option<(&'static [u8], Class)> {
        /// Functions may lie within others: so many starts further down are looked at.
        const NEARBY: u32 = 8;
        let table = self.table.as_ref()?;
        let wanted = u32::try_from(address.checked_sub(self.low)?).ok()?;
        let mut best: Option<(&'static [u8], Class)> = None;
        let mut at = self.after(wanted);
        let mut group = None;
        let mut groups = 0;
        while let Some(before) = at.checked_sub(1) {
            let (start, number) = self.start(before);
            if group != Some(start) {
                groups = u32::wrapping_add(groups, 1);
                if best.is_some() || groups > NEARBY {
                    break;
                }
            }
            // A function without a size reaches to the next one's start.
            let nearest = groups == 1;
            group = Some(start);
            at = before;
            let Some(symbol) = symbol(table, number as usize) else { continue };
            let inside = u64::from(wanted.wrapping_sub(start));
            if !(inside < symbol.st_size || symbol.st_size == 0 && nearest) {
                continue;
            }
            let Some(name) = name(table, symbol.st_name as usize) else { continue };
            let class = classify(name);
            if best.is_none_or(|(_, b)| rank(class) < rank(b)) {
                best = Some((name, class));
            }
        }
        best
    }

    /// How many starts lie at `wanted` or below.
    fn after(&self, wanted: u32) -> usize {
        let (mut low, mut high) = (0usize, self.count);
        while low < high {
            let middle = low.wrapping_add(high.wrapping_sub(low) / 2);
            if self.start(middle).0 <= wanted {
                low = middle.wrapping_add(1);
            } else {
                high = middle;
            }
        }
        low
    }

    /// The start number `i`, below `count`, and its symbol's number.
    fn start(&self, i: usize) -> (u32, u32) {
        debug_assert!(i < self.count);
        // SAFETY: the mapping holds `count` starts, and all callers pass less.
        let entry = unsafe { *self.starts.wrapping_add(i) };
        ((entry >> 32) as u32, entry as u32)
    }
}

fn rank(class: Class) -> u8 {
    match class {
        Class::User => 0,
        Class::Entry => 1,
        Class::Plumbing => 2,
        Class::Ours => 3,
        Class::Foreign | Class::Unknown => 4,
    }
}

/// The module's file, if it still is the one that was loaded.
fn open(module: &LoadedModule, loaded: Option<u64>) -> Open {
    let open = |path: &CStr, is_program: bool| match File::open(path) {
        Open::Yes(file) => {
            // A program whose head isn't loaded can't be compared; the kernel's own link to it never leads astray.
            let same = if loaded.is_none() { is_program } else { file::mark_of_file(&file) == loaded };
            if same { Open::Yes(file) } else { Open::No }
        }
        other => other,
    };
    // SAFETY: the loader's path is a C string that lives as long as the module.
    let path = if module.path.is_null() { c"" } else { unsafe { CStr::from_ptr(module.path) } };
    if !path.is_empty() {
        return open(path, false);
    }
    match open(c"/proc/self/exe", true) {
        Open::No => {
            // Without /proc, or started by naming the loader: the name that the program was called by.
            // SAFETY: the kernel's word for a C string that stays, or 0.
            let name = unsafe { libc::getauxval(libc::AT_EXECFN) } as *const c_char;
            // SAFETY: as above.
            if name.is_null() { Open::No } else { open(unsafe { CStr::from_ptr(name) }, false) }
        }
        other => other,
    }
}

/// Whose an address is that lies in no function of the table. A stripped library that doesn't even know the unwinder, which
/// std always does, has no Rust in it: its inner functions are C's.
fn of_the_rest(table: &Table) -> Class {
    let knows_unwinder = || {
        (0..table.len()).any(|i| symbol(table, i).is_some_and(|s| is_named(table, s, b"_Unwind_Backtrace\0")))
    };
    if table.dynamic && !knows_unwinder() { Class::Foreign } else { Class::Unknown }
}

fn is_named(table: &Table, symbol: &Elf64_Sym, name: &[u8]) -> bool {
    table.names.bytes().get(symbol.st_name as usize..).is_some_and(|rest| rest.starts_with(name))
}

fn symbol(table: &Table, i: usize) -> Option<&Elf64_Sym> {
    // SAFETY: `i` is checked; `file::table` saw to the alignment, and any bytes are a valid symbol.
    (i < table.len()).then(|| unsafe { &*table.symbols.bytes().as_ptr().cast::<Elf64_Sym>().wrapping_add(i) })
}

fn name(table: &'static Table, at: usize) -> Option<&'static [u8]> {
    const LONGEST: usize = 1 << 16;
    let rest = table.names.bytes().get(at..)?;
    let end = rest.iter().take(LONGEST).position(|b| *b == 0)?;
    rest.get(..end).filter(|n| !n.is_empty())
}

/// Where a function starts, counted from `low`. Nothing for what isn't a function, or lies elsewhere.
#[inline(always)]
fn start_of(symbol: &Elf64_Sym, low: usize) -> Option<u32> {
    let kind = symbol.st_info & 15;
    if (kind != STT_FUNC && kind != STT_GNU_IFUNC) || symbol.st_shndx == 0 {
        return None;
    }
    let start = (symbol.st_value as usize).wrapping_sub(low);
    if start >> 32 == 0 { Some(start as u32) } else { None }
}

fn count(table: &Table, low: usize) -> usize {
    let first = table.symbols.bytes().as_ptr().cast::<Elf64_Sym>();
    let (mut i, mut n) = (0usize, 0usize);
    let len = if table.len() >> 32 == 0 { table.len() } else { 0 };
    while i < len {
        // SAFETY: below `len` symbols, aligned (see `symbol`).
        let symbol = unsafe { &*first.wrapping_add(i) };
        n = n.wrapping_add(usize::from(start_of(symbol, low).is_some()));
        i = i.wrapping_add(1);
    }
    n
}

/// A digit's bits, and the shifts of a start's three digits within an entry.
const DIGIT: u32 = 11;
const DIGITS: usize = 1 << DIGIT;
const SHIFTS: [u32; 3] = [32, 43, 54];

/// Writes the table's functions, `count` of them at most, to `to`, sorted, and tells how many they are. Nothing where memory
/// for the sort can't be had.
fn sort(table: &Table, low: usize, to: *mut u64, count: usize) -> Option<usize> {
    let counts_bytes = DIGITS.wrapping_mul(4).wrapping_mul(SHIFTS.len());
    let scratch_bytes = count.checked_mul(8)?.checked_add(counts_bytes)?;
    let scratch = sys::map(scratch_bytes)?;
    let counts = scratch.as_ptr().cast::<u32>();
    let other = scratch.as_ptr().wrapping_add(counts_bytes).cast::<u64>();

    let first = table.symbols.bytes().as_ptr().cast::<Elf64_Sym>();
    let (mut i, mut n) = (0usize, 0usize);
    // Three passes go other -> to -> other -> to.
    while i < table.len() && n < count {
        // SAFETY: below `len` symbols, aligned (see `symbol`).
        let symbol = unsafe { &*first.wrapping_add(i) };
        if let Some(start) = start_of(symbol, low) {
            // SAFETY: `n` is below `count`, for which `other` has room; each digit is below DIGITS, and there are three
            // arrays of so many counts. All of it is fresh memory of ours.
            unsafe {
                *other.wrapping_add(n) = u64::from(start) << 32 | i as u64;
                let mut digits = start as usize;
                let mut of_digit = counts;
                while of_digit < other.cast() {
                    let place = of_digit.wrapping_add(digits & DIGITS.wrapping_sub(1));
                    *place = (*place).wrapping_add(1);
                    digits >>= DIGIT;
                    of_digit = of_digit.wrapping_add(DIGITS);
                }
            }
            n = n.wrapping_add(1);
        }
        i = i.wrapping_add(1);
    }
    // SAFETY: both arrays have room for `count` entries, each counts array for DIGITS counts, made from these entries.
    unsafe {
        let [a, b, c] = SHIFTS;
        distribute(other, to, n, a, counts);
        distribute(to, other, n, b, counts.wrapping_add(DIGITS));
        distribute(other, to, n, c, counts.wrapping_add(DIGITS).wrapping_add(DIGITS));
        sys::unmap(scratch, scratch_bytes);
    }
    Some(n)
}

/// One stable pass: entries go to where their digit at `shift` belongs.
///
/// # Safety
/// `from` and `to` have `len` entries and don't overlap; `counts` has DIGITS counts, which tell how many entries of `from`
/// have each digit.
unsafe fn distribute(from: *const u64, to: *mut u64, len: usize, shift: u32, counts: *mut u32) {
    let (mut digit, mut sum) = (0usize, 0u32);
    while digit < DIGITS {
        // SAFETY: below DIGITS.
        let place = unsafe { &mut *counts.wrapping_add(digit) };
        let n = *place;
        *place = sum;
        sum = sum.wrapping_add(n);
        digit = digit.wrapping_add(1);
    }
    let mut i = 0usize;
    while i < len {
        // SAFETY: `i` is below `len`; a digit is below DIGITS; the sums of counts of these very entries are places below
        // `len`, each used once.
        unsafe {
            let entry = *from.wrapping_add(i);
            let count = counts.wrapping_add((entry >> shift) as usize & DIGITS.wrapping_sub(1));
            *to.wrapping_add(*count as usize) = entry;
            *count = (*count).wrapping_add(1);
        }
        i = i.wrapping_add(1);
    }
}
