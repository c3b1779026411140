//! How much stack each function of an image takes, by following the stack pointer through its instructions.
//!
//! What the compiler says of frames (`.stack_sizes`, unwind tables) covers neither assembly nor the precompiled `core`;
//! the instructions cover everything. A path is followed through every branch; where paths meet the greater depth
//! counts; what no branch reaches is the target of a jump table and taken to run at the depth of the deepest indirect
//! jump before it.
//!
//! Owns the notion of depth: bytes of stack below the stack pointer that the function was entered with. Never looks
//! into a called function; [`crate::image`] adds those up.

use std::collections::BTreeMap;

use crate::a64::{self, FP, Flow, SP, Stack};

/// Bytes of an instruction.
const STEP: u64 = 4;
/// Deeper than any stack: the stack pointer goes down in a loop.
const BOTTOMLESS: i64 = 1 << 20;

/// What a function does to the stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The most bytes of stack that it uses itself.
    pub size: i64,
    /// Calls and tail calls: address of the instruction, its target, the depth there.
    pub calls: Vec<(u64, u64, i64)>,
    /// Indirect calls, and indirect jumps that may be tail calls: address, the depth there.
    pub indirect: Vec<(u64, i64)>,
    /// Whether it comes back to its caller.
    pub returns: bool,
    /// Instructions that give the stack pointer a value that cannot be followed.
    pub unknown: Vec<u64>,
    /// The stack pointer goes down in a loop at this address.
    pub bottomless: Option<u64>,
}

/// What is known at an instruction: the depth of SP, that of FP if it points into this frame, and that of one more
/// register, by way of which an over-aligned frame is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    sp: i64,
    fp: Option<i64>,
    other: Option<(u8, i64)>,
}

impl State {
    const ENTRY: Self = Self { sp: 0, fp: None, other: None };

    /// What holds on either of two paths, with the greater depth.
    fn meet(self, other: Self) -> Self {
        Self {
            sp: self.sp.max(other.sp),
            fp: self.fp.zip(other.fp).map(|(a, b)| a.max(b)),
            other: self.other.filter(|_| self.other == other.other),
        }
    }

    fn get(&self, register: u8) -> Option<i64> {
        match register {
            SP => Some(self.sp),
            FP => self.fp,
            _ => self.other.and_then(|(number, depth)| (number == register).then_some(depth)),
        }
    }

    /// The state after `word`, and whether SP is still known. Where it is not, it is taken for a new, empty stack.
    fn after(mut self, word: u32) -> (Self, bool) {
        let known = match a64::stack(word) {
            Stack::Other => return (self, true),
            Stack::Add { to, from, offset } => {
                let depth = self.get(from).map(|depth| depth - offset);
                match to {
                    SP => self.sp = depth.unwrap_or(0),
                    FP => self.fp = depth,
                    _ => self.other = depth.map(|depth| (to, depth)).or(self.other.filter(|&(number, _)| number != to)),
                }
                to != SP || depth.is_some()
            }
            Stack::Align { from, align } => {
                let depth = self.get(from);
                // SP is a multiple of 16 wherever it is used (AAPCS64, 6.4.5.1).
                self.sp = depth.map_or(0, |depth| depth + (align - 16).max(0));
                depth.is_some()
            }
            Stack::Unknown => {
                self.sp = 0;
                false
            }
        };
        (self, known)
    }
}

