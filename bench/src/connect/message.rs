//! One request, and the answer that only a server which has read it can give. Both are HTTP, so that who looks into flows has something
//! to find.

use std::io::Write;

/// Bytes of a request and of an answer.
pub const REQUEST: usize = 79;
pub const ANSWER: usize = 61;

/// The request of connection `number`; `salt` tells turns apart.
pub fn request(number: u64, salt: u64) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    // Has room for all of it: a test holds the lengths.
    let _ = write!(&mut bytes[..], "GET /{number:016x}/{salt:016x} HTTP/1.0\r\nHost: server.bench.example\r\n\r\n");
    bytes
}

/// What answers a request, if it is one.
pub fn answer(asked: &[u8; REQUEST]) -> Option<[u8; ANSWER]> {
    let number = |at: usize| u64::from_str_radix(std::str::from_utf8(asked.get(at..at + 16)?).ok()?, 16).ok();
    let (number, salt) = (number(5)?, number(22)?);
    if *asked != request(number, salt) {
        return None;
    }
    let sum = (number ^ salt.rotate_left(41)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = [0; ANSWER];
    let _ = write!(&mut bytes[..], "HTTP/1.0 200 OK\r\nContent-Length: 00000016\r\n\r\n{sum:016x}");
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_answer_is_of_its_request_alone() {
        let asked = request(7, u64::MAX);
        assert!(asked.ends_with(b"\r\n\r\n"));
        let said = answer(&asked).unwrap();
        assert!(said.starts_with(b"HTTP/1.0 200") && said.is_ascii() && said[ANSWER - 1] != 0);
        assert_ne!(said, answer(&request(8, u64::MAX)).unwrap());
        assert_ne!(said, answer(&request(7, 2)).unwrap());
        let mut damaged = asked;
        damaged[50] ^= 1;
        assert_eq!(answer(&damaged), None);
        assert_eq!(answer(&[0; REQUEST]), None);
    }
}
