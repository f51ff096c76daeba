//! Where warnings come from, so that one site's are told once: by the places that lead their stacks.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::errors::Errors;
use super::filter::{Place, Seen, sameness};
use super::verdict::{Case, Coming, Verdict, verdict};
use super::warning::{Row, Warning};
use super::warnings;
use crate::config::{Action, Level, settings};
use crate::report::record::{self, Report};
use crate::report::repeats::{self, Told};
use crate::trace::frame::{Frame, Traceback};

/// Stacks whose site is remembered, so that a repetition needs no names.
const MOST: usize = 4096;

/// What a process knows of sites.
pub(super) struct Sites {
    known: Mutex<Known>,
    told: &'static Told,
    /// What filters made errors.
    pub(super) errors: Errors,
}

#[derive(Default)]
struct Known {
    /// By the addresses of a warning's stacks.
    by_stacks: HashMap<u64, Arc<Site>>,
    /// Cases whose beginning wasn't told and that aren't over.
    untold: HashSet<u64>,
    /// Of these, those whose end knows whether they are told.
    #[cfg(all(feature = "tokio", tokio_unstable))]
    unsure: HashSet<u64>,
}

/// Where a warning comes from.
struct Site {
    words: String,
    places: Vec<Place>,
}

impl Sites {
    /// Without memory of the heap's yet. What was told is counted in `told`.
    pub(super) fn new(told: &'static Told) -> Self {
        Self { known: Mutex::default(), told, errors: Errors::default() }
    }

