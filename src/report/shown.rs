//! Which frames of a stack a report shows, and how many lines each row gets. Pure, no heap.

use super::record::{Owner, ReportFrame};

/// One line of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub frame: &'a ReportFrame<'a>,
    /// The dependency's function that this frame called into.
    pub via: Option<&'a ReportFrame<'a>>,
}

/// The lines of a stack, most recent first. In `full`, every frame. Else the user's own frames, each with the
/// dependency's function that it called; where none is theirs, the dependencies'; where there are only the
/// allocator's and std's, those: a report never lacks a place.
pub(super) fn lines<'a>(frames: &'a [ReportFrame<'a>], full: bool) -> impl Iterator<Item = Line<'a>> + Clone {
    let has = |owner| frames.iter().any(|frame| frame.owner == owner);
    let leading = [Owner::User, Owner::Dependency].into_iter().find(|owner| !full && has(*owner));
    let mut called: Option<&ReportFrame<'_>> = None;
    frames.iter().filter_map(move |frame| {
        if full || leading.is_none() {
            return Some(Line { frame, via: None });
        }
        if leading == Some(frame.owner) {
            return Some(Line { frame, via: called.take() });
        }
        if frame.owner == Owner::Dependency {
            called = Some(frame);
        }
        None
    })
}

/// How many lines each stack of a report may have, given how many it would like: one each, then one after the other
/// until `room` is used up.
pub(super) fn share(wanted: &[usize; STACKS], room: usize) -> [usize; STACKS] {
    let mut given = wanted.map(|wanted| wanted.min(1));
    let mut left = room.saturating_sub(given.iter().sum());
    loop {
        let before = left;
        for (given, wanted) in given.iter_mut().zip(wanted) {
            if left > 0 && *given < *wanted {
                *given = given.saturating_add(1);
                left = left.saturating_sub(1);
            }
        }
        if left == before {
            return given;
        }
    }
}

/// The most stacks of one report that share its lines; further ones get one line.
pub(super) const STACKS: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &'static str, owner: Owner) -> ReportFrame<'static> {
        ReportFrame { function, owner, ..ReportFrame::default() }
    }

    fn shown(frames: &[ReportFrame<'_>], full: bool) -> Vec<String> {
        let via = |line: &Line<'_>| line.via.map_or(String::new(), |via| format!(" via {}", via.function));
        lines(frames, full).map(|line| format!("{}{}", line.frame.function, via(&line))).collect()
    }

    #[test]
    fn the_user_s_frames_lead_with_what_they_called_beside_them() {
        let frames = [
            frame("alloc", Owner::Plumbing),
            frame("dep::inner", Owner::Dependency),
            frame("dep::outer", Owner::Dependency),
            frame("mine", Owner::User),
            frame("std::call", Owner::Plumbing),
            frame("mine::callback", Owner::User),
            frame("dep::run", Owner::Dependency),
            frame("main", Owner::User),
            frame("dep::entry", Owner::Dependency),
        ];
        assert_eq!(shown(&frames, false), ["mine via dep::outer", "mine::callback", "main via dep::run"]);
        assert_eq!(shown(&frames, true).len(), 9);
    }

    #[test]
    fn without_a_frame_of_the_user_s_there_is_still_a_place() {
        let dependency = [frame("alloc", Owner::Plumbing), frame("dep", Owner::Dependency)];
        assert_eq!(shown(&dependency, false), ["dep"]);
        let plumbing = [frame("alloc", Owner::Plumbing), frame("std", Owner::Plumbing)];
        assert_eq!(shown(&plumbing, false), ["alloc", "std"]);
    }

    #[test]
    fn lines_are_shared_in_turn_and_every_stack_gets_one() {
        assert_eq!(share(&[9, 9, 9, 0, 0, 0], 8), [3, 3, 2, 0, 0, 0]);
        assert_eq!(share(&[1, 9, 2, 0, 0, 0], 8), [1, 5, 2, 0, 0, 0]);
        assert_eq!(share(&[2, 2, 0, 0, 0, 0], 8), [2, 2, 0, 0, 0, 0]);
        assert_eq!(share(&[5, 5, 5, 5, 0, 0], 0), [1, 1, 1, 1, 0, 0]);
    }
}
