//! The wrapped futures of the process, each in a place of its own that its holder alone writes and anybody reads.
//!
//! Places are never given back: a reader that meets one in use again sees another serial, and looks away.

use std::mem::size_of;
use std::panic::Location;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

use super::super::{clock, heap};
use super::life;
use super::slab::Slab;
use super::waits::Wait;
use crate::table::accounts;

/// Set in a place's `tokio` word: which task polls it isn't known yet. The other bits are its serial.
const UNKNOWN: u64 = 1 << 63;
const TASK: u32 = Role::Task as u32;
const HOOKED: u32 = Role::Hooked as u32;

/// Set in an encoded parent: a wrapped future by its serial, else a tokio task by its id.
const SERIAL: u64 = 1 << 63;

/// What a wrapped future is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A future somewhere, perhaps a whole task.
    Future,
    /// A tokio task's whole future.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    Task,
    /// The future of `run`.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    Root,
    /// A tokio task that nothing wraps: tokio's hooks tell of it.
    #[cfg_attr(not(all(feature = "tokio", tokio_unstable)), allow(dead_code))]
    Hooked,
}

/// A place in the registry.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Place {
    /// Which future; 0: none. Written last, taken away first.
    serial: AtomicU64,
    role: AtomicU32,
    made: AtomicUsize,
    name: AtomicUsize,
    name_length: AtomicUsize,
    size: AtomicUsize,
    /// When it was wrapped, in ticks.
    since: AtomicU64,
    /// Who was polled on the thread that wrapped it.
    parent: AtomicU64,
    /// The tokio task that polled it last, 0: none did; or [`UNKNOWN`].
    tokio: AtomicU64,
    /// The wrapped future of the same task around the last poll, by its serial.
    inside: AtomicU64,
    polls: AtomicU64,
    /// Ticks in polls that have ended.
    busy: AtomicU64,
    /// When the present poll began, 0: it is in none.
    polling: AtomicU64,
    /// The data of the waker that it was polled with last.
    waker: AtomicUsize,
    done: AtomicBool,
    /// The test that it was wrapped in.
    test: AtomicU64,
    /// A waker of it was kept unseen.
    lost: AtomicBool,
    /// Of a hooked task: the stack that spawned it, by its trace (0: none), and whose hooks tell of it.
    spawned: AtomicU32,
    hooks: AtomicUsize,
    waits: [Wait; 2],
}

static PLACES: Slab<Place> = Slab::new(Place::new);
static SERIALS: AtomicU64 = AtomicU64::new(1);
/// Futures that found no place.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);
/// A future was wrapped while async debug was off.
static UNSEEN: AtomicBool = AtomicBool::new(false);

impl Place {
    const fn new() -> Self {
        Self {
            serial: AtomicU64::new(0),
            role: AtomicU32::new(0),
            made: AtomicUsize::new(0),
            name: AtomicUsize::new(0),
            name_length: AtomicUsize::new(0),
            size: AtomicUsize::new(0),
            since: AtomicU64::new(0),
            parent: AtomicU64::new(0),
            tokio: AtomicU64::new(0),
            inside: AtomicU64::new(0),
            polls: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            polling: AtomicU64::new(0),
            waker: AtomicUsize::new(0),
            done: AtomicBool::new(false),
            test: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            spawned: AtomicU32::new(0),
            hooks: AtomicUsize::new(0),
            waits: [const { Wait::inline() }; 2],
        }
    }

    /// Its present future.
    #[inline]
    pub(crate) fn serial(&self) -> u64 {
        self.serial.load(Relaxed)
    }

    /// Room for wakers that are kept.
    #[inline]
    pub(super) fn waits(&self) -> &[Wait] {
        &self.waits
    }

    /// A waker of the present future is kept without a place: what wakes it isn't all known.
    #[inline]
    pub(crate) fn lose_waits(&self) {
        if !self.lost.load(Relaxed) {
            self.lost.store(true, Relaxed);
        }
    }

