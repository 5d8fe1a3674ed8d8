//! A BPF assembler, as far as the programs of the rig need one. Encoding: RFC 9669.

/// One instruction slot (8 bytes). A 64-bit load takes two.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    pub code: u8,
    /// Destination register in the low, source in the high four bits.
    pub regs: u8,
    pub off: i16,
    pub imm: i32,
}

/// Registers, `R10` is the frame pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// Width of a memory access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Size {
    /// 4 bytes.
    W = 0x00,
    /// 2 bytes.
    H = 0x08,
    /// 1 byte.
    B = 0x10,
    /// 8 bytes.
    D = 0x18,
}

const LDX_MEM: u8 = 0x61;
const ST_MEM: u8 = 0x62;
const STX_MEM: u8 = 0x63;
const STX_ATOMIC_D: u8 = 0xdb;
const LD_IMM64: u8 = 0x18;
const ALU64: u8 = 0x07;
const JMP: u8 = 0x05;
const FROM_REG: u8 = 0x08;
const TO_BE: u8 = 0xdc;
const PSEUDO_MAP_FD: u8 = 1;
const PSEUDO_MAP_VALUE: u8 = 2;

/// Jump conditions, unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cond {
    Eq = 0x10,
    Gt = 0x20,
    Ge = 0x30,
    Ne = 0x50,
}

/// Operations on 64-bit registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    Add = 0x00,
    Mul = 0x20,
    Or = 0x40,
    And = 0x50,
    Shl = 0x60,
    Shr = 0x70,
    Mov = 0xb0,
}

/// A program under construction. Jumps go forward to a label that is placed later.
#[derive(Default, Debug)]
pub struct Asm {
    code: Vec<Insn>,
    pending: Vec<(usize, &'static str)>,
}

impl Asm {
    pub fn new() -> Self {
        Self::default()
    }

    fn push(&mut self, code: u8, dst: Reg, src: u8, off: i16, imm: i32) -> &mut Self {
        self.code.push(Insn { code, regs: (src << 4) | dst as u8, off, imm });
        self
    }

    /// `dst op= imm`
    pub fn alu(&mut self, op: Op, dst: Reg, imm: i32) -> &mut Self {
        self.push(ALU64 | op as u8, dst, 0, 0, imm)
    }

    /// `dst op= src`
    pub fn alu_reg(&mut self, op: Op, dst: Reg, src: Reg) -> &mut Self {
        self.push(ALU64 | FROM_REG | op as u8, dst, src as u8, 0, 0)
    }

    /// Low 16 bits of `dst` into network order; the rest becomes zero.
    pub fn be16(&mut self, dst: Reg) -> &mut Self {
        self.push(TO_BE, dst, 0, 0, 16)
    }

    /// `dst = *(src + off)`
    pub fn load(&mut self, size: Size, dst: Reg, src: Reg, off: i16) -> &mut Self {
        self.push(LDX_MEM | size as u8, dst, src as u8, off, 0)
    }

    /// `*(dst + off) = imm`
    pub fn store_imm(&mut self, size: Size, dst: Reg, off: i16, imm: i32) -> &mut Self {
        self.push(ST_MEM | size as u8, dst, 0, off, imm)
    }

    /// `*(dst + off) = src`
    pub fn store(&mut self, size: Size, dst: Reg, off: i16, src: Reg) -> &mut Self {
        self.push(STX_MEM | size as u8, dst, src as u8, off, 0)
    }

    /// `*(u64 *)(dst + off) += src`, atomically.
    pub fn atomic_add(&mut self, dst: Reg, off: i16, src: Reg) -> &mut Self {
        self.push(STX_ATOMIC_D, dst, src as u8, off, 0)
    }

    /// `dst` = address of `map_value[0] + off` of the array map behind `fd`.
    pub fn map_value(&mut self, dst: Reg, fd: i32, off: i32) -> &mut Self {
        self.push(LD_IMM64, dst, PSEUDO_MAP_VALUE, 0, fd).push(0, Reg::R0, 0, 0, off)
    }

    /// `dst` = the map behind `fd`, as helpers take it.
    pub fn map(&mut self, dst: Reg, fd: i32) -> &mut Self {
        self.push(LD_IMM64, dst, PSEUDO_MAP_FD, 0, fd).push(0, Reg::R0, 0, 0, 0)
    }

    /// `dst = value`, 64 bits.
    pub fn imm64(&mut self, dst: Reg, value: u64) -> &mut Self {
        self.push(LD_IMM64, dst, 0, 0, value as u32 as i32).push(0, Reg::R0, 0, 0, (value >> 32) as i32)
    }

    /// Jumps to `label` where `a cond imm`.
    pub fn jump_imm(&mut self, cond: Cond, a: Reg, imm: i32, label: &'static str) -> &mut Self {
        self.pending.push((self.code.len(), label));
        self.push(JMP | cond as u8, a, 0, 0, imm)
    }

    /// Jumps to `label` where `a cond b`.
    pub fn jump_reg(&mut self, cond: Cond, a: Reg, b: Reg, label: &'static str) -> &mut Self {
        self.pending.push((self.code.len(), label));
        self.push(JMP | FROM_REG | cond as u8, a, b as u8, 0, 0)
    }

    pub fn call(&mut self, helper: i32) -> &mut Self {
        self.push(0x85, Reg::R0, 0, 0, helper)
    }

    pub fn exit(&mut self) -> &mut Self {
        self.push(0x95, Reg::R0, 0, 0, 0)
    }

    /// Places `label`: jumps to it that were written before land here.
    pub fn label(&mut self, label: &'static str) -> &mut Self {
        let here = self.code.len();
        self.pending.retain(|&(at, name)| {
            if name == label {
                self.code[at].off = (here - at - 1) as i16;
            }
            name != label
        });
        self
    }

    /// The finished program.
    ///
    /// # Panics
    /// Where a jump's label was never placed: a mistake in this crate.
    pub fn finish(self) -> Vec<Insn> {
        assert!(self.pending.is_empty(), "label {:?} is missing", self.pending[0].1);
        self.code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_as_the_rfc_says() {
        let mut a = Asm::new();
        a.alu(Op::Mov, Reg::R0, 2).load(Size::W, Reg::R2, Reg::R1, 4).store(Size::H, Reg::R10, -2, Reg::R3).exit();
        let code = a.finish();
        assert_eq!(code[0], Insn { code: 0xb7, regs: 0x00, off: 0, imm: 2 });
        assert_eq!(code[1], Insn { code: 0x61, regs: 0x12, off: 4, imm: 0 });
        assert_eq!(code[2], Insn { code: 0x6b, regs: 0x3a, off: -2, imm: 0 });
        assert_eq!(code[3].code, 0x95);
    }

    #[test]
    fn jumps_land_on_their_label() {
        let mut a = Asm::new();
        a.jump_reg(Cond::Gt, Reg::R1, Reg::R2, "out").alu(Op::Mov, Reg::R0, 1).exit().label("out");
        a.alu(Op::Mov, Reg::R0, 0).exit();
        assert_eq!(a.finish()[0].off, 2);
    }

    #[test]
    #[should_panic(expected = "missing")]
    fn a_label_that_is_not_there_is_a_mistake() {
        let mut a = Asm::new();
        a.jump_reg(Cond::Eq, Reg::R1, Reg::R2, "nowhere");
        a.finish();
    }
}
