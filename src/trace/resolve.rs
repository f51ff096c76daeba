//! Names for addresses. Ordinary code only, and only when somebody looks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::frame::{Frame, NO_MODULE, Owner, Traceback};
use super::id::Depth;
use super::looking::Looking;
use super::names::{self, Class};
use super::owner;
use crate::report::child;
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
        let physical = logical(*address);
        frames.extend(physical.iter().cloned());
        // A stack that was walked to its end holds the thread's start too, which is no part of the story.
        if physical
            .last()
            .and_then(Frame::function)
            .is_some_and(|f| f.contains("::__rust_begin_short_backtrace"))
        {
            break;
        }
    }
    Traceback::new(frames, raw.user_frames, raw.depth)
}

/// How long the first look-up of a fork's child may take.
const LIMIT_MS: i64 = 5_000;

/// The logical frames of one kept address, innermost first; the function alone where names can't be looked up.
pub(crate) fn logical(kept: usize) -> Arc<[Frame]> {
    let works = || {
        let mut try_it = |done: &mut dyn FnMut(&[u8])| {
            look_up(kept, Way::Locked);
            done(b"named");
        };
        child::ask(LIMIT_MS, &mut try_it, &mut |_| ())
    };
    let Some(_looking) = Looking::begin(works) else { return look_up(kept, Way::Symbols).into() };
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let names = names.get_or_insert_with(HashMap::new);
    if let Some(frames) = names.get(&kept) {
        return frames.clone();
    }
    let frames: Arc<[Frame]> = look_up(kept, Way::Locked).into();
    names.insert(kept, frames.clone());
    frames
}

/// How names are looked up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// With the locks that it takes.
    Locked,
    /// No other thread runs (a fatal report's child), so no lock is taken but, at the first look, the loader's.
    Alone,
    /// From our own index of symbols: no lock, no lines.
    Symbols,
}

/// Looks names up.
pub(crate) fn look_up(kept: usize, way: Way) -> Vec<Frame> {
    let address = super::capture::address(kept);
    let pc = address.wrapping_sub(1);
    let there = still_there(kept);
    // Elsewhere than here the loader is asked for the module, under its lock.
    let ask = there && (cfg!(native) || way != Way::Symbols);
    let module = if ask { module_of(pc) } else { Loaded::nowhere() };
    let offset = address.wrapping_sub(module.start);
    let symbol = if there { physical_name(pc) } else { None };
    let class = symbol.as_deref().map(names::classify);
    let mut frames: Vec<Frame> = Vec::new();
    if there {
        let mut add = |s: &backtrace::Symbol| {
            let function = s.name().map(|n| Arc::<str>::from(format!("{n:#}")));
            let file = s.filename().and_then(|f| f.to_str()).map(|f| Arc::<str>::from(owner::normal(f)));
            let class = s.name().map(|n| names::classify(n.as_bytes()));
            let owner = whose(file.as_deref(), class, &module);
            let line = s.lineno().unwrap_or(0);
            let module = module.name.clone();
            frames.push(Frame { function, file, line, module, offset, inlined: true, owner });
        };
        match way {
            Way::Locked => backtrace::resolve(pc as *mut _, &mut add),
            // SAFETY: the only thread of its process, so nobody else is in the crate's cache.
            Way::Alone => unsafe { backtrace::resolve_unsynchronized(pc as *mut _, &mut add) },
            Way::Symbols => {}
        }
    }
    if frames.is_empty() {
        let module = module.name.clone();
        let owner = Owner::User;
        frames.push(Frame { function: None, file: None, line: 0, module, offset, inlined: true, owner });
    }
    if let Some(last) = frames.last_mut() {
        last.inlined = false;
        // The physical function by its symbol: with line tables alone its DWARF name is bare, and an entry of line 0 names
        // core's file for a user's function.
        if let Some(symbol) = &symbol {
            last.function = Some(Arc::from(format!("{:#}", backtrace::SymbolName::new(symbol))));
        }
        let class = class.or_else(|| last.function.is_none().then_some(Class::Unknown));
        if let Some(class) = class {
            last.owner = match class {
                Class::Ours | Class::Entry => Owner::Plumbing,
                Class::User if last.line == 0 => match whose(last.file.as_deref(), Some(class), &module) {
                    Owner::Plumbing => Owner::User,
                    owner => owner,
                },
                _ if last.line == 0 => whose(None, Some(class), &module),
                class => whose(last.file.as_deref(), Some(class), &module),
            };
        }
        let from_c = module.system || (module.main && last.file.is_none());
        if from_c && last.function.as_deref().is_some_and(is_start) {
            last.owner = Owner::Plumbing;
        }
    }
    frames
}

