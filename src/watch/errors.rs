//! The warnings that a filter made errors and that nobody has taken yet.

use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};
use std::sync::{Mutex, PoisonError};

use super::warnings::Warning;

/// So many are kept; the others are counted.
const MOST: usize = 64;

#[derive(Default)]
pub(super) struct Errors {
    pending: Mutex<Pending>,
    /// For the end of the process, where a lock may not be waited for.
    any: AtomicBool,
}

#[derive(Default)]
struct Pending {
    /// By their sites.
    kept: Vec<(u64, Warning)>,
    more: usize,
}

impl Errors {
    /// Notes an error of a site; of one that waits already, nothing.
    pub(super) fn add(&self, site: u64, warning: impl FnOnce() -> Warning) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.kept.iter().any(|(other, _)| *other == site) {
            return;
        }
        if pending.kept.len() < MOST {
            pending.kept.push((site, warning()));
        } else {
            pending.more += 1;
        }
        self.any.store(true, Release);
    }

    /// Takes them, and how many more there were.
    pub(super) fn take(&self) -> (Vec<Warning>, usize) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        self.any.store(false, Release);
        let Pending { kept, more } = std::mem::take(&mut *pending);
        (kept.into_iter().map(|(_, warning)| warning).collect(), more)
    }

    pub(super) fn any(&self) -> bool {
        self.any.load(Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::super::warning::Kind;
    use super::*;
    use crate::config::Level;
    use crate::report::record::Report;

    #[test]
    fn one_of_each_site_waits_until_it_is_taken_and_those_over_the_limit_are_counted() {
        let errors = Errors::default();
        let lost =
            || Warning::new(Kind::ResourceWarning, Report::new("resource-warning", Level::Error, "lost"));
        errors.add(1, lost);
        errors.add(1, || panic!("it waits already"));
        assert!(errors.any());
        assert_eq!((errors.take().0.len(), errors.any()), (1, false));
        for site in 0..66 {
            errors.add(site, lost);
        }
        let (kept, more) = errors.take();
        assert_eq!((kept.len(), more), (64, 2));
    }
}
