//! Copies of packets: only of what goes in clear anyway.

use super::Check;
use crate::config::policy::Rule;
use crate::config::problem::{Code, Problem};
use crate::config::schema;

/// A copy is in clear, so nothing that a tunnel protects may be copied. What intents or the kernel's IPsec policies have
/// encrypted is of other rules of the plan, which have no `mirror`.
pub(super) fn agrees(raw: &schema::Rule, rule: &Rule, check: &mut Check<'_>) {
    let Some(mirror) = &raw.mirror else { return };
    if let Some(encrypt) = &raw.encrypt {
        check.problems.push(
            Problem::error(
                Code::Conflict,
                mirror.span(),
                format!("rule `{}` encrypts its flows and copies them in clear", rule.name),
                "keep `encrypt` or `mirror`: copies are of flows that go in clear, and may be of other rules than this",
            )
            .other(encrypt.span(), "these must not be seen in clear"),
        );
    }
}