    /// Whether it is the future of `run`.
    #[inline]
    pub(crate) fn is_root(&self) -> bool {
        self.role.load(Relaxed) == Role::Root as u32
    }

    /// A poll begins.
    #[inline]
    pub(crate) fn begins(&self, now: u64, waker: usize, outer: Option<&Self>) {
        self.polls.store(self.polls.load(Relaxed).wrapping_add(1), Relaxed);
        self.waker.store(waker, Relaxed);
        let id = own_id();
        self.tokio.store(id, Relaxed);
        // A `LocalSet` polls its tasks inside of another's poll: they are no parts of it. Nor is what a task was spawned with a
        // part of what the hooks know of it.
        let wraps = |outer: &&Self| outer.role.load(Relaxed) != Role::Hooked as u32;
        let outer = outer.filter(|outer| outer.tokio.load(Relaxed) == id).filter(wraps);
        self.inside.store(outer.map_or(0, |outer| outer.serial.load(Relaxed)), Relaxed);
        self.polling.store(now, Release);
    }

    /// For whom blocks count in a poll that has begun, by the key of its account: the tokio task, else the outermost wrapped
    /// future; nothing where the poll around this one says it.
    #[inline]
    pub(crate) fn key(&self, outermost: bool) -> Option<u64> {
        match self.tokio.load(Relaxed) {
            0 => outermost.then(|| accounts::key_of_serial(self.serial.load(Relaxed))),
            id => Some(id),
        }
    }

    /// Its future is no more: its account, if it has one, learns where it was made and, where no runtime's task tells it, that it
    /// has ended.
    #[cold]
    fn close_account(&self) {
        let (serial, made) = (self.serial.load(Relaxed), self.made.load(Relaxed));
        let (id, parent) = (self.tokio.load(Relaxed), self.parent.load(Relaxed));
        if id & UNKNOWN != 0 || self.inside.load(Relaxed) != 0 {
            return; // never polled, or a part of another
        }
        let role = self.role.load(Relaxed);
        if id == 0 {
            let block = if role == Role::Root as u32 { 0 } else { self.waker.load(Relaxed) };
            let key = accounts::key_of_serial(serial);
            accounts::made_at(key, made);
            accounts::ended(key, heap::trace_number(block));
        } else if matches!(role, TASK | HOOKED) || decoded(parent) != Some(Who::Tokio(id)) {
            accounts::made_at(id, made);
            if !accounts::sees_all() {
                accounts::ended(id, 0); // no cell will tell
            }
        }
    }

    /// The poll has ended, after so many ticks.
    #[inline]
    pub(crate) fn ended(&self, ticks: u64) {
        self.busy.store(self.busy.load(Relaxed).wrapping_add(ticks), Relaxed);
        self.polling.store(0, Release);
    }
}

/// The tokio task that this thread polls, 0: none.
#[inline]
pub(super) fn own_id() -> u64 {
    #[cfg(feature = "tokio")]
    return super::super::tokio::words::own_id();
    #[cfg(not(feature = "tokio"))]
    0
}

/// Every place that was ever used.
pub(super) fn places() -> impl Iterator<Item = &'static Place> {
    PLACES.each()
}

