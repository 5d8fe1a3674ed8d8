//! What the kernel says on `NETLINK_XFRM`, parsed. Nothing here panics or allocates more than the message is long: the bytes
//! may be cut anywhere.

use super::layout::{
    Attributes, Bytes, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSG_HEADER, NLMSG_OVERRUN, attr, kind, size,
};
use super::model::{
    Action, Defaults, Direction, Encap, Flags, IPPROTO_ESP, Mark, Mode, Policy, PolicyKey, State, StateKey, Template,
    Unsupported, Used, Way,
};
use super::replay::Replay;
use crate::crypto::aead::{Cipher, KeyMaterial, TAG_LEN};
use std::sync::Arc;

/// `UDP_ENCAP_ESPINUDP` of `linux/udp.h`.
const ESP_IN_UDP: u16 = 2;
/// The kernel's limit (`XFRM_MAX_DEPTH`).
const MAX_TEMPLATES: usize = 6;

/// A message and what its header says.
#[derive(Clone, Debug)]
pub struct Received {
    pub sequence: u32,
    /// The socket whose request this answers or tells of.
    pub port: u32,
    /// A dump was interrupted by a change and may have holes.
    pub interrupted: bool,
    pub message: Message,
}

#[derive(Clone, Debug)]
pub enum Message {
    /// There is this state. Of a dump, an answer, or new.
    State(Box<State>),
    /// A state was changed; see [`super::tables`] for what of it counts.
    Update(Box<State>),
    StateGone(StateKey),
    /// All states of a protocol; 0 for every one.
    StatesFlushed(u8),
    Expired {
        key: StateKey,
        hard: bool,
    },
    Policy(Box<Policy>),
    PolicyGone(PolicyKey),
    PoliciesFlushed,
    /// Sequence numbers and usage of a state: the answer to `GETAE`.
    Usage {
        key: StateKey,
        replay: Option<Replay>,
        used: Option<Used>,
    },
    Defaults(Defaults),
    /// Addresses of states and policies were changed without further word.
    Migrated,
    /// `NLMSG_DONE`.
    Done,
    /// `NLMSG_ERROR`: 0 acknowledges, else a negative errno.
    Answer(i32),
    /// `NLMSG_OVERRUN`.
    Overrun,
    /// Of no concern: acquire, mapping, reports, policies of single sockets and sub-policies.
    Other(u16),
    /// Not what `linux/xfrm.h` says this type is. The type.
    Malformed(u16),
}

/// The messages of one datagram.
pub struct Messages<'a>(&'a [u8]);

impl<'a> Messages<'a> {
    pub fn new(datagram: &'a [u8]) -> Self {
        Self(datagram)
    }
}

impl Iterator for Messages<'_> {
    type Item = Received;

    fn next(&mut self) -> Option<Received> {
        let bytes = Bytes(self.0);
        let len = bytes.u32(0)? as usize;
        let (kind, flags) = (bytes.u16(4)?, bytes.u16(6)?);
        let (sequence, port) = (bytes.u32(8)?, bytes.u32(12)?);
        let payload = self.0.get(NLMSG_HEADER..len).map(Bytes);
        // A length that cannot be ends the datagram: where the next message would start is not known.
        self.0 = match payload {
            Some(_) => self.0.get(len.next_multiple_of(4)..).unwrap_or(&[]),
            None => &[],
        };
        let message = match payload {
            Some(payload) => parse(kind, payload).unwrap_or(Message::Malformed(kind)),
            None => Message::Malformed(kind),
        };
        Some(Received { sequence, port, interrupted: flags & NLM_F_DUMP_INTR != 0, message })
    }
}