    fn with<R>(&self, act: impl FnOnce(&mut Known) -> R) -> R {
        act(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The beginning of a case isn't told: its end won't be.
    pub(super) fn untold(&self, case: u64) {
        self.with(|known| known.untold.insert(case));
    }

    /// The same where nothing told for sure that it is one.
    #[cfg(all(feature = "tokio", tokio_unstable))]
    pub(super) fn unsure(&self, case: u64) {
        self.untold(case);
        self.with(|known| known.unsure.insert(case));
    }

    /// Whether that was so, which is then forgotten.
    #[cfg(all(feature = "tokio", tokio_unstable))]
    pub(super) fn was_unsure(&self, case: u64) -> bool {
        self.with(|known| known.unsure.remove(&case) && known.untold.remove(&case))
    }

    /// What becomes of a warning, and its report, where it is told. `filters` says what they make of it. `name` makes the report,
    /// which takes a while: a repetition of the very same stacks needs none.
    pub(super) fn judge(
        &self,
        warning: &Warning,
        filters: &dyn Fn(&Seen<'_>) -> Action,
        name: &dyn Fn() -> Report,
    ) -> (Verdict, Option<Report>) {
        let coming = Coming {
            level: warning.kind.level(),
            action: Action::Default,
            least: settings().report.level,
            before: 0,
            beginning_untold: match warning.case {
                Case::Ends(case) => self.with(|known| known.untold.remove(&case)),
                Case::GoesOn(case) => self.with(|known| known.untold.contains(&case)),
                Case::Whole | Case::Begins(_) => false,
            },
            follows: matches!(warning.case, Case::GoesOn(_) | Case::Ends(_)),
            every: warning.every,
        };
        if coming.follows {
            let verdict = verdict(&coming);
            return (verdict, (verdict == Verdict::Tell).then(name));
        }
        let stacks = stacks_key(warning);
        let mut report = None;
        let site = match self.with(|known| known.by_stacks.get(&stacks).cloned()) {
            Some(site) => site,
            None => {
                let made = name();
                let new = Arc::new(Site { words: site(&made, warning), places: places(&made, warning) });
                report = Some(made);
                self.with(|known| {
                    if known.by_stacks.len() < MOST {
                        known.by_stacks.insert(stacks, new.clone());
                    }
                });
                new
            }
        };
        let seen = Seen { kind: warning.kind, sentence: &warning.sentence, places: &site.places };
        let action = match filters(&seen) {
            // What goes as it should is no error, and each is told.
            action if coming.level > Level::Warning && action != Action::Ignore => Action::Default,
            action => action,
        };
        let same = sameness(action, &seen, &site.words);
        let key = repeats::key_of(&same);
        let coming = Coming { action, before: self.told.count(key), ..coming };
        let verdict = verdict(&coming);
        // The first, and what is only counted after it; not what is told again because each was asked for.
        if verdict == Verdict::Count || verdict == Verdict::Tell && coming.before == 0 && !coming.each() {
            self.told.first(key, &same);
        }
        let report = || {
            let mut report = report.unwrap_or_else(name);
            if action == Action::Error {
                report.level = Level::Error;
            }
            report
        };
        match (verdict, action) {
            (Verdict::Tell, Action::Error) => {
                let report = report();
                self.errors.add(key, || warnings::Warning::new(warning.kind, report.clone()));
                return (verdict, Some(report));
            }
            (Verdict::Tell, _) => return (verdict, Some(report())),
            (Verdict::Count, Action::Error) => {
                self.errors.add(key, || warnings::Warning::new(warning.kind, report()));
            }
            _ => {}
        }
        if let Case::Begins(case) = warning.case {
            self.untold(case);
        }
        (verdict, None)
    }
}

/// What filters make of a warning whose report this is.
pub(super) fn action(report: &Report, warning: &Warning, filters: &dyn Fn(&Seen<'_>) -> Action) -> Action {
    let places = places(report, warning);
    filters(&Seen { kind: warning.kind, sentence: &warning.sentence, places: &places })
}

/// Kind, addresses of all stacks, and places given in words.
fn stacks_key(warning: &Warning) -> u64 {
    let rows = warning.rows.iter().filter(|row| row.is_site()).flat_map(|row| {
        let words = row.place.as_deref().unwrap_or("");
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
    for (row, stack) in placed(report, warning) {
        if let Some(place) = row.place.clone().or_else(|| lead(stack?)) {
            text += &format!("{separator}{} {place}", row.label);
            separator = ", ";
        }
    }
    text
}

/// The rows of the site, each with its stack where it has one.
fn placed<'a>(
    report: &'a Report,
    warning: &'a Warning,
) -> impl Iterator<Item = (&'a Row, Option<&'a Traceback>)> {
    let stacks = report.rows.iter().filter_map(|row| match row {
        record::Row::Stack(stack) => Some(stack),
        _ => None,
    });
    let mut stacks = stacks.peekable();
    let rows = warning.rows.iter().map(move |row| {
        let own = if row.stack.is_empty() { None } else { stacks.next_if(|stack| stack.label == row.label) };
        (row, own.map(|stack| &stack.traceback))
    });
    rows.filter(|(row, _)| row.is_site())
}

/// Where a stack leads.
fn lead(traceback: &Traceback) -> Option<String> {
    traceback.all_frames().first()?;
    let lead = traceback.lead();
    Some(match lead.function() {
        // Without line tables the place is an offset, which differs within a function.
        Some(function) if lead.file().is_none() => function.to_owned(),
        _ => lead.place(),
    })
}

/// The site as filters see it.
fn places(report: &Report, warning: &Warning) -> Vec<Place> {
    let place = |(row, stack): (&Row, Option<&Traceback>)| {
        let is_origin = ["allocated", "spawned", "created", "watched", "made", "locked"].contains(&row.label);
        if let Some(place) = &row.place {
            let (_, line) = place.rsplit_once(':')?;
            return Some(Place { function: String::new(), line: line.parse().unwrap_or(0), is_origin });
        }
        let traceback = stack?;
        let lead = traceback.lead();
        let whole = path_of(traceback, lead).unwrap_or_default().to_owned();
        Some(Place { function: whole, line: lead.line(), is_origin })
    };
    placed(report, warning).filter_map(place).collect()
}

/// The path of the leading function. Under `line-tables-only` an inlined one is known by its last part alone: then that of
/// the function that it was inlined into.
fn path_of<'t>(traceback: &'t Traceback, lead: &'t Frame) -> Option<&'t str> {
    let mut frames = traceback.all_frames().iter().skip_while(|frame| !std::ptr::eq(*frame, lead));
    loop {
        let frame = frames.next()?;
        match frame.function() {
            Some(function) if function.contains("::") || !frame.is_inlined() => return Some(function),
            None if !frame.is_inlined() => return None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::warning::Kind;
    use super::*;
    use crate::report::record::Stack;
    use crate::trace::Depth;
    use crate::trace::frame::Owner;

    fn sites() -> Sites {
        Sites::new(Box::leak(Box::new(Told::new())))
    }

    fn warning(kind: Kind, stack: usize) -> Warning {
        Warning::new(kind, "it is lost".into(), vec![Row::stack("dropped", vec![stack])])
    }

    #[test]
    fn where_it_was_touched_last_makes_no_other_site() {
        let sites = sites();
        let touched = |stack| {
            let mut warning = warning(Kind::ResourceWarning, 1);
            warning.rows.insert(0, Row::stack(record::TOUCHED, vec![stack]));
            warning
        };
        assert!(told(&sites, &touched(5), 3));
        assert!(!told(&sites, &touched(6), 3));
        assert!(told(&sites, &warning(Kind::ResourceWarning, 2), 4));
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

    fn under(sites: &Sites, action: Action, warning: &Warning, line: u32) -> Option<Report> {
        sites.judge(warning, &|_| action, &|| named(warning, line)).1
    }

    fn told(sites: &Sites, warning: &Warning, line: u32) -> bool {
        under(sites, Action::Default, warning, line).is_some()
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
        assert!(sites.judge(&lost, &|_| Action::Default, &|| panic!("named again")).1.is_none());
    }

    #[test]
    fn an_end_follows_its_beginning() {
        let sites = sites();
        let slow = |case| Warning { case, ..warning(Kind::SlowCallback, 31) };
        let end = |n| Warning { rows: Vec::new(), ..slow(Case::Ends(n)) };
        let goes_on = |n| slow(Case::GoesOn(n));
        assert!(told(&sites, &slow(Case::Begins(1)), 21));
        assert!(!told(&sites, &slow(Case::Begins(2)), 21));
        assert!(!told(&sites, &goes_on(2), 21));
        assert!(!told(&sites, &goes_on(2), 21), "it is remembered until its end");
        assert!(told(&sites, &goes_on(1), 21));
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

    #[test]
    fn filters_see_the_place_that_leads_a_repetition_too() {
        let sites = sites();
        let lost = warning(Kind::ResourceWarning, 51);
        for _ in 0..2 {
            let place = Place { function: "app::f".into(), line: 41, is_origin: false };
            let filters = |seen: &Seen<'_>| {
                assert_eq!(seen.places, std::slice::from_ref(&place));
                Action::Ignore
            };
            assert!(sites.judge(&lost, &filters, &|| named(&lost, 41)).1.is_none());
        }
        sites.told.each(&mut |name, _| panic!("{name} was counted"));
    }

    #[test]
    fn once_is_once_for_all_sites_and_module_once_for_those_of_a_module() {
        for action in [Action::Once, Action::Module] {
            let sites = sites();
            assert!(under(&sites, action, &warning(Kind::ResourceWarning, 1), 1).is_some());
            assert!(under(&sites, action, &warning(Kind::ResourceWarning, 2), 2).is_none());
            assert!(under(&sites, action, &warning(Kind::TaskError, 2), 2).is_some());
        }
    }

    #[test]
    fn an_ignored_beginning_has_no_end() {
        let sites = sites();
        let slow = |case| Warning { case, ..warning(Kind::SlowCallback, 61) };
        assert!(under(&sites, Action::Ignore, &slow(Case::Begins(1)), 1).is_none());
        assert!(!told(&sites, &slow(Case::Ends(1)), 1));
    }

    #[test]
    fn an_error_is_told_once_and_waits_each_time_until_it_is_taken() {
        let sites = sites();
        let lost = warning(Kind::ResourceWarning, 71);
        let first = under(&sites, Action::Error, &lost, 1).unwrap();
        assert_eq!(first.level, Level::Error);
        assert!(under(&sites, Action::Error, &lost, 1).is_none());
        assert_eq!(sites.errors.take().0.len(), 1);
        assert!(under(&sites, Action::Error, &lost, 1).is_none());
        let again = sites.errors.take().0;
        assert_eq!((again.len(), again[0].level()), (1, Level::Error));
        assert!(!sites.errors.any());
    }
}