/// A future's place in the registry; nothing where async debug was off when it was wrapped.
#[derive(Debug, Default)]
pub(crate) struct Registered(Option<(u32, &'static Place)>);

impl Registered {
    /// For a future of this type, wrapped there.
    pub(crate) fn new<F>(made: &'static Location<'static>) -> Self {
        Self::fill(Role::Future, made, std::any::type_name::<F>(), size_of::<F>(), |_| ())
    }

    /// `more` fills in what this doesn't know.
    fn fill(
        role: Role,
        made: &'static Location<'static>,
        name: &'static str,
        size: usize,
        more: impl FnOnce(&Place),
    ) -> Self {
        clock::begin();
        super::memory::begin();
        let Some((number, place)) = PLACES.take() else {
            LEFT_OUT.fetch_add(1, Relaxed);
            return Self(None);
        };
        let serial = SERIALS.fetch_add(1, Relaxed);
        // Whoever read the serial of before sees that it is gone if it sees any of what follows.
        fence(Release);
        place.role.store(role as u32, Relaxed);
        place.made.store(std::ptr::from_ref(made) as usize, Relaxed);
        place.name.store(name.as_ptr() as usize, Relaxed);
        place.name_length.store(name.len(), Relaxed);
        place.size.store(size, Relaxed);
        place.since.store(clock::ticks(), Relaxed);
        place.parent.store(encoded(parent()), Relaxed);
        place.tokio.store(UNKNOWN | serial, Relaxed);
        place.inside.store(0, Relaxed);
        place.polls.store(0, Relaxed);
        place.busy.store(0, Relaxed);
        place.polling.store(0, Relaxed);
        place.waker.store(0, Relaxed);
        place.done.store(false, Relaxed);
        place.lost.store(false, Relaxed);
        place.test.store(super::super::trial::here(), Relaxed);
        more(place);
        place.serial.store(serial, Release);
        Self(Some((number, place)))
    }

    /// Async debug is off: the future isn't registered.
    #[inline]
    pub(crate) fn unseen() -> Self {
        if !UNSEEN.load(Relaxed) {
            UNSEEN.store(true, Relaxed);
        }
        Self(None)
    }

    #[inline]
    pub(crate) fn place(&self) -> Option<&'static Place> {
        self.0.map(|(_, place)| place)
    }

    /// What it is, where that is known.
    #[cfg(feature = "tokio")]
    pub(crate) fn set_role(&self, role: Role) {
        if let Some((_, place)) = self.0 {
            place.role.store(role as u32, Relaxed);
        }
    }

    /// By which [`is_task`] knows it again.
    #[cfg(feature = "tokio")]
    pub(crate) fn ticket(&self) -> Option<Ticket> {
        self.0.map(|(_, place)| Ticket { place, unknown: place.tokio.load(Relaxed) })
    }

    /// It has given its output.
    #[inline]
    pub(crate) fn done(&self) {
        if let Some((_, place)) = self.0 {
            place.done.store(true, Relaxed);
        }
    }
}

impl Drop for Registered {
    #[inline]
    fn drop(&mut self) {
        let Some((number, place)) = self.0 else { return };
        life::ends(place);
        if accounts::any() {
            place.close_account();
        }
        place.serial.store(0, Release);
        PLACES.give(number);
    }
}

/// Places of tasks that tokio's hooks tell of: nobody holds a [`Registered`], they are known by their numbers.
#[cfg(all(feature = "tokio", tokio_unstable))]
impl Registered {
    /// A place for task `id`, spawned there and by the stack of this trace (0: none): its number. `hooks`: whose they are.
    pub(crate) fn hooked(
        id: u64,
        made: &'static Location<'static>,
        spawned: u32,
        hooks: usize,
    ) -> Option<u32> {
        let registered = Self::fill(Role::Hooked, made, "", 0, |place| {
            place.tokio.store(id, Relaxed);
            place.spawned.store(spawned, Relaxed);
            place.hooks.store(hooks, Relaxed);
        });
        let (number, place) = std::mem::ManuallyDrop::new(registered).0?;
        life::started(place, place.serial(), id);
        Some(number)
    }

    /// The place with this number.
    pub(crate) fn hooked_place(number: u32) -> Option<&'static Place> {
        PLACES.get(number)
    }

    /// The task in the place with this number, which is nobody else's, is no more. `done`: in a poll of its own.
    pub(crate) fn forget_hooked(number: u32, done: bool) {
        let registered = Self(PLACES.get(number).map(|place| (number, place)));
        if done {
            registered.done();
        }
    }
}

#[cfg(all(feature = "tokio", tokio_unstable))]
impl Place {
    /// A poll begins that tokio's hooks tell of.
    #[inline]
    pub(crate) fn begins_hooked(&self, now: u64) {
        self.polls.store(self.polls.load(Relaxed).wrapping_add(1), Relaxed);
        self.polling.store(now, Release);
    }

