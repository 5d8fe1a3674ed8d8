//! The rig's programs: one that makes packets, one that counts and drops them.

use std::net::Ipv4Addr;

use super::asm::{Asm, Cond, Insn, Op, Reg, Size};

use Reg::{R0, R1, R2, R3, R4, R6, R7, R8, R9};

pub(super) const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
const HELPER_KTIME: i32 = 5;
const HELPER_REDIRECT_MAP: i32 = 51;
/// `bpf_redirect(ifindex, flags)`
pub const HELPER_REDIRECT: i32 = 23;
/// Offsets in `struct xdp_md`.
pub(super) const MD_DATA: i16 = 0;
pub(super) const MD_DATA_END: i16 = 4;
const MD_RX_QUEUE: i16 = 16;

/// Bytes of Ethernet, IPv4 and UDP header.
pub const HEADERS: usize = 42;

/// What the generator sends: UDP over IPv4, checksum of UDP left out (0 is legal in IPv4, RFC 768).
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    /// First source port; flow `n` has `source_port + n`.
    pub source_port: u16,
    pub destination_port: u16,
    /// Number of flows, a power of two, at most 2^20: 16384 source ports of each of up to 64 sources.
    pub flows: u32,
    /// Length of the Ethernet frame without FCS, 42–3000 bytes. "64 B" on the wire is 60 here.
    pub length: usize,
}

impl Traffic {
    /// The headers of flow 0, and zeros behind them.
    pub fn packet(&self) -> Vec<u8> {
        let mut p = vec![0u8; self.length.max(HEADERS)];
        let ip_length = (self.length - 14) as u16;
        p[0..6].copy_from_slice(&self.destination_mac);
        p[6..12].copy_from_slice(&self.source_mac);
        p[12..14].copy_from_slice(&[0x08, 0x00]);
        p[14..16].copy_from_slice(&[0x45, 0]);
        p[16..18].copy_from_slice(&ip_length.to_be_bytes());
        p[20..22].copy_from_slice(&[0x40, 0]); // don't fragment
        p[22] = 64;
        p[23] = 17;
        p[26..30].copy_from_slice(&self.source.octets());
        p[30..34].copy_from_slice(&self.destination.octets());
        let sum = ip_checksum(&p[14..34]);
        p[24..26].copy_from_slice(&sum.to_be_bytes());
        p[34..36].copy_from_slice(&self.source_port.to_be_bytes());
        p[36..38].copy_from_slice(&self.destination_port.to_be_bytes());
        p[38..40].copy_from_slice(&(ip_length - 20).to_be_bytes());
        p
    }
}

