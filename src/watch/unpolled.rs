//! A watched future that is dropped without ever having been polled: facts at its drop, the judgement once names are known.

use std::panic::Location;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::heap::{self, Named};
use super::warning::{Kind, Row, Warning};
use super::{reporter, switch, trial};

/// How often async debug was switched off: a future of before isn't judged, since its polls meanwhile weren't seen.
static SWITCHED_OFF: AtomicU32 = AtomicU32::new(0);

/// Async debug goes off.
pub(crate) fn switched_off() {
    SWITCHED_OFF.fetch_add(1, Relaxed);
}

/// What a watched future keeps until its first poll; nothing where async debug was off when it was made.
#[derive(Debug, Default)]
pub(super) struct Unpolled(Option<Box<Facts>>);

/// A heap block of the future's own: its trace is the place where the future was made.
#[derive(Debug)]
struct Facts {
    made: &'static Location<'static>,
    name: &'static str,
    switched_off: u32,
}

impl Unpolled {
    /// For a future of this type.
    pub(super) fn new(made: &'static Location<'static>, name: &'static str) -> Self {
        Self(Some(Box::new(Facts { made, name, switched_off: SWITCHED_OFF.load(Relaxed) })))
    }

    /// It is polled, or somebody else answers for it.
    #[inline]
    pub(super) fn settle(&mut self) {
        if self.0.is_some() {
            self.0 = None;
        }
    }
}

impl Drop for Unpolled {
    #[inline]
    fn drop(&mut self) {
        if let Some(facts) = self.0.take() {
            // An owner dropped by a panic didn't forget anything: the panic is the news.
            if switch::on() && facts.switched_off == SWITCHED_OFF.load(Relaxed) && !std::thread::panicking() {
                dropped(&facts);
            }
        }
    }
}

#[cold]
#[inline(never)]
fn dropped(facts: &Facts) {
    let created = heap::trace_of(std::ptr::from_ref(facts) as usize);
    let _ours = heap::ours();
    let (made, name, thread) = (facts.made, facts.name, heap::this_thread());
    let (stack, test) = (heap::stack_here(), trial::here());
    reporter::later(Box::new(move || {
        is_forgotten(&heap::names(&stack)).then(|| words(made, name, created, stack, thread).of_test(test))
    }));
}

/// Whether the program itself let go of the future, as the names of the dropping stack tell, most recent first. Not where its
/// owner was cancelled (an aborted task, a runtime's end, a future that lost a `select!`), nor where a combinator or another crate
/// held it (the branches of a `select!` are a tuple; an executor, a `FuturesUnordered`), nor where the names can't tell.
fn is_forgotten(stack: &[Named]) -> bool {
    let mut seen = false;
    for named in stack {
        let Some(function) = named.function.as_deref() else { return false };
        if let Some(at) = function.find("drop_in_place<") {
            let held = function.get(at + "drop_in_place<".len()..).unwrap_or_default();
            let outer = held.split('<').next().unwrap_or(held);
            if held.starts_with("birthmark::watch::wrapped::Watched<") {
                if seen {
                    return false; // watched twice: the outer one is told
                }
                seen = true;
            } else if outer.starts_with('(')
                || outer.contains("{async")
                || outer.contains("{{closure}}")
                || outer.contains("{closure")
                || outer.starts_with("tokio::")
                || outer.starts_with("futures")
            {
                return false;
            }
        } else if function.contains("tokio::") || named.package.is_some() {
            return false;
        } else if named.user {
            return seen;
        }
    }
    false
}

fn words(
    made: &Location<'_>,
    name: &str,
    created: Option<Vec<usize>>,
    dropped: Vec<usize>,
    thread: String,
) -> Warning {
    let mut name = name;
    while let Some(outer) = name.strip_suffix("::{{closure}}") {
        name = outer;
    }
    let created = match created {
        Some(stack) => Row::stack("created", stack),
        None => Row::place("created", made),
    };
    let rows = vec![
        created,
        Row::stack("dropped", dropped).noted(thread),
        Row::words("help", "a future does nothing until it is awaited: add `.await`, or spawn it".into()),
    ];
    Warning::new(Kind::NeverAwaited, format!("future `{name}` was dropped and had never been polled"), rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(functions: &[&str]) -> Vec<Named> {
        functions.iter().map(|f| Named::called(f)).collect()
    }

    fn forgotten(functions: &[&str]) -> bool {
        is_forgotten(&stack(functions))
    }

    const WATCHED: &str =
        "core::ptr::drop_in_place<birthmark::watch::wrapped::Watched<app::work::{async_fn_env#0}>>";

    #[test]
    fn a_future_that_the_program_lets_go_of_is_forgotten() {
        assert!(forgotten(&[WATCHED, "app::main"]));
        assert!(forgotten(&[WATCHED, "core::mem::drop", "app::main"]));
        assert!(forgotten(&[WATCHED, "core::ptr::drop_in_place<app::Holder>", "app::main"]));
    }

    #[test]
    fn a_cancelled_owner_a_combinator_and_names_that_cannot_tell_are_silent() {
        for held in ["app::f::{async_fn_env#0}", "(u8, u8)", "tokio::time::Timeout<u8>"] {
            assert!(
                !forgotten(&[WATCHED, &format!("core::ptr::drop_in_place<{held}>"), "app::main"]),
                "{held}"
            );
        }
        assert!(!forgotten(&[WATCHED, "tokio::runtime::task::harness::cancel_task", "app::main"]));
        let mut cancelled = stack(&[WATCHED, "async_task::raw::RawTask<F,T,S,M>::drop_future", "app::main"]);
        cancelled[1].user = true;
        cancelled[1].package = Some("async-task".into());
        assert!(!is_forgotten(&cancelled));
        assert!(!forgotten(&["app::main"]));
        assert!(!forgotten(&[]));
    }
}