    /// Where it was made.
    #[inline]
    pub(crate) fn made(&self) -> usize {
        self.made.load(Relaxed)
    }

    /// The stack that spawned a hooked task, by its trace; 0: none.
    pub(crate) fn spawned(&self) -> u32 {
        self.spawned.load(Relaxed)
    }
}

/// A future that was handed to tokio, and may have been polled, dropped and followed by another meanwhile.
#[cfg(feature = "tokio")]
pub(crate) struct Ticket {
    place: &'static Place,
    unknown: u64,
}

#[cfg(feature = "tokio")]
impl Ticket {
    /// It is the task of this id, unless a poll has said so already.
    pub(crate) fn is_task(&self, id: u64) {
        // Serials differ, so the word of another future is another one.
        let _ = self.place.tokio.compare_exchange(self.unknown, id, Relaxed, Relaxed);
        life::started(self.place, self.unknown & !UNKNOWN, id);
    }
}

/// Who polls: a tokio task, or a wrapped future.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Tokio(u64),
    Serial(u64),
}

fn encoded(who: Option<Who>) -> u64 {
    match who {
        None => 0,
        Some(Who::Tokio(id)) => id,
        Some(Who::Serial(serial)) => SERIAL | serial,
    }
}

fn decoded(word: u64) -> Option<Who> {
    match word {
        0 => None,
        serial if serial & SERIAL != 0 => Some(Who::Serial(serial & !SERIAL)),
        id => Some(Who::Tokio(id)),
    }
}

/// Who is polled on this thread.
fn parent() -> Option<Who> {
    match own_id() {
        0 => super::super::poll::outermost().map(|place| Who::Serial(place.serial.load(Relaxed))),
        id => Some(Who::Tokio(id)),
    }
}

/// What was read of a place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub serial: u64,
    pub role: Role,
    pub made: &'static Location<'static>,
    pub name: &'static str,
    pub size: usize,
    /// Ticks since it was wrapped.
    pub age: u64,
    pub parent: Option<Who>,
    /// The tokio task that polls it, 0: none. Nothing before that is known.
    pub tokio: Option<u64>,
    /// The wrapped future that polls it.
    pub inside: Option<u64>,
    pub polls: u64,
    /// Ticks, those of the present poll too.
    pub busy: u64,
    pub polling: bool,
    pub waker: usize,
    pub done: bool,
    /// The test that it was wrapped in, 0: none.
    pub test: u64,
    /// A waker of it may be kept unseen.
    pub lost: bool,
    /// Of a hooked task: the stack that spawned it, by its trace, and whose hooks tell of it.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    pub spawned: u32,
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    pub hooks: usize,
}

