//! What comes on `NETLINK_XFRM`: parsed, added up, looked up. Nothing may panic, and what was parsed must be the same after it
//! is written and read again.
#![no_main]
use libfuzzer_sys::fuzz_target;
use softdpu::tunnel::xfrm::message::{Message, Messages, Received};
use softdpu::tunnel::xfrm::model::{Direction, Flow};
use softdpu::tunnel::xfrm::request;
use softdpu::tunnel::xfrm::spd::Spd;
use softdpu::tunnel::xfrm::tables::Tables;

fuzz_target!(|data: &[u8]| {
    let mut tables = Tables::default();
    let mut flows = Vec::new();
    let dumping = data.first().is_some_and(|byte| byte & 0x80 != 0);
    if dumping {
        tables.begin_dump();
    }
    for received in Messages::new(data) {
        written_and_read_again(&received.message);
        if let Message::Policy(policy) = &received.message {
            let s = &policy.selector;
            flows.push(Flow {
                mark: policy.mark.value,
                if_id: policy.if_id,
                interface: s.interface,
                ..Flow::new(s.src.addr(), s.dst.addr(), s.protocol, s.sport, s.dport)
            });
        }
        tables.apply(received, dumping);
    }
    if dumping {
        tables.end_dump();
    }
    let snapshot = tables.snapshot();
    let spd = Spd::new(&snapshot);
    for flow in &flows {
        let _ = spd.out(flow);
        for direction in Direction::ALL {
            let naive = snapshot
                .policies
                .iter()
                .filter(|p| p.key.direction == direction && p.matches(flow))
                .min_by_key(|p| p.rank());
            let same_family = flow.src.is_ipv4() == flow.dst.is_ipv4();
            assert_eq!(spd.policy(direction, flow).map(|p| p.key), naive.filter(|_| same_family).map(|p| p.key));
            let _ = spd.check(direction, flow, &[]);
            for state in &snapshot.states {
                let _ = spd.check(direction, flow, &[state]);
            }
        }
    }
});

fn written_and_read_again(message: &Message) {
    let again = |bytes: &[u8]| Messages::new(bytes).next().map(|received: Received| received.message);
    match message {
        Message::Policy(policy) => {
            let mut plain = policy.clone();
            plain.offloaded = false;
            assert!(matches!(again(&request::set_policy(1, policy)), Some(Message::Policy(read)) if read == plain));
        }
        Message::State(state) | Message::Update(state) => {
            let read = again(&request::expire(1, state, true));
            assert!(matches!(read, Some(Message::Expired { key, hard: true }) if key == state.key));
        }
        Message::Usage { key, replay: Some(replay), used } => {
            match again(&request::set_usage(1, key, Some(replay), used.as_ref())) {
                Some(Message::Usage { key: k, replay: Some(r), used: u }) => {
                    assert!(
                        k == *key
                            && u == *used
                            && r.oseq == replay.oseq
                            && r.received.highest == replay.received.highest
                    );
                }
                other => panic!("{other:?}"),
            }
        }
        _ => {}
    }
}
