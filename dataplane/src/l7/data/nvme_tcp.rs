//! NVMe over TCP: the PDUs that open a connection, and on the registered ports those of mid-life (NVM Express TCP
//! Transport Specification 1.0 §3.6.1, §3.6.2).

use crate::l7::{Class, Look, Notes, Verdict};

const IC_REQ: u8 = 0;
const IC_RESP: u8 = 1;
const CAPSULE_CMD: u8 = 4;
const CAPSULE_RESP: u8 = 5;
const H2C_DATA: u8 = 6;
const C2H_DATA: u8 = 7;
const R2T: u8 = 9;
/// Of both opening PDUs.
const IC_LEN: u32 = 128;
/// Behind the fields of the request and the response; the rest is reserved, zero.
const IC_FIELDS: usize = 16;
/// PDU data alignment is told in five bits.
const MAX_ALIGNMENT: u8 = 31;
/// Header digest, data digest.
const DIGESTS: u8 = 3;
const PORTS: [u16; 2] = [4420, 8009];
const MAX_PDU: u32 = 1 << 24;

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    match d[0] {
        IC_REQ | IC_RESP => opening(look),
        CAPSULE_CMD..=R2T if PORTS.iter().any(|p| look.has_port(*p)) => {
            let (Some([kind, flags, header, offset]), Some(len)) = (d.first_chunk::<4>(), look.u32_le(4)) else {
                return Verdict::More;
            };
            let expected = match *kind {
                CAPSULE_CMD => 72,
                CAPSULE_RESP | H2C_DATA | C2H_DATA | R2T => 24,
                _ => return Verdict::No,
            };
            let header_len = u32::from(*header);
            let fits = header_len == expected
                && *flags & 0xf0 == 0
                && (header_len..MAX_PDU).contains(&len)
                && (*offset == 0 || u32::from(*offset) >= header_len && u32::from(*offset) <= len);
            // Commands and answers without data are as long as their headers and digests.
            let short = !matches!(*kind, CAPSULE_RESP | R2T) || len <= header_len + 4;
            if fits && short { Verdict::payload(Class::NvmeTcp) } else { Verdict::No }
        }
        _ => Verdict::No,
    }
}

fn opening(look: &Look) -> Verdict {
    let d = look.data;
    let fixed = [d[0], 0, IC_LEN as u8, 0, IC_LEN as u8, 0, 0, 0, 0, 0];
    let n = d.len().min(fixed.len());
    if d[..n] != fixed[..n] {
        return Verdict::No;
    }
    let Some(pdu) = d.get(..IC_LEN as usize) else { return Verdict::More };
    let zeros = pdu[IC_FIELDS..].iter().all(|b| *b == 0);
    if pdu[10] <= MAX_ALIGNMENT && pdu[11] <= DIGESTS && zeros { Verdict::payload(Class::NvmeTcp) } else { Verdict::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, hex, no_stream, server};

    #[test]
    fn opening_and_later() {
        let mut request = hex("0000 80 00 80000000 0000 00 01 03000000");
        request.resize(128, 0);
        client(1, &request, Class::NvmeTcp);
        let mut response = hex("0100 80 00 80000000 0000 00 00 00001000");
        response.resize(128, 0);
        server(1, &response, Class::NvmeTcp);
        request[127] = 1;
        no_stream(4420, &request);
        let mut command = hex("04 00 48 00 48000000 06000000");
        command.resize(72, 0);
        client(4420, &command, Class::NvmeTcp);
        no_stream(1, &command);
        server(4420, &hex("05 00 18 00 18000000 00000000000000000000000001000000"), Class::NvmeTcp);
    }
}
