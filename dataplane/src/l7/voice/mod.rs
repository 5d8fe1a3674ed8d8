//! Voice and video: signalling, media, and the way through NATs.

pub mod discord;
pub mod rtcp;
pub mod rtmp;
pub mod rtp;
pub mod rtsp;
pub mod sip;
pub mod stun;

use super::{Recogniser, Starts};

/// First letters of SIP's methods and version.
const SIP: Starts = Starts::With(b"IABCORPSNMU");

pub static RECOGNISERS: &[Recogniser] = &[
    Recogniser {
        name: "stun",
        tcp: Some((Starts::Within(0, 0x3f), stun::look_tcp)),
        udp: Some((Starts::Within(0, 0x4f), stun::look_udp)),
    },
    Recogniser::udp("discord", Starts::With(&[0]), discord::look),
    Recogniser { name: "sip", tcp: Some((SIP, sip::look)), udp: Some((SIP, sip::look)) },
    Recogniser::tcp("rtsp", Starts::With(b"ODASPTGR"), rtsp::look),
    Recogniser::tcp("rtmp", Starts::With(&[3]), rtmp::look),
    Recogniser::udp("rtcp", Starts::Within(0x80, 0x9f), rtcp::look),
    Recogniser {
        name: "rtp",
        // A frame's length comes first: any up to a datagram's.
        tcp: Some((Starts::Within(0, 0x1f), rtp::look_tcp)),
        udp: Some((Starts::Within(0x80, 0xbf), rtp::look_udp)),
    },
];
