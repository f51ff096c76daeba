#[allow(dead_code)]
pub(crate) enum Class {
    User,
    Plumbing { mixed: bool },
    Entry,
    Ours,
    Foreign,
    Unknown,
}
