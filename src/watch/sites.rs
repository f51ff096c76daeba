//! Where warnings come from, so that one site's are told once: by the places that lead their stacks.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use super::verdict::{Case, Coming, Verdict, verdict};
use super::warning::Warning;
use crate::config::settings;
use crate::report::record::{self, Report};
use crate::report::repeats::{self, Told};

/// Stacks whose site is remembered, so that a repetition needs no names.
const MOST: usize = 4096;

/// What a process knows of sites.
pub(super) struct Sites {
    known: Mutex<Known>,
    told: &'static Told,
}

#[derive(Default)]
struct Known {
    /// Site by the addresses of a warning's stacks.
    by_stacks: HashMap<u64, u64>,
    /// Cases whose beginning wasn't told and that aren't over.
    untold: HashSet<u64>,
}

impl Sites {
    /// Without memory of the heap's yet. What was told is counted in `told`.
    pub(super) fn new(told: &'static Told) -> Self {
        Self { known: Mutex::default(), told }
    }

    fn with<R>(&self, act: impl FnOnce(&mut Known) -> R) -> R {
        act(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The beginning of a case isn't told: its end won't be.
    pub(super) fn untold(&self, case: u64) {
        self.with(|known| known.untold.insert(case));
    }

    /// What becomes of a warning: its report, where it is told. `name` makes the report, which takes a while: a repetition
    /// of the very same stacks needs none.
    pub(super) fn judge(&self, warning: &Warning, name: &dyn Fn() -> Report) -> Option<Report> {
        let coming = Coming {
            level: warning.kind.level(),
            least: settings().report.level,
            before: 0,
            beginning_untold: match warning.case {
                Case::Ends(case) => self.with(|known| known.untold.remove(&case)),
                Case::Whole | Case::Begins(_) => false,
            },
            ends: matches!(warning.case, Case::Ends(_)),
            every: warning.every,
        };
        if coming.ends {
            return (verdict(&coming) == Verdict::Tell).then(name);
        }
        let stacks = stacks_key(warning);
        let mut report = None;
        let key = match self.with(|known| known.by_stacks.get(&stacks).copied()) {
            Some(key) => key,
            None => {
                let made = name();
                let key = repeats::key_of(&site(&made, warning));
                report = Some(made);
                self.with(|known| {
                    if known.by_stacks.len() < MOST {
                        known.by_stacks.insert(stacks, key);
                    }
                });
                key
            }
        };
        let coming = Coming { before: self.told.count(key), ..coming };
        let verdict = verdict(&coming);
        // The first, and what is only counted after it; not what is told again because each was asked for.
        if verdict == Verdict::Count || verdict == Verdict::Tell && coming.before == 0 && !coming.every {
            let site = report.as_ref().map(|report| site(report, warning));
            self.told.first(key, &site.unwrap_or_default());
        }
        if verdict == Verdict::Tell {
            return Some(report.unwrap_or_else(name));
        }
        if let Case::Begins(case) = warning.case {
            self.untold(case);
        }
        None
    }
}

/// Kind, addresses of all stacks, and places given in words.
fn stacks_key(warning: &Warning) -> u64 {
    let rows = warning.rows.iter().flat_map(|row| {
        let words = if row.is_place { row.words.as_deref().unwrap_or("") } else { "" };
        let ends = [u64::MAX, row.stack.len() as u64];
        let stack = row.stack.iter().map(|address| *address as u64);
        words.bytes().map(u64::from).chain(ends).chain(stack)
    });
    repeats::key([warning.kind as u64].into_iter().chain(rows))
}

/// The site in words: `resource-warning: allocated src/a.rs:3, dropped src/b.rs:5`.
fn site(report: &Report, warning: &Warning) -> String {
    let mut text = String::from(warning.kind.name());
    let mut separator = ": ";
    for row in &warning.rows {
        let place = if row.is_place { row.words.clone() } else { lead(report, row.label) };
        if let Some(place) = place {
            text += &format!("{separator}{} {place}", row.label);
            separator = ", ";
        }
    }
    text
}

/// Where the stack under this label leads.
fn lead(report: &Report, label: &str) -> Option<String> {
    let traceback = report.rows.iter().find_map(|row| match row {
        record::Row::Stack(stack) if stack.label == label => Some(&stack.traceback),
        _ => None,
    })?;
    traceback.all_frames().first()?;
    let lead = traceback.lead();
    Some(match lead.function() {
        // Without line tables the place is an offset, which differs within a function.
        Some(function) if lead.file().is_none() => function.to_owned(),
        _ => lead.place(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::warning::{Kind, Row};
    use super::*;
    use crate::report::record::Stack;
    use crate::trace::Depth;
    use crate::trace::frame::{Frame, Owner, Traceback};

    fn sites() -> Sites {
        Sites::new(Box::leak(Box::new(Told::new())))
    }

    fn warning(kind: Kind, stack: usize) -> Warning {
        Warning::new(kind, "it is lost".into(), vec![Row::stack("dropped", vec![stack])])
    }

    /// Every stack leads to this line.
    fn named(warning: &Warning, line: u32) -> Report {
        let frame = Frame {
            function: Some("app::f".into()),
            file: Some("src/a.rs".into()),
            line,
            module: "app".into(),
            offset: 7,
            inlined: false,
            owner: Owner::User,
        };
        let traceback = Traceback::new(vec![frame], 1, Depth::Exactly(1));
        let stack = Stack {
            label: "dropped",
            before: String::new(),
            traceback,
            thread: String::new(),
            behind: String::new(),
        };
        Report::new(warning.kind.name(), warning.kind.level(), &*warning.sentence).stack(stack)
    }

    fn told(sites: &Sites, warning: &Warning, line: u32) -> bool {
        sites.judge(warning, &|| named(warning, line)).is_some()
    }

    #[test]
    fn of_one_site_the_first_is_told_and_of_another_kind_or_line_too() {
        let sites = sites();
        let lost = |stack| warning(Kind::ResourceWarning, stack);
        assert!(told(&sites, &lost(1), 1));
        assert!(!told(&sites, &lost(1), 1));
        assert!(!told(&sites, &lost(2), 1), "another way to the same line");
        assert!(told(&sites, &lost(3), 2));
        assert!(told(&sites, &warning(Kind::TaskError, 1), 1));
        let mut count = 0;
        sites.told.each(&mut |name, n| {
            if name == "resource-warning: dropped src/a.rs:1" {
                count = n;
            }
        });
        assert_eq!(count, 3);
    }

    #[test]
    fn a_repetition_of_the_very_same_stacks_needs_no_names() {
        let sites = sites();
        let lost = warning(Kind::ResourceWarning, 21);
        assert!(told(&sites, &lost, 11));
        assert!(sites.judge(&lost, &|| panic!("named again")).is_none());
    }

    #[test]
    fn an_end_follows_its_beginning() {
        let sites = sites();
        let slow = |case| Warning { case, ..warning(Kind::SlowCallback, 31) };
        let end = |n| Warning { rows: Vec::new(), ..slow(Case::Ends(n)) };
        assert!(told(&sites, &slow(Case::Begins(1)), 21));
        assert!(!told(&sites, &slow(Case::Begins(2)), 21));
        assert!(!told(&sites, &end(2), 21));
        assert!(told(&sites, &end(1), 21));
        sites.untold(3);
        assert!(!told(&sites, &end(3), 21));
    }

    #[test]
    fn where_each_was_asked_for_each_is_told_and_none_counted() {
        let sites = sites();
        let every = Warning { every: true, ..warning(Kind::SlowCallback, 41) };
        for _ in 0..3 {
            assert!(told(&sites, &every, 31));
        }
        sites.told.each(&mut |name, _| panic!("{name}"));
    }
}
