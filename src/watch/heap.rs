//! All that the runtime side asks of the heap side and of names: one small file, so that the two sides join here.

use std::time::Duration;

use crate::thread::Ours;
use crate::{mode, table, thread, trace};

/// Blocks that this thread makes while the mark lives are our own.
pub(crate) fn ours() -> Ours {
    Ours::enter()
}

/// Addresses of the stored stack of the live block that holds `address`.
pub(crate) fn trace_of(address: usize) -> Option<Vec<usize>> {
    let block = table::block_at(address)?;
    let id = block.trace?.0.get();
    if !trace::generation::control().holds(id) {
        return None;
    }
    let mut stack = vec![0; trace::intern::length(id)];
    trace::intern::copy(id, &mut stack)?;
    Some(stack)
}

/// The present stack's return addresses, most recent first. Ordinary code only.
pub(crate) fn stack_here() -> Vec<usize> {
    let mut stack = Vec::with_capacity(64);
    backtrace::trace(|frame| {
        stack.push(frame.ip() as usize);
        stack.len() < 512
    });
    stack
}

/// "thread main", "thread tokio-rt-worker, task 17".
pub(crate) fn this_thread() -> String {
    let thread = std::thread::current();
    let name = match thread.name() {
        Some(name) => format!("thread {name}"),
        None => format!("thread {}", thread_id()),
    };
    #[cfg(feature = "tokio")]
    if let Some(id) = ::tokio::task::try_id() {
        return format!("{name}, task {id}");
    }
    name
}

#[cfg(native)]
pub(crate) fn thread_id() -> i32 {
    crate::sys::thread_id()
}
#[cfg(not(native))]
pub(crate) fn thread_id() -> i32 {
    0
}

/// Counts what each thread allocates, which also gives each of them a slot, while `on`.
pub(crate) fn count_threads(on: bool) {
    if on {
        mode::set(mode::COUNT);
    } else {
        mode::clear(mode::COUNT);
    }
}

/// What the variables say of the runtime side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `BIRTHMARK_ASYNC_DEBUG`, or what dev mode makes of it; nothing where neither speaks.
    pub debug: Option<bool>,
    /// `slow=50ms`.
    pub slow: Option<Duration>,
    /// `coop=off`: tokio's budget isn't touched.
    pub coop_off: bool,
}

pub(crate) fn settings() -> Settings {
    let value = std::env::var("BIRTHMARK_ASYNC_DEBUG").unwrap_or_default();
    let mut words = value.split(',');
    let mut settings = Settings {
        debug: match words.next() {
            Some("1") => Some(true),
            Some("0") => Some(false),
            _ if std::env::var("BIRTHMARK_DEV").is_ok_and(|v| v == "1") => Some(true),
            _ => None,
        },
        ..Settings::default()
    };
    for word in words {
        match word.split_once('=') {
            Some(("slow", "0")) => settings.slow = Some(Duration::ZERO),
            Some(("slow", n)) => {
                settings.slow = n.strip_suffix("ms").and_then(|n| n.parse().ok()).map(Duration::from_millis);
            }
            Some(("coop", "off")) => settings.coop_off = true,
            _ => {}
        }
    }
    settings
}

/// Makes sure that the calling thread has a slot of its own where it can, also with no allocator of ours installed.
#[cfg(feature = "tokio")]
pub(crate) fn register_thread() -> &'static thread::Slot {
    static NOT_INSTALLED: std::sync::Once = std::sync::Once::new();
    if mode::mode() & mode::READY == 0 {
        NOT_INSTALLED.call_once(|| {
            #[cfg(native)]
            crate::sys::look_up_names();
            thread::make_key();
        });
    }
    thread::slot(crate::sys::line::line())
}

#[cfg(feature = "tokio")]
pub(crate) use thread::{ThreadInfo, each as threads, hold};

/// Visits each live block that is aligned to `align` or more: its first address.
#[cfg(feature = "tokio")]
pub(crate) fn aligned_blocks(align: usize, visit: &mut dyn FnMut(usize)) {
    table::live_blocks(&mut |block| {
        if block.align >= align {
            visit(block.start);
        }
    });
}

/// Copies from memory that may not be mapped; false where it isn't.
#[cfg(all(feature = "tokio", native))]
pub(crate) fn read_unsure(address: usize, bytes: &mut [u8]) -> bool {
    crate::sys::read_unsure(address, bytes)
}
#[cfg(all(feature = "tokio", not(native)))]
pub(crate) fn read_unsure(_address: usize, _bytes: &mut [u8]) -> bool {
    false
}

/// One function of a stack, as its names tell; inlined ones stand for themselves, innermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    pub function: Option<String>,
    pub file: Option<String>,
    pub line: u32,
    /// Not the plumbing's.
    pub user: bool,
    pub address: usize,
}

/// Names for return addresses. Ordinary code, on a thread of ours.
pub(crate) fn names(stack: &[usize]) -> Vec<Named> {
    let mut all = Vec::with_capacity(stack.len() * 2);
    for &address in stack {
        let before = all.len();
        backtrace::resolve(address.wrapping_sub(1) as *mut _, |symbol| {
            let function = symbol.name().map(|n| format!("{n:#}"));
            let file = symbol.filename().map(|f| f.to_string_lossy().into_owned());
            let user = function.as_deref().is_none_or(|f| is_users(f, file.as_deref()));
            all.push(Named { function, file, line: symbol.lineno().unwrap_or(0), user, address });
        });
        if all.len() == before {
            all.push(Named { address, ..Named::default() });
        }
    }
    all
}

/// Whether a function is the user's, by its demangled name.
fn is_users(function: &str, file: Option<&str>) -> bool {
    const PLUMBING: [&str; 8] = ["birthmark", "alloc", "core", "std", "hashbrown", "tokio", "test", "backtrace"];
    let path = function.trim_start_matches(['<', '&', '*', '(', '[', ' ']);
    let path = ["dyn ", "mut ", "const ", "impl "].iter().fold(path, |p, word| p.strip_prefix(word).unwrap_or(p));
    let Some((first, _)) = path.split_once("::") else {
        // C: the C library's own sources have relative paths, if any.
        return file.is_some_and(|f| f.starts_with('/')) && !path.starts_with("__") && path != "main";
    };
    // `<T as alloc::string::ToString>::to_string`: the trait's crate tells.
    let first = match first.split_once(" as ") {
        Some((_, of)) => of,
        None => first,
    };
    let first = first.trim_start_matches(['<', '&']);
    !PLUMBING.contains(&first) && !first.starts_with("__rust")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_plumbing_by_the_crate_it_is_defined_in() {
        for plumbing in [
            "alloc::vec::Vec<T,A>::push",
            "<alloc::vec::Vec<T> as core::iter::Extend<T>>::extend",
            "<T as alloc::string::ToString>::to_string",
            "<core::pin::Pin<P> as core::future::future::Future>::poll",
            "tokio::runtime::task::core::Cell<T,S>::new",
            "birthmark::watch::guard::lost",
            "std::rt::lang_start",
            "__rust_begin_short_backtrace",
            "<&T as core::fmt::Display>::fmt",
        ] {
            assert!(!is_users(plumbing, Some("/a.rs")), "{plumbing}");
        }
        for users in ["service::handle::{{closure}}", "<app::Log as core::ops::Drop>::drop", "corelike::run", "c_code"] {
            assert!(is_users(users, Some("/a.rs")), "{users}");
        }
        assert!(!is_users("start_thread", Some("./nptl/pthread_create.c")));
        assert!(!is_users("start_thread", None));
    }
}
