//! IPComp: what a peer sends stays within the limits, and what we compress comes back.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use softdpu::compress::{Compressor, Decompressor, Governor, Outcome, ipcomp};
use softdpu_fuzz::with_frame;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// As it comes.
    Raw { max: u16, packet: &'a [u8] },
    /// Behind a good header.
    Lz4 { max: u16, v6: bool, data: &'a [u8] },
    /// A packet of ours: `data`, repeated.
    Ours { v6: bool, times: u8, data: &'a [u8] },
}

fn decompress(packet: &[u8], max: u16) {
    with_frame(packet, |frame| {
        let room = frame.headroom() + frame.len() + frame.tailroom();
        if let Ok(d) = Decompressor::new(max.into()).decompress(frame, 0..packet.len()) {
            assert!(d.place.len() <= usize::from(max) && d.place.end == frame.len() && frame.len() <= room);
            assert!(frame.bytes()[d.place.start] >> 4 == if d.next_header == 4 { 4 } else { 6 });
        }
    });
}

fuzz_target!(|input: Input| {
    match input {
        Input::Raw { max, packet } => decompress(packet, max),
        Input::Lz4 { max, v6, data } => {
            decompress(&[&ipcomp::write(if v6 { 41 } else { 4 })[..], data].concat(), max);
        }
        Input::Ours { v6, times, data } => {
            let mut packet = data.repeat(times.into());
            let Some(first) = packet.first_mut() else { return };
            *first = if v6 { 0x60 } else { 0x45 };
            with_frame(&packet, |frame| {
                let next_header = if v6 { 41 } else { 4 };
                let mut flow = Governor::default();
                match Compressor::new().compress(frame, 0..packet.len(), next_header, &mut flow) {
                    Outcome::Compressed { place } => {
                        assert!(place.len() < packet.len());
                        let d = Decompressor::new(65_535).decompress(frame, place).expect("what we made");
                        assert!(frame.bytes()[d.place] == packet && d.next_header == next_header);
                    }
                    Outcome::Left(_) => assert!(frame.bytes() == packet),
                }
            });
        }
    }
});
