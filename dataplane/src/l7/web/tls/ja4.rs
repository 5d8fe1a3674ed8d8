//! JA4, the fingerprint of a TLS client (FoxIO, "JA4: TLS Client Fingerprinting", 2023): a readable part, the hash of the
//! ciphers and the hash of extensions and signature algorithms. Reserved values are left out throughout.

use ring::digest::{Context, SHA256};

use super::hello::{Carrier, ClientHello};

/// `t13d1516h2_8daaf6152771_e5627efa2ab1`.
pub const LEN: usize = 36;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
/// Stands for a list that is empty.
const NOTHING: &[u8; 12] = b"000000000000";

/// Writes the fingerprint. `false`: the hello has more ciphers or extensions than are kept, and no fingerprint.
pub fn write(hello: &ClientHello, carrier: Carrier, to: &mut [u8; LEN]) -> bool {
    if hello.ciphers.over || hello.extensions.over || hello.signatures.over {
        return false;
    }
    let ciphers = hello.ciphers.all();
    let extensions = hello.extensions.all();
    to[0] = match carrier {
        Carrier::Tls => b't',
        Carrier::Dtls => b'd',
        Carrier::Quic => b'q',
    };
    to[1..3].copy_from_slice(version(hello.version()));
    to[3] = if hello.has_name { b'd' } else { b'i' };
    to[4..6].copy_from_slice(&two_digits(ciphers.len()));
    to[6..8].copy_from_slice(&two_digits(extensions.len()));
    to[8..10].copy_from_slice(&ends(hello.alpn_ends));
    to[10] = b'_';
    to[23] = b'_';
    let mut sorted = hello.ciphers;
    to[11..23].copy_from_slice(&hash(sorted.sort(), &[]));
    let mut sorted = hello.extensions;
    let kept = sorted.sort_without(|e| e == SERVER_NAME || e == ALPN);
    to[24..36].copy_from_slice(&hash(kept, hello.signatures.all()));
    true
}

fn version(v: u16) -> &'static [u8; 2] {
    match v {
        0x0304 => b"13",
        0x0303 => b"12",
        0x0302 => b"11",
        0x0301 => b"10",
        0x0300 => b"s3",
        0x0002 => b"s2",
        0xfeff => b"d1",
        0xfefd => b"d2",
        0xfefc => b"d3",
        _ => b"00",
    }
}

fn two_digits(n: usize) -> [u8; 2] {
    let n = n.min(99) as u8;
    [b'0' + n / 10, b'0' + n % 10]
}

/// First and last letter of the protocol; of its hexadecimal form where one of them is neither letter nor digit.
fn ends(of: Option<(u8, u8)>) -> [u8; 2] {
    match of {
        None => *b"00",
        Some((first, last)) if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() => [first, last],
        Some((first, last)) => [hex(first >> 4), hex(last & 0xf)],
    }
}

fn hex(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

/// First six bytes, in hexadecimal, of the SHA-256 of both lists in hexadecimal.
fn hash(list: &[u16], behind: &[u16]) -> [u8; 12] {
    if list.is_empty() {
        return *NOTHING;
    }
    let mut sha = Context::new(&SHA256);
    commas(&mut sha, list);
    if !behind.is_empty() {
        sha.update(b"_");
        commas(&mut sha, behind);
    }
    let mut out = *NOTHING;
    for (to, byte) in out.chunks_exact_mut(2).zip(sha.finish().as_ref()) {
        to.copy_from_slice(&[hex(byte >> 4), hex(byte & 0xf)]);
    }
    out
}

fn commas(sha: &mut Context, list: &[u16]) {
    for (i, v) in list.iter().enumerate() {
        let [a, b] = v.to_be_bytes();
        let text = [b',', hex(a >> 4), hex(a & 0xf), hex(b >> 4), hex(b & 0xf)];
        sha.update(&text[usize::from(i == 0)..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::web::tls::hello::List;

    const CIPHERS: [u16; 15] = [
        0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c, 0x009d, 0x002f,
        0x0035,
    ];
    const EXTENSIONS: [u16; 16] = [
        0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005, 0x0023, 0x0012, 0x002b, 0xff01, 0x000b,
        0x000a, 0x0015,
    ];
    const SIGNATURES: [u16; 8] = [0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601];

    fn hello() -> ClientHello {
        ClientHello {
            alpn_ends: Some((b'h', b'2')),
            has_name: true,
            legacy_version: 0x0303,
            best_version: 0x0304,
            ciphers: List::of(&CIPHERS),
            extensions: List::of(&EXTENSIONS),
            signatures: List::of(&SIGNATURES),
            ..ClientHello::default()
        }
    }

    fn text(hello: &ClientHello, carrier: Carrier) -> String {
        let mut to = [0; LEN];
        assert!(write(hello, carrier, &mut to));
        String::from_utf8_lossy(&to).into_owned()
    }

    /// The example of the specification.
    #[test]
    fn the_published_example() {
        assert_eq!(text(&hello(), Carrier::Tls), "t13d1516h2_8daaf6152771_e5627efa2ab1");
    }

    #[test]
    fn order_does_not_count_and_what_is_missing_has_its_sign() {
        let mut turned = EXTENSIONS;
        turned.reverse();
        let other = ClientHello { extensions: List::of(&turned), ..hello() };
        assert_eq!(text(&other, Carrier::Tls), text(&hello(), Carrier::Tls));
        let bare = ClientHello { legacy_version: 0x0301, ciphers: List::of(&[5]), ..ClientHello::default() };
        assert!(text(&bare, Carrier::Tls).starts_with("t10i010000_"));
        assert!(text(&bare, Carrier::Quic).ends_with("_000000000000"));
        let odd = ClientHello { alpn_ends: Some((0xab, 0xcd)), ..hello() };
        assert!(text(&odd, Carrier::Dtls).starts_with("d13d1516ad_"));
    }

    #[test]
    fn no_fingerprint_of_what_was_not_kept() {
        let many: Vec<u16> = (1..300).collect();
        let hello = ClientHello { ciphers: List::of(&many), ..hello() };
        assert!(!write(&hello, Carrier::Tls, &mut [0; LEN]));
    }
}
