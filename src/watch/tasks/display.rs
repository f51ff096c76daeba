//! The inventory in words: a table, one line a task or one line a group of tasks that were spawned at one place; and a tree.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use super::super::units::{words_of_bytes, words_of_time};
use super::record::{self, NotKnown, Task, TaskId, TaskKind, TaskState, Tasks, Tree, Wait};

/// More tasks than this are shown in groups.
const MANY: usize = 40;
/// The widest column.
const WIDEST: usize = 44;

fn name(task: &Task) -> String {
    match task.kind() {
        TaskKind::Root => "root".into(),
        // Not polled yet, so tokio's number isn't known.
        TaskKind::Task if matches!(task.id(), TaskId::Future(_)) => "task ?".into(),
        _ => task.id().to_string(),
    }
}

fn time(time: Option<Duration>) -> String {
    time.map_or_else(|| "?".into(), words_of_time)
}

fn bytes(bytes: Option<usize>) -> String {
    bytes.map_or_else(|| "?".into(), |n| words_of_bytes(i64::try_from(n).unwrap_or(i64::MAX)))
}

/// `5 tasks: 1 running, 4 idle`.
fn head(tasks: &Tasks) -> String {
    let n = tasks.len();
    let mut head = format!("{n} task{}", if n == 1 { "" } else { "s" });
    if n > 0 {
        head += &format!(": {}", states(tasks.iter()));
    }
    head
}

fn states<'t>(tasks: impl Iterator<Item = &'t Task> + Clone) -> String {
    let order = [
        TaskState::Running,
        TaskState::Scheduled,
        TaskState::Idle,
        TaskState::Waiting,
        TaskState::Complete,
        TaskState::Unknown,
    ];
    let counts = order.iter().filter_map(|state| {
        let n = tasks.clone().filter(|task| task.state() == *state).count();
        (n > 0).then(|| match state {
            TaskState::Unknown => format!("{n} in a state that isn't known"),
            state => format!("{n} {state}"),
        })
    });
    counts.collect::<Vec<_>>().join(", ")
}

/// Columns as wide as they need to be; the last one isn't filled up.
fn columns(f: &mut fmt::Formatter<'_>, rows: &[Vec<String>]) -> fmt::Result {
    let n = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.filter(|width| *width <= WIDEST).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..n).map(width).collect();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        write!(f, "\n  {}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// Where a task waits in few words: the innermost place, what is awaited there, and how many there are more.
fn waits(task: &Task) -> String {
    if matches!(task.state(), TaskState::Running | TaskState::Scheduled | TaskState::Complete) {
        return String::new();
    }
    if task.is_stranded() {
        return "nothing can wake it".into();
    }
    match sorted_waits(task).as_deref() {
        Ok([]) => String::new(),
        Ok([one]) => one.to_string(),
        Ok([one, more @ ..]) => format!("{one}, and {} more", more.len()),
        Err(_) => "?".into(),
    }
}

/// Bytes that are counted; of a part they are in its task's line.
fn counted(bytes: Result<u64, NotKnown>) -> String {
    match bytes {
        Ok(n) => words_of_bytes(i64::try_from(n).unwrap_or(i64::MAX)),
        Err(NotKnown::Part) => String::new(),
        Err(_) => "?".into(),
    }
}

/// Tasks that wait in the same places read alike, whichever branch of a `select!` was polled first.
fn sorted_waits(task: &Task) -> Result<Vec<Wait<'_>>, NotKnown> {
    let mut waits = task.waits()?;
    waits.sort_by_cached_key(Wait::to_string);
    Ok(waits)
}

fn is_counted(tasks: &Tasks) -> bool {
    tasks.iter().any(|task| task.held().is_ok())
}

fn row(task: &Task, is_counted: bool) -> Vec<String> {
    let mut row = vec![
        name(task),
        task.state().to_string(),
        time(task.age().ok()),
        task.polls().map_or_else(|_| "?".into(), |n| n.to_string()),
        time(task.busy().ok()),
    ];
    if is_counted {
        row.extend([counted(task.held()), counted(task.peak())]);
    }
    row.extend([
        bytes(task.bytes()),
        task.future().unwrap_or("?").to_owned(),
        task.place().unwrap_or_else(|| "?".into()),
        waits(task),
    ]);
    row
}

