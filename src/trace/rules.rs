//! How to step from a return address to its caller's frame: rules from the unwind tables, kept process-wide.
//!
//! One 8-byte rule for each return address, under its address, in a table that every thread reads and fills without a
//! lock; on a miss `gimli` reads `.eh_frame`. Beside its rule stands whose function the address lies in. A rule of a
//! module loaded after start is used only after the loader names the same module again. Runs inside an allocation.

use core::sync::atomic::{
    AtomicPtr, AtomicU64,
    Ordering::{AcqRel, Acquire, Release},
};

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EndianSlice, LittleEndian, Register, RegisterRule,
    UnwindContext, UnwindContextStorage, UnwindSection, UnwindTableRow,
};

use super::modules::{self, Module};
use super::names::Class;
use super::scratch::Pool;
use super::symbols;
use crate::sys;

/// How a caller's frame is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Base {
    /// The stack's outermost frame.
    End,
    /// The frame lies at a distance from the stack pointer.
    Stack,
    /// It hangs on the frame pointer.
    Frame,
    /// No table, or a rule that isn't register plus offset: the walk is cut here.
    None,
}

/// Whose function an address lies in, as far as a walk must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Whose {
    User,
    Plumbing,
    /// Where std says that the user's stack begins.
    Entry,
    /// No symbols.
    Unknown,
}

/// What a walk asks of every frame stands in single low bits: no jump through a table, and short constants.
///
/// ```text
/// bit 0       always 1
///     1..3    base
///     3       the frame's address lies 16 above the frame pointer, the caller's frame pointer where it points
///     4       the frame counts: the user's, or perhaps
///     5       it is where the user's stack begins, or nobody knows whose
///     6       the walk goes on from here
///     7       the frame pointer is saved
///     8..16   number of a module loaded after start, 0: there at start
///     16..18  whose
///     20..38  frame address: base + 8 x this
///     38..56  where the frame pointer is saved: at the frame address - 8 x this
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rule(u64);

const FIELD: u64 = (1 << 18) - 1;

impl Rule {
    fn new(base: Base, distance: u64, saved: Option<u64>, whose: Whose, tag: u16) -> Self {
        let counts = matches!(whose, Whose::User | Whose::Unknown);
        let stands_out = matches!(whose, Whose::Entry | Whose::Unknown);
        let goes_on = matches!(base, Base::Stack | Base::Frame);
        let plain = base == Base::Frame && distance == 2 && saved == Some(2);
        Self(
            1 | (base as u64) << 1
                | u64::from(plain) << 3
                | u64::from(counts) << 4
                | u64::from(stands_out) << 5
                | u64::from(goes_on) << 6
                | u64::from(saved.is_some()) << 7
                | u64::from(tag & 255) << 8
                | (whose as u64) << 16
                | (distance & FIELD) << 20
                | (saved.unwrap_or(0) & FIELD) << 38,
        )
    }
    #[inline(always)]
    fn has(self, bit: u32) -> bool {
        self.0 as u32 & 1u32.wrapping_shl(bit) != 0
    }
    #[inline(always)]
    pub(crate) fn base(self) -> Base {
        match self.0 >> 1 & 3 {
            0 => Base::End,
            1 => Base::Stack,
            2 => Base::Frame,
            _ => Base::None,
        }
    }
    /// Whether the walk can't go on from here: outermost, or no table.
    #[inline(always)]
    pub(crate) fn ends(self) -> bool {
        !self.has(6)
    }
    /// Whether the frame hangs on the frame pointer, where the walk goes on.
    #[inline(always)]
    pub(crate) fn hangs_on_frame_pointer(self) -> bool {
        self.has(2)
    }
    /// Whether the frame counts: the user's, or perhaps.
    #[inline(always)]
    pub(crate) fn counts(self) -> bool {
        self.has(4)
    }
    /// Whether it is where the user's stack begins, or nobody knows whose.
    #[inline(always)]
    pub(crate) fn stands_out(self) -> bool {
        self.has(5)
    }
    /// Whether the frame's address lies 16 above the frame pointer, and the caller's frame pointer where it points.
    #[inline(always)]
    pub(crate) fn is_frame_pointer(self) -> bool {
        self.has(3)
    }
    /// Bytes from the base to the frame's address; the return address lies 8 below it.
    #[inline(always)]
    pub(crate) fn distance(self) -> usize {
        (self.0 >> 17) as usize & (FIELD as usize).wrapping_shl(3)
    }
    /// Bytes below the frame's address at which the caller's frame pointer is saved.
    #[inline(always)]
    pub(crate) fn saved(self) -> Option<usize> {
        self.has(7).then_some((self.0 >> 35) as usize & (FIELD as usize).wrapping_shl(3))
    }
    #[inline(always)]
    pub(crate) fn whose(self) -> Whose {
        match self.0 >> 16 & 3 {
            0 => Whose::User,
            1 => Whose::Plumbing,
            2 => Whose::Entry,
            _ => Whose::Unknown,
        }
    }
    #[inline(always)]
    pub(crate) fn tag(self) -> u16 {
        (self.0 >> 8 & 255) as u16
    }
}

