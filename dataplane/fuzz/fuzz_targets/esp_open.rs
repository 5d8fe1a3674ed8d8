//! ESP open: frames of strangers never open, a sealed packet with any one change never opens, and a peer with the right
//! key may put whatever it likes inside.
#![no_main]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use softdpu::crypto::aead::{Aead, new_aead};
use softdpu::crypto::esp::{Inner, Mode};
use softdpu::crypto::inbound::{NatFix, Sequence};
use softdpu::crypto::outbound::Start;
use softdpu::crypto::outer::{Encapsulation, Endpoints};
use softdpu::crypto::{
    Cipher, InboundConfig, InboundOptions, InboundSa, KeyMaterial, OutboundConfig, OutboundOptions, OutboundSa,
};
use softdpu_ebpf_common::walk::{Headers, walk};
use softdpu_fuzz::with_frame;

const SPI: u32 = 0x1001;
static MATERIAL: LazyLock<KeyMaterial> =
    LazyLock::new(|| KeyMaterial::new(Cipher::Aes128Gcm, &[7; 20]).expect("the cipher's length"));
static AEAD: LazyLock<Box<dyn Aead>> = LazyLock::new(|| new_aead(&MATERIAL));

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// A frame from the wire.
    Stranger(&'a [u8]),
    /// A packet of a peer that has the key; `seq` and what is inside (trailer included) are as it likes.
    Peer { seq: u64, text: &'a [u8] },
    /// A packet that we sealed, with `flips` (byte, bits) on the way.
    Damaged { v6: bool, udp: bool, tos: u8, next_header: u8, inner: &'a [u8], flips: [(u16, u8); 2] },
    /// A transport-mode packet of a peer that has the key, behind a header as it likes; `proto` is what it says is inside.
    Header { head: &'a [u8], l3_off: u16, udp: bool, proto: u8, text: &'a [u8] },
}

fn inbound(sequence: Sequence, mode: Mode) -> InboundSa {
    let options = InboundOptions { mode, nat: NatFix::Recompute, ..InboundOptions::default() };
    InboundSa::new(&InboundConfig { spi: SPI, material: &MATERIAL, sequence, window: 64, options }).expect("a good SPI")
}

fn open(bytes: &[u8], sequence: Sequence, mode: Mode) -> bool {
    let Ok(headers) = walk(bytes) else { return false };
    with_frame(bytes, |frame| match inbound(sequence, mode).open(frame, &headers) {
        Ok(opened) => {
            assert_eq!(opened.place.end, frame.len());
            true
        }
        Err(_) => {
            assert_eq!(frame.len(), bytes.len());
            false
        }
    })
}

/// ESP as a peer with the key makes it around any text.
fn esp_of(seq: u64, text: &[u8]) -> Vec<u8> {
    let mut text = text.to_vec();
    let mut nonce = [7; 12];
    nonce[4..].copy_from_slice(&seq.to_be_bytes());
    let aad = [&SPI.to_be_bytes()[..], &seq.to_be_bytes()].concat();
    let tag = AEAD.seal(nonce, &aad, &mut text).expect("short");
    [&SPI.to_be_bytes()[..], &(seq as u32).to_be_bytes(), &nonce[4..], &text, &tag].concat()
}

fn outbound(v6: bool, udp: bool) -> OutboundSa {
    OutboundSa::new(&OutboundConfig {
        spi: SPI,
        material: &MATERIAL,
        endpoints: if v6 {
            Endpoints::V6 { local: Ipv6Addr::LOCALHOST, remote: Ipv6Addr::LOCALHOST }
        } else {
            Endpoints::V4 { local: Ipv4Addr::LOCALHOST, remote: Ipv4Addr::LOCALHOST }
        },
        encapsulation: if udp { Encapsulation::Udp { source: 4500, destination: 4500 } } else { Encapsulation::None },
        extended: true,
        start: Start::At { seq: 1, iv_offset: 0 },
        options: OutboundOptions::default(),
    })
    .expect("a good SPI")
}

fuzz_target!(|input: Input| {
    match input {
        Input::Stranger(bytes) => {
            for sequence in [Sequence::Short, Sequence::Extended, Sequence::InIv] {
                assert!(!open(bytes, sequence, Mode::Tunnel) && !open(bytes, sequence, Mode::Transport));
            }
        }
        Input::Peer { seq, text } => {
            let mut esp = esp_of(seq, text);
            let len = esp.len();
            let sa = inbound(Sequence::InIv, Mode::Tunnel);
            if let Ok(opened) = sa.open_slice(&mut esp, 0..len) {
                assert!(opened.seq == seq && seq != 0 && opened.place.start == 16 && opened.place.end + 18 <= len);
                let mut again = esp.clone();
                assert!(sa.open_slice(&mut again, 0..len).is_err(), "once only");
            }
        }
        Input::Damaged { v6, udp, tos, next_header, inner, flips } => {
            let packet = inner.to_vec();
            let place = 0..packet.len();
            let sealed = with_frame(&packet, |frame| {
                let sealed = outbound(v6, udp).seal(frame, &Inner { place, next_header, tos });
                sealed.map(|()| frame.bytes().to_vec())
            });
            let Ok(mut sealed) = sealed else { return };
            let esp = 14 + if v6 { 40 } else { 20 } + if udp { 8 } else { 0 };
            let before = sealed.clone();
            for (at, bits) in flips {
                let at = esp + usize::from(at) % (sealed.len() - esp);
                sealed[at] ^= bits;
            }
            assert!(sealed == before || !open(&sealed, Sequence::InIv, Mode::Tunnel), "a damaged packet opened");
        }
        Input::Header { head, l3_off, udp, proto, text } => {
            let mut text = text.to_vec();
            let pad = (text.len() + 2).wrapping_neg() & 3;
            text.extend((1..=pad as u8).chain([pad as u8, proto]));
            let udp_header: &[u8] = if udp { &[0; 8] } else { &[] };
            let bytes = [head, udp_header, &esp_of(1, &text)].concat();
            let Ok(end) = u16::try_from(bytes.len()) else { return };
            let headers = Headers {
                l3_off,
                l4_off: head.len() as u16,
                end,
                proto: if udp { 17 } else { 50 },
                spi: SPI,
                ..Headers::default()
            };
            let sa = inbound(Sequence::InIv, Mode::Transport);
            let mut buf = bytes.clone();
            if let Ok(opened) = sa.opener().open_packet(&mut buf, &headers) {
                assert!(
                    opened.place.end <= bytes.len()
                        && buf[opened.place.start] >> 4 == if opened.next_header == 4 { 4 } else { 6 }
                );
            }
            assert!(sa.opener().open_packet(&mut bytes.clone(), &headers).is_err(), "once only");
        }
    }
});
