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
#[cfg(feature = "tokio")]
use super::spotted::{Gone, cell_in, cell_word};
use super::waits::Wait;
use crate::table::accounts;
use crate::thread::Slot;

/// Set in a place's `tokio` word: which task polls it isn't known yet. The other bits are its serial.
pub(super) const UNKNOWN: u64 = 1 << 63;
const TASK: u32 = Role::Task as u32;
const HOOKED: u32 = Role::Hooked as u32;

/// Set in an encoded parent: a wrapped future by its serial, else a tokio task by its id.
const SERIAL: u64 = 1 << 63;
/// Bits of a place's `whose` below its serial.
pub(super) const MARKS: u32 = 16;

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

/// What all futures of a type have in common.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(super) name: fn() -> &'static str,
    size: usize,
}

trait Type {
    const KIND: &'static Kind;
}

impl<F> Type for F {
    const KIND: &'static Kind = &Kind { name: std::any::type_name::<F>, size: size_of::<F>() };
}

/// A place in the registry: all that is kept of a wrapped future, a task's too. A future that is registered writes one cache line and
/// part of a second.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Place {
    /// Which future, by its serial, above its marks ([`MARKS`] bits); 0: none. Written last, taken away first.
    pub(super) whose: AtomicU64,
    /// Its type, a `&'static Kind`.
    pub(super) kind: AtomicUsize,
    pub(super) made: AtomicUsize,
    /// When it was wrapped, in ticks.
    since: AtomicU64,
    /// Who was polled on the thread that wrapped it.
    parent: AtomicU64,
    /// The tokio task that polled it last, 0: none did; or [`UNKNOWN`].
    pub(super) tokio: AtomicU64,
    /// Where tokio keeps the task that was spawned with it: see [`Ticket::lies_at`]. Odd while that isn't known.
    pub(super) cell: AtomicU64,
    pub(super) role: AtomicU32,
    /// Of the place, for ever.
    number: u32,
    polls: AtomicU64,
    /// Ticks in polls that have ended.
    busy: AtomicU64,
    /// When the present poll began, 0: it is in none.
    polling: AtomicU64,
    /// The wrapped future of the same task around the last poll, by its serial.
    inside: AtomicU64,
    /// The data of the waker that it was polled with last.
    waker: AtomicUsize,
    /// The test that it was wrapped in.
    test: AtomicU64,
    /// The stack that marked it, by its trace; 0: none.
    pub(super) marked: AtomicU32,
    pub(super) done: AtomicBool,
    /// A waker of it was kept unseen.
    lost: AtomicBool,
    /// A poll of it has panicked.
    pub(super) panicked: AtomicBool,
    /// Of a hooked task: the stack that spawned it, by its trace (0: none), and whose hooks tell of it.
    spawned: AtomicU32,
    hooks: AtomicUsize,
    waits: [Wait; 2],
}

static PLACES: Slab<Place> = Slab::new(Place::new);
/// The last serial that any thread may give out by now.
static SERIALS: AtomicU64 = AtomicU64::new(0);
/// Futures that found no place.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);
/// A future was wrapped while async debug was off.
static UNSEEN: AtomicBool = AtomicBool::new(false);

impl Place {
    const fn new(number: u32) -> Self {
        Self {
            whose: AtomicU64::new(0),
            kind: AtomicUsize::new(0),
            made: AtomicUsize::new(0),
            since: AtomicU64::new(0),
            parent: AtomicU64::new(0),
            tokio: AtomicU64::new(0),
            cell: AtomicU64::new(1),
            role: AtomicU32::new(0),
            number,
            polls: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            polling: AtomicU64::new(0),
            inside: AtomicU64::new(0),
            waker: AtomicUsize::new(0),
            test: AtomicU64::new(0),
            marked: AtomicU32::new(0),
            done: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            spawned: AtomicU32::new(0),
            hooks: AtomicUsize::new(0),
            waits: [const { Wait::inline() }; 2],
        }
    }

