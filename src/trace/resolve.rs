//! Names for addresses. Ordinary code only, and only when somebody looks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::frame::{Frame, Owner, Traceback};
use super::id::Depth;
use super::names::{self, Class, PLUMBING};
use crate::thread::Ours;

/// A stored stack as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RawStack {
    /// Kept return addresses, most recent first.
    pub addresses: Arc<[usize]>,
    pub user_frames: u32,
    pub depth: Depth,
}

impl RawStack {
    /// The stored stack under `id`; nothing where it was given back.
    pub(crate) fn of(id: u32) -> Option<Self> {
        let mut addresses = vec![0; super::intern::length(id)];
        let (n, user_frames, depth) = super::intern::copy(id, &mut addresses)?;
        addresses.truncate(n);
        Some(Self { addresses: addresses.into(), user_frames, depth })
    }
}

static NAMES: Mutex<Option<HashMap<usize, Arc<[Frame]>>>> = Mutex::new(None);

/// The names of a whole stack.
pub(crate) fn traceback(raw: &RawStack) -> Traceback {
    let _ours = Ours::enter();
    let mut frames = Vec::new();
    for address in raw.addresses.iter() {
        frames.extend(logical(*address).iter().cloned());
    }
    // The shims above the caller and the allocator itself are no part of the story.
    Traceback::new(frames, raw.user_frames, raw.depth)
}

/// The logical frames of one kept address, innermost first.
pub(crate) fn logical(kept: usize) -> Arc<[Frame]> {
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let names = names.get_or_insert_with(HashMap::new);
    if let Some(frames) = names.get(&kept) {
        return frames.clone();
    }
    let frames: Arc<[Frame]> = look_up(kept, false).into();
    names.insert(kept, frames.clone());
    frames
}

/// Looks names up. `alone`: no other thread runs (a fatal report's child), so no lock is taken.
pub(crate) fn look_up(kept: usize, alone: bool) -> Vec<Frame> {
    let address = super::capture::address(kept);
    let pc = address.wrapping_sub(1);
    let (module, start) = module_of(pc);
    let (mut symbol, mut whose) = (None, None);
    if let Some(name) = physical_name(pc) {
        whose = Some(names::classify(&name));
        symbol = Some(Arc::<str>::from(format!("{:#}", backtrace::SymbolName::new(&name))));
    }
    let offset = address.wrapping_sub(start);
    let mut frames: Vec<Frame> = Vec::new();
    if still_there(kept) {
        let mut add = |s: &backtrace::Symbol| {
            let function = s.name().map(|n| Arc::<str>::from(format!("{n:#}")));
            let file = s.filename().and_then(|f| f.to_str()).map(Arc::<str>::from);
            let owner = owner(file.as_deref(), s.name().map(|n| n.as_bytes().to_vec()).as_deref());
            let line = s.lineno().unwrap_or(0);
            frames.push(Frame { function, file, line, module: module.clone(), offset, inlined: true, owner });
        };
        if alone {
            // SAFETY: the only thread of its process, so nobody else is in the crate's cache.
            unsafe { backtrace::resolve_unsynchronized(pc as *mut _, &mut add) };
        } else {
            backtrace::resolve(pc as *mut _, &mut add);
        }
    }
    if frames.is_empty() {
        let owner = whose.map_or(Owner::User, |c| of_class(c));
        frames.push(Frame { function: None, file: None, line: 0, module, offset, inlined: true, owner });
    }
    if let Some(last) = frames.last_mut() {
        last.inlined = false;
        // The physical function by its symbol: with line tables alone its DWARF name is bare.
        if symbol.is_some() {
            last.function = symbol;
        }
        if let Some(class @ (Class::Ours | Class::Entry)) = whose {
            last.owner = of_class(class);
        } else if last.file.is_none()
            && let Some(class) = whose
        {
            last.owner = of_class(class);
        }
    }
    frames
}

fn of_class(class: Class) -> Owner {
    match class {
        Class::User | Class::Foreign | Class::Unknown => Owner::User,
        Class::Plumbing | Class::Entry | Class::Ours => Owner::Plumbing,
    }
}

#[cfg(native)]
fn still_there(kept: usize) -> bool {
    super::walk::names_still_hold(kept)
}
#[cfg(not(native))]
fn still_there(_kept: usize) -> bool {
    true
}