/// Whose code: told by the file's path, else by the function's symbol.
fn whose(file: Option<&str>, class: Option<Class>, module: &Loaded) -> Owner {
    let library = || Owner::Dependency(module.name.clone());
    match (file.map(owner::origin), class) {
        // By name first: an inlined `__rust_alloc` has the user's line that installs the allocator.
        (_, Some(Class::Entry | Class::Ours)) => Owner::Plumbing,
        // C's, perhaps with a distribution's debug information.
        (_, None | Some(Class::Foreign | Class::Unknown)) if module.system => library(),
        (Some(origin), _) => origin.owner,
        (None, Some(Class::Plumbing)) => Owner::Plumbing,
        (None, Some(Class::Foreign | Class::Unknown)) if !module.main && &*module.name != NO_MODULE => {
            library()
        }
        (None, _) => Owner::User,
    }
}

/// What of C begins a program or a thread.
fn is_start(function: &str) -> bool {
    let first = ["main", "_start", "__libc_start_main", "__libc_start_call_main", "__libc_start_main_impl"];
    let thread = ["start_thread", "thread_start", "clone", "__clone", "clone3", "__clone3"];
    first.contains(&function) || thread.contains(&function)
}

/// The loaded file that holds an address.
struct Loaded {
    name: Arc<str>,
    /// What to subtract from an address to get its offset.
    start: usize,
    /// The program itself.
    main: bool,
    /// One of the system's libraries.
    system: bool,
}

