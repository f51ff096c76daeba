//! Which hooks of a builder were called, and what to say of those that weren't. Pure.

pub(super) const SPAWN: u8 = 1;
pub(super) const BEFORE: u8 = 2;
pub(super) const AFTER: u8 = 4;
pub(super) const TERMINATE: u8 = 8;
pub(super) const ALL: u8 = SPAWN | BEFORE | AFTER | TERMINATE;

/// What to change where some weren't called. `seen`: those that were; `lost`: those that weren't when they had to be.
pub(super) fn advice(seen: u8, lost: u8) -> Option<String> {
    let names = [
        (SPAWN, "on_task_spawn"),
        (BEFORE, "on_before_task_poll"),
        (AFTER, "on_after_task_poll"),
        (TERMINATE, "on_task_terminate"),
    ];
    if seen == 0 {
        return Some(
            "tokio's task hooks were claimed on a builder and none was ever called while async debug was on: either no task \
             ran there, or hooks that were set later replaced them; call those of `birthmark::tokio::hooks` in them"
                .to_owned(),
        );
    }
    let missing = names.iter().filter(|(hook, _)| (seen & !lost) & hook == 0);
    let missing: Vec<String> = missing.map(|(_, name)| format!("`{name}`")).collect();
    (!missing.is_empty()).then(|| {
        format!(
            "of the task hooks of a builder these aren't called: {}; one that is set later on the builder replaces ours: call \
             that of `birthmark::tokio::hooks` in it",
            missing.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_that_are_replaced_are_named() {
        assert_eq!(advice(ALL, 0), None);
        assert!(advice(0, 0).unwrap().contains("none was ever called"));
        let words = advice(ALL & !AFTER, 0).unwrap();
        assert!(words.contains("aren't called: `on_after_task_poll`;"), "{words}");
        let words = advice(ALL & !SPAWN, TERMINATE).unwrap();
        assert!(words.contains("`on_task_spawn`, `on_task_terminate`;"), "{words}");
    }
}
