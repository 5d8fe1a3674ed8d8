//! What is said to the kernel on `NETLINK_XFRM`. States and policies are written too: tests and tools install them.

use super::layout::{
    Builder, NLM_F_ACK, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, address_bytes, attr, family, kind, lifetimes_bytes,
    mark_bytes, selector_bytes, size, used_bytes,
};
use super::model::{Action, Flow, Mark, Mode, Policy, Selector, State, StateKey, Template, Used};
use super::replay::Replay;
use crate::wire::prefix::Prefix;
use zeroize::Zeroizing;

/// A whole message; zeroed when dropped, since some hold keys.
pub type Request = Zeroizing<Vec<u8>>;

const ASK: u16 = NLM_F_REQUEST | NLM_F_ACK;

/// All states.
pub fn dump_states(sequence: u32) -> Request {
    Builder::new(kind::GETSA, NLM_F_REQUEST | NLM_F_DUMP, sequence, 0).finish()
}

/// All policies.
pub fn dump_policies(sequence: u32) -> Request {
    Builder::new(kind::GETPOLICY, NLM_F_REQUEST | NLM_F_DUMP, sequence, 0).finish()
}

/// What happens without a policy.
pub fn get_defaults(sequence: u32) -> Request {
    Builder::new(kind::GETDEFAULT, ASK, sequence, 3).finish()
}

/// One state.
pub fn get_state(sequence: u32, key: &StateKey) -> Request {
    state_id(kind::GETSA, NLM_F_REQUEST, sequence, key, size::USERSA_ID).finish()
}

/// Sequence numbers and usage of a state. Not acknowledged: the answer is one.
pub fn get_usage(sequence: u32, key: &StateKey) -> Request {
    state_id(kind::GETAE, NLM_F_REQUEST, sequence, key, size::AEVENT_ID).finish()
}

/// Sets the kernel's idea of a state: sequence numbers with the window (in the kernel's own form for it), and usage. What is
/// `None` stays.
///
/// The kernel takes it only with `NLM_F_REPLACE`, and an ESN state only with a bitmap as long as its own
/// (`xfrm_new_ae`, `xfrm_replay_verify_len`).
pub fn set_usage(sequence: u32, key: &StateKey, replay: Option<&Replay>, used: Option<&Used>) -> Request {
    let mut message = state_id(kind::NEWAE, ASK | NLM_F_REPLACE, sequence, key, size::AEVENT_ID);
    if let Some(replay) = replay {
        let kind = if replay.bitmap_words.is_some() { attr::REPLAY_ESN_VAL } else { attr::REPLAY_VAL };
        message.attribute(kind, &replay.to_bytes());
    }
    if let Some(used) = used {
        message.attribute(attr::LTIME_VAL, &used_bytes(used));
    }
    message.finish()
}

/// Tells the key daemons that a limit of a state was hit; `hard` removes the state (`xfrm_add_sa_expire`).
pub fn expire(sequence: u32, state: &State, hard: bool) -> Request {
    let mut message = Builder::new(kind::EXPIRE, ASK, sequence, size::EXPIRE);
    state_info(&mut message, state);
    message.put(size::USERSA_INFO, &[u8::from(hard)]);
    mark(&mut message, state.key.mark);
    message.finish()
}

/// Asks the key daemons for a state that `policy` wants for `flow` (`xfrm_add_acquire`).
///
/// `None` for a policy without templates.
pub fn acquire(sequence: u32, policy: &Policy, flow: &Flow) -> Option<Request> {
    let template = policy.templates.iter().find(|t| !t.optional)?;
    let (src, dst) = match template.mode {
        Mode::Transport => (flow.src, flow.dst),
        _ => (template.src, template.dst),
    };
    let selector = Selector {
        src: Prefix::host(flow.src),
        dst: Prefix::host(flow.dst),
        sport: flow.sport,
        sport_mask: if flow.sport == 0 { 0 } else { u16::MAX },
        dport: flow.dport,
        dport_mask: if flow.dport == 0 { 0 } else { u16::MAX },
        protocol: flow.protocol,
        interface: flow.interface,
    };
    let mut message = Builder::new(kind::ACQUIRE, ASK, sequence, size::ACQUIRE);
    message.put(0, &address_bytes(dst)).put(20, &[template.protocol]).put(24, &address_bytes(src));
    message.put(40, &selector_bytes(Some(&selector)));
    policy_info(&mut message, 96, policy);
    for (index, bits) in template.algorithms.iter().enumerate() {
        message.put(264 + 4 * index, &bits.to_ne_bytes());
    }
    message.attribute(attr::TMPL, &templates_bytes(&policy.templates));
    mark(&mut message, policy.mark);
    if_id(&mut message, policy.if_id);
    Some(message.finish())
}

