//! Where turns are played: generated traffic through nameless namespaces, or the policy's own ports.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::{Options, Setting, Turn, Values};
use crate::config::Policy;
use crate::control::client;
use crate::host::inventory::Inventory;
use crate::rig::instance::Instance;
use crate::rig::net::cores;
use crate::rig::net::generator::{Generator, Limits};
use crate::rig::net::topology::{Napi, Topology};
use crate::rig::stop;

/// Before counting: flows open, frequencies settle.
const WARM_UP: Duration = Duration::from_millis(300);
/// Longest wait for the first packet to come through.
const PATIENCE: Duration = Duration::from_secs(3);
/// From the start of an instance until it does nothing, and how long it is watched at that.
const SETTLE: Duration = Duration::from_millis(100);
const REST: Duration = Duration::from_millis(400);
/// Packets offered per second: well above what a worker forwards, so that it is the limit.
const OFFERED: f64 = 4e6;

pub(super) struct Stage<'a> {
    /// `None`: the policy's own ports.
    topology: Option<Topology>,
    policy: &'a Policy,
    worker: usize,
    generator: usize,
}

impl<'a> Stage<'a> {
    pub(super) fn new(policy: &'a Policy, options: &Options, worker: usize, generator: usize) -> Result<Self> {
        let topology = if options.real { None } else { Some(Topology::new('t', Napi::Inline)?) };
        Ok(Self { topology, policy, worker, generator })
    }

    /// What a reader of the figures has to know.
    pub(super) fn about(&self, options: &Options, host: &Inventory) -> Vec<String> {
        let traffic = if options.real {
            "the traffic that was there, on the policy's ports".to_owned()
        } else {
            let (size, flows) = (options.size, options.flows);
            format!("generated over veths: frames of {size} bytes, {flows} flow{}", if flows == 1 { "" } else { "s" })
        };
        vec![
            format!("{}, {} cores, Linux {}", host.cpu.model, host.cpu.allowed.len(), host.kernel.release),
            format!("{traffic}; worker on core {}", self.worker),
            format!(
                "{} rounds, each setting {} s a round, all settings in turn",
                options.rounds,
                options.turn.as_secs_f64()
            ),
        ]
    }

    /// Starts an instance with these values, and counts what it does.
    pub(super) fn turn(&self, values: &Values, options: &Options) -> Result<Turn> {
        match &self.topology {
            Some(topology) => self.generated(topology, values, options),
            None => self.real(values, options),
        }
    }

    fn generated(&self, topology: &Topology, values: &Values, options: &Options) -> Result<Turn> {
        let policy = |socket: &Path| self.made_up(topology, values, socket).to_string();
        let instance = Instance::start(Some(&topology.dut), &options.binary, None, policy)?;
        stop::sleep(SETTLE);
        let idle_cpu = cpu_over(&instance, REST)?;
        let traffic = topology.traffic(options.flows, options.size);
        let time = PATIENCE + WARM_UP + options.turn;
        let limits = Limits { packets: u64::MAX, time: time * 2, rate: Some(OFFERED), core: self.generator, batch: 64 };
        let (generator, before) = (Generator::start(topology, &traffic, limits)?, topology.arrived()?);
        // On a busy machine the generator takes a while to begin.
        let patience = Instant::now() + PATIENCE;
        while topology.arrived()? == before && Instant::now() < patience && !stop::asked() {
            stop::sleep(Duration::from_millis(10));
        }
        stop::sleep(WARM_UP);
        let (start, arrived, used) = (Instant::now(), topology.arrived()?, cores::process_cpu(instance.pid())?);
        stop::sleep(options.turn);
        let seconds = start.elapsed().as_secs_f64();
        let (arrived, used) = (topology.arrived()? - arrived, cores::process_cpu(instance.pid())? - used);
        generator.finish()?;
        Ok(Turn { rate: arrived as f64 / seconds, idle_cpu, cpu: 100.0 * used / seconds })
    }

