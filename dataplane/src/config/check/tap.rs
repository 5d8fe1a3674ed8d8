//! The port of kind tap: that there is one at most, its name, and that its loss undoes no encryption.

use std::sync::Arc;

use super::Check;
use super::ports::kind;
use super::rules::secret;
use crate::config::places::Interface;
use crate::config::policy::{Match, OnLoss, Port, PortKind, Rule, TapPort};
use crate::config::problem::{Code, Problem};
use crate::config::schema::{self, File, Kind};

/// What is for this host goes by its tap: there is no way to choose between two.
pub fn one(raw: &[schema::Port], check: &mut Check<'_>) {
    let mut taps = raw.iter().filter(|port| kind(port) == Kind::Tap);
    let Some(first) = taps.next() else { return };
    for port in taps {
        check.problems.push(
            Problem::error(
                Code::Conflict,
                port.name.span(),
                "two ports of kind tap",
                "one leads to this host's kernel, which routes further: use one port for all",
            )
            .other(first.name.span(), "the first"),
        );
    }
}

pub fn tap(raw: &schema::Port, mtu: u32, check: &mut Check<'_>) -> TapPort {
    let interface = match &raw.interface {
        Some(interface) => interface.0.clone(),
        None => match raw.name.as_str().parse::<Interface>() {
            Ok(interface) => interface.0,
            Err(bad) => {
                check.error(Code::ImpossibleValue, raw.name.span(), bad.message, "name the tap: interface = \"dpu0\"");
                String::new()
            }
        },
    };
    TapPort {
        interface,
        mtu,
        addresses: raw.addresses.iter().map(|address| **address).collect(),
        routes: raw.routes.iter().map(|route| **route).collect(),
        // [`agree`] makes it stricter.
        on_loss: raw.on_loss.as_ref().map_or(OnLoss::Pass, |on_loss| **on_loss),
    }
}

/// With the rules known: packets to the tap's routes are dropped on loss wherever a rule encrypts some of them, whatever was
/// written. And no steering rule is of a tap, which has no XDP program.
pub fn agree(file: &File, ports: &mut [Port], rules: &[Rule], check: &mut Check<'_>) {
    for (raw, port) in file.port.iter().zip(ports) {
        let PortKind::Tap(tap) = &mut port.kind else { continue };
        for steer in &file.steer {
            if let Some(of) = steer.port.as_ref().filter(|of| of.as_str() == raw.name.as_str()) {
                check.error(
                    Code::Conflict,
                    of.span(),
                    format!("steering rule `{}` is of port `{}`, which is a tap", *steer.name, *raw.name),
                    "all that the kernel routes by a tap goes to a worker: leave the steering rule out",
                );
            }
        }
        if let (Some(on_loss), true) = (&raw.on_loss, tap.routes.is_empty() && tap.nets().next().is_none()) {
            check.problems.push(Problem::warning(
                Code::NoEffect,
                on_loss.span(),
                "`on_loss` of a tap is about its `routes`, and there are none",
                "add the prefixes to `routes`, or leave it out",
            ));
        }
        let to: Arc<[_]> = tap.routes.iter().copied().chain(tap.nets()).collect();
        let none = to.is_empty();
        let Some(rule) = secret(rules, &Match { to, ..Match::default() }).filter(|_| !none) else { continue };
        if let Some(written) = raw.on_loss.as_ref().filter(|on_loss| ***on_loss == OnLoss::Pass) {
            check.problems.push(Problem::warning(
                Code::StricterWins,
                written.span(),
                format!(
                    "rule `{}` encrypts flows that tap `{}` routes: on_loss = \"drop\" applies",
                    rule.name, *raw.name
                ),
                "write on_loss = \"drop\", or take what may go in clear out of `routes`",
            ));
        }
        tap.on_loss = OnLoss::Drop;
    }
}