/// Adds a state with this cipher, by the kernel's name for it. `key` is key then salt.
pub fn new_state(sequence: u32, state: &State, cipher: &str, key: &[u8]) -> Request {
    let mut message = Builder::new(kind::NEWSA, ASK, sequence, size::USERSA_INFO);
    state_info(&mut message, state);
    let mut aead = Zeroizing::new(vec![0; size::ALG_AEAD]);
    aead.reserve_exact(key.len());
    for (to, from) in aead.iter_mut().zip(cipher.bytes().take(63)) {
        *to = from;
    }
    aead[64..68].copy_from_slice(&(key.len() as u32 * 8).to_ne_bytes());
    aead[68..72].copy_from_slice(&128_u32.to_ne_bytes());
    aead.extend_from_slice(key);
    message.attribute(attr::ALG_AEAD, &aead);
    if let Some(encap) = state.encap {
        let mut bytes = [0; size::ENCAP];
        bytes[..2].copy_from_slice(&2_u16.to_ne_bytes());
        bytes[2..4].copy_from_slice(&encap.sport.to_be_bytes());
        bytes[4..6].copy_from_slice(&encap.dport.to_be_bytes());
        message.attribute(attr::ENCAP, &bytes);
    }
    let replay = if state.replay.bitmap_words.is_some() { attr::REPLAY_ESN_VAL } else { attr::REPLAY_VAL };
    message.attribute(replay, &state.replay.to_bytes());
    let extra = u32::from(state.flags.dont_encap_dscp) | u32::from(state.flags.oseq_may_wrap) << 1;
    if extra != 0 {
        message.attribute(attr::SA_EXTRA_FLAGS, &extra.to_ne_bytes());
    }
    if let Some(output) = state.output_mark {
        message.attribute(attr::SET_MARK, &output.value.to_ne_bytes());
        message.attribute(attr::SET_MARK_MASK, &output.mask.to_ne_bytes());
    }
    mark(&mut message, state.key.mark);
    if_id(&mut message, state.if_id);
    message.finish()
}

/// Removes a state.
pub fn delete_state(sequence: u32, key: &StateKey) -> Request {
    state_id(kind::DELSA, ASK, sequence, key, size::USERSA_ID).finish()
}

/// Adds a policy, or replaces the one with the same selector.
pub fn set_policy(sequence: u32, policy: &Policy) -> Request {
    let mut message = Builder::new(kind::UPDPOLICY, ASK, sequence, size::POLICY_INFO);
    policy_info(&mut message, 0, policy);
    if !policy.templates.is_empty() {
        message.attribute(attr::TMPL, &templates_bytes(&policy.templates));
    }
    mark(&mut message, policy.mark);
    if_id(&mut message, policy.if_id);
    message.finish()
}

/// A message that starts with an `xfrm_usersa_id`, `fixed` bytes of struct in all.
fn state_id(kind: u16, flags: u16, sequence: u32, key: &StateKey, fixed: usize) -> Builder {
    let mut message = Builder::new(kind, flags, sequence, fixed);
    message
        .put(0, &address_bytes(key.dst))
        .put(16, &key.spi.to_be_bytes())
        .put(20, &family(key.dst).to_ne_bytes())
        .put(22, &[key.protocol]);
    mark(&mut message, key.mark);
    message
}

fn mark(message: &mut Builder, mark: Mark) {
    if mark != Mark::default() {
        message.attribute(attr::MARK, &mark_bytes(mark));
    }
}

fn if_id(message: &mut Builder, if_id: u32) {
    if if_id != 0 {
        message.attribute(attr::IF_ID, &if_id.to_ne_bytes());
    }
}

/// `xfrm_usersa_info` at the start of a message.
fn state_info(message: &mut Builder, state: &State) {
    let f = &state.flags;
    let flags =
        [f.no_ecn, f.decap_dscp, f.no_path_mtu_discovery, f.wildcard_receive, f.icmp, f.any_family, false, f.esn];
    let flags = flags.iter().enumerate().fold(0, |bits, (at, set)| bits | u8::from(*set) << at);
    let short_window = if state.replay.bitmap_words.is_some() { 0 } else { state.replay.window.min(32) as u8 };
    message
        .put(0, &selector_bytes(state.selector.as_ref()))
        .put(56, &address_bytes(state.key.dst))
        .put(72, &state.key.spi.to_be_bytes())
        .put(76, &[state.key.protocol])
        .put(80, &address_bytes(state.src))
        .put(96, &lifetimes_bytes(&state.lifetimes))
        .put(160, &used_bytes(&state.used))
        .put(208, &state.reqid.to_ne_bytes())
        .put(212, &family(state.key.dst).to_ne_bytes())
        .put(214, &[state.mode.number(), short_window, flags]);
}

/// `xfrm_userpolicy_info` at `at`.
fn policy_info(message: &mut Builder, at: usize, policy: &Policy) {
    let action = u8::from(policy.action == Action::Block);
    message
        .put(at, &selector_bytes(Some(&policy.selector)))
        .put(at + 56, &lifetimes_bytes(&policy.lifetimes))
        .put(at + 152, &policy.priority.to_ne_bytes())
        .put(at + 156, &policy.key.index.to_ne_bytes())
        .put(at + 160, &[policy.key.direction.number(), action]);
}

fn templates_bytes(templates: &[Template]) -> Vec<u8> {
    let mut all = vec![0; size::TMPL * templates.len()];
    for (bytes, t) in all.chunks_exact_mut(size::TMPL).zip(templates) {
        bytes[..16].copy_from_slice(&address_bytes(t.dst));
        bytes[16..20].copy_from_slice(&t.spi.to_be_bytes());
        bytes[20] = t.protocol;
        bytes[24..26].copy_from_slice(&family(t.dst).to_ne_bytes());
        bytes[28..44].copy_from_slice(&address_bytes(t.src));
        bytes[44..48].copy_from_slice(&t.reqid.to_ne_bytes());
        bytes[48..51].copy_from_slice(&[t.mode.number(), 0, u8::from(t.optional)]);
        for (index, bits) in t.algorithms.iter().enumerate() {
            bytes[52 + 4 * index..56 + 4 * index].copy_from_slice(&bits.to_ne_bytes());
        }
    }
    all
}
