//! A hub between two WireGuard peers of another make, which reach each other only through it:
//!
//! ```text
//!   client             hub (edge-a)         wire              left (edge-b): wireguard-go, 10.2.0.2, fd02::2
//!   eth0 ───────── apps  uplink ─────── to-a [wire] to-b ── uplink 192.0.2.2
//!   10.1.0.2      10.1.0.1  192.0.2.1       [wire] to-c ── uplink 192.0.2.3
//!                                                          right: wireguard-go, 10.3.0.2, fd03::2
//! ```

use std::net::SocketAddr;

use softdpu_testbed::{
    cleanup,
    netns::NetNs,
    peers::wireguard::{Config, KeyPair, LINK, PORT, Program, WireGuard, write_secret},
    policy::Side,
    topology::{EDGE_A, EDGE_B, SERVER_NET},
};

use super::Load;
use crate::common::{At, World};

pub const LEFT: [&str; 2] = ["10.2.0.2", "fd02::2"];
pub const RIGHT: [&str; 2] = ["10.3.0.2", "fd03::2"];
pub const LEFT_NET: [&str; 2] = SERVER_NET;
pub const RIGHT_NET: [&str; 2] = ["10.3.0.0/24", "fd03::/64"];
const RIGHT_OUTER: &str = "192.0.2.3";

/// Everything running. Fields are dropped in order.
pub struct Hub {
    _peers: [WireGuard; 2],
    pub world: World,
    pub right: NetNs,
    /// Of the hub's tunnel, and of its socket for `wg`.
    pub name: String,
    /// Public keys of both peers.
    pub keys: [String; 2],
}

impl Hub {
    /// `None`, said aloud, where something is missing.
    pub fn running(tag: &str) -> Option<Self> {
        if Program::WireGuardGo.find().is_none() {
            eprintln!("SKIPPED: {tag} needs wireguard-go");
            return None;
        }
        let mut world = World::idle(tag, |setup| setup.policy.queues = 2)?;
        let right = NetNs::new(&format!("{}-right", cleanup::unique(tag))).unwrap();
        let wire = &world.topology.wire;
        right.sysctl("net/ipv6/conf/default/accept_dad", "0").unwrap();
        let link = format!("link add uplink type veth peer name to-c netns {}", wire.name());
        right.ip(&link).unwrap();
        wire.ip("link set dev to-c master wire").unwrap();
        wire.ip("link set dev to-c up").unwrap();
        right.ip("link set dev uplink up").unwrap();
        right.ip(&format!("addr add {RIGHT_OUTER}/24 dev uplink")).unwrap();

        let [hub, left_key, right_key] = std::array::from_fn(|_| KeyPair::new().unwrap());
        let name = format!("hub{}", std::process::id());
        Self::write(&world, &name, &hub, [&left_key.public, &right_key.public]);
        world.start(At::A);
        let peer = |ns: &NetNs, keys: &KeyPair, far: [&str; 2], own: [&str; 2]| {
            let mut config = Config::new(keys, &hub.public, &["10.1.0.0/24", "fd01::/64", far[0], far[1]]);
            config.endpoint = Some(SocketAddr::new(EDGE_A[0].parse().unwrap(), PORT));
            let peer = WireGuard::start(Program::WireGuardGo, ns, &world.folder, &config).unwrap();
            ns.ip(&format!("addr add {}/32 dev {LINK}", own[0])).unwrap();
            ns.ip(&format!("addr add {}/128 dev {LINK} nodad", own[1])).unwrap();
            peer
        };
        let peers =
            [peer(&world.topology.edge_b, &left_key, RIGHT_NET, LEFT), peer(&right, &right_key, LEFT_NET, RIGHT)];
        let keys = [left_key.public, right_key.public];
        Some(Self { _peers: peers, world, right, name, keys })
    }

    /// The hub's policy: two workers, two peers, and a rule that names no nets at all.
    fn write(world: &World, name: &str, keys: &KeyPair, peers: [&String; 2]) {
        let files = world.files(At::A);
        let key = world.folder.file("hub.key");
        write_secret(&key, &keys.private).unwrap();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut text = format!(
            "name = \"{}\"\n[control]\nsocket = \"{}\"\n[workers]\ncores = [0, {}]\n",
            Side::A.name(),
            files.socket.display(),
            1 % cores,
        );
        for port in ["apps", "uplink"] {
            text += &format!("[[port]]\nname = \"{port}\"\ninterface = \"{port}\"\nqueues = 2\n");
        }
        let nets = [LEFT_NET, RIGHT_NET].concat();
        text += &format!("[[steer]]\nname = \"from-apps\"\nport = \"apps\"\nto = {nets:?}\non_loss = \"drop\"\n");
        text += &format!(
            "[[tunnel]]\nname = \"{name}\"\ntype = \"wireguard\"\nlisten_port = {PORT}\nprivate_key_file = \"{}\"\n",
            key.display()
        );
        for (public, nets, outer) in [(peers[0], LEFT_NET, EDGE_B[0]), (peers[1], RIGHT_NET, RIGHT_OUTER)] {
            text += &format!(
                "[[tunnel.peer]]\npublic_key = \"{public}\"\nallowed_ips = {nets:?}\nendpoint = \"{outer}:{PORT}\"\n"
            );
        }
        text += &format!("[[rule]]\nname = \"everything\"\nencrypt = \"{name}\"\n");
        std::fs::write(&files.policy, text).unwrap();
    }

    /// Canaries from each peer to the other, in both families.
    pub fn load(&self) -> Load {
        let (left, right) = (&self.world.topology.edge_b, &self.right);
        Load::of(&[(left, right, RIGHT[0]), (right, left, LEFT[0]), (left, right, RIGHT[1]), (right, left, LEFT[1])])
    }

    /// Changes the hub's routes to the nets of both peers. `words`: of `ip route`, with `NET` for the net and `VIA` for the
    /// client's address.
    pub fn route(&self, words: &str) {
        for nets in [LEFT_NET, RIGHT_NET] {
            for (net, via) in nets.into_iter().zip(softdpu_testbed::topology::CLIENT) {
                self.world.topology.edge_a.ip(&words.replace("NET", net).replace("VIA", via)).unwrap();
            }
        }
    }
}
