//! States, policies and messages for the tests of this folder.
#![allow(clippy::unwrap_used)]

use super::model::*;
use super::replay::Replay;
use crate::crypto::aead::{Cipher, KeyMaterial};
use crate::wire::prefix::Prefix;
use std::net::IpAddr;
use std::sync::Arc;

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn prefix(text: &str) -> Prefix {
    let (addr, len) = text.split_once('/').unwrap();
    Prefix::new(ip(addr), len.parse().unwrap()).unwrap()
}

pub fn selector(src: &str, dst: &str) -> Selector {
    let (src, dst) = (prefix(src), prefix(dst));
    Selector { src, dst, sport: 0, sport_mask: 0, dport: 0, dport_mask: 0, protocol: 0, interface: 0 }
}

/// A tunnel-mode state with keys of `spi`'s lowest byte.
pub fn state(src: &str, dst: &str, spi: u32, reqid: u32) -> State {
    let material = KeyMaterial::new(Cipher::Aes128Gcm, &[spi as u8; 20]).unwrap();
    State {
        key: StateKey { dst: ip(dst), spi, protocol: IPPROTO_ESP, mark: Mark::default() },
        src: ip(src),
        reqid,
        mode: Mode::Tunnel,
        selector: None,
        material: Some(Arc::new(material)),
        unsupported: None,
        encap: None,
        replay: Replay { window: 32, ..Replay::default() },
        lifetimes: Lifetimes::default(),
        used: Used::default(),
        flags: Flags { any_family: true, ..Flags::default() },
        if_id: 0,
        output_mark: None,
        way: None,
        dying: false,
        age: 0,
    }
}

pub fn template(src: &str, dst: &str, reqid: u32) -> Template {
    Template {
        src: ip(src),
        dst: ip(dst),
        spi: 0,
        protocol: IPPROTO_ESP,
        reqid,
        mode: Mode::Tunnel,
        optional: false,
        algorithms: [u32::MAX; 3],
    }
}

pub fn policy(direction: Direction, index: u32, priority: u32, selector: Selector, templates: Vec<Template>) -> Policy {
    Policy {
        key: PolicyKey { direction, index: index << 3 | u32::from(direction.number()) },
        selector,
        priority,
        action: Action::Allow,
        templates,
        mark: Mark::default(),
        if_id: 0,
        lifetimes: Lifetimes::default(),
        offloaded: false,
    }
}
