//! Filters in the classic BPF of libpcap ("The BSD Packet Filter", McCanne and Jacobson, 1993): what `tcpdump -ddd` prints.
//!
//! Programs come from outside, so one is checked before it is run: every instruction is known, jumps go forward and stay
//! inside, the last instruction returns. So a run ends after at most as many steps as there are instructions.

use serde::{Deserialize, Serialize};

/// Most instructions of a program, as in the kernel (`BPF_MAXINSNS`).
pub const MAX_LEN: usize = 4096;
/// Words of scratch memory (`BPF_MEMWORDS`).
const WORDS: usize = 16;

/// One instruction: what to do, how far to jump where it holds and where not, and a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Insn(pub u16, pub u8, pub u8, pub u32);

/// Instruction codes: class, then size and mode, operation, or source.
mod code {
    pub const LD: u16 = 0;
    pub const LDX: u16 = 1;
    pub const ST: u16 = 2;
    pub const STX: u16 = 3;
    pub const ALU: u16 = 4;
    pub const JMP: u16 = 5;
    pub const RET: u16 = 6;
    pub const MISC: u16 = 7;
    pub const CLASS: u16 = 0x07;

    pub const IMM: u16 = 0x00;
    pub const ABS: u16 = 0x20;
    pub const IND: u16 = 0x40;
    pub const MEM: u16 = 0x60;
    pub const LEN: u16 = 0x80;
    pub const MSH: u16 = 0xa0;
    pub const MODE: u16 = 0xe0;
    pub const H: u16 = 0x08;
    pub const B: u16 = 0x10;
    pub const SIZE: u16 = 0x18;

    pub const ADD: u16 = 0x00;
    pub const SUB: u16 = 0x10;
    pub const MUL: u16 = 0x20;
    pub const DIV: u16 = 0x30;
    pub const OR: u16 = 0x40;
    pub const AND: u16 = 0x50;
    pub const LSH: u16 = 0x60;
    pub const RSH: u16 = 0x70;
    pub const NEG: u16 = 0x80;
    pub const MOD: u16 = 0x90;
    pub const XOR: u16 = 0xa0;
    pub const JA: u16 = 0x00;
    pub const JEQ: u16 = 0x10;
    pub const JGT: u16 = 0x20;
    pub const JGE: u16 = 0x30;
    pub const JSET: u16 = 0x40;
    pub const OP: u16 = 0xf0;
    /// Operand: the index register, in place of the constant. Of `RET`: the accumulator.
    pub const X: u16 = 0x08;
    pub const A: u16 = 0x10;
    pub const TXA: u16 = 0x80;
}

/// Why a program is refused. `at`: the instruction, from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadProgram {
    #[error("a filter has 1 to {MAX_LEN} instructions, not {0}")]
    Length(usize),
    #[error("instruction {at} of the filter has an unknown code, {code:#x}")]
    Unknown { at: usize, code: u16 },
    #[error("instruction {at} of the filter jumps out of it")]
    Jump { at: usize },
    #[error("instruction {at} of the filter uses memory that there is not")]
    Memory { at: usize },
    #[error("instruction {at} of the filter divides by zero, or shifts by more than 31 bits")]
    Operand { at: usize },
    #[error("the last instruction of the filter does not return")]
    NoReturn,
    #[error("line {0} is none of `tcpdump -ddd`")]
    Text(usize),
}

/// A checked program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program(Box<[Insn]>);

impl Program {
    /// # Errors
    /// It is not one that is safe to run.
    pub fn new(insns: Vec<Insn>) -> Result<Self, BadProgram> {
        if insns.is_empty() || insns.len() > MAX_LEN {
            return Err(BadProgram::Length(insns.len()));
        }
        for (at, insn) in insns.iter().enumerate() {
            check(at, insn, insns.len())?;
        }
        match insns.last() {
            Some(last) if last.0 & code::CLASS == code::RET => Ok(Self(insns.into())),
            _ => Err(BadProgram::NoReturn),
        }
    }

    /// Reads what `tcpdump -ddd` prints: the number of instructions, then one per line.
    ///
    /// # Errors
    /// Another text, or a program that is not safe to run.
    pub fn from_tcpdump(text: &str) -> Result<Self, BadProgram> {
        let mut lines = text.lines().enumerate();
        let count = lines.next().and_then(|(_, line)| line.trim().parse::<usize>().ok()).ok_or(BadProgram::Text(1))?;
        let insns =
            lines.map(|(at, line)| insn(line).ok_or(BadProgram::Text(at + 1))).collect::<Result<Vec<_>, _>>()?;
        if insns.len() != count {
            return Err(BadProgram::Length(insns.len()));
        }
        Self::new(insns)
    }

    pub fn insns(&self) -> &[Insn] {
        &self.0
    }

