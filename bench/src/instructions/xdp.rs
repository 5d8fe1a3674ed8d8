//! The XDP program, which valgrind cannot see: how long it is, and how many instructions the verifier went through to be sure of it.
//! The second grows with every branch that a packet's way can take.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use softdpu::io::steer::{LoadOptions, Steer};

use super::kept::Xdp;
use super::run::compilers;
use crate::net::namespace::Namespace;

/// Loads it and asks the kernel.
///
/// # Errors
/// Without root, or without the eBPF object.
pub fn look() -> Result<Xdp> {
    let namespace = Namespace::new()?;
    let counts = namespace.run(|| {
        let options = LoadOptions { flow_capacity: 1024, ..Default::default() };
        let steer = Steer::load(&options).map_err(|e| anyhow::anyhow!("{e}"))?;
        let mut programs = aya::programs::loaded_programs().filter_map(Result::ok);
        let info = programs.find(|program| program.id() == steer.id()).context("the kernel does not show it")?;
        let translated = info.size_translated().context("its translated size is kept from us")?;
        let verified = info.verified_instruction_count().context("the kernel does not say what it verified")?;
        // As the kernel runs it, 8 bytes each; what helpers that it inlines are made of is part of it.
        anyhow::Ok(BTreeMap::from([
            ("xdp/steer-instructions".to_owned(), u64::from(translated) / 8),
            ("xdp/steer-verified".to_owned(), u64::from(verified)),
        ]))
    })?;
    let (own, others) = compilers();
    let other = others.into_iter().find(|version| Some(version) != own.as_ref());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    Ok(Xdp { kernel, rustc: other.or(own).unwrap_or_default(), counts })
}