/// The table's levels, each used once the windows of the one before are full: a rule never evicts another. The first is
/// there from the start, its pages touched as used.
const LEVELS: [u32; 3] = [14, 17, 20];
const FIRST: usize = 1 << LEVELS[0];
const WINDOW: usize = 8;

#[repr(C)]
struct Cell {
    /// Once set, for ever.
    address: AtomicU64,
    /// 0 until it is known.
    rule: AtomicU64,
}

static NEAR: [Cell; FIRST] = [const { Cell { address: AtomicU64::new(0), rule: AtomicU64::new(0) } }; FIRST];
static FURTHER: [AtomicPtr<Cell>; 2] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 2];

#[inline(always)]
fn mix(address: usize) -> usize {
    ((address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
}

/// The kept rule for `address`, if it stands where most of them do, of whatever module stood there when it was kept.
#[inline(always)]
fn near(address: usize) -> Option<Rule> {
    let cell = NEAR.get(mix(address) & (FIRST - 1))?;
    // The rule first: where there is one, the cell has its address, and keeps it.
    let rule = cell.rule.load(Acquire);
    (rule != 0 && cell.address.load(Acquire) == address as u64).then_some(Rule(rule))
}

/// The kept rule for `address`, of whatever module stood there when it was kept.
#[inline(always)]
pub(crate) fn kept(address: usize) -> Option<Rule> {
    match near(address) {
        Some(rule) => Some(rule),
        None => kept_further(address),
    }
}

/// The cells of a level, if it is there.
fn level(level: usize) -> *const Cell {
    match level {
        0 => NEAR.as_ptr(),
        _ => FURTHER.get(level.wrapping_sub(1)).map_or(core::ptr::null(), |p| p.load(Acquire).cast_const()),
    }
}

#[inline(never)]
fn kept_further(address: usize) -> Option<Rule> {
    let hash = mix(address);
    for (number, bits) in LEVELS.iter().enumerate() {
        let cells = level(number);
        if cells.is_null() {
            return None;
        }
        let mask = (1usize << bits).wrapping_sub(1);
        for k in 0..WINDOW {
            // SAFETY: a published level has 2^bits cells and is never unmapped; the index is masked.
            let cell = unsafe { &*cells.add(hash.wrapping_add(k) & mask) };
            let at = cell.address.load(Acquire);
            if at == address as u64 {
                let rule = cell.rule.load(Acquire);
                return (rule != 0).then_some(Rule(rule));
            }
            if at == 0 {
                return None;
            }
        }
    }
    None
}

fn keep(address: usize, rule: Rule) {
    let hash = mix(address);
    for (number, bits) in LEVELS.iter().enumerate() {
        let mut cells = level(number);
        if cells.is_null() {
            let Some(place) = FURTHER.get(number.wrapping_sub(1)) else { return };
            let bytes = size_of::<Cell>() << bits;
            let Some(fresh) = sys::map(bytes) else { return };
            match place.compare_exchange(core::ptr::null_mut(), fresh.as_ptr().cast(), AcqRel, Acquire) {
                Ok(_) => cells = fresh.as_ptr().cast(),
                Err(theirs) => {
                    // SAFETY: ours was never published.
                    unsafe { sys::unmap(fresh, bytes) };
                    cells = theirs;
                }
            }
        }
        let mask = (1usize << bits).wrapping_sub(1);
        for k in 0..WINDOW {
            // SAFETY: as in `kept_further`.
            let cell = unsafe { &*cells.add(hash.wrapping_add(k) & mask) };
            let at = match cell.address.compare_exchange(0, address as u64, AcqRel, Acquire) {
                Ok(_) => address as u64,
                Err(at) => at,
            };
            if at == address as u64 {
                cell.rule.store(rule.0, Release);
                return;
            }
        }
    }
}

/// gimli's room for one evaluation: 3 rows of 10 rules. Compiled code saves at most the 6 registers that a call must keep, and
/// the return address; gimli copies rows on the stack, of which a small thread has little. A row with more is no rule.
pub(crate) struct Room;
impl UnwindContextStorage<usize> for Room {
    type Rules = [(Register, RegisterRule<usize>); 10];
    type Stack = [UnwindTableRow<usize, Self>; 3];
}
type Context = UnwindContext<usize, Room>;

static CONTEXTS: Pool<Context> = Pool::new();

/// The rule for a return address in a module that was there at start, if it is at hand.
#[inline(always)]
pub(crate) fn at_hand(address: usize) -> Option<Rule> {
    near(address).filter(|rule| rule.tag() == 0)
}

/// The rule for a return address that was found on this thread's stack; nothing where it lies in no module.
#[cold]
#[inline(never)]
pub(crate) fn look_up(address: usize) -> Option<Rule> {
    if let Some(rule) = kept(address)
        && rule.tag() == 0
    {
        return Some(rule);
    }
    let module = modules::find(address)?;
    if let Some(rule) = kept(address)
        && rule.tag() == module.tag
        && module.tag != modules::UNKNOWN
    {
        return Some(rule);
    }
    let mut room = CONTEXTS.lend()?;
    let rule = compute(address, &module, room.content().write(Context::new_in()));
    if module.tag != modules::UNKNOWN {
        keep(address, rule);
    }
    Some(rule)
}

fn whose(address: usize, module: &Module) -> Whose {
    let loaded = symbols::LoadedModule {
        map_start: module.start,
        load_bias: module.bias,
        path: module.name,
        generation: u32::from(module.tag),
    };
    match symbols::class_of(address.wrapping_sub(1), &loaded) {
        Class::User | Class::Foreign => Whose::User,
        Class::Plumbing | Class::Ours => Whose::Plumbing,
        Class::Entry => Whose::Entry,
        Class::Unknown => Whose::Unknown,
    }
}

const RBP: Register = Register(6);
const RSP: Register = Register(7);
const RIP: Register = Register(16);

/// The rule for `address`, read from its module's tables.
fn compute(address: usize, module: &Module, context: &mut Context) -> Rule {
    let whose = whose(address, module);
    let cut = Rule::new(Base::None, 0, None, whose, module.tag);
    read(address, module, context, whose).unwrap_or(cut)
}

fn read(address: usize, module: &Module, context: &mut Context, whose: Whose) -> Option<Rule> {
    if module.eh_frame_hdr == 0 {
        return None;
    }
    let bytes = |from: usize| {
        // SAFETY: the module is loaded and stays so while code of it is on this thread's stack (see `modules::find`).
        // gimli reads the header's table and the entries that it names, all within mapped segments.
        unsafe { core::slice::from_raw_parts(from as *const u8, module.end.saturating_sub(from)) }
    };
    let header = EhFrameHdr::new(bytes(module.eh_frame_hdr), LittleEndian);
    let bases = BaseAddresses::default().set_eh_frame_hdr(module.eh_frame_hdr as u64);
    let parsed = header.parse(&bases, 8).ok()?;
    let frames = parsed.eh_frame_ptr().direct().ok()? as usize;
    if frames < module.start || frames >= module.end {
        return None;
    }
    let bases = bases.set_eh_frame(frames as u64);
    let section: EhFrame<EndianSlice<'_, LittleEndian>> = EhFrame::new(bytes(frames), LittleEndian);
    let at = address.wrapping_sub(1) as u64;
    let fde = parsed.table()?.fde_for_address(&section, &bases, at, EhFrame::cie_from_offset).ok()?;
    if fde.is_signal_trampoline() {
        return None;
    }
    let row = fde.unwind_info_for_address(&section, &bases, context, at).ok()?;
    let whole = |n: i64| (n >= 0 && n & 7 == 0 && n >> 3 < FIELD as i64).then_some((n >> 3) as u64);
    match row.register(RIP) {
        Some(RegisterRule::Undefined) => return Some(Rule::new(Base::End, 0, None, whose, module.tag)),
        Some(RegisterRule::Offset(-8)) => {}
        _ => return None,
    }
    let (base, distance) = match row.cfa() {
        CfaRule::RegisterAndOffset { register: RSP, offset } => (Base::Stack, whole(*offset)?),
        CfaRule::RegisterAndOffset { register: RBP, offset } => (Base::Frame, whole(*offset)?),
        _ => return None,
    };
    let saved = match row.register(RBP) {
        None | Some(RegisterRule::SameValue) => None,
        Some(RegisterRule::Offset(n)) => Some(whole(n.wrapping_neg())?),
        // Lost here: a caller's frame that hangs on it would be read from the wrong place.
        Some(_) => return None,
    };
    Some(Rule::new(base, distance, saved, whose, module.tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_of_a_frame_pointer_is_known_by_its_shape() {
        for whose in [Whose::User, Whose::Plumbing, Whose::Entry, Whose::Unknown] {
            let rule = |base, distance, saved, tag| Rule::new(base, distance, saved, whose, tag);
            assert!(rule(Base::Frame, 2, Some(2), 0).is_frame_pointer());
            assert!(rule(Base::Frame, 2, Some(2), 7).is_frame_pointer());
            assert!(!rule(Base::Stack, 2, Some(2), 0).is_frame_pointer());
            assert!(!rule(Base::Frame, 3, Some(2), 0).is_frame_pointer());
            assert!(!rule(Base::Frame, 2, Some(3), 0).is_frame_pointer());
            assert!(!rule(Base::Frame, 2, None, 0).is_frame_pointer());
        }
    }

    #[test]
    fn every_field_of_a_rule_reads_back() {
        for base in [Base::End, Base::Stack, Base::Frame, Base::None] {
            for whose in [Whose::User, Whose::Plumbing, Whose::Entry, Whose::Unknown] {
                let r = Rule::new(base, FIELD, Some(2), whose, 254);
                assert_eq!(
                    (r.base(), r.distance(), r.saved(), r.whose(), r.tag()),
                    (base, FIELD as usize * 8, Some(16), whose, 254)
                );
                assert_eq!(Rule::new(base, 5, None, whose, 0).saved(), None);
                assert_eq!(r.ends(), matches!(base, Base::End | Base::None));
                assert_eq!(!r.ends() && r.hangs_on_frame_pointer(), base == Base::Frame);
                assert_eq!(r.counts(), matches!(whose, Whose::User | Whose::Unknown));
                assert_eq!(r.stands_out(), matches!(whose, Whose::Entry | Whose::Unknown));
            }
        }
    }
}