    /// Runs it over a packet of which `bytes` are at hand, `len` bytes long in all. What it returns is how many bytes of the
    /// packet it wants; 0: it does not match. A read beyond the end ends it with 0.
    pub fn run(&self, bytes: &[u8], len: u32) -> u32 {
        let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; WORDS]);
        let mut pc = 0;
        while let Some(&Insn(code, jt, jf, k)) = self.0.get(pc) {
            pc += 1;
            match code & code::CLASS {
                code::LD | code::LDX => {
                    let found = match code & code::MODE {
                        code::IMM => Some(k),
                        code::LEN => Some(len),
                        code::MEM => memory.get(k as usize).copied(),
                        code::ABS => load(bytes, k, code),
                        code::IND => load(bytes, x.wrapping_add(k), code),
                        // Four times the low nibble: the length of an IPv4 header.
                        _ => load(bytes, k, code::B).map(|byte| (byte & 0xf) << 2),
                    };
                    let Some(value) = found else { return 0 };
                    *(if code & code::CLASS == code::LD { &mut a } else { &mut x }) = value;
                }
                code::ST | code::STX => {
                    if let Some(word) = memory.get_mut(k as usize) {
                        *word = if code & code::CLASS == code::ST { a } else { x };
                    }
                }
                code::ALU => match alu(code, a, if code & code::X != 0 { x } else { k }) {
                    Some(result) => a = result,
                    None => return 0,
                },
                code::JMP if code & code::OP == code::JA => pc = pc.saturating_add(k as usize),
                code::JMP => {
                    let operand = if code & code::X != 0 { x } else { k };
                    let holds = match code & code::OP {
                        code::JEQ => a == operand,
                        code::JGT => a > operand,
                        code::JGE => a >= operand,
                        _ => a & operand != 0,
                    };
                    pc += usize::from(if holds { jt } else { jf });
                }
                code::RET => return if code & code::A != 0 { a } else { k },
                _ if code & code::TXA != 0 => a = x,
                _ => x = a,
            }
        }
        0
    }
}

fn insn(line: &str) -> Option<Insn> {
    let mut words = line.split_ascii_whitespace();
    let mut word = || words.next()?.parse::<u32>().ok();
    let (code, jt, jf, k) = (word()?, word()?, word()?, word()?);
    let insn = Insn(u16::try_from(code).ok()?, u8::try_from(jt).ok()?, u8::try_from(jf).ok()?, k);
    words.next().is_none().then_some(insn)
}

fn check(at: usize, &Insn(code, jt, jf, k): &Insn, len: usize) -> Result<(), BadProgram> {
    let unknown = Err(BadProgram::Unknown { at, code });
    // Instructions behind this one.
    let behind = len - at - 1;
    match code & code::CLASS {
        code::LD | code::LDX => {
            let (class, mode, size) = (code & code::CLASS, code & code::MODE, code & code::SIZE);
            let known = match mode {
                code::IMM | code::MEM | code::LEN => size == 0,
                code::ABS | code::IND => class == code::LD && size != code::SIZE,
                code::MSH => class == code::LDX && size == code::B,
                _ => false,
            };
            if !known || code > 0xff {
                return unknown;
            }
            if mode == code::MEM && k as usize >= WORDS { Err(BadProgram::Memory { at }) } else { Ok(()) }
        }
        code::ST | code::STX if code & !code::CLASS == 0 => {
            if k as usize >= WORDS {
                Err(BadProgram::Memory { at })
            } else {
                Ok(())
            }
        }
        code::ALU => {
            let (op, constant) = (code & code::OP, code & code::X == 0);
            if code > 0xff || op > code::XOR || (op == code::NEG && !constant) {
                return unknown;
            }
            let wrong = constant && ((matches!(op, code::DIV | code::MOD) && k == 0) || (is_shift(op) && k > 31));
            if wrong { Err(BadProgram::Operand { at }) } else { Ok(()) }
        }
        code::JMP => {
            let op = code & code::OP;
            if code > 0xff || op > code::JSET || (op == code::JA && code & code::X != 0) {
                return unknown;
            }
            let furthest = if op == code::JA { k as usize } else { usize::from(jt.max(jf)) };
            if furthest >= behind { Err(BadProgram::Jump { at }) } else { Ok(()) }
        }
        code::RET if matches!(code & !code::CLASS, 0 | code::A) => Ok(()),
        code::MISC if matches!(code & !code::CLASS, 0 | code::TXA) => Ok(()),
        _ => unknown,
    }
}

fn is_shift(op: u16) -> bool {
    matches!(op, code::LSH | code::RSH)
}

/// Big endian.
#[inline]
fn load(bytes: &[u8], at: u32, code: u16) -> Option<u32> {
    let from = bytes.get(at as usize..)?;
    match code & code::SIZE {
        code::B => from.first().map(|byte| u32::from(*byte)),
        code::H => from.first_chunk().map(|two| u32::from(u16::from_be_bytes(*two))),
        _ => from.first_chunk().map(|four| u32::from_be_bytes(*four)),
    }
}

/// `None`: divided by zero, which ends the program.
#[inline]
fn alu(code: u16, a: u32, operand: u32) -> Option<u32> {
    Some(match code & code::OP {
        code::ADD => a.wrapping_add(operand),
        code::SUB => a.wrapping_sub(operand),
        code::MUL => a.wrapping_mul(operand),
        code::DIV => a.checked_div(operand)?,
        code::MOD => a.checked_rem(operand)?,
        code::OR => a | operand,
        code::AND => a & operand,
        code::XOR => a ^ operand,
        code::LSH => a.checked_shl(operand).unwrap_or(0),
        code::RSH => a.checked_shr(operand).unwrap_or(0),
        _ => a.wrapping_neg(),
    })
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