/// Follows the function that occupies the addresses `start` to `end`. `word` gives the instruction at an address,
/// nothing where there is data.
///
/// `returns` says whether the function at an address comes back: after a call of one that does not, there is other
/// code.
pub fn analyze(start: u64, end: u64, word: impl Fn(u64) -> Option<u32>, returns: impl Fn(u64) -> bool) -> Frame {
    let mut frame = Frame::default();
    let mut states: BTreeMap<u64, State> = BTreeMap::new();
    let mut pending = vec![(start, State::ENTRY)];
    let mut deepest_jump = State::ENTRY;
    loop {
        while let Some((address, state)) = pending.pop() {
            let state = match states.get(&address) {
                Some(&seen) => {
                    let met = seen.meet(state);
                    if met == seen {
                        continue;
                    }
                    met
                }
                None => state,
            };
            let Some(word) = word(address) else { continue };
            if state.sp > BOTTOMLESS {
                frame.bottomless.get_or_insert(address);
                continue;
            }
            states.insert(address, state);
            let (after, known) = state.after(word);
            if !known && !frame.unknown.contains(&address) {
                frame.unknown.push(address);
            }
            frame.size = frame.size.max(after.sp);
            let flow = a64::flow(word);
            if flow == Flow::JumpIndirect && after.sp > deepest_jump.sp {
                deepest_jump = after;
            }
            let next = address + STEP;
            match flow {
                Flow::Branch(offset) => {
                    pending.extend([(address.wrapping_add_signed(offset), after), (next, after)]);
                }
                Flow::Jump(offset) => pending.push((address.wrapping_add_signed(offset), after)),
                Flow::Call(offset) if !returns(address.wrapping_add_signed(offset)) => {}
                Flow::Next | Flow::Call(_) | Flow::CallIndirect => pending.push((next, after)),
                Flow::JumpIndirect | Flow::Return | Flow::Away => {}
            }
            // What lies outside is another function; `calls` has the tail call.
            pending.retain(|(address, _)| (start..end).contains(address));
        }
        // Barriers that nothing reaches stand after an ERET, against speculation: nothing runs on from them.
        let begins = |word: u32| !a64::is_barrier(word);
        let unreached = (start..end).step_by(4).find(|at| word(*at).is_some_and(begins) && !states.contains_key(at));
        match unreached {
            Some(address) if frame.bottomless.is_none() => pending.push((address, deepest_jump)),
            _ => break,
        }
    }
    for (&address, state) in &states {
        let runs_on;
        let Some(word) = word(address) else { continue };
        let (after, _) = state.after(word);
        let leaves = |target: &u64| !(start..end).contains(target);
        let flow = a64::flow(word);
        match flow {
            Flow::Call(offset) => {
                let target = address.wrapping_add_signed(offset);
                frame.calls.push((address, target, after.sp));
                // Nothing that comes back is called by the last instruction: there would be no way on. That it does not
                // come back is not always to be seen, as behind a table of branches.
                runs_on = returns(target) && address + STEP != end;
            }
            Flow::Jump(offset) | Flow::Branch(offset) => {
                let target = Some(address.wrapping_add_signed(offset)).filter(leaves);
                frame.calls.extend(target.map(|target| (address, target, after.sp)));
                frame.returns |= target.is_some_and(&returns);
                runs_on = flow == Flow::Branch(offset);
            }
            Flow::CallIndirect | Flow::JumpIndirect => {
                frame.indirect.push((address, after.sp));
                frame.returns |= flow == Flow::JumpIndirect;
                runs_on = flow == Flow::CallIndirect;
            }
            Flow::Next => runs_on = true,
            Flow::Return => {
                frame.returns = true;
                runs_on = false;
            }
            Flow::Away => runs_on = false,
        }
        // Assembly may run on into the next function.
        if runs_on && address + STEP == end {
            frame.calls.push((address, end, after.sp));
            frame.returns |= returns(end);
        }
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const RET: u32 = 0xd65f03c0;
    /// stp x29, x30, [sp, #-32]!
    const PUSH_32: u32 = 0xa9be7bfd;
    /// ldp x29, x30, [sp], #32
    const POP_32: u32 = 0xa8c27bfd;
    /// mov x29, sp
    const SET_FP: u32 = 0x910003fd;
    /// mov sp, x29
    const SP_FROM_FP: u32 = 0x910003bf;
    /// sub sp, sp, #0x1, lsl #12
    const SUB_4096: u32 = 0xd14007ff;

    /// The function at this address does not.
    const NEVER_RETURNS: u64 = 0x2000;

    fn frame(code: &[u32]) -> Frame {
        analyze(
            0x1000,
            0x1000 + 4 * code.len() as u64,
            |address| code.get(usize::try_from((address - 0x1000) / 4).unwrap()).copied(),
            |target| target != NEVER_RETURNS,
        )
    }

    #[test]
    fn pushes_and_subtractions_add_up() {
        // add sp, sp, #0x1, lsl #12
        let code = [PUSH_32, SUB_4096, 0xd10103ff, 0x910103ff, 0x914007ff, POP_32, RET];
        assert_eq!(frame(&code), Frame { size: 32 + 4096 + 64, returns: true, ..Frame::default() });
    }

    #[test]
    fn what_stands_behind_an_eret_does_not_run_on() {
        // eret; dsb nsh; isb
        let code = [0xd69f03e0, 0xd503379f, 0xd5033fdf];
        assert_eq!(frame(&code), Frame::default());
        // Those that are reached do.
        assert_eq!(frame(&code[1..]).calls, [(0x1004, 0x1008, 0)]);
    }

    #[test]
    fn the_deeper_of_two_paths_counts() {
        // cbz x0, +16: past the second frame
        let code = [PUSH_32, 0xb4000080, SUB_4096, 0x914007ff, RET, POP_32, RET];
        assert_eq!(frame(&code).size, 32 + 4096);
    }

    #[test]
    fn an_aligned_frame_takes_its_alignment_too() {
        // sub x9, sp, #48; and sp, x9, #-64; mov sp, x29
        let code = [PUSH_32, SET_FP, 0xd100c3e9, 0x927ae53f, SP_FROM_FP, POP_32, RET];
        assert_eq!(frame(&code), Frame { size: 32 + 48 + 48, returns: true, ..Frame::default() });
    }

    #[test]
    fn calls_are_noted_with_their_depth() {
        // bl +0x100; blr x8; a tail call, b -0x200
        let code = [PUSH_32, 0x94000040, 0xd63f0100, POP_32, 0x17ffff80];
        let frame = frame(&code);
        assert_eq!(frame.calls, [(0x1004, 0x1104, 32), (0x1010, 0xe10, 0)]);
        assert_eq!(frame.indirect, [(0x1008, 32)]);
    }

    #[test]
    fn what_does_not_return_runs_into_nothing() {
        // cbz x0, +12; bl 0x2000, with the frame; then a second frame, without the first
        let code = [0xb4000060, PUSH_32, 0x940003fe, PUSH_32, POP_32, RET];
        assert_eq!(frame(&code).size, 32);
        assert!(frame(&code).returns);
        let frame = frame(&[PUSH_32, 0x940003ff]);
        assert_eq!((frame.calls, frame.returns), (vec![(0x1004, NEVER_RETURNS, 32)], false));
    }

    #[test]
    fn targets_of_a_jump_table_run_at_its_depth() {
        // br x10; bl +0x100
        let code = [PUSH_32, 0xd61f0140, 0x94000040, POP_32, RET];
        assert_eq!(frame(&code).calls, [(0x1008, 0x1108, 32)]);
    }

    #[test]
    fn a_stack_pointer_from_elsewhere_is_told() {
        // mov sp, x4; sub sp, sp, x1
        assert_eq!(frame(&[0x9100009f, RET]).unknown, [0x1000]);
        assert_eq!(frame(&[PUSH_32, 0xcb2163ff, RET]).unknown, [0x1004]);
        // mov sp, x29, where nothing was put into x29
        assert_eq!(frame(&[SP_FROM_FP, RET]).unknown, [0x1000]);
    }

    #[test]
    fn a_stack_that_grows_in_a_loop_has_no_bottom() {
        // cbnz x0, -4
        assert!(frame(&[SUB_4096, 0xb5ffffe0, RET]).bottomless.is_some());
    }

    #[test]
    fn assembly_runs_on_into_the_next_function() {
        assert_eq!(frame(&[PUSH_32]).calls, [(0x1000, 0x1004, 32)]);
    }
}
