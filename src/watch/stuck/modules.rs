//! The loaded files and their unwind tables, as `framehop` wants them.

use std::ffi::{c_int, c_void};
use std::ops::{Deref, Range};

use framehop::{ExplicitModuleSectionInfo, Module};

/// Unwind tables: of the executable and what came with it in place, of later files a copy, since those may be unloaded.
pub(super) enum Tables {
    Static(&'static [u8]),
    Copied(Box<[u8]>),
}

impl Default for Tables {
    fn default() -> Self {
        Self::Static(&[])
    }
}

impl Deref for Tables {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Static(bytes) => bytes,
            Self::Copied(bytes) => bytes,
        }
    }
}

/// A loaded file.
pub(super) struct Loaded {
    pub range: Range<u64>,
    bias: u64,
    header: Range<u64>,
    segment_end: u64,
}

/// Lists what is loaded now. Takes the loader's lock: on a thread of ours only.
pub(super) fn list() -> Vec<Loaded> {
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, list: *mut c_void) -> c_int {
        // SAFETY: the loader passes a valid record; `list` is the vector below.
        let (info, list, headers) = unsafe {
            let info = &*info;
            let headers = match info.dlpi_phdr.is_null() {
                true => &[],
                false => std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()),
            };
            (info, &mut *list.cast::<Vec<Loaded>>(), headers)
        };
        let bias = info.dlpi_addr;
        let of = |h: &libc::Elf64_Phdr| {
            let start = bias.wrapping_add(h.p_vaddr);
            start..start.wrapping_add(h.p_memsz)
        };
        let loads: Vec<Range<u64>> = headers.iter().filter(|h| h.p_type == libc::PT_LOAD).map(of).collect();
        let (Some(start), Some(end)) =
            (loads.iter().map(|r| r.start).min(), loads.iter().map(|r| r.end).max())
        else {
            return 0;
        };
        if let Some(header) = headers.iter().find(|h| h.p_type == libc::PT_GNU_EH_FRAME).map(of) {
            let segment_end = loads.iter().find(|r| r.contains(&header.start)).map_or(header.end, |r| r.end);
            list.push(Loaded { range: start..end, bias, header, segment_end });
        }
        0
    }
    let mut list = Vec::new();
    // SAFETY: the callback has the type that is asked for, doesn't unwind, and gets the vector that it expects.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut list).cast()) };
    list
}

impl Loaded {
    /// As a module of the unwinder. `stays`: it was there at start, and never goes.
    pub(super) fn module(&self, stays: bool) -> Option<Module<Tables>> {
        let header = read(self.header.clone(), stays)?;
        let frames_at = frames_pointer(&header, self.header.start)?;
        // The tables end with a zero word; how long they are nothing tells, at most to the end of the segment.
        let frames_end = if frames_at < self.segment_end && frames_at >= self.range.start {
            self.segment_end
        } else {
            self.range.end
        };
        let frames = read(frames_at..frames_end, stays)?;
        let svma = |r: Range<u64>| r.start.wrapping_sub(self.bias)..r.end.wrapping_sub(self.bias);
        let sections = ExplicitModuleSectionInfo {
            base_svma: 0,
            eh_frame_svma: Some(svma(frames_at..frames_end)),
            eh_frame: Some(frames),
            eh_frame_hdr_svma: Some(svma(self.header.clone())),
            eh_frame_hdr: Some(header),
            ..Default::default()
        };
        Some(Module::new(String::new(), self.range.clone(), self.bias, sections))
    }
}

fn read(range: Range<u64>, stays: bool) -> Option<Tables> {
    let n = range.end.checked_sub(range.start)? as usize;
    if stays {
        // SAFETY: a read-only segment of a file that was loaded at start, which is never unloaded.
        return Some(Tables::Static(unsafe { std::slice::from_raw_parts(range.start as *const u8, n) }));
    }
    let mut bytes = vec![0; n].into_boxed_slice();
    crate::sys::read_unsure(range.start as usize, &mut bytes).then_some(Tables::Copied(bytes))
}

/// Where `.eh_frame` begins, from the head of `.eh_frame_hdr`: the one encoding that linkers use (a signed 32-bit distance from
/// the field itself).
fn frames_pointer(header: &[u8], at: u64) -> Option<u64> {
    let [1, 0x1b, ..] = header else { return None };
    let distance = i32::from_ne_bytes(header.get(4..8)?.try_into().ok()?);
    Some(at.wrapping_add(4).wrapping_add_signed(distance.into()))
}
