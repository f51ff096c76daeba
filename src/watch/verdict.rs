//! Whether a warning is told, or only counted: a pure function, the one place for it.

use crate::config::{Action, Level};

/// What a warning says of something that lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(feature = "tokio"), allow(dead_code))]
pub(crate) enum Case {
    /// All of it.
    Whole,
    /// It has begun, under this number.
    Begins(u64),
    /// It is over: the last that is told under this number.
    Ends(u64),
}

/// What is known of a warning besides its words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coming {
    pub level: Level,
    /// What its filters say.
    pub action: Action,
    /// The least level that is shown.
    pub least: Level,
    /// How often the same came before: by the action its kind from its site, with its words, or with them from its module.
    pub before: u32,
    /// It ends something whose beginning wasn't told.
    pub beginning_untold: bool,
    /// It ends something.
    pub ends: bool,
    /// Each was asked for.
    pub every: bool,
}

impl Coming {
    /// Each is told, and none counted.
    pub(crate) fn each(&self) -> bool {
        self.action == Action::Always || self.action == Action::Default && self.every
    }
}

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Tell,
    /// The same was told: counted, and the count told at exit.
    Count,
    /// Neither.
    Drop,
}

/// The judgement.
pub(crate) fn verdict(coming: &Coming) -> Verdict {
    // What is asked to be an error is one.
    let level = if coming.action == Action::Error { Level::Error } else { coming.level };
    if level > coming.least || coming.beginning_untold || coming.action == Action::Ignore {
        Verdict::Drop
    } else if coming.ends || coming.each() || coming.before == 0 {
        Verdict::Tell
    } else {
        Verdict::Count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Coming = Coming {
        level: Level::Warning,
        action: Action::Default,
        least: Level::Info,
        before: 0,
        beginning_untold: false,
        ends: false,
        every: false,
    };

    #[test]
    fn the_first_of_a_site_is_told_and_the_others_are_counted() {
        assert_eq!(verdict(&FIRST), Verdict::Tell);
        assert_eq!(verdict(&Coming { before: 1, ..FIRST }), Verdict::Count);
    }

    #[test]
    fn an_end_is_told_where_its_beginning_was() {
        let end = Coming { ends: true, before: 7, ..FIRST };
        assert_eq!(verdict(&end), Verdict::Tell);
        assert_eq!(verdict(&Coming { beginning_untold: true, ..end }), Verdict::Drop);
    }

    #[test]
    fn where_each_was_asked_for_each_is_told() {
        assert_eq!(verdict(&Coming { every: true, before: 7, ..FIRST }), Verdict::Tell);
    }

    #[test]
    fn once_module_and_error_are_told_first_and_then_counted_always_each_time_and_ignore_never() {
        use Verdict::{Count, Drop, Tell};
        for (action, first, again) in [
            (Action::Default, Tell, Count),
            (Action::Once, Tell, Count),
            (Action::Module, Tell, Count),
            (Action::Error, Tell, Count),
            (Action::Always, Tell, Tell),
            (Action::Ignore, Drop, Drop),
        ] {
            assert_eq!(verdict(&Coming { action, ..FIRST }), first, "{action:?}");
            assert_eq!(verdict(&Coming { action, before: 7, ..FIRST }), again, "{action:?}");
        }
    }

    #[test]
    fn a_filter_wins_over_each_and_an_error_over_the_level_that_is_shown() {
        let every = Coming { every: true, before: 7, ..FIRST };
        assert_eq!(verdict(&Coming { action: Action::Once, ..every }), Verdict::Count);
        let hidden = Coming { least: Level::Error, ..FIRST };
        assert_eq!(verdict(&Coming { action: Action::Always, ..hidden }), Verdict::Drop);
        assert_eq!(verdict(&Coming { action: Action::Error, ..hidden }), Verdict::Tell);
    }

    #[test]
    fn a_level_that_is_not_shown_is_not_counted_either() {
        for before in [0, 7] {
            let hidden = Coming { least: Level::Error, before, ..FIRST };
            assert_eq!(verdict(&hidden), Verdict::Drop);
            assert_eq!(verdict(&Coming { every: true, ..hidden }), Verdict::Drop);
        }
    }
}