fn parse(kind: u16, bytes: Bytes<'_>) -> Option<Message> {
    Some(match kind {
        NLMSG_DONE => Message::Done,
        NLMSG_OVERRUN => Message::Overrun,
        NLMSG_ERROR => Message::Answer(bytes.u32(0)? as i32),
        kind::NEWSA => Message::State(Box::new(state(bytes, size::USERSA_INFO)?)),
        kind::UPDSA => Message::Update(Box::new(state(bytes, size::USERSA_INFO)?)),
        kind::EXPIRE => {
            let state = state(bytes, size::EXPIRE)?;
            Message::Expired { key: state.key, hard: bytes.u8(size::USERSA_INFO)? != 0 }
        }
        kind::DELSA => Message::StateGone(deleted_state(bytes)?),
        kind::FLUSHSA => Message::StatesFlushed(bytes.u8(0)?),
        kind::NEWPOLICY | kind::UPDPOLICY => {
            policy(bytes, size::POLICY_INFO)?.map_or(Message::Other(kind), |p| Message::Policy(Box::new(p)))
        }
        kind::POLEXPIRE => match policy(bytes, size::POLEXPIRE)? {
            Some(policy) if bytes.u8(size::POLICY_INFO)? != 0 => Message::PolicyGone(policy.key),
            _ => Message::Other(kind),
        },
        kind::DELPOLICY => deleted_policy(bytes)?,
        kind::FLUSHPOLICY => {
            if main_type(Attributes(bytes.0))? {
                Message::PoliciesFlushed
            } else {
                Message::Other(kind)
            }
        }
        kind::NEWAE => usage(bytes)?,
        kind::SETDEFAULT | kind::GETDEFAULT => Message::Defaults(defaults(bytes)?),
        kind::MIGRATE => Message::Migrated,
        other => Message::Other(other),
    })
}

/// `xfrm_usersa_info` and, behind `fixed` bytes, its attributes.
fn state(bytes: Bytes<'_>, fixed: usize) -> Option<State> {
    let info = bytes.part(0, size::USERSA_INFO)?;
    let attributes = Attributes(bytes.0.get(fixed..)?);
    let family = info.u16(212)?;
    let (mode, flags) = (Mode::from_number(info.u8(214)?), info.u8(216)?);
    let mut state = State {
        key: StateKey {
            dst: info.address(56, family)?,
            spi: info.be32(72)?,
            protocol: info.u8(76)?,
            mark: Mark::default(),
        },
        src: info.address(80, family)?,
        reqid: info.u32(208)?,
        mode,
        selector: info.selector(0)?,
        material: None,
        unsupported: None,
        encap: None,
        replay: Replay { window: u32::from(info.u8(215)?), ..Replay::default() },
        lifetimes: info.lifetimes(96)?,
        used: info.used(160)?,
        flags: state_flags(flags),
        if_id: 0,
        output_mark: None,
        way: None,
        dying: false,
        age: 0,
    };
    let mut algorithm = Err(Unsupported::Larval);
    let mut refuse = None;
    for (kind, value) in attributes {
        match kind {
            attr::ALG_AEAD => algorithm = aead(value)?,
            // Of a pair of ciphers the one that encrypts is named.
            attr::ALG_CRYPT => algorithm = other_cipher(value)?,
            attr::ALG_AUTH | attr::ALG_AUTH_TRUNC | attr::ALG_COMP if matches!(algorithm, Err(Unsupported::Larval)) => {
                algorithm = other_cipher(value)?;
            }
            attr::ENCAP if value.u16(0)? != ESP_IN_UDP => refuse = Some(Unsupported::Encapsulation(value.u16(0)?)),
            attr::ENCAP => state.encap = Some(Encap { sport: value.be16(2)?, dport: value.be16(4)? }),
            attr::REPLAY_VAL => state.replay = Replay::parse_short(value, state.replay.window)?,
            attr::REPLAY_ESN_VAL => state.replay = Replay::parse_esn(value)?,
            attr::MARK => state.key.mark = value.mark(0)?,
            attr::SET_MARK => {
                let mask = state.output_mark.map_or(u32::MAX, |m| m.mask);
                state.output_mark = Some(Mark { value: value.u32(0)?, mask });
            }
            attr::SET_MARK_MASK => {
                let set = state.output_mark.map_or(0, |m| m.value);
                state.output_mark = Some(Mark { value: set, mask: value.u32(0)? });
            }
            attr::IF_ID => state.if_id = value.u32(0)?,
            attr::SA_EXTRA_FLAGS => {
                state.flags.dont_encap_dscp = value.u32(0)? & 1 != 0;
                state.flags.oseq_may_wrap = value.u32(0)? & 2 != 0;
            }
            attr::SA_DIR => state.way = Some(if value.u8(0)? == 2 { Way::Out } else { Way::In }),
            attr::OFFLOAD_DEV => refuse = Some(Unsupported::Offloaded),
            attr::TFCPAD if value.u32(0)? != 0 => refuse = Some(Unsupported::FlowPadding),
            attr::SEC_CTX => refuse = Some(Unsupported::Label),
            attr::SA_PCPU if value.u32(0)? != u32::MAX => refuse = Some(Unsupported::PerCpu),
            // COADDR, MTIMER_THRESH, LASTUSED, LTIME_VAL, NAT_KEEPALIVE_INTERVAL: nothing that changes a packet of ESP.
            _ => {}
        }
    }
    match algorithm {
        Ok(material) => state.material = Some(Arc::new(material)),
        Err(why) => refuse = refuse.or(Some(why)),
    }
    state.unsupported = if state.key.protocol != IPPROTO_ESP {
        Some(Unsupported::Protocol(state.key.protocol))
    } else if let Mode::Other(number) = state.mode {
        Some(Unsupported::Mode(number))
    } else {
        refuse
    };
    Some(state)
}