impl Place {
    pub(crate) fn read(&self) -> Option<Row> {
        let serial = self.serial.load(Acquire);
        if serial == 0 {
            return None;
        }
        let role = self.role.load(Relaxed);
        let (made, name) = (self.made.load(Relaxed), self.name.load(Relaxed));
        let (length, size) = (self.name_length.load(Relaxed), self.size.load(Relaxed));
        let (since, parent) = (self.since.load(Relaxed), self.parent.load(Relaxed));
        let (tokio, inside) = (self.tokio.load(Relaxed), self.inside.load(Relaxed));
        let (polls, busy) = (self.polls.load(Relaxed), self.busy.load(Relaxed));
        let (polling, waker) = (self.polling.load(Relaxed), self.waker.load(Relaxed));
        let (done, test) = (self.done.load(Relaxed), self.test.load(Relaxed));
        let lost = self.lost.load(Relaxed);
        let (spawned, hooks) = (self.spawned.load(Relaxed), self.hooks.load(Relaxed));
        fence(Acquire);
        if self.serial.load(Relaxed) != serial {
            return None; // another future's by now
        }
        // SAFETY: one future's words, as its serial shows: the address of a `&'static Location`, and the parts of a
        // `&'static str`.
        let (made, name) = unsafe {
            let bytes = std::slice::from_raw_parts(name as *const u8, length);
            (&*(made as *const Location<'static>), std::str::from_utf8_unchecked(bytes))
        };
        let now = clock::ticks();
        Some(Row {
            serial,
            role: match role {
                1 => Role::Task,
                2 => Role::Root,
                HOOKED => Role::Hooked,
                _ => Role::Future,
            },
            made,
            name,
            size,
            age: now.saturating_sub(since),
            parent: decoded(parent),
            tokio: (tokio & UNKNOWN == 0).then_some(tokio),
            inside: (inside != 0).then_some(inside),
            polls,
            busy: busy.wrapping_add(if polling == 0 { 0 } else { now.saturating_sub(polling) }),
            polling: polling != 0,
            waker,
            done,
            test,
            lost,
            spawned,
            hooks,
        })
    }
}

/// All that are registered, oldest first.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = places().filter_map(Place::read).collect();
    rows.sort_by_key(|row| row.serial);
    rows
}

/// The task in the place with this number isn't listed after all: there is no room to find it again.
#[cfg(all(feature = "tokio", tokio_unstable))]
pub(crate) fn left_out_hooked(number: u32) {
    LEFT_OUT.fetch_add(1, Relaxed);
    Registered::forget_hooked(number, false);
}

/// How many found no place, and whether one was wrapped while async debug was off.
pub(crate) fn left_out() -> (u64, bool) {
    (LEFT_OUT.load(Relaxed), UNSEEN.load(Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Mine;

    fn row(registered: &Registered) -> Option<Row> {
        registered.place().and_then(Place::read)
    }

    #[test]
    fn a_registered_future_is_a_row_until_it_is_dropped() {
        let registered = Registered::new::<Mine>(Location::caller());
        let read = row(&registered).unwrap();
        assert!(read.name.ends_with("::Mine") && read.made.file().ends_with("registry.rs"));
        assert_eq!((read.polls, read.polling, read.tokio), (0, false, None));
        let place = registered.place().unwrap();
        place.begins(clock::ticks(), 64, None);
        let read = row(&registered).unwrap();
        assert_eq!((read.polls, read.polling, read.tokio, read.waker), (1, true, Some(0), 64));
        place.ended(7);
        assert_eq!(row(&registered).map(|r| (r.polling, r.busy)), Some((false, 7)));
        let serial = read.serial;
        assert!(rows().iter().any(|r| r.serial == serial));
        drop(registered);
        assert!(!rows().iter().any(|r| r.serial == serial));
    }

    #[cfg(feature = "tokio")]
    #[test]
    fn a_ticket_of_a_future_that_is_gone_marks_no_other() {
        let first = Registered::new::<Mine>(Location::caller());
        let ticket = first.ticket().unwrap();
        let kept = first.place().unwrap();
        drop(first);
        // Places are used again, the newest first; other tests may have taken it.
        let others: Vec<_> = (0..64).map(|_| Registered::new::<Mine>(Location::caller())).collect();
        ticket.is_task(99);
        assert!(others.iter().filter_map(row).all(|r| r.tokio.is_none()));
        let again = others.iter().find(|r| std::ptr::eq(r.place().unwrap(), kept));
        if let Some(again) = again {
            again.ticket().unwrap().is_task(7);
            assert_eq!(row(again).unwrap().tokio, Some(7));
        }
    }

    #[test]
    fn places_are_shared_out_to_threads_without_mixing_them_up() {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let all: Vec<_> =
                            (0..8).map(|_| Registered::new::<Mine>(Location::caller())).collect();
                        let mut serials: Vec<_> = all.iter().map(|r| row(r).unwrap().serial).collect();
                        serials.dedup();
                        assert_eq!(serials.len(), 8);
                        rows();
                    }
                });
            }
        });
    }
}
