//! One inbound security association: judges sequence numbers, opens packets in place.

use std::ops::Range;

use softdpu_ebpf_common::walk::{Fragment, Headers};

use super::aead::{Aead, KeyId, KeyMaterial, Salt, new_aead};
use super::ecn;
use super::esp::{
    AssociatedData, ESP_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICV_LEN, IV_LEN, LINK_LEN, NEXT_IPCOMP, NEXT_IPV4,
    NEXT_IPV6, NEXT_NONE, OpenError, Opened, PROTO_ESP, PROTO_UDP, SaError, UDP_LEN, check_spi, nonce, write_link,
};
use super::replay::{ReplayError, ReplayWindow};
use crate::io::frame::Frame;

/// Shortest ESP packet: header, IV, an empty padded text of 4 bytes, ICV.
const MIN_ESP: usize = ESP_LEN + IV_LEN + 4 + ICV_LEN;

/// How the peer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequence {
    /// 32 bits.
    Short,
    /// 64 bits, the high half inferred from the window (RFC 4303 appendix A). For any peer with extended numbers.
    Extended,
    /// 64 bits, in full in the IV, as softdpu sends it. The same bytes on the wire as `Extended`, but the receiver
    /// needs no history: after a restart of either side the first packet is understood. The IV is authenticated
    /// (it is part of the nonce), and a packet whose IV does not end in its sequence number is refused.
    InIv,
}

/// What an inbound association is made from.
#[derive(Debug)]
pub struct InboundConfig<'a> {
    pub spi: u32,
    pub material: &'a KeyMaterial,
    pub sequence: Sequence,
    /// Packets the anti-replay window holds, 64 to 4096.
    pub window: u32,
}

/// What became of the packets of one association. Bytes are the inner packets'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InboundStats {
    pub packets: u64,
    pub bytes: u64,
    /// Seen before or left of the window.
    pub replayed: u64,
    /// Did not authenticate.
    pub unauthentic: u64,
    /// Authentic dummies.
    pub dummies: u64,
    /// Too short, or authentic and yet wrong inside.
    pub malformed: u64,
}

/// An inbound security association. One worker's own: the window is not shared.
#[derive(Debug)]
pub struct InboundSa {
    aead: Box<dyn Aead>,
    spi: u32,
    salt: Salt,
    sequence: Sequence,
    window: ReplayWindow,
    stats: std::sync::Mutex<InboundStats>,
    key_id: KeyId,
}

impl InboundSa {
    /// # Errors
    /// A reserved SPI.
    pub fn new(config: &InboundConfig<'_>) -> Result<Self, SaError> {
        check_spi(config.spi)?;
        Ok(Self {
            aead: new_aead(config.material),
            spi: config.spi,
            salt: Salt(config.material.salt()),
            sequence: config.sequence,
            window: ReplayWindow::new(config.window),
            stats: std::sync::Mutex::default(),
            key_id: config.material.id(),
        })
    }

    pub fn spi(&self) -> u32 {
        self.spi
    }

    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    pub fn stats(&self) -> InboundStats {
        self.stats.lock().map_or_else(|_| InboundStats::default(), |stats| *stats)
    }

    fn count(&self, add: impl FnOnce(&mut InboundStats)) {
        if let Ok(mut stats) = self.stats.lock() {
            add(&mut stats);
        }
    }

    #[cfg(test)]
    pub(super) fn set_window_top(&mut self, top: u64) {
        self.window.accept(top);
    }

    /// Takes the packet out of the tunnel, in place. `headers` is the walk of this frame (ESP, or ESP in UDP).
    ///
    /// The frame then begins with the link place ([`LINK_LEN`] bytes) in front of what was inside, and
    /// [`Opened::place`] says where that is. For IPv4 and IPv6 the outer header's congestion marks have been merged in
    /// (RFC 6040); for IPComp the caller does so once it is decompressed ([`ecn::decapsulate`] with the outer
    /// `headers.tos`).
    ///
    /// # Errors
    /// See [`OpenError`]. The frame's bytes are then void, its place is as before; it is to be dropped.
    #[inline]
    pub fn open(&self, frame: &mut Frame, headers: &Headers) -> Result<Opened, OpenError> {
        let esp = esp_place(frame, headers)?;
        let opened = self.open_slice(frame.bytes_mut(), esp)?;
        // The ESP header alone is longer than the link place, so there is room for it.
        let front = opened.place.start - LINK_LEN;
        let bytes = frame.bytes_mut();
        let link = &mut bytes[front..opened.place.start];
        match opened.next_header {
            NEXT_IPV4 => write_link(link, ETHERTYPE_IPV4),
            NEXT_IPV6 => write_link(link, ETHERTYPE_IPV6),
            _ => write_link(link, 0),
        }
        if opened.next_header != NEXT_IPCOMP
            && let Err(e) = ecn::decapsulate(&mut bytes[opened.place.clone()], headers.tos)
        {
            self.count(|stats| stats.malformed += 1);
            return Err(e);
        }
        let kept = frame.truncate(opened.place.end) && frame.trim_front(front);
        debug_assert!(kept, "what is inside is within the frame");
        Ok(Opened { place: LINK_LEN..LINK_LEN + opened.place.len(), ..opened })
    }