/// RFC 1071 over an IPv4 header whose checksum field is zero.
pub fn ip_checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], *w.get(1).unwrap_or(&0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Makes each frame anew and redirects it to `ifindex`. Every header byte is written each time: the kernel hands frames
/// back as whoever received them left them. Word 0 of `counter` counts; at `limit` packets the rest is dropped. With
/// `interval` (ns between packets, in 1/1024) frames are dropped until the next is due, counted from the time (monotonic,
/// ns) in word 1, which the first frame sets.
pub fn generator(traffic: &Traffic, ifindex: u32, counter: i32, limit: u64, interval: Option<u32>) -> Vec<Insn> {
    let packet = traffic.packet();
    let mut a = Asm::new();
    a.load(Size::W, R6, R1, MD_DATA).load(Size::W, R8, R1, MD_DATA_END);
    a.map_value(R7, counter, 0).load(Size::D, R9, R7, 0);
    a.imm64(R3, limit).jump_reg(Cond::Ge, R9, R3, "drop");
    if let Some(interval) = interval {
        a.call(HELPER_KTIME).load(Size::D, R3, R7, 8).jump_imm(Cond::Ne, R3, 0, "started");
        a.store(Size::D, R7, 8, R0).alu_reg(Op::Mov, R3, R0).label("started");
        a.alu_reg(Op::Mov, R2, R9).alu(Op::Mul, R2, interval as i32).alu(Op::Shr, R2, 10).alu_reg(Op::Add, R2, R3);
        a.jump_reg(Cond::Gt, R2, R0, "drop");
    }
    a.alu_reg(Op::Mov, R3, R8);
    a.alu_reg(Op::Mov, R2, R6).alu(Op::Add, R2, HEADERS as i32).jump_reg(Cond::Gt, R2, R3, "drop");
    for at in (0..HEADERS - 2).step_by(4) {
        let word = i32::from_le_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
        a.store_imm(Size::W, R6, at as i16, word);
    }
    a.store_imm(Size::H, R6, 40, 0);
    // One thread runs this, so counting needs no atomics.
    if traffic.flows > 16384 {
        a.alu_reg(Op::Mov, R2, R9).alu(Op::And, R2, traffic.flows as i32 - 1).alu(Op::Shr, R2, 14);
        a.alu(Op::Add, R2, i32::from(traffic.source.octets()[3])).store(Size::B, R6, 29, R2);
    }
    a.alu_reg(Op::Mov, R2, R9).alu(Op::And, R2, traffic.flows.min(16384) as i32 - 1);
    a.alu(Op::Add, R2, i32::from(traffic.source_port)).be16(R2).store(Size::H, R6, 34, R2);
    a.alu(Op::Add, R9, 1).store(Size::D, R7, 0, R9);
    a.alu(Op::Mov, R1, ifindex as i32).alu(Op::Mov, R2, 0).call(HELPER_REDIRECT).exit();
    a.label("drop").alu(Op::Mov, R0, XDP_DROP).exit();
    a.finish()
}

/// Counts every packet in word 0 of `counter` and those for UDP port `port` in word 1, and drops all.
pub fn sink(counter: i32, port: u16) -> Vec<Insn> {
    let mut a = Asm::new();
    a.load(Size::W, R6, R1, MD_DATA).load(Size::W, R3, R1, MD_DATA_END);
    a.map_value(R7, counter, 0).alu(Op::Mov, R4, 1).atomic_add(R7, 0, R4);
    a.alu_reg(Op::Mov, R2, R6).alu(Op::Add, R2, HEADERS as i32).jump_reg(Cond::Gt, R2, R3, "out");
    a.load(Size::H, R2, R6, 36).alu(Op::Mov, R3, i32::from(port.to_be())).jump_reg(Cond::Ne, R2, R3, "out");
    a.atomic_add(R7, 8, R4);
    a.label("out").alu(Op::Mov, R0, XDP_DROP).exit();
    a.finish()
}

/// Lets every packet by, and looks at nothing.
pub fn pass() -> Vec<Insn> {
    let mut a = Asm::new();
    a.alu(Op::Mov, R0, XDP_PASS).exit();
    a.finish()
}

/// Puts every packet into the socket of its queue in the XSKMAP `sockets`; passes it up where there is none.
pub fn to_socket(sockets: i32) -> Vec<Insn> {
    let mut a = Asm::new();
    a.load(Size::W, R2, R1, MD_RX_QUEUE).map(R1, sockets).alu(Op::Mov, R3, XDP_PASS);
    a.call(HELPER_REDIRECT_MAP).exit();
    a.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::rig::bpf::sys::{Program, Words, test_run};

    fn traffic() -> Traffic {
        Traffic {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            source: Ipv4Addr::new(10, 1, 0, 2),
            destination: Ipv4Addr::new(10, 2, 0, 2),
            source_port: 10000,
            destination_port: 9,
            flows: 16,
            length: 60,
        }
    }

    #[test]
    fn header_is_valid_ipv4() {
        let p = traffic().packet();
        assert_eq!(p.len(), 60);
        assert_eq!(ip_checksum(&p[14..34]), 0, "a correct header sums to zero");
        assert_eq!(u16::from_be_bytes([p[16], p[17]]), 46);
        assert_eq!(u16::from_be_bytes([p[38], p[39]]), 26);
    }

    #[test]
    fn sink_counts_and_drops_what_the_verifier_let_in() {
        // SAFETY: no arguments, cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            println!("skipped: needs root");
            return;
        }
        let words = Words::new(2).unwrap();
        let program = Program::load("sink", &sink(words.fd(), 9)).unwrap();
        let mut packet = traffic().packet();
        assert_eq!(test_run(program.fd(), &packet, 5).unwrap().verdict, XDP_DROP as u32);
        packet[37] = 10;
        test_run(program.fd(), &packet, 2).unwrap();
        test_run(program.fd(), &packet[..20], 1).unwrap();
        assert_eq!(words.read().unwrap(), [8, 5], "all, and those for the port");
    }

    #[test]
    fn generator_loads_and_counts() {
        // SAFETY: no arguments, cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            println!("skipped: needs root");
            return;
        }
        let words = Words::new(2).unwrap();
        let packet = traffic().packet();
        let program = Program::load("generator", &generator(&traffic(), 1, words.fd(), 150, None)).unwrap();
        assert_eq!(test_run(program.fd(), &packet, 100).unwrap().verdict, 4, "XDP_REDIRECT");
        assert_eq!(words.read().unwrap()[0], 100);
        assert_eq!(test_run(program.fd(), &packet, 100).unwrap().verdict, XDP_DROP as u32, "the limit");
        assert_eq!(words.read().unwrap()[0], 150);
    }

    #[test]
    fn generator_keeps_its_rate() {
        // SAFETY: no arguments, cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            println!("skipped: needs root");
            return;
        }
        let words = Words::new(2).unwrap();
        // One packet per millisecond, however often it runs.
        let code = generator(&traffic(), 1, words.fd(), 1 << 40, Some(1_000_000 << 10));
        let program = Program::load("generator", &code).unwrap();
        let start = std::time::Instant::now();
        let mut sent = 0;
        while sent < 10 && start.elapsed().as_secs() < 10 {
            test_run(program.fd(), &traffic().packet(), 1000).unwrap();
            sent = words.read().unwrap()[0];
        }
        let due = start.elapsed().as_millis() as u64 + 1;
        assert!(sent >= 10 && sent <= due, "{sent} of {due}");
    }
}