/// One line for the tasks of each future and place, the largest groups first.
fn groups(tasks: &Tasks, is_counted: bool) -> Vec<Vec<String>> {
    let mut groups: Vec<(Vec<&Task>, (String, String))> = Vec::new();
    let mut places: HashMap<(String, String), usize> = HashMap::new();
    for task in tasks {
        let key = (task.future().unwrap_or("?").to_owned(), task.place().unwrap_or_else(|| "?".into()));
        let at = *places.entry(key.clone()).or_insert(groups.len());
        if at == groups.len() {
            groups.push((Vec::new(), key));
        }
        groups[at].0.push(task);
    }
    groups.sort_by_key(|(tasks, _)| std::cmp::Reverse(tasks.len()));
    groups
        .into_iter()
        .map(|(tasks, (future, place))| {
            let oldest = tasks.iter().filter_map(|task| task.age().ok()).max();
            let cells: usize = tasks.iter().filter_map(|task| task.bytes()).sum();
            let held: u64 = tasks.iter().filter_map(|task| task.held().ok()).sum();
            let who = match tasks.as_slice() {
                [one] => name(one),
                many => many.len().to_string(),
            };
            let mut row = vec![who, states(tasks.iter().copied()), time(oldest)];
            if is_counted {
                row.push(counted(Ok(held)));
            }
            row.extend([bytes(Some(cells)), future, place]);
            row
        })
        .collect()
}

/// The titles of columns, those of what isn't counted left out.
fn titles(titles: &[&str], is_counted: bool) -> Vec<String> {
    let there = titles.iter().filter(|title| is_counted || !matches!(**title, "held" | "peak"));
    there.map(|title| (*title).to_owned()).collect()
}

/// Why some may be missing, and what the question marks are.
fn notes(f: &mut fmt::Formatter<'_>, tasks: &Tasks) -> fmt::Result {
    let waits_alone = |task: &Task| task.is_wrapped() && task.waits().err() == Some(NotKnown::NotWrapped);
    if tasks.iter().any(|task| !task.is_wrapped()) {
        let words = "age, polls, busy time and where it waits are known of tasks that `birthmark::tokio::spawn` or `.watched()` \
                     wraps";
        write!(f, "\n  help       {words}")?;
    } else if tasks.iter().any(waits_alone) {
        let words =
            "where a task waits is known of those that `birthmark::tokio::spawn` or `.watched()` wraps";
        write!(f, "\n  help       {words}")?;
    }
    if tasks.iter().any(|task| !task.is_wrapped() && task.spawned().is_none()) {
        write!(f, "\n  help       TRACEMALLOC=5 adds where each was spawned")?;
    }
    if tasks.iter().any(|task| matches!(task.waits(), Err(NotKnown::NotTraced))) {
        write!(f, "\n  help       TRACEMALLOC=5 adds where each waits")?;
    }
    if tasks.iter().any(|task| task.held() == Err(NotKnown::NotCounted)) {
        write!(f, "\n  help       async debug and TRACEMALLOC=5 together add what each holds")?;
    }
    for missing in tasks.missing() {
        write!(f, "\n  missing    {missing}")?;
    }
    Ok(())
}

impl fmt::Display for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&head(self))?;
        if !self.is_empty() {
            let is_counted = is_counted(self);
            let rows = if self.len() > MANY {
                let all = ["tasks", "state", "oldest", "held", "cells", "future", "spawned at"];
                let mut rows = vec![titles(&all, is_counted)];
                rows.extend(groups(self, is_counted));
                rows
            } else {
                let all = [
                    "task",
                    "state",
                    "age",
                    "polls",
                    "busy",
                    "held",
                    "peak",
                    "cell",
                    "future",
                    "spawned at",
                    "waits at",
                ];
                let mut rows = vec![titles(&all, is_counted)];
                rows.extend(self.iter().map(|task| row(task, is_counted)));
                rows
            };
            columns(f, &rows)?;
        }
        notes(f, self)
    }
}

/// Lines of a tree for where a task waits: for each place what it waits for, then the chain of `.await`s, innermost first.
fn chains(task: &Task, depth: usize) -> Vec<Vec<String>> {
    let indent = "  ".repeat(depth);
    if task.is_stranded() {
        return vec![vec![format!("{indent}nothing can wake it: nothing keeps its waker")]];
    }
    if !matches!(task.state(), TaskState::Idle | TaskState::Waiting) {
        return Vec::new();
    }
    let mut rows = Vec::new();
    for wait in sorted_waits(task).unwrap_or_default() {
        let awaited = wait.awaited().unwrap_or_else(|| "?".into());
        rows.push(vec![format!("{indent}waits for {awaited}")]);
        for frame in wait.awaits() {
            // Inlined ones may have no more of a name than `{async_fn#0}`.
            let name = frame.function().filter(|name| !name.starts_with('{'));
            let function = name.map_or("an async fn", record::closures_off);
            rows.push(vec![format!("{indent}  in {function}"), String::new(), frame.place()]);
        }
    }
    rows
}