    /// The same on plain bytes: `esp` is where the ESP packet (from SPI to ICV) is in `buf`, and the answer's place is
    /// in `buf` too. No link place is written and no congestion mark merged. For packets in several frames, gathered by
    /// the caller.
    ///
    /// # Errors
    /// See [`OpenError`]; the bytes of `esp` are then void.
    #[inline]
    pub fn open_slice(&self, buf: &mut [u8], esp: Range<usize>) -> Result<Opened, OpenError> {
        let opened = self.try_open(buf, esp);
        match &opened {
            Ok(opened) => {
                self.count(|stats| stats.packets += 1);
                self.count(|stats| stats.bytes += opened.place.len() as u64);
            }
            Err(OpenError::Replay | OpenError::TooOld) => self.count(|stats| stats.replayed += 1),
            Err(OpenError::BadIcv | OpenError::BadIv) => self.count(|stats| stats.unauthentic += 1),
            Err(OpenError::Dummy) => self.count(|stats| stats.dummies += 1),
            Err(_) => self.count(|stats| stats.malformed += 1),
        }
        opened
    }

    #[inline]
    fn try_open(&self, buf: &mut [u8], esp: Range<usize>) -> Result<Opened, OpenError> {
        let packet = buf.get_mut(esp.clone()).ok_or(OpenError::Short)?;
        if packet.len() < MIN_ESP {
            return Err(OpenError::Short);
        }
        let Some((&spi, rest)) = packet.split_first_chunk::<4>() else { return Err(OpenError::Short) };
        let Some((&low, rest)) = rest.split_first_chunk::<4>() else { return Err(OpenError::Short) };
        let Some((&iv, _)) = rest.split_first_chunk::<IV_LEN>() else { return Err(OpenError::Short) };
        if u32::from_be_bytes(spi) != self.spi {
            return Err(OpenError::NoSa);
        }
        let low = u32::from_be_bytes(low);
        let seq = match self.sequence {
            Sequence::Short => low.into(),
            Sequence::Extended => self.window.infer(low).map_err(replay_error)?,
            Sequence::InIv => {
                let seq = u64::from_be_bytes(iv);
                if seq as u32 != low {
                    return Err(OpenError::BadIv);
                }
                seq
            }
        };
        self.window.check(seq).map_err(replay_error)?;

        let text = &mut packet[ESP_LEN + IV_LEN..];
        let Some((text, &mut icv)) = text.split_last_chunk_mut::<ICV_LEN>() else { return Err(OpenError::Short) };
        let aad = AssociatedData::new(self.spi, seq, self.sequence != Sequence::Short);
        self.aead.open(nonce(self.salt.0, iv), aad.as_slice(), text, icv).map_err(|_| OpenError::BadIcv)?;
        self.window.accept(seq).map_err(replay_error)?;

        // From here on the peer itself wrote what we read.
        let [body @ .., pad_len, next_header] = &*text else { return Err(OpenError::BadPadding) };
        let len = body.len().checked_sub((*pad_len).into()).ok_or(OpenError::BadPadding)?;
        let padding = &body[len..];
        if padding.iter().zip(1_u8..).any(|(got, want)| *got != want) {
            return Err(OpenError::BadPadding);
        }
        let (version, min) = match *next_header {
            NEXT_IPV4 => (4, 20),
            NEXT_IPV6 => (6, 40),
            NEXT_IPCOMP => (0, 4),
            NEXT_NONE => return Err(OpenError::Dummy),
            _ => return Err(OpenError::BadNextHeader),
        };
        if len < min || version != 0 && body[0] >> 4 != version {
            return Err(OpenError::BadInner);
        }
        let next_header = *next_header;
        let start = esp.start + ESP_LEN + IV_LEN;
        Ok(Opened { place: start..start + len, next_header, seq })
    }
}

/// Where the ESP packet is in a frame that the walk has gone over.
#[inline]
fn esp_place(frame: &Frame, headers: &Headers) -> Result<Range<usize>, OpenError> {
    if frame.is_chain() {
        return Err(OpenError::Chained);
    }
    if headers.fragment != Fragment::No {
        return Err(OpenError::Fragment);
    }
    let (l4, end) = (usize::from(headers.l4_off), usize::from(headers.end));
    let start = match headers.proto {
        PROTO_ESP => l4,
        PROTO_UDP => l4 + UDP_LEN,
        _ => return Err(OpenError::NotEsp),
    };
    let Some(packet) = frame.bytes().get(start..end) else { return Err(OpenError::Short) };
    if headers.proto == PROTO_UDP && packet == [0xff] {
        return Err(OpenError::Keepalive);
    }
    Ok(start..end)
}

fn replay_error(e: ReplayError) -> OpenError {
    match e {
        ReplayError::Seen => OpenError::Replay,
        ReplayError::TooOld => OpenError::TooOld,
    }
}