    /// Its present future.
    #[inline]
    pub(crate) fn serial(&self) -> u64 {
        self.whose.load(Relaxed) >> MARKS
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

    /// The tokio task that polls it; 0: none does.
    #[inline]
    pub(crate) fn polled_by(&self) -> u64 {
        self.tokio.load(Relaxed)
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
        self.inside.store(outer.map_or(0, Self::serial), Relaxed);
        self.polling.store(now, Release);
    }

    /// For whom blocks count in a poll that has begun, by the key of its account: the tokio task, else the outermost wrapped
    /// future; nothing where the poll around this one says it.
    #[inline]
    pub(crate) fn key(&self, outermost: bool) -> Option<u64> {
        match self.tokio.load(Relaxed) {
            0 => outermost.then(|| accounts::key_of_serial(self.serial())),
            id => Some(id),
        }
    }

    /// Its future is no more: its account, if it has one, learns where it was made and, where no runtime's task tells it, that it
    /// has ended.
    fn close_account(&self) {
        let (serial, made) = (self.serial(), self.made.load(Relaxed));
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

    /// A poll of its future has panicked: what is dropped then isn't lost.
    #[cold]
    pub(crate) fn panics(&self) {
        self.panicked.store(true, Relaxed);
    }

    /// Its future has given its output.
    #[inline]
    pub(crate) fn mark_done(&self) {
        self.done.store(true, Relaxed);
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
pub(crate) struct Registered(Option<&'static Place>);

impl Registered {
    /// For a future of this type, wrapped there.
    #[inline]
    pub(crate) fn new<F>(role: Role, made: &'static Location<'static>) -> Self {
        Self::fill(role, made, <F as Type>::KIND, |_| ())
    }

    /// `more` fills in what this doesn't know.
    #[inline]
    fn fill(
        role: Role,
        made: &'static Location<'static>,
        kind: &'static Kind,
        more: impl FnOnce(&Place),
    ) -> Self {
        clock::begin();
        super::memory::begin();
        let slot = heap::register_thread();
        let place = if slot.shared { PLACES.take() } else { PLACES.take_from(&slot.stock) };
        let Some(place) = place else {
            LEFT_OUT.fetch_add(1, Relaxed);
            return Self(None);
        };
        let serial =
            if slot.shared { SERIALS.fetch_add(64, Relaxed) + 1 } else { slot.stock.serial(&SERIALS) };
        // Whoever read the serial of before sees that it is gone if it sees any of what follows.
        fence(Release);
        place.kind.store(std::ptr::from_ref(kind) as usize, Relaxed);
        place.made.store(std::ptr::from_ref(made) as usize, Relaxed);
        place.since.store(clock::ticks(), Relaxed);
        place.parent.store(encoded(parent(slot)), Relaxed);
        place.tokio.store(UNKNOWN | serial, Relaxed);
        place.cell.store(nowhere(serial), Relaxed);
        place.role.store(role as u32, Relaxed);
        place.polls.store(0, Relaxed);
        place.busy.store(0, Relaxed);
        place.polling.store(0, Relaxed);
        place.inside.store(0, Relaxed);
        place.waker.store(0, Relaxed);
        place.test.store(if slot.shared { 0 } else { slot.poll.test() }, Relaxed);
        place.marked.store(0, Relaxed);
        place.done.store(false, Relaxed);
        place.lost.store(false, Relaxed);
        place.panicked.store(false, Relaxed);
        more(place);
        place.whose.store(serial << MARKS, Release);
        Self(Some(place))
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
        self.0
    }

    /// By which what is found out once it was handed to tokio gets to it.
    #[cfg(feature = "tokio")]
    pub(crate) fn ticket(&self) -> Option<Ticket> {
        self.0.map(|place| Ticket { place, serial: place.serial() })
    }
}

impl Drop for Registered {
    #[inline]
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            ends(place);
        }
    }
}

/// The future in this place, which is the caller's, is no more.
#[inline(never)]
fn ends(place: &'static Place) {
    life::ends(place);
    if accounts::any() {
        place.close_account();
    }
    #[cfg(feature = "tokio")]
    if let Some(gone) = Gone::take(place) {
        super::super::task::gone(&gone);
    }
    #[cfg(not(feature = "tokio"))]
    place.whose.store(0, Release);
    let slot = heap::register_thread();
    if slot.shared { PLACES.give(place.number) } else { PLACES.give_to(&slot.stock, place.number) }
}

/// A place's `cell` while it isn't known: of another future it is another one.
fn nowhere(serial: u64) -> u64 {
    serial << 1 | 1
}

/// Of a task that the hooks tell of the type isn't known.
#[cfg(all(feature = "tokio", tokio_unstable))]
static NO_TYPE: Kind = Kind { name: || "", size: 0 };

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
        let registered = Self::fill(Role::Hooked, made, &NO_TYPE, |place| {
            place.tokio.store(id, Relaxed);
            place.spawned.store(spawned, Relaxed);
            place.hooks.store(hooks, Relaxed);
        });
        let place = std::mem::ManuallyDrop::new(registered).0?;
        life::started(place, place.serial(), id);
        Some(place.number)
    }

    /// The place with this number.
    pub(crate) fn hooked_place(number: u32) -> Option<&'static Place> {
        PLACES.get(number)
    }