    /// Two ports, one worker, one rule that forwards; memory as in the policy.
    fn made_up(&self, topology: &Topology, values: &Values, socket: &Path) -> Table {
        let mut file = Table::new();
        let table =
            |pairs: &[(&str, Value)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect::<Table>();
        file.insert("name".into(), "tune".into());
        let frames = i64::from(self.policy.workers.frames);
        let cores = Value::Array(vec![(self.worker as i64).into()]);
        file.insert("workers".into(), table(&[("cores", cores), ("frames", frames.into())]).into());
        let port =
            |name: &str, interface: &str| table(&[("name", name.into()), ("interface", interface.into())]).into();
        let ports = vec![port("near", &topology.near_if), port("far", &topology.far_if)];
        file.insert("port".into(), Value::Array(ports));
        // Flows stay with the worker: it is what is measured.
        file.insert("offload".into(), table(&[("enabled", false.into())]).into());
        let steer = table(&[("name", "udp".into()), ("protocol", "udp".into())]);
        file.insert("steer".into(), Value::Array(vec![steer.into()]));
        apply(&mut file, values, socket);
        file
    }

    fn real(&self, values: &Values, options: &Options) -> Result<Turn> {
        let mut file: Table = self.policy.source.text.parse().context("the policy")?;
        let folder = options.policy_path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let policy = |socket: &Path| {
            apply(&mut file, values, socket);
            file.to_string()
        };
        let instance = Instance::start(None, &options.binary, Some(folder), policy)?;
        stop::sleep(WARM_UP);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sent = || -> Result<u64> {
            let counters = runtime.block_on(client::counters(&instance.socket()))?;
            Ok(counters.ports.iter().map(|p| p.tx.packets).sum())
        };
        let (start, before, used) = (Instant::now(), sent()?, cores::process_cpu(instance.pid())?);
        stop::sleep(options.turn);
        let seconds = start.elapsed().as_secs_f64();
        let (packets, used) = (sent()? - before, cores::process_cpu(instance.pid())? - used);
        // There is no moment without traffic to look at.
        Ok(Turn { rate: packets as f64 / seconds, idle_cpu: 0.0, cpu: 100.0 * used / seconds })
    }
}

fn cpu_over(instance: &Instance, time: Duration) -> Result<f64> {
    let (start, before) = (Instant::now(), cores::process_cpu(instance.pid())?);
    stop::sleep(time);
    Ok(100.0 * (cores::process_cpu(instance.pid())? - before) / start.elapsed().as_secs_f64())
}

/// Puts the values into a policy, and its control socket where it is looked for.
fn apply(file: &mut Table, values: &Values, socket: &Path) {
    let entry = |file: &mut Table, name: &str, key: &str, value: Value| {
        let table = file.entry(name).or_insert_with(|| Value::Table(Table::new()));
        if let Some(table) = table.as_table_mut() {
            table.insert(key.to_owned(), value);
        }
    };
    entry(file, "control", "socket", socket.display().to_string().into());
    for setting in Setting::ALL {
        if setting.of_workers() {
            entry(file, "workers", setting.key(), values.get(setting));
            continue;
        }
        for port in file.get_mut("port").and_then(Value::as_array_mut).into_iter().flatten() {
            let xdp = |p: &Table| p.get("kind").is_none_or(|k| k.as_str() == Some("xdp"));
            if let Some(port) = port.as_table_mut().filter(|p| xdp(p)) {
                port.insert(setting.key().to_owned(), values.get(setting));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config;
    use crate::config::policy::{Idle, PortKind, ZeroCopy};

    #[test]
    fn values_go_where_they_belong() {
        let text =
            "[[port]]\nname = \"a\"\ninterface = \"eth0\"\nring = 64\n\n[[port]]\nname = \"b\"\nkind = \"tap\"\n";
        let mut file: Table = text.parse().unwrap();
        let values = Values { ring: 512, batch: 32, idle: Idle::Busy, zero_copy: ZeroCopy::Never, busy_poll: true };
        apply(&mut file, &values, Path::new("/run/x.sock"));
        let policy = config::parse(&file.to_string(), "x").unwrap();
        assert_eq!(policy.control.socket, Path::new("/run/x.sock"));
        assert_eq!((policy.workers.batch, policy.workers.idle), (32, Idle::Busy));
        let PortKind::Xdp(port) = &policy.ports[0].kind else { panic!("{policy:?}") };
        assert_eq!((port.ring, port.zero_copy, port.busy_poll), (512, ZeroCopy::Never, true));
    }
}
