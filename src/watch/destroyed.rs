//! Tasks that were pending when their runtime closed: collected while it closes, told in one report, grouped by where they
//! were spawned.

use std::collections::HashMap;
use std::panic::Location;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::task::soon;
use super::tasks::spotted::LAST_CLOSING;
use super::tokio::future_type;
use super::warning::{Kind, Row, Warning};
use super::{heap, reporter, trial};
use crate::trace::frame::{Owner, Traceback};
use crate::trace::owner;

/// So many places are listed.
const LISTED: usize = 5;
/// So many ways to get there are kept, and named at most.
const KEPT: usize = 256;

/// A task that was lost.
#[derive(Clone, Debug)]
pub(crate) struct Lost {
    pub id: u64,
    /// The wrapped future's type.
    pub name: Option<&'static str>,
    pub made: Option<&'static Location<'static>>,
    /// By its trace, 0: not known.
    pub spawned: u32,
}

/// What has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    Runtime,
    LocalSet,
}

/// One runtime or `LocalSet` that closes.
#[derive(Debug)]
pub(crate) struct Closing {
    what: Closed,
    /// By which the tasks that it has found know it; 0: by none.
    number: u64,
    /// The test of the thread that closes it.
    test: u64,
    facts: Mutex<Facts>,
}

#[derive(Debug, Default)]
struct Facts {
    groups: HashMap<Way, Group>,
    /// Tasks on further ways than are kept.
    more: usize,
    /// Wrapped tasks of which it isn't known yet whether they are lost.
    open: usize,
    /// No more will be found.
    counted: bool,
    told: bool,
}

/// What tasks have in common that are the same to begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Way {
    name: Option<&'static str>,
    made: Option<&'static Location<'static>>,
    spawned: u32,
}

#[derive(Clone, Debug, Default)]
struct Group {
    /// Of the spawn, taken from the first of them: traces may be cleared before there are words.
    stack: Option<Vec<usize>>,
    count: usize,
    /// The least of their ids.
    first: u64,
}

/// Those that aren't told yet.
static OPEN: Mutex<Vec<Arc<Closing>>> = Mutex::new(Vec::new());

impl Facts {
    fn add(&mut self, lost: Lost) {
        self.add_with(lost, &heap::stack_of);
    }

    fn add_with(&mut self, lost: Lost, stack_of: &dyn Fn(u32) -> Option<Vec<usize>>) {
        let way = Way { name: lost.name, made: lost.made, spawned: lost.spawned };
        if self.groups.len() >= KEPT && !self.groups.contains_key(&way) {
            self.more += 1;
            return;
        }
        let fresh = || Group { stack: stack_of(way.spawned), count: 0, first: lost.id };
        let group = self.groups.entry(way).or_insert_with(fresh);
        group.count += 1;
        group.first = group.first.min(lost.id);
    }

    /// Everything is known: what there is to tell, once.
    fn take(&mut self) -> Option<(Vec<(Way, Group)>, usize)> {
        if std::mem::replace(&mut self.told, true) || self.groups.is_empty() {
            return None;
        }
        Some((self.groups.drain().collect(), self.more))
    }
}

impl Closing {
    pub(crate) fn new(what: Closed) -> Arc<Self> {
        let new = |number| Arc::new(Self { what, number, test: trial::here(), facts: Mutex::default() });
        let Some(mut open) = soon(&OPEN) else { return new(0) };
        let is_free = |number: &u64| open.iter().all(|other| other.number != *number);
        let closing = new((1..=LAST_CLOSING).find(is_free).unwrap_or(0));
        open.push(Arc::clone(&closing));
        closing
    }

    /// By which the tasks that it finds may be marked for [`settle`]; nothing where there are too many others.
    pub(crate) fn number(&self) -> Option<u64> {
        (self.number != 0).then_some(self.number)
    }

    /// The tasks that are lost for sure, and how many will be heard of by [`settle`]; told when none is open.
    pub(crate) fn counted(&self, lost: Vec<Lost>, open: usize) {
        let done = {
            let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
            lost.into_iter().for_each(|lost| facts.add(lost));
            // Those that were settled meanwhile have been subtracted.
            facts.open = facts.open.wrapping_add(open);
            facts.counted = true;
            facts.open == 0
        };
        if done {
            self.ends();
        } else {
            reporter::stand_by(); // it ends what is open at exit
        }
    }

    /// One of the open tasks is lost, or has ended.
    fn settle(&self, lost: Option<Lost>) {
        let done = {
            let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
            lost.into_iter().for_each(|lost| facts.add(lost));
            facts.open = facts.open.wrapping_sub(1);
            facts.counted && facts.open == 0
        };
        if done {
            self.ends();
        }
    }

