//! Walks a copied stack by the unwind tables, with `framehop`.

use framehop::{CacheNative, MayAllocateDuringUnwind, UnwindRegsNative, Unwinder, UnwinderNative};

use super::Registers;
use super::modules::{self, Tables};

/// At most so many frames.
const FRAMES: usize = 2048;

pub(super) struct Walker {
    unwinder: UnwinderNative<Tables, MayAllocateDuringUnwind>,
    cache: CacheNative<MayAllocateDuringUnwind>,
    known: Vec<std::ops::Range<u64>>,
    /// Files loaded when the first walker was made.
    first: bool,
}

impl Walker {
    pub(super) fn new() -> Self {
        let mut walker = Self {
            unwinder: UnwinderNative::new(),
            cache: CacheNative::new(),
            known: Vec::new(),
            first: true,
        };
        walker.update();
        walker.first = false;
        walker
    }

    /// Takes in what was loaded since.
    fn update(&mut self) {
        let list = modules::list();
        for gone in self.known.extract_if(.., |k| !list.iter().any(|l| l.range == *k)) {
            self.unwinder.remove_module(gone.start);
        }
        for loaded in list {
            // Only the executable's tables are read in place: a file that came with it could in theory be another's.
            let in_place = self.first && self.known.is_empty();
            if !self.known.contains(&loaded.range)
                && let Some(module) = loaded.module(in_place)
            {
                self.unwinder.add_module(module);
                self.known.push(loaded.range.clone());
            }
        }
    }

    /// Return addresses, most recent first, and whether they reach the thread's entry.
    pub(super) fn walk(&mut self, registers: Registers, words: &[usize]) -> (Vec<usize>, bool) {
        let known = |walker: &Self, pc: u64| walker.known.iter().any(|r| r.contains(&pc));
        if !known(self, registers.pc) {
            self.update();
        }
        let (mut stack, mut complete) = self.walk_once(registers, words);
        let stray = stack.last().is_some_and(|&pc| !known(self, pc as u64 - 1));
        if !complete && stray {
            self.update();
            (stack, complete) = self.walk_once(registers, words);
        }
        (stack, complete)
    }

    fn walk_once(&mut self, registers: Registers, words: &[usize]) -> (Vec<usize>, bool) {
        let base = registers.sp;
        let mut read = |address: u64| {
            let offset = address.wrapping_sub(base);
            if offset.is_multiple_of(8)
                && let Some(word) = words.get((offset / 8) as usize)
            {
                return Ok(*word as u64);
            }
            // Beyond the copy: frames outside of the poll, which don't change meanwhile.
            let mut bytes = [0; 8];
            if address > base && crate::sys::read_unsure(address as usize, &mut bytes) {
                return Ok(u64::from_ne_bytes(bytes));
            }
            Err(())
        };
        #[cfg(target_arch = "x86_64")]
        let regs = UnwindRegsNative::new(registers.pc, registers.sp, registers.fp);
        #[cfg(target_arch = "aarch64")]
        let regs = UnwindRegsNative::new(registers.lr, registers.sp, registers.fp);
        let mut frames = self.unwinder.iter_frames(registers.pc, regs, &mut self.cache, &mut read);
        let mut stack = Vec::with_capacity(64);
        let complete = loop {
            match frames.next() {
                Ok(Some(framehop::FrameAddress::InstructionPointer(pc))) => {
                    stack.push((pc as usize).wrapping_add(1))
                }
                Ok(Some(framehop::FrameAddress::ReturnAddress(pc))) => stack.push(u64::from(pc) as usize),
                Ok(None) => break true,
                Err(_) => break false,
            }
            if stack.len() == FRAMES {
                break false;
            }
        };
        (stack, complete)
    }
}
