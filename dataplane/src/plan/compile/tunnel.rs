//! Which tunnel carries an intent's flows.

use super::super::contract::{Because, Reason};
use super::Given;
use crate::config::intent::Intent;
use crate::config::policy::{Prefix, Tunnel, TunnelKind};
use crate::config::terms::{cipher, cipher_name};

/// The first that may, can and leads there; or why none does.
pub(super) fn choose(given: &Given<'_>, intent: &Intent) -> Result<usize, Because> {
    let policy = given.policy;
    let asks = intent.encrypt_span.as_ref().unwrap_or(&intent.name_span);
    if intent.peers.is_empty() {
        if let Some(tunnel) = of_policy(given, intent) {
            return usable(given, intent, tunnel).map(|()| tunnel);
        }
        let leads = |at: &usize| leads_there(&policy.tunnels[*at], intent) == Some(true);
        let mut first_against = None;
        let mut candidates: Vec<usize> = (0..policy.tunnels.len()).filter(leads).collect();
        if candidates.is_empty() && policy.tunnels.len() == 1 {
            candidates.push(0);
        }
        for tunnel in candidates {
            match usable(given, intent, tunnel) {
                Ok(()) => return Ok(tunnel),
                Err(because) => first_against = first_against.or(Some(because)),
            }
        }
        return Err(first_against.unwrap_or_else(|| Because {
            reason: Reason::NoTunnel,
            text: match policy.tunnels.len() {
                0 => "the policy has no tunnel".into(),
                n => format!("none of {n} tunnels is known to lead there; `peers` could name one"),
            },
            by: given.in_intent(intent, asks),
        }));
    }
    let mut first_against = None;
    for peer in &intent.peers {
        let found = match policy.tunnel(&peer.value) {
            Some(tunnel) => usable(given, intent, tunnel).map(|()| tunnel),
            None => Err(Because {
                reason: Reason::UnknownPeer,
                text: format!("the policy has no tunnel `{}`", peer.value),
                by: given.in_intent(intent, &peer.span),
            }),
        };
        match found {
            Ok(tunnel) => return Ok(tunnel),
            Err(because) => first_against = first_against.or(Some(because)),
        }
    }
    Err(first_against.unwrap_or_default())
}

/// The tunnel of the operator's first rule that encrypts some of these flows.
fn of_policy(given: &Given<'_>, intent: &Intent) -> Option<usize> {
    let rules = intent.flows.iter().filter(|flow| !flow.nowhere()).flat_map(|flow| {
        given.index.near(&flow.matches, &flow.hosts).into_iter().filter_map(|at| {
            let rule = &given.policy.rules[at];
            let tunnel = rule.encrypt?;
            crate::config::overlaps(&rule.matches, &flow.matches).then_some((at, tunnel))
        })
    });
    rules.min_by_key(|(at, _)| *at).map(|(_, tunnel)| tunnel)
}

/// Whether the tunnel's peers take packets to where the intent's flows go; `None`: not known before they are there.
fn leads_there(tunnel: &Tunnel, intent: &Intent) -> Option<bool> {
    let TunnelKind::WireGuard(wireguard) = &tunnel.kind else { return None };
    let allowed: Vec<&Prefix> = wireguard.peers.iter().flat_map(|peer| &peer.allowed_ips).collect();
    if allowed.is_empty() {
        return None;
    }
    let mut to = intent.flows.iter().filter(|flow| !flow.nowhere()).map(|flow| &flow.matches.to);
    // A flow to anywhere is the tunnel's as far as it leads.
    Some(to.any(|to| to.is_empty() || to.iter().any(|to| allowed.iter().any(|allowed| allowed.overlaps(to)))))
}

fn usable(given: &Given<'_>, intent: &Intent, at: usize) -> Result<(), Because> {
    let tunnel = &given.policy.tunnels[at];
    let terms = &given.policy.terms;
    if let Some((_, span)) = terms.maintenance.iter().find(|(tunnel, _)| *tunnel == at) {
        let note =
            if terms.maintenance_note.is_empty() { String::new() } else { format!(": {}", terms.maintenance_note) };
        return Err(Because {
            reason: Reason::Maintenance,
            text: format!("tunnel `{}` is under maintenance{note}", tunnel.name),
            by: given.in_policy(Some(span)),
        });
    }
    if leads_there(tunnel, intent) == Some(false) {
        return Err(Because {
            reason: Reason::PeerUnreachable,
            text: format!("no peer of tunnel `{}` takes these destinations", tunnel.name),
            by: given.tunnel_place(at),
        });
    }
    if let (Some(ciphers), Some(cipher)) = (&given.site.ciphers, cipher(tunnel))
        && !ciphers.iter().any(|of| of == cipher_name(cipher))
    {
        return Err(Because {
            reason: Reason::PersonaCipher,
            text: format!(
                "{} has no {}, the cipher of tunnel `{}`",
                given.site.label,
                cipher_name(cipher),
                tunnel.name
            ),
            by: given.tunnel_place(at),
        });
    }
    Ok(())
}
