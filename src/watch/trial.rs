//! Tests that run under the wrapper (`birthmark::tokio::test`): whose thread is it, and which warnings arose in each.
//!
//! A thread knows its test by a number in its slot, so the watchdog can ask for other threads too.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Relaxed},
};
use std::sync::{Arc, Mutex, PoisonError};

use super::heap;
use super::warnings::Warning;

/// So many warnings of a test are kept, the others are counted.
const MOST: usize = 32;

/// A test.
#[derive(Debug)]
pub(crate) struct Trial {
    pub number: u64,
    pub name: String,
    /// It runs under the wrapper, which ends it; else it only has a name.
    wrapped: bool,
    heard: Mutex<Heard>,
}

/// The warnings that arose in a test, but for those that were caught or ignored.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub kept: Vec<Warning>,
    pub more: usize,
}

static RUNNING: Mutex<Vec<Arc<Trial>>> = Mutex::new(Vec::new());
static NUMBERS: AtomicU64 = AtomicU64::new(1);

fn running<R>(act: impl FnOnce(&mut Vec<Arc<Trial>>) -> R) -> R {
    let _ours = heap::ours();
    act(&mut RUNNING.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A test begins.
#[cfg_attr(not(feature = "tokio"), allow(dead_code))]
pub(crate) fn begin(name: String) -> Arc<Trial> {
    add(name, true)
}

/// The number of the test that this thread belongs to under libtest, which names threads after tests: so that what arises on
/// other threads of its runtime can be told with its name. 0: none.
#[cfg(feature = "tokio")]
pub(crate) fn of_this_thread() -> u64 {
    let here = here();
    if here != 0 || !super::tally::is_test_binary() {
        return here;
    }
    match std::thread::current().name() {
        Some("main") | None => 0,
        Some(name) => {
            let number = add(name.to_owned(), false).number;
            set_here(number);
            number
        }
    }
}

fn add(name: String, wrapped: bool) -> Arc<Trial> {
    let _ours = heap::ours();
    let number = NUMBERS.fetch_add(1, AcqRel);
    let trial = Arc::new(Trial { number, name, wrapped, heard: Mutex::default() });
    running(|all| all.push(Arc::clone(&trial)));
    trial
}

impl Trial {
    /// It is over: what was heard.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    pub(crate) fn end(&self) -> Heard {
        running(|all| all.retain(|trial| trial.number != self.number));
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How many run under the wrapper.
#[cfg_attr(not(feature = "tokio"), allow(dead_code))]
pub(crate) fn count() -> usize {
    running(|all| all.iter().filter(|trial| trial.wrapped).count())
}

/// Whether there was any.
pub(crate) fn any() -> bool {
    NUMBERS.load(Relaxed) > 1
}

/// The name of a test that runs.
pub(crate) fn name(number: u64) -> Option<String> {
    if number == 0 {
        return None;
    }
    running(|all| Some(all.iter().find(|trial| trial.number == number)?.name.clone()))
}

/// A warning arose in a test.
pub(crate) fn hear(number: u64, warning: impl FnOnce() -> Warning) {
    if number == 0 {
        return;
    }
    let found = running(|all| all.iter().find(|trial| trial.number == number && trial.wrapped).cloned());
    let Some(trial) = found else { return };
    let mut heard = trial.heard.lock().unwrap_or_else(PoisonError::into_inner);
    if heard.kept.len() < MOST {
        heard.kept.push(warning());
    } else {
        heard.more += 1;
    }
}

/// The number of the test that this thread works for, 0: none.
#[inline]
pub(crate) fn here() -> u64 {
    let slot = heap::register_thread();
    if slot.shared { 0 } else { slot.poll.test() }
}

/// Says which test this thread works for.
#[cfg_attr(not(feature = "tokio"), allow(dead_code))]
pub(crate) fn set_here(number: u64) {
    let slot = heap::register_thread();
    if !slot.shared {
        slot.poll.set_test(number);
    }
}

#[cfg(test)]
mod tests {
    use super::super::warning::Kind;
    use super::*;
    use crate::config::Level;
    use crate::report::record::Report;

    #[test]
    fn a_test_hears_its_own_warnings_until_it_is_over() {
        let (one, other) = (begin("one".into()), begin("other".into()));
        let lost =
            || Warning::new(Kind::ResourceWarning, Report::new("resource-warning", Level::Warning, "lost"));
        hear(one.number, lost);
        hear(0, || panic!("nobody's"));
        assert_eq!(name(one.number).as_deref(), Some("one"));
        assert_eq!((one.end().kept.len(), other.end().kept.len()), (1, 0));
        hear(one.number, || panic!("it is over"));
        assert_eq!(name(one.number), None);
    }

    #[test]
    fn of_very_many_warnings_the_first_are_kept_and_the_others_counted() {
        let trial = begin("many".into());
        for _ in 0..40 {
            hear(trial.number, || {
                Warning::new(Kind::TaskError, Report::new("task-error", Level::Error, "lost"))
            });
        }
        let heard = trial.end();
        assert_eq!((heard.kept.len(), heard.more), (32, 8));
    }

    #[test]
    fn a_thread_says_which_test_it_works_for() {
        std::thread::spawn(|| {
            assert_eq!(here(), 0);
            set_here(77);
            assert_eq!(here(), 77);
            set_here(0);
        })
        .join()
        .unwrap();
    }
}
