//! Every node of the graph, over packets that give it something to do; and the whole graph, which is what packets meet.

use anyhow::{Result, ensure};
use softdpu::graph::{Batch, Cx, Look, Node};

use super::Entry;
use super::scene::{self, BURST, Scene};
use crate::micro::{Case, Spent};

type Make = fn() -> Result<Scene>;

/// Node, which packets, and what makes them.
const NODES: &[(&str, &str, Make)] = &[
    ("parse", "", scene::forward),
    ("parse", "-v6", scene::forward_v6),
    ("parse", "-esp", || scene::esp_in(64, false, "")),
    ("reassemble", "", || scene::esp_in(1000, true, "")),
    ("open", "-esp-64", || scene::esp_in(64, false, "")),
    ("open", "-esp-1400", || scene::esp_in(1400, false, "")),
    ("open", "-wg-64", || scene::wireguard("open", 64)),
    ("open", "-wg-1400", || scene::wireguard("open", 1400)),
    ("decompress", "", || scene::esp_in(1400, false, "compress = \"lz4\"")),
    ("gather", "", scene::gathered),
    ("flow", "", scene::forward),
    ("flow", "-v6", scene::forward_v6),
    ("flow", "-new", scene::fresh),
    ("flow", "-icmp-error", scene::relayed),
    ("classify", "", scene::forward),
    ("classify", "-new", scene::fresh),
    ("policy", "", scene::forward),
    ("policy", "-new", scene::fresh),
    ("policy", "-treated", scene::treated),
    ("select", "-esp", || scene::esp_out(64)),
    ("select", "-wg", || scene::wireguard("seal", 64)),
    ("route", "", scene::forward),
    ("route", "-new", scene::fresh),
    ("route", "-esp", || scene::esp_out(64)),
    ("join", "", scene::joined),
    ("icmp", "", scene::told),
    ("mss", "", scene::syns),
    ("fragment", "", scene::too_large),
    ("compress", "", scene::compressed),
    ("seal", "-esp-64", || scene::esp_out(64)),
    ("seal", "-esp-1400", || scene::esp_out(1400)),
    ("seal", "-wg-64", || scene::wireguard("seal", 64)),
    ("seal", "-wg-1400", || scene::wireguard("seal", 1400)),
    ("outer_fragment", "", scene::outer_cut),
    ("rewrite", "", scene::forward),
    ("rewrite", "-v6", scene::forward_v6),
    ("offload", "", scene::forward),
    ("emit", "", scene::forward),
];

/// Through all nodes, with the in-memory ports.
const WHOLE: &[(&str, Make)] = &[
    ("forward", scene::forward),
    ("forward-v6", scene::forward_v6),
    ("forward-new", scene::fresh),
    ("esp-out", || scene::esp_out(64)),
    ("esp-in", || scene::esp_in(64, false, "")),
    ("wg-out", || scene::wireguard("seal", 64)),
    ("wg-in", || scene::wireguard("open", 64)),
    ("compress-esp-out", scene::compressed),
];

pub fn entries() -> Vec<Entry> {
    let node = |(node, what, make): &(&'static str, &str, Make)| {
        let (node, make) = (*node, *make);
        Entry::new(format!("node/{node}{what}"), format!("node {node}{what}, per packet"), BURST as usize, move || {
            one(make()?, node)
        })
    };
    let whole = |(name, make): &(&str, Make)| {
        let make = *make;
        let title = format!("a worker's turn, {name}, in-memory ports too, per packet");
        Entry::new(format!("graph/{name}"), title, BURST as usize, move || turns(make()?))
    };
    NODES.iter().map(node).chain(WHOLE.iter().map(whole)).collect()
}

/// One node is timed, all run.
struct One<'a> {
    node: &'static str,
    spent: &'a mut Spent,
    met: &'a mut usize,
}

impl Look for One<'_> {
    #[inline(never)]
    fn node<N: Node>(&mut self, node: &mut N, cx: &mut Cx<'_>, batch: &mut Batch) {
        if N::NAME != self.node {
            return node.run(cx, batch);
        }
        *self.met += batch.len();
        *self.spent += Spent::on(|| node.run(cx, batch));
    }
}

/// A burst through the graph, with one node timed. How many packets came to it.
fn burst(scene: &mut Scene, node: &'static str, spent: &mut Spent) -> usize {
    scene.prepare();
    let mut met = 0;
    let now = scene.harness.now;
    while scene.harness.worker.turn_with(scene.port, now, &mut One { node, spent, met: &mut met }) > 0 {}
    met
}

/// Its time is that of one node over the packets that came to it.
fn one(mut scene: Scene, node: &'static str) -> Result<Case<'static>> {
    let met = burst(&mut scene, node, &mut Spent::default());
    ensure!(met > 0, "no packet came to {node}");
    Ok(Case::timed(node, node, move |n| {
        let (mut done, mut spent) = (0, Spent::default());
        while done < n {
            done += burst(&mut scene, node, &mut spent).max(1);
        }
        (done, spent)
    }))
}

/// Turns of the worker as it runs.
fn turns(scene: Scene) -> Result<Case<'static>> {
    let run = |scene: &mut Scene| {
        let mut done = 0;
        while done < BURST as usize {
            scene.harness.now += 10_000;
            done += scene.harness.worker.turn(scene.harness.now);
        }
    };
    Ok(Case::batches("", "", BURST as usize, scene, Scene::prepare, run))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A node that is new has its case here.
    #[test]
    fn every_node_has_a_case() {
        struct Names(Vec<&'static str>);
        impl Look for Names {
            fn node<N: Node>(&mut self, node: &mut N, cx: &mut Cx<'_>, batch: &mut Batch) {
                self.0.push(N::NAME);
                node.run(cx, batch);
            }
        }
        let mut scene = scene::forward().unwrap();
        scene.prepare();
        let mut names = Names(Vec::new());
        let now = scene.harness.now;
        assert!(scene.harness.worker.turn_with(scene.port, now, &mut names) > 0);
        assert!(names.0.len() >= 20);
        for name in names.0 {
            assert!(NODES.iter().any(|(node, ..)| *node == name), "{name} has no case");
        }
    }
}