    /// The task in the place with this number, which is nobody else's, is no more. `done`: in a poll of its own.
    pub(crate) fn forget_hooked(number: u32, done: bool) {
        let registered = Self(PLACES.get(number));
        if let Some(place) = registered.place().filter(|_| done) {
            place.mark_done();
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
    serial: u64,
}

#[cfg(feature = "tokio")]
impl Ticket {
    /// It is the task of this id, unless a poll has said so already.
    #[cold]
    pub(crate) fn is_task(&self, id: u64) {
        // Serials differ, so the word of another future is another one.
        let _ = self.place.tokio.compare_exchange(UNKNOWN | self.serial, id, Relaxed, Relaxed);
    }

    /// tokio keeps its task there, in this owner's list: whether there is room for that. Its id can be read there.
    #[inline]
    pub(crate) fn lies_at(&self, cell: usize, owner: u64) -> bool {
        let word = cell_word(cell, owner);
        if let Some(word) = word {
            let _ = self.place.cell.compare_exchange(nowhere(self.serial), word, Release, Relaxed);
        }
        word.is_some()
    }

    /// It was spawned as the task of this id.
    pub(crate) fn started(&self, id: u64) {
        life::started(self.place, self.serial, id);
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

/// Who is polled on this thread, of which this is the slot.
fn parent(slot: &Slot) -> Option<Who> {
    match own_id() {
        0 => slot.outermost_poll().map(|place| Who::Serial(place.serial())),
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
    /// When it was wrapped, in ticks.
    pub since: u64,
    /// Ticks since then.
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
        let serial = self.whose.load(Acquire) >> MARKS;
        if serial == 0 {
            return None;
        }
        let role = self.role.load(Relaxed);
        let (made, kind) = (self.made.load(Relaxed), self.kind.load(Relaxed));
        let (since, parent) = (self.since.load(Relaxed), self.parent.load(Relaxed));
        let (tokio, inside) = (self.tokio.load(Relaxed), self.inside.load(Relaxed));
        let (polls, busy) = (self.polls.load(Relaxed), self.busy.load(Relaxed));
        let (polling, waker) = (self.polling.load(Relaxed), self.waker.load(Relaxed));
        let (done, test) = (self.done.load(Relaxed), self.test.load(Relaxed));
        let lost = self.lost.load(Relaxed);
        let tokio = (tokio & UNKNOWN == 0).then_some(tokio);
        // Not polled yet, but its cell tells; which lasts while the place is this future's.
        #[cfg(feature = "tokio")]
        let tokio = tokio.or_else(|| super::super::tokio::id_in(cell_in(self.cell.load(Acquire))));
        let (spawned, hooks) = (self.spawned.load(Relaxed), self.hooks.load(Relaxed));
        fence(Acquire);
        if self.serial() != serial {
            return None; // another future's by now
        }
        // SAFETY: one future's words, as its serial shows: the addresses of a `&'static Location` and of a `&'static Kind`.
        let (made, kind) = unsafe { (&*(made as *const Location<'static>), &*(kind as *const Kind)) };
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
            name: (kind.name)(),
            size: kind.size,
            since,
            age: now.saturating_sub(since),
            parent: decoded(parent),
            tokio,
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

/// Whether a future was ever registered.
pub(crate) fn any() -> bool {
    SERIALS.load(Relaxed) != 0
}

/// All that are registered, oldest first.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = places().filter_map(Place::read).collect();
    // Threads take serials in advance.
    rows.sort_by_key(|row| (row.since, row.serial));
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
        let registered = Registered::new::<Mine>(Role::Future, Location::caller());
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
        let first = Registered::new::<Mine>(Role::Future, Location::caller());
        let ticket = first.ticket().unwrap();
        let kept = first.place().unwrap();
        drop(first);
        // Places are used again, the newest first; other tests may have taken it.
        let others: Vec<_> =
            (0..64).map(|_| Registered::new::<Mine>(Role::Future, Location::caller())).collect();
        ticket.is_task(99);
        assert!(ticket.lies_at(4096, 7));
        assert!(others.iter().filter_map(row).all(|r| r.tokio.is_none()));
        assert!(others.iter().all(|r| r.place().unwrap().cell.load(Relaxed) & 1 == 1));
        let again = others.iter().find(|r| std::ptr::eq(r.place().unwrap(), kept));
        if let Some(again) = again {
            again.ticket().unwrap().is_task(7);
            assert_eq!(row(again).unwrap().tokio, Some(7));
        }
    }

    #[test]
    fn a_place_takes_four_cache_lines_and_a_future_holds_one_word_for_it() {
        assert!(size_of::<Place>() + size_of::<u32>() <= 256);
        assert_eq!(size_of::<Registered>(), size_of::<usize>());
    }

    #[test]
    fn places_are_shared_out_to_threads_without_mixing_them_up() {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let all: Vec<_> = (0..8)
                            .map(|_| Registered::new::<Mine>(Role::Future, Location::caller()))
                            .collect();
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