    fn ends(&self) {
        self.tell();
        if let Some(mut all) = soon(&OPEN) {
            all.retain(|closing| !std::ptr::eq(&**closing, self));
        }
    }

    fn tell(&self) {
        let taken = self.facts.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((groups, more)) = taken {
            let (what, test) = (self.what, self.test);
            reporter::later(Box::new(move || {
                words(what, groups, more, &heap::traceback).map(|warning| warning.of_test(test))
            }));
        }
    }
}

/// A task that was found by the closing of this number is lost, or has ended.
pub(crate) fn settle(number: u64, lost: impl FnOnce() -> Option<Lost>) {
    let _ours = heap::ours();
    let find = |open: &Vec<Arc<Closing>>| open.iter().find(|closing| closing.number == number).cloned();
    if let Some(closing) = soon(&OPEN).and_then(|open| find(&open)) {
        closing.settle(lost());
    }
}

/// At exit: waits a moment for runtimes that are about to be closed, and tells what is known.
pub(crate) fn end() {
    let end = Instant::now() + Duration::from_millis(500);
    loop {
        let open = soon(&OPEN).map(|all| all.clone()).unwrap_or_default();
        if open.is_empty() {
            return;
        }
        if Instant::now() > end {
            open.iter().for_each(|closing| closing.tell());
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Tasks that were spawned in one place.
#[derive(Debug)]
struct Place {
    key: (String, String),
    count: usize,
    first: u64,
    name: Option<String>,
    stack: Option<Vec<usize>>,
    made: Option<&'static Location<'static>>,
}

/// The report; nothing where every task is a dependency's.
fn words(
    what: Closed,
    mut groups: Vec<(Way, Group)>,
    more: usize,
    names: &dyn Fn(&[usize]) -> Traceback,
) -> Option<Warning> {
    groups.sort_by_key(|(_, group)| group.first);
    let mut places: Vec<Place> = Vec::new();
    let mut dependencies: Vec<(String, usize)> = Vec::new();
    // Plain tasks of which nothing was kept.
    let mut nowhere: Option<Group> = None;
    for (way, group) in groups {
        let spawned = group.stack.as_deref().map(names);
        let (key, name, owner) = match (&spawned, way.made) {
            (Some(stack), _) => {
                let name = way.name.map(bare).or_else(|| type_of(stack));
                let owner = if way.made.is_some() { None } else { package(stack, name.as_deref()) };
                (lead(stack), name, owner)
            }
            (None, Some(made)) => {
                let owner = match owner::origin(made.file()).owner {
                    Owner::Dependency(package) => Some(package.to_string()),
                    _ => None,
                };
                (format!("{}:{}", made.file(), made.line()), way.name.map(bare), owner)
            }
            (None, None) => {
                let all = nowhere.get_or_insert(Group { first: group.first, ..Group::default() });
                all.count += group.count;
                continue;
            }
        };
        if let Some(owner) = owner {
            match dependencies.iter_mut().find(|(package, _)| *package == owner) {
                Some((_, count)) => *count += group.count,
                None => dependencies.push((owner, group.count)),
            }
            continue;
        }
        let key = (key, name.clone().unwrap_or_default());
        match places.iter_mut().find(|place| place.key == key) {
            Some(place) => place.count += group.count,
            None => {
                let Group { stack, count, first } = group;
                places.push(Place { key, count, first, name, stack, made: way.made });
            }
        }
    }
    if places.is_empty() && nowhere.is_none() {
        return None;
    }
    places.sort_by_key(|place| (std::cmp::Reverse(place.count), place.first));
    let theirs: usize = dependencies.iter().map(|(_, count)| count).sum();
    let own = places.iter().map(|place| place.count).sum::<usize>()
        + nowhere.as_ref().map_or(0, |g| g.count)
        + more;

    let mut rows = Vec::new();
    let rest: usize = places.iter().skip(LISTED).map(|place| place.count).sum::<usize>() + more;
    let mut is_untraced = nowhere.is_some();
    for place in places.into_iter().take(LISTED) {
        let who = who(place.count, place.first, place.name.as_deref());
        rows.push(match (place.stack, place.made) {
            (Some(stack), _) => Row { words: Some(format!("{who} in")), ..Row::stack("spawned", stack) },
            (None, Some(made)) => {
                is_untraced = true;
                let row = Row::place("spawned", made);
                Row { words: Some(format!("{who}  {}", row.words.unwrap_or_default())), ..row }
            }
            (None, None) => Row::default(), // `nowhere` has them
        });
    }
    if rest > 0 {
        rows.push(Row::words("others", format!("{}, spawned elsewhere", tasks(rest))));
    }
    if let Some(group) = nowhere {
        let who = who(group.count, group.first, None);
        rows.push(Row::words("spawned", format!("{who}, while nothing was traced")));
    }
    if theirs > 0 {
        let list: Vec<_> =
            dependencies.iter().take(3).map(|(package, n)| format!("{package} ({n})")).collect();
        let more = if dependencies.len() > 3 { ", .." } else { "" };
        rows.push(Row::words(
            "others",
            format!("{} of dependencies: {}{more}", tasks(theirs), list.join(", ")),
        ));
    }
    let them = if own == 1 { "it" } else { "them" };
    let may = if own == 1 { "a task that may be lost" } else { "tasks that may be lost" };
    let mut help =
        format!("await or abort {them} before that; mark {may}: `birthmark::watched(..).daemon()`");
    if is_untraced {
        let were = if own == 1 { "it was" } else { "they were" };
        help.push_str(&format!("; TRACEMALLOC=5 adds where {were} spawned"));
    }
    rows.push(Row::words("help", help));
    let (was, its) = if own == 1 { ("was", "its") } else { ("were", "their") };
    let closed = match what {
        Closed::Runtime => "runtime was shut down",
        Closed::LocalSet => "`LocalSet` was dropped",
    };
    Some(Warning::new(
        Kind::TaskDestroyed,
        format!("{} {was} still pending when {its} {closed}", tasks(own)),
        rows,
    ))
}

fn tasks(n: usize) -> String {
    format!("{n} task{}", if n == 1 { "" } else { "s" })
}

fn who(count: usize, first: u64, name: Option<&str>) -> String {
    let mut who = if count == 1 { format!("task {first}") } else { tasks(count) };
    if let Some(name) = name {
        who.push_str(&format!(" `{name}`"));
    }
    who
}

/// `app::work` of `app::work::{{closure}}`, and of what we wrap around it.
pub(super) fn bare(mut name: &str) -> String {
    for wrapper in ["birthmark::watch::tokio::fallible::Noted<", "birthmark::watch::wrapped::Watched<"] {
        name = name.strip_prefix(wrapper).and_then(|name| name.strip_suffix('>')).unwrap_or(name);
    }
    while let Some(outer) = name.strip_suffix("::{{closure}}") {
        name = outer;
    }
    name.to_owned()
}

fn type_of(stack: &Traceback) -> Option<String> {
    future_type(stack.all_frames().iter().filter_map(|frame| frame.function()))
}

fn lead(stack: &Traceback) -> String {
    match stack.lead().function() {
        // Without line tables the place is an offset, which differs within a function.
        Some(function) if stack.lead().file().is_none() => function.to_owned(),
        _ => stack.lead().place(),
    }
}

/// The dependency that spawned the task, unless the future itself is the user's (a `spawn` helper of some crate).
fn package(stack: &Traceback, name: Option<&str>) -> Option<String> {
    let Owner::Dependency(package) = stack.that_count().next()?.owner() else { return None };
    let root = |path: &str| {
        let path = path.trim_start_matches(['<', '&', '{']);
        path.split("::").next().unwrap_or(path).to_owned()
    };
    let lead = stack.lead();
    let is_users = *lead.owner() == Owner::User
        && name.zip(lead.function()).is_some_and(|(name, function)| root(name) == root(function));
    (!is_users).then(|| package.to_string())
}

/// The report of a future that must complete and was dropped before.
pub(crate) fn incomplete(
    name: &str,
    made: &'static Location<'static>,
    created: Option<Vec<usize>>,
    dropped: Vec<usize>,
    thread: String,
) -> Warning {
    let mut help = "a time-out, a lost `select!`, an abort or its runtime's end drops a future: let what must complete run in a task that is awaited".to_owned();
    let created = match created {
        Some(stack) => Row::stack("created", stack),
        None => {
            help.push_str("; TRACEMALLOC=5 adds who made it");
            Row::place("created", made)
        }
    };
    let rows = vec![created, Row::stack("dropped", dropped).noted(thread), Row::words("help", help)];
    let sentence = format!("future `{}` must complete and was dropped before it did", bare(name));
    Warning::new(Kind::TaskDestroyed, sentence, rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Depth;
    use crate::trace::frame::Frame;

    fn frame(function: &str, file: &str, line: u32, owner: Owner) -> Frame {
        Frame {
            function: Some(function.into()),
            file: Some(file.into()),
            line,
            module: "app".into(),
            offset: 7,
            inlined: false,
            owner,
        }
    }

    /// Stack `[n]`: below 100 the user's line `n`, else a dependency's that the user's line 1 called.
    fn names(stack: &[usize]) -> Traceback {
        let n = stack[0];
        let cell = format!("tokio::runtime::task::core::Cell<app::work{n}::{{async_fn_env#0}}, S>::new");
        let user = |line| frame("app::main", "src/main.rs", line, Owner::User);
        let frames = if n < 100 {
            vec![frame(&cell, "tokio/core.rs", 1, Owner::Plumbing), user(n as u32)]
        } else {
            let package = Owner::Dependency("hyper-1.0.0".into());
            vec![frame("hyper::spawn", "hyper/src/a.rs", 3, package), user(1)]
        };
        let n = frames.len() as u32;
        Traceback::new(frames, n, Depth::Exactly(n))
    }

    fn lost(id: u64, stack: usize) -> Lost {
        Lost { id, name: None, made: None, spawned: stack as u32 }
    }

    fn told(lost: Vec<Lost>) -> Option<Warning> {
        let mut facts = Facts::default();
        let stack_of = |n: u32| (n != 0).then(|| vec![n as usize]);
        lost.into_iter().for_each(|lost| facts.add_with(lost, &stack_of));
        let (groups, more) = facts.take()?;
        assert!(facts.take().is_none(), "told once");
        words(Closed::Runtime, groups, more, &names)
    }

    fn texts(warning: &Warning) -> Vec<String> {
        warning
            .rows
            .iter()
            .map(|row| format!("{}: {}", row.label, row.words.as_deref().unwrap_or("")))
            .collect()
    }

    #[test]
    fn tasks_are_grouped_by_where_they_were_spawned_the_most_first() {
        let w = told(vec![lost(7, 3), lost(8, 5), lost(9, 5)]).unwrap();
        assert_eq!(w.sentence, "3 tasks were still pending when their runtime was shut down");
        let texts = texts(&w);
        assert_eq!(texts[0], "spawned: 2 tasks `app::work5` in");
        assert_eq!(texts[1], "spawned: task 7 `app::work3` in");
        assert!(texts[2].starts_with("help: await or abort them before that; mark tasks that may be lost"));
        assert!(!texts[2].contains("TRACEMALLOC"));
    }

    #[test]
    fn tasks_of_dependencies_are_counted_beside_the_users_own_and_alone_they_are_silent() {
        let w = told(vec![lost(7, 3), lost(8, 100), lost(9, 101)]).unwrap();
        assert_eq!(w.sentence, "1 task was still pending when its runtime was shut down");
        assert_eq!(texts(&w)[1], "others: 2 tasks of dependencies: hyper-1.0.0 (2)");
        assert!(told(vec![lost(8, 100)]).is_none());
        assert!(told(Vec::new()).is_none());
    }

    #[test]
    fn a_task_spawned_while_nothing_was_traced_is_told_with_the_switch_that_adds_its_place() {
        let w = told(vec![lost(7, 0)]).unwrap();
        assert_eq!(texts(&w)[0], "spawned: task 7, while nothing was traced");
        assert!(texts(&w)[1].ends_with("TRACEMALLOC=5 adds where it was spawned"));
    }

    #[test]
    fn a_wrapped_task_has_its_place_and_type_without_tracing() {
        let made = Location::caller();
        let wrapped = |id| Lost { id, name: Some("app::work::{{closure}}"), made: Some(made), spawned: 0 };
        let w = told(vec![wrapped(7), wrapped(9)]).unwrap();
        assert_eq!(
            w.rows[0].words.as_deref(),
            Some(&*format!("2 tasks `app::work`  {}:{}", made.file(), made.line()))
        );
        assert_eq!(w.rows[0].place, Some(format!("{}:{}", made.file(), made.line())));
    }

    #[test]
    fn however_many_places_there_are_a_few_are_listed_and_the_others_counted() {
        let all = (1..=90).map(|n| lost(n, n as usize)).collect();
        let w = told(all).unwrap();
        assert_eq!(w.sentence, "90 tasks were still pending when their runtime was shut down");
        assert_eq!(w.rows.len(), LISTED + 2);
        assert_eq!(texts(&w)[LISTED], format!("others: {} tasks, spawned elsewhere", 90 - LISTED));
    }

    #[test]
    fn a_future_is_called_by_the_function_that_made_it() {
        assert_eq!(bare("app::work::{{closure}}::{{closure}}"), "app::work");
        assert_eq!(bare("birthmark::watch::wrapped::Watched<app::work::{{closure}}>"), "app::work");
        assert_eq!(bare("app::Future<u8>"), "app::Future<u8>");
    }

    #[test]
    fn a_wrapped_task_that_ends_meanwhile_is_not_lost() {
        let closing = Closing::new(Closed::Runtime);
        // One is settled before all are counted.
        closing.settle(None);
        {
            let facts = closing.facts.lock().unwrap();
            assert!(!facts.told && facts.open != 0);
        }
        closing.counted(Vec::new(), 2);
        assert!(!closing.facts.lock().unwrap().told);
        closing.settle(None);
        assert!(closing.facts.lock().unwrap().told);
    }
}
