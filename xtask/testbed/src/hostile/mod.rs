//! Messages larger, longer and more broken than any honest peer's, for tests and benches.

pub mod quic;

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(body.len() as u16).to_be_bytes(), body].concat()
}

/// A ClientHello message (RFC 8446 §4.1.2) with `before` bytes of filling in front of its server name and `behind` bytes
/// after it. The extensions together may be 65,535 bytes.
pub fn hello(name: &str, before: usize, behind: usize) -> Vec<u8> {
    let n = name.len() as u16;
    let list = [&(n + 3).to_be_bytes()[..], &[0], &n.to_be_bytes(), name.as_bytes()].concat();
    let extensions =
        [extension(0xfe01, &vec![7; before]), extension(0, &list), extension(0xfe02, &vec![8; behind])].concat();
    let mut body = vec![3, 3];
    body.extend([5; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    [&[1][..], &(body.len() as u32).to_be_bytes()[1..], &body].concat()
}

/// In records of at most `size` bytes.
pub fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|c| [&[22, 3, 1][..], &(c.len() as u16).to_be_bytes(), c].concat()).collect()
}

/// A DNS header with these counts, and what follows it.
pub fn dns(counts: [u16; 4], rest: &[u8]) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0];
    counts.iter().for_each(|n| message.extend(n.to_be_bytes()));
    message.extend(rest);
    message
}

/// A name of `labels` labels of `size` letters, and type A, class IN.
pub fn question(labels: usize, size: usize) -> Vec<u8> {
    let mut name: Vec<u8> = (0..labels).flat_map(|_| [&[size as u8][..], &vec![b'a'; size]].concat()).collect();
    name.extend([0, 0, 1, 0, 1]);
    name
}

/// An HTTP/2 frame whose header says `len`.
pub fn h2(len: u32, kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    [&len.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
}

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
