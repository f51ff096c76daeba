//! What a stuck poll holds up, as the names of its stack tell. Pure.

use super::super::heap::Named;

/// Who waits for the poll to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    /// A worker of a multi-threaded runtime.
    Worker,
    /// The thread of a `block_on`: the root future, and the tasks of a current-thread runtime.
    Root,
    /// Nobody: a `block_on` inside `block_in_place` or a blocking job.
    Nobody,
    /// The stack can't tell.
    Unknown,
}

/// What is held, and how many of the names lie inside the poll. `complete`: the stack reaches the thread's entry.
pub(crate) fn holds(stack: &[Named], complete: bool) -> (Holds, usize) {
    let mut root = None;
    for (n, named) in stack.iter().enumerate() {
        let Some(function) = named.function.as_deref() else { continue };
        let Some(at) = function.find("tokio::") else { continue };
        let function = function.get(at..).unwrap_or_default();
        if function.contains("multi_thread::worker::Context")
            || function.contains("multi_thread::worker::run")
        {
            return match root {
                // A `block_on` on a worker outside of `block_in_place` panics, so there is none between.
                None => (Holds::Worker, n),
                Some(_) => (Holds::Nobody, n),
            };
        }
        if function.contains("block_in_place") {
            return (Holds::Nobody, n);
        }
        if function.contains("runtime::blocking::")
            && (function.contains("::pool::") || function.contains("::task::"))
        {
            return (Holds::Nobody, n);
        }
        if function.contains("block_on") && root.is_none() {
            root = Some(n);
        }
    }
    match root {
        Some(n) if complete => (Holds::Root, n),
        _ => (Holds::Unknown, stack.len()),
    }
}

/// Whether a task is being polled or cancelled there: an idle worker waits in its driver instead, or wakes tasks from there.
pub(crate) fn polls_a_task(inside: &[Named]) -> bool {
    inside.iter().filter_map(|n| n.function.as_deref()).any(|function| {
        let Some((_, rest)) = function.split_once("tokio::runtime::task::") else { return false };
        let is_poll =
            rest.starts_with("raw::poll") || rest.starts_with("harness::poll_") || rest.contains(">::poll");
        is_poll || rest.contains("cancel_task") || rest.starts_with("raw::shutdown")
    })
}

/// Whether tasks are being dropped there that a runtime cancels at its end, and nothing of the program's is at work in it.
pub(crate) fn only_cancels(stack: &[Named]) -> bool {
    let is = |n: &Named| {
        let tokio = n.package.as_deref() == Some("tokio")
            || n.function.as_deref().is_some_and(|f| f.contains("tokio::"));
        // The first may have been inlined into the second, and have no name.
        let says = |f: &str| f.contains("cancel_task") || f.contains("task::raw::shutdown");
        tokio && n.function.as_deref().is_some_and(says)
    };
    let cancels = stack.iter().position(is);
    cancels.is_some_and(|n| !stack.iter().take(n).any(|named| named.user))
}

/// The `block_on` of another executor that the poll is in, by its crate's name: it holds the thread until its future ends.
pub(crate) fn foreign_block_on(inside: &[Named]) -> Option<&'static str> {
    const KNOWN: [(&str, &str); 7] = [
        ("futures_executor::", "futures::executor"),
        ("futures_lite::", "futures_lite::future"),
        ("pollster::", "pollster"),
        ("async_io::", "smol"),
        ("async_std::", "async_std::task"),
        ("async_global_executor::", "async_global_executor"),
        ("extreme::", "extreme"),
    ];
    inside.iter().find_map(|named| {
        // What it is generic over isn't its name.
        let function = named.function.as_deref()?.split(['<', '{']).next()?;
        let path = match function.trim_end_matches("::").strip_suffix("::block_on") {
            Some(path) => path.to_owned(),
            // With line tables alone an inlined one has a bare name.
            None if function == "block_on" => named.package.as_deref()?.replace('-', "_"),
            None => return None,
        };
        let (_, name) = KNOWN.iter().find(|(start, _)| format!("{path}::").starts_with(start))?;
        Some(*name)
    })
}

/// The user's function that the poll began with: what the future is called.
pub(crate) fn future_name(inside: &[Named]) -> Option<&str> {
    let name = inside.iter().rev().find(|n| n.user && n.function.is_some())?.function.as_deref()?;
    // With line tables alone an inlined future has a bare name (`{async_block#0}`): none at all says more.
    (!name.starts_with('{')).then(|| name.strip_suffix("::{{closure}}").unwrap_or(name))
}