fn state_flags(flags: u8) -> Flags {
    let has = |bit: u8| flags & bit != 0;
    Flags {
        no_ecn: has(1),
        decap_dscp: has(2),
        no_path_mtu_discovery: has(4),
        wildcard_receive: has(8),
        icmp: has(16),
        any_family: has(32),
        esn: has(128),
        ..Flags::default()
    }
}

/// `xfrm_algo_aead`. `None` where it is cut short.
fn aead(bytes: Bytes<'_>) -> Option<Result<KeyMaterial, Unsupported>> {
    let (name, key_bits, tag_bits) = (bytes.name(0)?, bytes.u32(64)?, bytes.u32(68)?);
    let key = bytes.part(size::ALG_AEAD, key_bits.div_ceil(8) as usize)?.0;
    if tag_bits != TAG_LEN as u32 * 8 {
        return Some(Err(Unsupported::TagBits(tag_bits)));
    }
    let ciphers: &[Cipher] = match name {
        "rfc4106(gcm(aes))" => &[Cipher::Aes128Gcm, Cipher::Aes256Gcm],
        "rfc7539esp(chacha20,poly1305)" => &[Cipher::ChaCha20Poly1305],
        _ => &[],
    };
    let material = ciphers.iter().find_map(|cipher| KeyMaterial::new(*cipher, key));
    Some(material.ok_or_else(|| {
        let bits = if ciphers.is_empty() { String::new() } else { format!(" with {key_bits} bits of key") };
        Unsupported::Cipher(format!("{name}{bits}").into())
    }))
}

/// `xfrm_algo` and `xfrm_algo_auth` begin with the name.
fn other_cipher(bytes: Bytes<'_>) -> Option<Result<KeyMaterial, Unsupported>> {
    Some(Err(Unsupported::Cipher(bytes.name(0)?.into())))
}

/// `DELSA` tells the id, then the whole state as an attribute; the mark stands beside it.
fn deleted_state(bytes: Bytes<'_>) -> Option<StateKey> {
    let id = bytes.part(0, size::USERSA_ID)?;
    let family = id.u16(20)?;
    let mut key =
        StateKey { dst: id.address(0, family)?, spi: id.be32(16)?, protocol: id.u8(22)?, mark: Mark::default() };
    for (kind, value) in Attributes(bytes.0.get(size::USERSA_ID..)?) {
        if kind == attr::MARK {
            key.mark = value.mark(0)?;
        }
    }
    Some(key)
}

