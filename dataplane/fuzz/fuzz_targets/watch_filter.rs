//! Filters of captures: whatever program a client sends is refused, or safe to run over whatever packet comes. And the blocks of
//! a capture, which a client reads from an instance: whatever comes, they are whole blocks or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use softdpu::watch::filter::{Insn, MAX_LEN, Program};
use softdpu::watch::pcapng::{Blocks, lost};

/// A program's instructions, a packet, and a program's text.
type Input<'a> = (Vec<(u16, u8, u8, u32)>, Vec<u8>, &'a str);

fuzz_target!(|input: Input| {
    let (insns, packet, text) = input;
    let insns: Vec<Insn> = insns.into_iter().map(|(code, jt, jf, k)| Insn(code, jt, jf, k)).collect();
    for program in [Program::new(insns), Program::from_tcpdump(text)].into_iter().flatten() {
        assert!((1..=MAX_LEN).contains(&program.insns().len()));
        let said = program.run(&packet, packet.len() as u32);
        assert_eq!(program.run(&packet, packet.len() as u32), said, "it remembers nothing");
        assert_eq!(Program::new(program.insns().to_vec()).as_ref(), Ok(&program));
        // As tcpdump prints it.
        let lines = program.insns().iter().map(|Insn(code, jt, jf, k)| format!("{code} {jt} {jf} {k}\n"));
        let printed = format!("{}\n{}", program.insns().len(), lines.collect::<String>());
        assert_eq!(Program::from_tcpdump(&printed), Ok(program));
    }
    let mut blocks = Blocks::default();
    let mut taken = 0;
    for piece in packet.chunks(7) {
        blocks.push(piece);
        while let Ok(Some((_, block))) = blocks.next_block() {
            lost(&block);
            taken += block.len();
        }
    }
    assert!(taken <= packet.len());
});