impl Loaded {
    fn nowhere() -> Self {
        Self { name: NO_MODULE.into(), start: 0, main: false, system: false }
    }
    fn new(path: &str, start: usize) -> Self {
        let program = std::env::current_exe().ok().and_then(|p| p.into_os_string().into_string().ok());
        let program = program.as_deref().unwrap_or(NO_MODULE);
        let main = path.is_empty() || path == program;
        let path = if main { program } else { path };
        let system = !main && (path.starts_with("/lib") || path.starts_with("/usr/lib"));
        Self { name: path.rsplit('/').next().unwrap_or(path).into(), start, main, system }
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

#[cfg(native)]
fn module_of(pc: usize) -> Loaded {
    let Some(m) = super::modules::find(pc) else { return Loaded::nowhere() };
    if m.name.is_null() {
        return Loaded::new("", m.bias);
    }
    // SAFETY: the loader's C string; the module is loaded, since an address of it was found just now. (One that is
    // unloaded in this very moment by another thread is beyond us: the loader gives no way to hold it.)
    Loaded::new(&unsafe { core::ffi::CStr::from_ptr(m.name) }.to_string_lossy(), m.bias)
}
#[cfg(all(not(native), unix))]
fn module_of(pc: usize) -> Loaded {
    let mut info = core::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: a valid place for the answer; all zeroes is a valid one.
    let (found, info) = unsafe { (libc::dladdr(pc as *const _, info.as_mut_ptr()), info.assume_init()) };
    if found == 0 || info.dli_fname.is_null() {
        return Loaded::nowhere();
    }
    // SAFETY: the loader's C string, as above.
    let path = unsafe { core::ffi::CStr::from_ptr(info.dli_fname) }.to_string_lossy();
    // The loader may know the program by the path that it was started with.
    let path = std::fs::canonicalize(&*path).map_or(path.into_owned(), |p| p.to_string_lossy().into_owned());
    Loaded::new(&path, info.dli_fbase as usize)
}
#[cfg(not(any(native, unix)))]
fn module_of(_pc: usize) -> Loaded {
    Loaded::new("", 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the frames of this thread's stack, from the caller on.
    #[inline(never)]
    fn stack() -> Vec<Vec<Frame>> {
        #[cfg(native)]
        crate::trace::modules::list_once();
        let mut frames = Vec::new();
        backtrace::trace(|f| {
            frames.push(look_up(f.ip() as usize, Way::Locked));
            true
        });
        let here = frames
            .iter()
            .position(|f| f.iter().any(|f| f.function().is_some_and(|n| n.ends_with("::stack"))));
        frames.split_off(here.expect("this function is on its own stack") + 1)
    }

    /// Whether this build has line tables, and so inlined frames.
    fn lines() -> bool {
        let own = look_up(lines as *const () as usize + 2, Way::Locked);
        own.iter().any(|f| f.file().is_some_and(|f| f.ends_with("resolve.rs")))
    }

    /// Its stack, and the line that took it.
    #[inline(never)]
    fn not_inlined() -> (Vec<Vec<Frame>>, u32) {
        (stack(), line!())
    }

    #[test]
    fn an_address_is_named_with_its_function_file_and_line() {
        let (stack, line) = not_inlined();
        let frame = stack[0].last().unwrap();
        assert!(frame.function().unwrap().ends_with("not_inlined"), "{frame:?}");
        if lines() {
            assert!(frame.file().unwrap().ends_with("src/trace/resolve.rs"), "{frame:?}");
            assert_eq!(frame.line(), line);
        }
        assert!(frame.offset() > 0 && !frame.module().is_empty() && !frame.is_inlined(), "{frame:?}");
    }

    #[inline(always)]
    fn inlined_into_its_caller() -> Vec<Vec<Frame>> {
        stack()
    }

    /// Its stack, and the line that took it.
    #[inline(never)]
    fn holds_an_inlined_one() -> (Vec<Vec<Frame>>, u32) {
        (inlined_into_its_caller(), line!())
    }

    #[test]
    fn an_inlined_function_is_a_frame_of_its_own_before_the_one_that_holds_it() {
        if !lines() {
            return;
        }
        let (stack, line) = holds_an_inlined_one();
        let [inner, outer] = &stack[0][..] else { panic!("two logical frames: {:?}", stack[0]) };
        assert!(inner.is_inlined() && !outer.is_inlined());
        assert!(inner.function().unwrap().contains("inlined_into_its_caller"), "{inner:?}");
        assert!(outer.function().unwrap().ends_with("holds_an_inlined_one"), "{outer:?}");
        assert_eq!(outer.line(), line, "the call's line");
        assert_eq!(inner.offset(), outer.offset());
    }

    #[test]
    fn frames_of_std_and_of_the_test_runner_are_plumbing() {
        let stack = stack();
        let all = stack.iter().flatten();
        let std: Vec<_> = all.filter(|f| f.function().is_some_and(|n| n.starts_with("std::"))).collect();
        assert!(!std.is_empty());
        for frame in std {
            assert_eq!(frame.owner, Owner::Plumbing, "{frame:?}");
        }
    }

    #[test]
    fn a_frame_in_the_c_library_is_that_librarys() {
        #[cfg(native)]
        crate::trace::modules::list_once();
        let frames = look_up(libc::qsort as *const () as usize + 1, Way::Locked);
        let frame = frames.last().unwrap();
        assert!(matches!(frame.owner(), Owner::Dependency(name) if name.starts_with("libc")), "{frame:?}");
    }

    #[test]
    fn an_address_outside_all_modules_still_has_a_place() {
        let [frame] = &look_up(4096, Way::Locked)[..] else { panic!("one frame") };
        assert_eq!((frame.function(), frame.place()), (None, "?+0x1000".to_owned()));
    }

    #[test]
    fn without_locks_a_frame_still_has_its_function_and_its_module() {
        #[cfg(native)]
        crate::trace::modules::list_once();
        let [frame] = &look_up(look_up as *const () as usize + 2, Way::Symbols)[..] else {
            panic!("one frame")
        };
        assert_eq!(frame.file(), None);
        if cfg!(native) {
            assert!(frame.function().unwrap().ends_with("resolve::look_up"), "{frame:?}");
            assert_ne!(frame.module(), NO_MODULE);
        }
    }

    #[test]
    fn the_same_address_is_named_once() {
        let address = look_up as *const () as usize + 1;
        assert!(Arc::ptr_eq(&logical(address), &logical(address)));
    }
}