/// The type of the spawned future, from the names of the stack that spawned it: tokio's cell is generic over it. Nothing in a build
/// whose names leave types out.
pub(crate) fn future_type(spawned: &[Named]) -> Option<String> {
    future_type_of(spawned.iter().filter_map(|n| n.function.as_deref()))
}

/// The same of functions.
pub(crate) fn future_type_of<'a>(mut functions: impl Iterator<Item = &'a str>) -> Option<String> {
    functions.find_map(|function| {
        let at = function.find("task::core::Cell<")? + "task::core::Cell<".len();
        let inside = function.get(at..)?;
        let mut depth = 0u32;
        let end = inside.char_indices().find_map(|(i, c)| {
            match c {
                '<' => depth += 1,
                '>' if depth > 0 => depth -= 1,
                ',' | '>' if depth == 0 => return Some(i),
                _ => {}
            }
            None
        })?;
        let name = inside.get(..end)?;
        let wrapped = name.strip_prefix("birthmark::watch::wrapped::Watched<");
        let name = wrapped.and_then(|name| name.strip_suffix('>')).unwrap_or(name);
        // `app::serve::{async_fn_env#0}`: the function's own name; what it is generic over says little.
        let name = name.split("::{async_fn_env#").next()?;
        let mut name = name.split("::{async_block_env#").next()?;
        // `app::serve::{async_fn#0}`, `app::serve::{{closure}}`: the body of that function.
        while let Some((outer, last)) = name.rsplit_once("::")
            && last.starts_with('{')
        {
            name = outer;
        }
        name.contains("::").then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(functions: &[&str]) -> Vec<Named> {
        functions.iter().map(|f| Named::called(f)).collect()
    }

    #[test]
    fn a_worker_that_drops_what_its_runtime_cancels_is_busy_only_in_what_the_program_does_there() {
        let cancel = "tokio::runtime::task::harness::cancel_task";
        let run = "tokio::runtime::scheduler::multi_thread::worker::run";
        assert!(only_cancels(&stack(&["tokio::runtime::task::core::Core<T,S>::set_stage", cancel, run])));
        assert!(!only_cancels(&stack(&["app::Connection::drop", cancel, run])));
        let inlined = "tokio::runtime::task::raw::shutdown";
        assert!(only_cancels(&stack(&["core::ptr::drop_in_place", inlined, run])));
        assert!(!only_cancels(&stack(&["app::Connection::drop", inlined, run])));
        assert!(!only_cancels(&stack(&["app::handle", "tokio::runtime::task::harness::poll_future", run])));
    }

    #[test]
    fn a_worker_that_wakes_a_task_from_its_driver_polls_none() {
        let waking = stack(&[
            "tokio::runtime::scheduler::multi_thread::worker::<impl tokio::runtime::scheduler::multi_thread::handle::Handle>::schedule_task::{{closure}}",
            "tokio::runtime::scheduler::multi_thread::handle::<impl tokio::runtime::task::Schedule for alloc::sync::Arc<tokio::runtime::scheduler::multi_thread::handle::Handle>>::schedule",
            "tokio::runtime::task::raw::schedule",
            "tokio::runtime::task::harness::<impl tokio::runtime::task::raw::RawTask>::wake_by_val",
            "tokio::runtime::task::waker::wake_by_val",
            "tokio::runtime::time::Handle::process_at_time",
            "tokio::runtime::scheduler::multi_thread::worker::Context::park_internal",
        ]);
        assert_eq!(holds(&waking, true), (Holds::Worker, 6));
        assert!(!polls_a_task(&waking));
        for poll in [
            "tokio::runtime::task::raw::poll",
            "tokio::runtime::task::raw::poll::<app::serve::{async_fn_env#0}, S>",
            "tokio::runtime::task::harness::poll_future::{{closure}}",
            "tokio::runtime::task::harness::Harness<T,S>::poll_inner",
            "<tokio::runtime::task::core::Core<T, S>>::poll",
            "tokio::runtime::task::harness::cancel_task",
            "tokio::runtime::task::raw::shutdown",
        ] {
            assert!(polls_a_task(&stack(&["app::serve", poll])), "{poll}");
        }
    }

    #[test]
    fn a_task_on_a_worker_holds_it_though_the_worker_is_itself_a_blocking_job() {
        let s = stack(&[
            "std::thread::sleep",
            "app::busy",
            "app::serve::{{closure}}",
            "tokio::runtime::task::core::Core<T,S>::poll",
            "tokio::runtime::scheduler::multi_thread::worker::Context::run_task",
            "tokio::runtime::scheduler::multi_thread::worker::run",
            "tokio::runtime::blocking::pool::Inner::run",
        ]);
        assert_eq!(holds(&s, true), (Holds::Worker, 4));
        assert_eq!(future_name(&s[..4]), Some("app::serve"));
        assert!(polls_a_task(&s[..4]));
        assert_eq!(future_name(&stack(&["app::busy"])), Some("app::busy"));
        let mut bare = stack(&["{async_fn#0}"]);
        bare[0].user = true;
        assert_eq!(future_name(&bare), None);
    }

    #[test]
    fn a_block_on_inside_block_in_place_or_a_blocking_job_holds_nobody() {
        let inside = ["app::busy", "tokio::runtime::park::CachedParkThread::block_on"];
        for around in [
            vec![
                "tokio::task::blocking::block_in_place",
                "tokio::runtime::scheduler::multi_thread::worker::run",
            ],
            vec!["tokio::runtime::blocking::task::BlockingTask<T>::poll"],
            vec!["tokio::runtime::blocking::pool::Inner::run"],
        ] {
            let s = stack(&inside.iter().chain(&around).copied().collect::<Vec<_>>());
            assert_eq!(holds(&s, true).0, Holds::Nobody, "{around:?}");
        }
    }

    #[test]
    fn another_executors_block_on_is_known_by_its_function_and_nothing_else_is() {
        let of = |f: &str| foreign_block_on(&stack(&["std::thread::park", f, "app::serve::{{closure}}"]));
        for (function, name) in [
            ("futures_executor::local_pool::block_on", "futures::executor"),
            ("futures_lite::future::block_on", "futures_lite::future"),
            ("pollster::block_on::<app::f::{async_fn_env#0}>", "pollster"),
            ("async_io::driver::block_on<(), app::f::{async_fn_env#0}>", "smol"),
            ("futures_executor::local_pool::block_on::{{closure}}", "futures::executor"),
        ] {
            assert_eq!(of(function), Some(name), "{function}");
        }
        for function in [
            "tokio::runtime::park::CachedParkThread::block_on",
            "app::block_on",
            "app::pollster::block_on",
            "app::f::<pollster::block_on>",
            "async_io::driver::main_loop",
        ] {
            assert_eq!(of(function), None, "{function}");
        }
    }

    #[test]
    fn an_inlined_block_on_with_a_bare_name_is_known_by_its_crate() {
        let of = |package: Option<&str>| {
            let function = Some("block_on<u8, app::f::{async_fn_env#0}>".into());
            foreign_block_on(&[Named { function, user: true, package: package.map(str::to_owned) }])
        };
        assert_eq!(of(Some("async-io")), Some("smol"));
        assert_eq!(of(Some("app")), None);
        assert_eq!(of(None), None);
    }

    #[test]
    fn a_futures_type_is_read_from_the_stack_that_spawned_it() {
        let of = |f: &str| future_type(&stack(&["alloc::alloc::alloc", f]));
        let cell =
            |t: &str| of(&format!("new<tokio::runtime::task::core::Cell<{t}, alloc::sync::Arc<X, Y>>>"));
        assert_eq!(cell("app::Server::serve::{async_fn_env#0}"), Some("app::Server::serve".into()));
        assert_eq!(cell("app::serve::{async_fn_env#0}<u8, (u8, u8)>"), Some("app::serve".into()));
        assert_eq!(
            cell("app::Mine<alloc::vec::Vec<u8>, u8>"),
            Some("app::Mine<alloc::vec::Vec<u8>, u8>".into())
        );
        assert_eq!(cell("app::serve::{async_fn#0}::{async_block_env#17}"), Some("app::serve".into()));
        assert_eq!(
            cell("birthmark::watch::wrapped::Watched<app::serve::{async_fn_env#0}>"),
            Some("app::serve".into())
        );
        assert_eq!(cell("birthmark::watch::wrapped::Watched<app::Mine<u8>>"), Some("app::Mine<u8>".into()));
        assert_eq!(of("tokio::runtime::task::core::Cell<T,S>::new"), None);
        assert_eq!(future_type(&[]), None);
    }

    #[test]
    fn a_root_future_is_told_only_from_a_whole_stack() {
        let s = stack(&["app::busy", "tokio::runtime::park::CachedParkThread::block_on", "app::main"]);
        assert_eq!(holds(&s, true), (Holds::Root, 1));
        assert_eq!(holds(&s, false).0, Holds::Unknown);
        assert_eq!(holds(&stack(&["app::busy"]), true).0, Holds::Unknown);
    }
}