#[cfg(native)]
fn physical_name(pc: usize) -> Option<Vec<u8>> {
    let m = super::modules::find(pc)?;
    let loaded = super::symbols::LoadedModule {
        map_start: m.start,
        load_bias: m.bias,
        path: m.name,
        generation: u32::from(m.tag),
    };
    super::symbols::name_at(pc, &loaded).map(<[u8]>::to_vec)
}
#[cfg(not(native))]
fn physical_name(_pc: usize) -> Option<Vec<u8>> {
    None
}

/// The module's file name and load address.
#[cfg(native)]
fn module_of(pc: usize) -> (Arc<str>, usize) {
    let Some(m) = super::modules::find(pc) else { return (Arc::from("?"), 0) };
    let name = if m.name.is_null() {
        String::new()
    } else {
        // SAFETY: the loader's C string; the module is loaded, since an address of it was found just now. (One that is
        // unloaded in this very moment by another thread is beyond us: the loader gives no way to hold it.)
        unsafe { core::ffi::CStr::from_ptr(m.name) }.to_string_lossy().into_owned()
    };
    let name = if name.is_empty() {
        std::env::current_exe().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default()
    } else {
        name
    };
    (Arc::from(name.rsplit('/').next().unwrap_or("?")), m.bias)
}
#[cfg(not(native))]
fn module_of(_pc: usize) -> (Arc<str>, usize) {
    (Arc::from("program"), 0)
}

/// Whose code: told by the file's path, else by the root of the function's name.
fn owner(file: Option<&str>, name: Option<&[u8]>) -> Owner {
    if let Some(file) = file {
        return owner_of_file(file);
    }
    let Some(name) = name else { return Owner::User };
    of_class(names::classify(name))
}

pub(crate) fn owner_of_file(file: &str) -> Owner {
    const OWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/");
    if file.starts_with(OWN)
        || file.starts_with("/rustc/")
        || file.starts_with("/rust/deps/")
        || file.contains("/rustlib/src/rust/library/")
    {
        return Owner::Plumbing;
    }
    if let Some((_, rest)) = file.split_once("/registry/src/") {
        let package = rest.split('/').nth(1).unwrap_or(rest);
        return package_owner(package);
    }
    if let Some((_, rest)) = file.split_once("/git/checkouts/") {
        let package = rest.split('/').next().unwrap_or(rest);
        return package_owner(package);
    }
    Owner::User
}

fn package_owner(package: &str) -> Owner {
    // `tokio-1.54.1`: the name ends before the last part that begins with a digit.
    let name = match package.rfind('-') {
        Some(at) if package[at + 1..].starts_with(|c: char| c.is_ascii_digit()) => &package[..at],
        _ => package,
    };
    if PLUMBING.contains(&name) || name == "birthmark" || name == "backtrace" {
        Owner::Plumbing
    } else {
        Owner::Dependency(Arc::from(package))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_by_its_path() {
        for (file, owner) in [
            ("/home/me/app/src/main.rs", Owner::User),
            ("/rustc/59807616e/library/alloc/src/vec/mod.rs", Owner::Plumbing),
            (
                "/home/me/.cargo/registry/src/index-1/serde_json-1.0.1/src/de.rs",
                Owner::Dependency("serde_json-1.0.1".into()),
            ),
            ("/home/me/.cargo/registry/src/index-1/tokio-1.54.1/src/lib.rs", Owner::Plumbing),
            (
                "/home/me/.cargo/registry/src/index-1/tokio-util-0.7.1/src/lib.rs",
                Owner::Dependency("tokio-util-0.7.1".into()),
            ),
            ("/rust/deps/hashbrown-0.16.1/src/raw/mod.rs", Owner::Plumbing),
            (concat!(env!("CARGO_MANIFEST_DIR"), "/src/alloc.rs"), Owner::Plumbing),
            (concat!(env!("CARGO_MANIFEST_DIR"), "/examples/service.rs"), Owner::User),
        ] {
            assert_eq!(owner_of_file(file), owner, "{file}");
        }
    }

    #[test]
    fn an_address_is_named_with_its_file_and_line() {
        let mut ip = 0;
        let line = line!() + 1;
        backtrace::trace(|f| {
            ip = f.ip() as usize;
            f.symbol_address() as usize != an_address_is_named_with_its_file_and_line as *const () as usize
        });
        let frames = look_up(ip, false);
        let frame = frames.last().unwrap();
        assert!(frame.function().unwrap().contains("an_address_is_named"), "{frame:?}");
        assert!(frame.file().unwrap().ends_with("src/trace/resolve.rs"));
        assert!(frame.line() >= line, "{frame:?}");
    }
}
