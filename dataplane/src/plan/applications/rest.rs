//! Applications that ask for neither host nor prefix: of those that fit, the first in a fixed order wins. By port, where they ask
//! for some, so that a flow is held against few of them.

use super::terms::Terms;
use super::{Applications, Probe};

/// Most entries of the lists by port: 256 KiB. Applications that do not fit there are looked at one by one.
const MAX_ENTRIES: usize = 1 << 17;

#[derive(Clone, Debug, Default)]
pub struct Rest {
    /// The applications' numbers, those that win first at the head.
    order: Box<[u16]>,
    /// Places in `order` of those that ask for no port.
    anywhere: Box<[u16]>,
    /// Where the list of another stretch of ports begins, ascending from 0; and where in `lists`, with one more at the end.
    starts: Box<[u16]>,
    ends: Box<[u32]>,
    /// Places in `order`, ascending within each list.
    lists: Box<[u16]>,
}

impl Rest {
    /// `order`: places in `terms`, those that win first at the head.
    pub fn build(order: &[u16], terms: &[Terms]) -> Self {
        let ports = |place: u16| &terms[usize::from(order[usize::from(place)])].ports;
        let places = 0..order.len() as u16;
        let (with_ports, anywhere): (Vec<u16>, Vec<u16>) = places.clone().partition(|place| !ports(*place).is_empty());
        let mut starts = vec![0];
        for range in with_ports.iter().flat_map(|place| ports(*place)) {
            starts.push(range.first);
            starts.extend(range.last.checked_add(1));
        }
        starts.sort_unstable();
        starts.dedup();
        let stretch = |port: u16| starts.partition_point(|start| *start <= port) - 1;
        let mut lists: Vec<Vec<u16>> = vec![Vec::new(); starts.len()];
        let mut entries = 0;
        for place in with_ports {
            for range in ports(place) {
                for list in &mut lists[stretch(range.first)..=stretch(range.last)] {
                    list.push(place);
                    entries += 1;
                }
            }
            if entries > MAX_ENTRIES {
                return Self { order: order.into(), anywhere: places.collect(), ..Self::default() };
            }
        }
        let mut ends = vec![0];
        ends.extend(lists.iter().scan(0, |sum, list| {
            *sum += list.len() as u32;
            Some(*sum)
        }));
        Self {
            order: order.into(),
            anywhere: anywhere.into(),
            starts: starts.into(),
            ends: ends.into(),
            lists: lists.concat().into(),
        }
    }

    pub(super) fn find(&self, all: &Applications, probe: &Probe<'_>) -> Option<u16> {
        let first = |list: &[u16]| {
            list.iter().copied().find(|place| {
                let at = self.order[usize::from(*place)];
                let terms = &all.terms[usize::from(at)];
                terms.hold(at, probe)
                    && probe.facts.ends.iter().any(|(_, port)| terms.port_holds(*port, probe.has_ports))
            })
        };
        let [a, b] = probe.facts.ends.map(|(_, port)| if probe.has_ports { first(self.of_port(port)) } else { None });
        let place = [first(&self.anywhere), a, b].into_iter().flatten().min()?;
        self.order.get(usize::from(place)).copied()
    }

    fn of_port(&self, port: u16) -> &[u16] {
        let Some(at) = self.starts.partition_point(|start| *start <= port).checked_sub(1) else { return &[] };
        let (Some(from), Some(to)) = (self.ends.get(at), self.ends.get(at + 1)) else { return &[] };
        self.lists.get(*from as usize..*to as usize).unwrap_or(&[])
    }

    /// Bytes that it takes.
    pub fn memory(&self) -> usize {
        size_of_val(&*self.order)
            + size_of_val(&*self.anywhere)
            + size_of_val(&*self.starts)
            + size_of_val(&*self.ends)
            + size_of_val(&*self.lists)
    }
}
