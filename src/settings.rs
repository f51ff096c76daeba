//! Temporary: the few settings that the hooks need, until `config` lands.
pub(crate) struct Defaults {
    pub tracemalloc: Option<u16>,
    pub malloc: Option<&'static str>,
    pub dev: bool,
}
pub(crate) struct Settings {
    pub tracemalloc: u16,
    pub heap: Option<usize>,
    pub forbidden: bool,
}
fn var(name: &core::ffi::CStr) -> Option<&'static [u8]> {
    // SAFETY: temporary.
    unsafe {
        let p = libc::getenv(name.as_ptr());
        (!p.is_null()).then(|| core::ffi::CStr::from_ptr(p).to_bytes()).filter(|b| !b.is_empty())
    }
}
pub(crate) fn read(d: &Defaults) -> Settings {
    let dev = d.dev || var(c"BIRTHMARK_DEV").is_some_and(|v| v == b"1");
    let tracemalloc = match var(c"TRACEMALLOC") {
        Some(v) => v.iter().fold(0u16, |n, b| n * 10 + u16::from(b - b'0')),
        None if dev => 5,
        None => d.tracemalloc.unwrap_or(0),
    };
    let heap = match var(c"BIRTHMARK_MALLOC") {
        Some(b"debug") => Some(4 << 20),
        Some(_) => None,
        None if dev => Some(16 << 20),
        None if d.malloc.is_some() || cfg!(debug_assertions) => Some(1 << 20),
        None => None,
    };
    Settings { tracemalloc, heap, forbidden: var(c"TRACEMALLOC") == Some(b"0") }
}
