//! SSH: the version line that both sides begin with (RFC 4253 §4.2).

use super::{Class, Found, HostName, Look, Verdict};

const BANNERS: [&[u8]; 3] = [b"SSH-2.0-", b"SSH-1.99-", b"SSH-1.5-"];

pub fn look(look: &Look, _: &mut HostName) -> Verdict {
    for banner in BANNERS {
        if look.data.starts_with(banner) {
            return Verdict::Done(Found::handshake(Class::Ssh, super::Alpn::None));
        }
    }
    if BANNERS.iter().any(|b| b.starts_with(look.data)) { Verdict::More } else { Verdict::No }
}
