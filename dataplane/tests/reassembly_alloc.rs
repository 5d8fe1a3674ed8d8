//! The reassembly table allocates when it is made, and never after, whatever comes.
#![allow(clippy::unwrap_used)]

use softdpu::wire::reassembly::{Id, Limits, Place, Table};
use softdpu_ebpf_common::walk::L3;

#[path = "support/counting.rs"]
mod counting;

#[test]
fn nothing_is_allocated_per_fragment() {
    let limits = Limits::default();
    let mut table = Table::new(limits);
    let mut whole = Vec::with_capacity(limits.per_datagram);
    let (mut lost, mut complete) = (0u32, 0u32);
    let before = counting::allocations();
    for n in 0..100_000u32 {
        // A good datagram of four fragments now and then, and any number of bad and unfinished ones.
        let mixed = n.wrapping_mul(0x9e37_79b1);
        let good = n % 8 < 4;
        let (ident, start, last) =
            if good { (n / 8, n % 8 * 8, n % 8 == 3) } else { (mixed >> 20, mixed % 96 * 8, false) };
        let source = if good { 1 } else { 2 + (mixed >> 8) as u8 % 5 };
        let id = Id { src: [source; 16], dst: [9; 16], ident, l3: L3::V6, proto: 0, zone: 0 };
        let place = Place { head: 40, body: 48, start, len: 8, last, ..Place::default() };
        let now = u64::from(n) * 1_000_000;
        if table.insert(now, &id, &place, n, &mut whole, &mut |_, _| lost += 1).is_some() {
            complete += 1;
            whole.clear();
        }
        if n % 1000 == 0 {
            table.expire(now, &mut |_, _| lost += 1);
        }
    }
    assert_eq!(counting::allocations(), before);
    assert!(complete >= 12_500 && lost > 40_000, "{complete} complete, {lost} lost");
}
