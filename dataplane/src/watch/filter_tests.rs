#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;
use std::os::unix::io::AsRawFd;
use std::os::unix::net::UnixDatagram;

/// `tcp port 80` over Ethernet, as libpcap 1.10 compiles it.
const TCP_80: &str = "20\n40 0 0 12\n21 0 6 34525\n48 0 0 20\n21 0 15 6\n40 0 0 54\n21 12 0 80\n40 0 0 56\n21 10 11 80\n\
                      21 0 10 2048\n48 0 0 23\n21 0 8 6\n40 0 0 20\n69 6 0 8191\n177 0 0 14\n72 0 0 14\n21 2 0 80\n\
                      72 0 0 16\n21 0 1 80\n6 0 0 262144\n6 0 0 0\n";

fn tcp(dport: u16) -> Vec<u8> {
    let mut frame = vec![0; 54];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[23] = 6;
    frame[36..38].copy_from_slice(&dport.to_be_bytes());
    frame
}

#[test]
fn a_filter_of_tcpdump_tells_packets_apart() {
    let program = Program::from_tcpdump(TCP_80).unwrap();
    assert_eq!(program.run(&tcp(80), 54), 262_144);
    assert_eq!(program.run(&tcp(81), 54), 0);
    assert_eq!(program.run(&[], 0), 0, "a read beyond the end ends it");
    assert_eq!(program.run(&tcp(80)[..30], 54), 0);
}

#[test]
fn what_is_not_safe_is_refused_and_where_is_said() {
    let refused = |insns: &[Insn]| Program::new(insns.to_vec()).unwrap_err();
    assert_eq!(refused(&[]), BadProgram::Length(0));
    assert_eq!(refused(&vec![Insn(6, 0, 0, 0); MAX_LEN + 1]), BadProgram::Length(MAX_LEN + 1));
    assert_eq!(refused(&[Insn(0, 0, 0, 1)]), BadProgram::NoReturn);
    assert_eq!(refused(&[Insn(5, 0, 0, u32::MAX), Insn(6, 0, 0, 0)]), BadProgram::Jump { at: 0 });
    assert_eq!(refused(&[Insn(21, 1, 0, 7), Insn(6, 0, 0, 0)]), BadProgram::Jump { at: 0 });
    assert_eq!(refused(&[Insn(0x60, 0, 0, 16), Insn(6, 0, 0, 0)]), BadProgram::Memory { at: 0 });
    assert_eq!(refused(&[Insn(2, 0, 0, 16), Insn(6, 0, 0, 0)]), BadProgram::Memory { at: 0 });
    assert_eq!(refused(&[Insn(0x34, 0, 0, 0), Insn(6, 0, 0, 0)]), BadProgram::Operand { at: 0 });
    assert_eq!(refused(&[Insn(0x64, 0, 0, 32), Insn(6, 0, 0, 0)]), BadProgram::Operand { at: 0 });
    assert_eq!(refused(&[Insn(0xffff, 0, 0, 0)]), BadProgram::Unknown { at: 0, code: 0xffff });
    assert_eq!(Program::from_tcpdump("1\n6 0 0\n").unwrap_err(), BadProgram::Text(2));
    assert_eq!(Program::from_tcpdump("tcpdump: syntax error").unwrap_err(), BadProgram::Text(1));
    assert_eq!(Program::from_tcpdump("2\n6 0 0 0\n").unwrap_err(), BadProgram::Length(1));
}

