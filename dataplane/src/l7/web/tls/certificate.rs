//! For which host a certificate is (X.690 DER, RFC 5280 §4.1): the first dNSName of its subjectAltName, else the
//! subject's last commonName. A walk over tags and lengths, bounded by the bytes it is given.

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// Tag and content of the element at the start, which is taken off.
fn take<'a>(d: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (tag, first) = (*d.first()?, *d.get(1)?);
    let (len, head) = match first {
        0..=0x7f => (usize::from(first), 2),
        0x81 => (usize::from(*d.get(2)?), 3),
        0x82 => (usize::from(u16::from_be_bytes([*d.get(2)?, *d.get(3)?])), 4),
        // No part of a certificate is longer than 64 KiB.
        _ => return None,
    };
    let content = d.get(head..head + len)?;
    *d = &d[head + len..];
    Some((tag, content))
}

/// The element at the start, if it has this tag.
fn expect<'a>(d: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    take(d).filter(|(t, _)| *t == tag).map(|(_, content)| content)
}

/// The name a certificate is for.
pub fn name(mut der: &[u8]) -> Option<&[u8]> {
    let mut certificate = expect(&mut der, SEQUENCE)?;
    let mut d = expect(&mut certificate, SEQUENCE)?;
    if d.first() == Some(&VERSION) {
        take(&mut d)?;
    }
    expect(&mut d, INTEGER)?;
    // Signature algorithm, issuer, validity.
    for _ in 0..3 {
        expect(&mut d, SEQUENCE)?;
    }
    let subject = expect(&mut d, SEQUENCE)?;
    expect(&mut d, SEQUENCE)?;
    while let Some((tag, content)) = take(&mut d) {
        if tag == EXTENSIONS
            && let Some(name) = alternative(content)
        {
            return Some(name);
        }
    }
    common_name(subject)
}

fn alternative(mut d: &[u8]) -> Option<&[u8]> {
    let mut all = expect(&mut d, SEQUENCE)?;
    while let Some(mut extension) = expect(&mut all, SEQUENCE) {
        if expect(&mut extension, OID)? != SUBJECT_ALT_NAME {
            continue;
        }
        while let Some((tag, mut content)) = take(&mut extension) {
            if tag != OCTET_STRING {
                continue;
            }
            let mut names = expect(&mut content, SEQUENCE)?;
            while let Some((tag, name)) = take(&mut names) {
                if tag == DNS_NAME && !name.is_empty() {
                    return Some(name);
                }
            }
        }
        return None;
    }
    None
}

fn common_name(mut subject: &[u8]) -> Option<&[u8]> {
    let mut found = None;
    while let Some(mut set) = expect(&mut subject, SET) {
        while let Some(mut pair) = expect(&mut set, SEQUENCE) {
            if expect(&mut pair, OID) == Some(COMMON_NAME)
                && let Some((_, name)) = take(&mut pair)
            {
                found = Some(name);
            }
        }
    }
    found.filter(|n| !n.is_empty())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let len = content.len();
        let head = if len < 0x80 { vec![tag, len as u8] } else { vec![tag, 0x82, (len >> 8) as u8, len as u8] };
        [head, content.to_vec()].concat()
    }

    /// A certificate in shape only.
    pub(in crate::l7::web::tls) fn made(common: &str, alternative: Option<&str>) -> Vec<u8> {
        let attribute =
            |oid: &[u8], value: &str| der(SET, &der(SEQUENCE, &[der(OID, oid), der(0x0c, value.as_bytes())].concat()));
        let subject = der(SEQUENCE, &[attribute(&[0x55, 4, 6], "XX"), attribute(COMMON_NAME, common)].concat());
        let key_usage =
            der(SEQUENCE, &[der(OID, &[0x55, 0x1d, 0x0f]), der(1, &[0xff]), der(4, &[3, 2, 5, 0xa0])].concat());
        let names = |name: &str| {
            let names = der(SEQUENCE, &[der(0x87, &[10, 0, 0, 1]), der(DNS_NAME, name.as_bytes())].concat());
            der(SEQUENCE, &[der(OID, SUBJECT_ALT_NAME), der(OCTET_STRING, &names)].concat())
        };
        let extensions = [key_usage, alternative.map(names).unwrap_or_default()].concat();
        let tbs = [
            der(VERSION, &der(INTEGER, &[2])),
            der(INTEGER, &[1; 16]),
            der(SEQUENCE, &[]),
            der(SEQUENCE, &attribute(COMMON_NAME, "issuer")),
            der(SEQUENCE, &[]),
            subject,
            der(SEQUENCE, &[7; 300]),
            der(EXTENSIONS, &der(SEQUENCE, &extensions)),
        ];
        der(SEQUENCE, &[der(SEQUENCE, &tbs.concat()), der(SEQUENCE, &[]), der(3, &[0; 100])].concat())
    }

    #[test]
    fn the_alternative_name_is_preferred() {
        assert_eq!(name(&made("old.example", Some("www.example"))), Some(&b"www.example"[..]));
        assert_eq!(name(&made("old.example", None)), Some(&b"old.example"[..]));
        assert_eq!(name(&made("", None)), None);
    }

    proptest! {
        #[test]
        fn cut_and_damaged_ones_are_survived(cut: usize, at: usize, with: u8) {
            let mut der = made("old.example", Some("www.example"));
            let n = der.len();
            der[at % n] = with;
            name(&der[..cut % n]);
            name(&der);
        }
    }
}