/// `xfrm_userpolicy_info` and its attributes behind `fixed` bytes. `Some(None)`: of a single socket, or a sub-policy.
fn policy(bytes: Bytes<'_>, fixed: usize) -> Option<Option<Policy>> {
    let info = bytes.part(0, size::POLICY_INFO)?;
    let attributes = Attributes(bytes.0.get(fixed..)?);
    let index = info.u32(156)?;
    let Some(direction) = Direction::from_number(info.u8(160)?) else { return Some(None) };
    // The lowest bits of the index are the direction; those of sockets have others.
    if index & 7 != u32::from(direction.number()) {
        return Some(None);
    }
    let mut policy = Policy {
        key: PolicyKey { direction, index },
        selector: info.selector(0)??,
        priority: info.u32(152)?,
        action: if info.u8(161)? == 0 { Action::Allow } else { Action::Block },
        templates: Vec::new(),
        mark: Mark::default(),
        if_id: 0,
        lifetimes: info.lifetimes(56)?,
        offloaded: false,
    };
    if !main_type(attributes)? {
        return Some(None);
    }
    for (kind, value) in attributes {
        match kind {
            attr::TMPL => policy.templates = templates(value)?,
            attr::MARK => policy.mark = value.mark(0)?,
            attr::IF_ID => policy.if_id = value.u32(0)?,
            attr::OFFLOAD_DEV => policy.offloaded = true,
            _ => {}
        }
    }
    Some(Some(policy))
}

fn templates(bytes: Bytes<'_>) -> Option<Vec<Template>> {
    if !bytes.0.len().is_multiple_of(size::TMPL) || bytes.0.len() / size::TMPL > MAX_TEMPLATES {
        return None;
    }
    bytes.0.chunks_exact(size::TMPL).map(|chunk| template(Bytes(chunk))).collect()
}

fn template(bytes: Bytes<'_>) -> Option<Template> {
    let family = bytes.u16(24)?;
    Some(Template {
        dst: bytes.address(0, family)?,
        spi: bytes.be32(16)?,
        protocol: bytes.u8(20)?,
        src: bytes.address(28, family)?,
        reqid: bytes.u32(44)?,
        mode: Mode::from_number(bytes.u8(48)?),
        optional: bytes.u8(50)? != 0,
        algorithms: [bytes.u32(52)?, bytes.u32(56)?, bytes.u32(60)?],
    })
}

/// `DELPOLICY` tells the id, then the whole policy as an attribute.
fn deleted_policy(bytes: Bytes<'_>) -> Option<Message> {
    let attributes = Attributes(bytes.0.get(size::POLICY_ID..)?);
    for (kind, value) in attributes {
        if kind == attr::POLICY {
            let (index, direction) = (value.u32(156)?, Direction::from_number(value.u8(160)?));
            let ours = main_type(attributes)? && direction.is_some_and(|d| index & 7 == u32::from(d.number()));
            return Some(match direction {
                Some(direction) if ours => Message::PolicyGone(PolicyKey { direction, index }),
                _ => Message::Other(kind::DELPOLICY),
            });
        }
    }
    None
}

/// Whether the policy is of the main type, or says none.
fn main_type(mut attributes: Attributes<'_>) -> Option<bool> {
    match attributes.find(|(kind, _)| *kind == attr::POLICY_TYPE) {
        Some((_, value)) => value.u8(0).map(|kind| kind == 0),
        None => Some(true),
    }
}

/// `xfrm_aevent_id`.
fn usage(bytes: Bytes<'_>) -> Option<Message> {
    let id = bytes.part(0, size::AEVENT_ID)?;
    let family = id.u16(20)?;
    let mut key =
        StateKey { dst: id.address(0, family)?, spi: id.be32(16)?, protocol: id.u8(22)?, mark: Mark::default() };
    let (mut replay, mut used) = (None, None);
    for (kind, value) in Attributes(bytes.0.get(size::AEVENT_ID..)?) {
        match kind {
            attr::MARK => key.mark = value.mark(0)?,
            attr::REPLAY_VAL => replay = Some(Replay::parse_short(value, 0)?),
            attr::REPLAY_ESN_VAL => replay = Some(Replay::parse_esn(value)?),
            attr::LTIME_VAL => used = Some(value.used(0)?),
            _ => {}
        }
    }
    Some(Message::Usage { key, replay, used })
}

/// `xfrm_userpolicy_default`: in, forward, out.
fn defaults(bytes: Bytes<'_>) -> Option<Defaults> {
    let action = |at| Some(if bytes.u8(at)? == 1 { Action::Block } else { Action::Allow });
    Some(Defaults { input: action(0)?, forward: action(1)?, output: action(2)? })
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