/// Instructions that are likely to be right, of `len` in all.
fn insn(at: usize, len: usize) -> impl Strategy<Value = Insn> {
    let behind = (len - at - 1).min(255);
    let jump = 0..=behind.saturating_sub(1) as u8;
    let offset = prop_oneof![0u32..80, 0u32..0x1000];
    prop_oneof![
        4 => (prop::sample::select(vec![0x20u16, 0x28, 0x30, 0x40, 0x48, 0x50]), offset.clone()).prop_map(|(c, k)| Insn(c, 0, 0, k)),
        1 => offset.clone().prop_map(|k| Insn(0xb1, 0, 0, k)),
        2 => (prop::sample::select(vec![0x00u16, 0x01, 0x80, 0x81]), any::<u32>()).prop_map(|(c, k)| Insn(c, 0, 0, k)),
        2 => (prop::sample::select(vec![0x60u16, 0x61, 0x02, 0x03]), 0u32..16).prop_map(|(c, k)| Insn(c, 0, 0, k)),
        // Shifts by the index register are left out: how far the kernel shifts by 32 and more is the processor's matter.
        3 => (prop::sample::select(vec![0x04u16, 0x14, 0x24, 0x34, 0x44, 0x54, 0x94, 0xa4, 0x0c, 0x1c, 0x2c, 0x3c, 0x4c, 0x5c, 0x9c, 0xac]),
              1u32..).prop_map(|(c, k)| Insn(c, 0, 0, k)),
        1 => (prop::sample::select(vec![0x64u16, 0x74]), 0u32..32).prop_map(|(c, k)| Insn(c, 0, 0, k)),
        1 => prop::sample::select(vec![0x84u16, 0x07, 0x87]).prop_map(|c| Insn(c, 0, 0, 0)),
        3 => (prop::sample::select(vec![0x15u16, 0x25, 0x35, 0x45, 0x1d, 0x2d, 0x3d, 0x4d]), jump.clone(), jump.clone(), 0u32..300)
            .prop_map(|(c, jt, jf, k)| Insn(c, jt, jf, k)),
        1 => jump.prop_map(|k| Insn(0x05, 0, 0, k.into())),
    ]
}

fn program() -> impl Strategy<Value = Vec<Insn>> {
    let last = prop_oneof![Just(Insn(0x16, 0, 0, 0)), (0u32..200).prop_map(|k| Insn(0x06, 0, 0, k))];
    (2usize..40)
        .prop_flat_map(move |len| ((0..len - 1).map(|at| insn(at, len)).collect::<Vec<_>>(), last.clone()))
        .prop_map(|(mut insns, last)| {
            insns.push(last);
            insns
        })
}

/// What the kernel's own interpreter makes of it: bytes of the packet that come through, `None` where it refuses the program.
fn kernel(insns: &[Insn], packet: &[u8]) -> Option<usize> {
    let (to, from) = UnixDatagram::pair().unwrap();
    let mut filter: Vec<libc::sock_filter> =
        insns.iter().map(|&Insn(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the option's value is a program that lives as long as the call.
    let set = unsafe {
        let (value, size) = (&raw const program, size_of::<libc::sock_fprog>() as u32);
        libc::setsockopt(to.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, value.cast(), size)
    };
    if set != 0 {
        return None;
    }
    to.set_nonblocking(true).unwrap();
    // What the filter drops, the sender is told of by EPERM.
    if from.send(packet).is_err() {
        return Some(0);
    }
    let mut got = vec![0; packet.len()];
    Some(to.recv(&mut got).unwrap_or(0))
}

/// With `k` beyond this, loads mean other things to the kernel than bytes of the packet.
fn plain(insns: &[Insn]) -> bool {
    insns.iter().all(|insn| insn.0 & 7 > 1 || insn.0 & 0xe0 == 0 || insn.3 < 0xffff_0000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 512 }, ..ProptestConfig::default() })]

    /// Whoever is right about a program, it is the same as the kernel says.
    #[test]
    fn it_says_what_the_kernel_says(insns in program(), packet in prop::collection::vec(any::<u8>(), 1..200)) {
        let Some(expected) = kernel(&insns, &packet) else { return Ok(()) };
        prop_assume!(plain(&insns));
        let program = Program::new(insns);
        prop_assert!(program.is_ok(), "the kernel took it: {program:?}");
        let wants = program.unwrap().run(&packet, packet.len() as u32) as usize;
        prop_assert_eq!(wants.min(packet.len()), expected);
    }

    #[test]
    fn whatever_is_accepted_ends(
        insns in prop::collection::vec((any::<u16>(), any::<u8>(), any::<u8>(), any::<u32>()), 0..50),
        packet in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let insns = insns.into_iter().map(|(code, jt, jf, k)| Insn(code & 0xff, jt % 8, jf % 8, k)).collect();
        if let Ok(program) = Program::new(insns) {
            program.run(&packet, packet.len() as u32);
        }
    }

    #[test]
    fn text_of_any_kind_is_read_or_refused(text in "[0-9 \n]{0,200}") {
        let _ = Program::from_tcpdump(&text);
    }
}
