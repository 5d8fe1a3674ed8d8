//! MongoDB: the wire protocol's header with an opcode and a body that adds up ("MongoDB Wire Protocol").

use crate::l7::text::{before, graphic};
use crate::l7::{Class, Fact, Look, Notes, Verdict};

const HEADER: usize = 16;
const OP_REPLY: u32 = 1;
const OP_QUERY: u32 = 2004;
const OP_COMPRESSED: u32 = 2012;
const OP_MSG: u32 = 2013;
/// Checksum, more to come, exhaust allowed.
const MSG_FLAGS: u32 = 0x1_0003;
/// maxMessageSizeBytes.
const MAX_MESSAGE: u32 = 48_000_000;
/// Smallest document: its length and its end.
const MIN_DOCUMENT: u32 = 5;
const MAX_NAME: usize = 255;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let Some(len) = look.u32_le(0) else {
        return Verdict::More;
    };
    if !(HEADER as u32 + MIN_DOCUMENT..=MAX_MESSAGE).contains(&len) {
        return Verdict::No;
    }
    let Some(op) = look.u32_le(12) else { return Verdict::More };
    let told = match op {
        OP_MSG => message(look, len),
        OP_QUERY => query(look, len, notes),
        OP_REPLY => reply(look, len),
        OP_COMPRESSED => compressed(look, len),
        _ => return Verdict::No,
    };
    match told {
        Some(true) => Verdict::payload(Class::Mongodb),
        Some(false) => Verdict::No,
        None if d.len() as u64 >= u64::from(len) => Verdict::No,
        None => Verdict::More,
    }
}

/// Flags, then sections: of kind 0 a document, of kind 1 a sequence of them.
fn message(look: &Look, len: u32) -> Option<bool> {
    if look.u32_le(HEADER)? & !MSG_FLAGS != 0 {
        return Some(false);
    }
    let kind = *look.data.get(HEADER + 4)?;
    let section = look.u32_le(HEADER + 5)?;
    // The first element's type: a BSON type, or the document's end.
    let element = *look.data.get(HEADER + 9)?;
    let fits = section >= MIN_DOCUMENT && section <= len - HEADER as u32 - 5;
    Some(fits && (kind == 1 || kind == 0 && (element <= 0x13 || element == 0xff || element == 0x7f)))
}

/// Flags, the collection's full name, skip, number, document.
fn query(look: &Look, len: u32, notes: &mut Notes) -> Option<bool> {
    if look.u32_le(HEADER)? & !0xfe != 0 {
        return Some(false);
    }
    let rest = look.data.get(HEADER + 4..)?;
    let name = before(rest, 0);
    if name.len() > MAX_NAME || !name.is_empty() && !graphic(name) {
        return Some(false);
    }
    let at = HEADER + 4 + name.len() + 1;
    let document = look.u32_le(at + 8)?;
    let adds_up = document >= MIN_DOCUMENT && at as u64 + 8 + u64::from(document) <= u64::from(len);
    notes.facts.put(Fact::Object, name);
    Some(name.contains(&b'.') && adds_up)
}

/// Flags, cursor, where it stands, number of documents, and they.
fn reply(look: &Look, len: u32) -> Option<bool> {
    let (flags, documents) = (look.u32_le(HEADER)?, look.u32_le(HEADER + 16)?);
    if flags > 0xf || len < 36 || documents > 100_000 {
        return Some(false);
    }
    if documents == 0 {
        return Some(len == 36);
    }
    let (document, element) = (look.u32_le(36)?, *look.data.get(40)?);
    let adds_up = document >= MIN_DOCUMENT && u64::from(document) + 36 <= u64::from(len);
    Some(adds_up && (documents > 1 || document + 36 == len) && element <= 0x13)
}

/// The opcode inside, its size, and with what it is compressed.
fn compressed(look: &Look, len: u32) -> Option<bool> {
    let (op, size, with) = (look.u32_le(HEADER)?, look.u32_le(HEADER + 4)?, *look.data.get(HEADER + 8)?);
    Some(matches!(op, OP_MSG | OP_QUERY | OP_REPLY) && (1..MAX_MESSAGE).contains(&size) && with <= 3 && len > 25)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, hex, no_stream, server};

    fn with(op: u32, body: &[u8]) -> Vec<u8> {
        let mut m = ((16 + body.len()) as u32).to_le_bytes().to_vec();
        m.extend([7, 0, 0, 0, 0, 0, 0, 0]);
        m.extend(op.to_le_bytes());
        m.extend(body);
        m
    }

    #[test]
    fn messages() {
        let document = hex("10000000 10 68656c6c6f00 01000000 00");
        let msg = with(OP_MSG, &[&[0, 0, 0, 0, 0][..], &document].concat());
        client(27017, &msg, Class::Mongodb);
        server(1, &msg, Class::Mongodb);
        let query = with(OP_QUERY, &[b"\0\0\0\0admin.$cmd\0\0\0\0\0\xff\xff\xff\xff", &document[..]].concat());
        assert_eq!(client(27017, &query, Class::Mongodb).facts.get(Fact::Object), Some("admin.$cmd"));
        let reply = with(OP_REPLY, &[&hex("08000000 0000000000000000 00000000 01000000")[..], &document].concat());
        server(27017, &reply, Class::Mongodb);
        let squeezed = with(OP_COMPRESSED, &hex("dd070000 20000000 02 0102030405"));
        client(27017, &squeezed, Class::Mongodb);
        no_stream(27017, &with(OP_MSG, &[&[4, 0, 0, 0, 0][..], &document].concat()));
        no_stream(27017, &with(2001, &document));
        no_stream(27017, &with(OP_REPLY, &hex("10000000 0000000000000000 00000000 01000000 05000000 00")));
    }
}