impl fmt::Display for Tree<'_> {
    /// Each task below the one that spawned it, in the order in which they were listed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tasks = self.0;
        f.write_str(&head(tasks))?;
        let listed: HashSet<TaskId> = tasks.iter().map(Task::id).collect();
        let mut children: HashMap<Option<TaskId>, Vec<&Task>> = HashMap::new();
        for task in tasks {
            let parent = task.parent().ok().flatten();
            let below = parent.filter(|parent| listed.contains(parent) && *parent != task.id());
            children.entry(below).or_default().push(task);
        }
        let mut shown = HashSet::new();
        let mut rows = Vec::new();
        let mut stack: Vec<(&Task, usize)> = Vec::new();
        let below = |parent: Option<TaskId>, depth: usize, stack: &mut Vec<_>| {
            let all = children.get(&parent).into_iter().flatten();
            stack.extend(all.rev().map(|task| (*task, depth)));
        };
        below(None, 0, &mut stack);
        while let Some((task, depth)) = stack.pop() {
            if !shown.insert(task.id()) {
                continue;
            }
            let mut line = format!("{}{}", "  ".repeat(depth), name(task));
            if let Some(future) = task.future() {
                line += &format!("  {future}");
            }
            let mut place = task.place().unwrap_or_else(|| "?".into());
            if let Ok(Some(gone)) = task.parent()
                && !listed.contains(&gone)
            {
                place += &format!("  by {gone}, which has ended");
            }
            rows.push(vec![line, task.state().to_string(), place]);
            rows.extend(chains(task, depth + 1));
            below(Some(task.id()), depth + 1, &mut stack);
        }
        columns(f, &rows)?;
        notes(f, tasks)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::Location;

    use super::super::record::{Missing, Wrapped};
    use super::*;
    use crate::table::accounts::Sums;

    #[track_caller]
    fn task(id: TaskId, kind: TaskKind, parent: Option<TaskId>, name: &'static str) -> Task {
        let wrapped = Wrapped {
            name: Some(name),
            made: Location::caller(),
            age: Duration::from_millis(1240),
            polls: 3,
            busy: Duration::from_micros(20),
            parent,
            test: 0,
            waits: Ok(Vec::new()),
            stranded: false,
        };
        Task {
            id,
            kind,
            state: TaskState::Idle,
            wrapped: Some(wrapped),
            bytes: Some(2048),
            memory: Ok(Sums { held: 300, allocated: 9000, allocations: 12, peak: 4096 }),
            site: None,
            owner: 0,
        }
    }

    fn tree() -> Tasks {
        let (root, one, two) = (TaskId::Future(1), TaskId::Task(7), TaskId::Task(9));
        let all = vec![
            task(root, TaskKind::Root, None, "app::main"),
            task(one, TaskKind::Task, Some(root), "app::serve"),
            task(two, TaskKind::Task, Some(one), "app::conn"),
            task(TaskId::Task(11), TaskKind::Task, Some(TaskId::Task(3)), "app::orphan"),
        ];
        Tasks { all, missing: vec![Missing::TracingWasOff(2)] }
    }

    #[test]
    fn a_table_has_a_line_for_each_task_and_says_what_is_missing() {
        let text = tree().to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "4 tasks: 4 idle");
        assert!(
            lines[1].starts_with("  task     state  age    polls  busy   held   peak     cell     future"),
            "{text}"
        );
        assert!(
            lines[2].starts_with("  root     idle   1.2 s  3      20 us  300 B  4.0 KiB  2.0 KiB  app::main"),
            "{text}"
        );
        assert!(lines[3].starts_with("  task 7   idle"), "{text}");
        assert!(lines[3].contains("src/watch/tasks/display.rs:"), "{text}");
        assert!(lines.last().unwrap().contains("2 tasks aren't listed: tracing was off"), "{text}");
    }

    #[test]
    fn what_isnt_counted_has_no_column_but_the_switch_that_adds_it() {
        let mut tasks = tree();
        tasks.all.iter_mut().for_each(|task| task.memory = Err(NotKnown::NotCounted));
        let text = tasks.to_string();
        assert!(text.contains("  polls  busy   cell     future"), "{text}");
        assert!(text.contains("async debug and TRACEMALLOC=5 together add what each holds"), "{text}");
        // A part has no number of its own, and no question mark either.
        tasks.all[0].memory = Ok(Sums::default());
        tasks.all[1].memory = Err(NotKnown::Part);
        let text = tasks.to_string();
        assert!(text.lines().any(|line| line.starts_with("  task 7 ") && !line.contains('?')), "{text}");
    }

    #[test]
    fn a_tree_shows_each_task_below_the_one_that_spawned_it() {
        let text = tree().tree().to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("  root  app::main"), "{text}");
        assert!(lines[2].starts_with("    task 7  app::serve"), "{text}");
        assert!(lines[3].starts_with("      task 9  app::conn"), "{text}");
        assert!(lines[4].starts_with("  task 11  app::orphan"), "{text}");
        assert!(lines[4].ends_with("by task 3, which has ended"), "{text}");
    }

    #[test]
    fn many_tasks_of_one_place_share_a_line() {
        let all = (1..=60).map(|n| task(TaskId::Task(n), TaskKind::Task, None, "app::conn")).collect();
        let text = Tasks { all, missing: Vec::new() }.to_string();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(
            text.lines().nth(2).unwrap().contains("60     60 idle  1.2 s   17.6 KiB  120.0 KiB  app::conn"),
            "{text}"
        );
    }
}
