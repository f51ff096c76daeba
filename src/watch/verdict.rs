//! Whether a warning is told, or only counted: a pure function, the one place for it.

use crate::config::Level;

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
    /// The least level that is shown.
    pub least: Level,
    /// How often its kind came from its site before.
    pub before: u32,
    /// It ends something whose beginning wasn't told.
    pub beginning_untold: bool,
    /// It ends something.
    pub ends: bool,
    /// Each was asked for.
    pub every: bool,
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
    if coming.level > coming.least || coming.beginning_untold {
        Verdict::Drop
    } else if coming.ends || coming.every || coming.before == 0 {
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
    fn a_level_that_is_not_shown_is_not_counted_either() {
        for before in [0, 7] {
            let hidden = Coming { least: Level::Error, before, ..FIRST };
            assert_eq!(verdict(&hidden), Verdict::Drop);
            assert_eq!(verdict(&Coming { every: true, ..hidden }), Verdict::Drop);
        }
    }
}
