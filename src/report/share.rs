//! How the lines of a report are shared among its stacks. Pure.

/// How many lines each stack gets of those that it would like: one each, then one after the other until `room` is used
/// up. Each gets one even where there is no room: a report never lacks a place.
pub(super) fn share(wanted: &[usize], room: usize) -> Vec<usize> {
    let mut given: Vec<usize> = wanted.iter().map(|wanted| (*wanted).min(1)).collect();
    let mut left = room.saturating_sub(given.iter().sum());
    loop {
        let before = left;
        for (given, wanted) in given.iter_mut().zip(wanted) {
            if left > 0 && *given < *wanted {
                *given += 1;
                left -= 1;
            }
        }
        if left == before {
            return given;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_shared_in_turn_and_every_stack_gets_one() {
        assert_eq!(share(&[9, 9, 9], 8), [3, 3, 2]);
        assert_eq!(share(&[1, 9, 2], 8), [1, 5, 2]);
        assert_eq!(share(&[2, 2], 8), [2, 2]);
        assert_eq!(share(&[5, 5, 5, 5], 0), [1, 1, 1, 1]);
        assert_eq!(share(&[0, 3], 2), [0, 2]);
        assert!(share(&[], 5).is_empty());
    }
}
