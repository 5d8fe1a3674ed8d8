//! WireGuard's packet path neither allocates nor copies the packet: an allocator that counts per thread, and the packet's
//! address before and after.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ptr::NonNull;
use std::sync::Arc;

use softdpu::crypto::outer::{Encapsulation, Endpoints, Outer};
use softdpu::crypto::wg::session::{OpenError, Opened, Plain};
use softdpu::crypto::wg::{Identity, Initiator, Opening, PrivateKey, Psk, Remote, Session, Tai64n};
use softdpu::io::frame::{Frame, HEADROOM};

struct Counting;

thread_local! {
    /// Of this thread alone, so that the test harness's own threads do not count.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches a thread-local that needs no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn sessions() -> (Session, Session) {
    let of = |byte| PrivateKey::from_bytes(&[byte; 32]);
    let (a, b) = (Identity::new(of(1)), Identity::new(of(2)));
    let to_b = Remote::new(&a, *b.public(), Psk::default());
    let to_a = Remote::new(&b, *a.public(), Psk::default());
    let (initiator, initiation) = Initiator::start(&a, &to_b, 1, of(3), Tai64n::now()).unwrap();
    let responder = Opening::open(&b, &initiation).unwrap().finish(&to_a, None).unwrap();
    let (response, theirs) = responder.respond(&to_a, 2, of(4)).unwrap();
    let ours = initiator.finish(&a, &to_b, &response).unwrap();
    (Session::new(ours, 0, Arc::default()), Session::new(theirs, 0, Arc::default()))
}

#[test]
fn nothing_on_the_packet_path_allocates_or_copies() {
    const CHUNK: usize = 2048;
    let (a, b) = sessions();
    let udp = Encapsulation::Udp { source: 1, destination: 2 };
    let (v4, v6) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    let outers = [
        Outer::new(Endpoints::V4 { local: v4, remote: v4 }, udp),
        Outer::new(Endpoints::V6 { local: v6, remote: v6 }, udp),
    ];
    let mut memory = vec![0_u8; CHUNK].into_boxed_slice();
    let chunk = NonNull::new(memory.as_mut_ptr()).unwrap();

    let before = ALLOCATIONS.get();
    let mut opened = 0;
    for len in (20..1420).step_by(13) {
        for outer in &outers {
            // SAFETY: `memory` outlives the token, which ends below; between is no other way to it.
            let mut frame = unsafe { Frame::from_raw(chunk, 0, CHUNK as u32, HEADROOM as u32, len as u32) };
            let bytes = frame.bytes_mut();
            bytes.iter_mut().enumerate().for_each(|(i, b)| *b = (i * 7) as u8);
            bytes[..4].copy_from_slice(&[0x45, 0, (len >> 8) as u8, len as u8]);
            let at = bytes.as_ptr();

            a.sealer(3, 1).seal(&mut frame, &Plain { place: 0..len, tos: 0, mtu: 1420 }, outer).unwrap();
            let message = outer.len()..frame.len();
            assert_eq!(frame.bytes()[message.start + 16..].as_ptr(), at, "encrypted where it was");
            let mut opener = b.opener(1);
            let Ok(Opened::Packet { place, .. }) = opener.open(&mut frame, message.clone(), 0) else { panic!() };
            assert_eq!((frame.bytes()[place.clone()].as_ptr(), place.len()), (at, len), "and decrypted");
            opened += usize::from(frame.bytes()[place][19] == (19 * 7) as u8);

            // The ways that fail must not allocate either.
            assert!(opener.open(&mut frame, 0..15, 0).is_err());
            let mut keepalive = [0; 32];
            a.sealer(1, 1).seal_message(&mut keepalive, 16..16, 0).unwrap();
            assert_eq!(opener.open_slice(&mut keepalive, 0..32), Ok(Opened::Keepalive));
            a.sealer(1, 1).seal_message(&mut keepalive, 16..16, 0).unwrap();
            keepalive[31] ^= 1;
            assert_eq!(opener.open_slice(&mut keepalive, 0..32), Err(OpenError::BadTag));
            frame.into_index();
        }
    }
    let allocations = ALLOCATIONS.get() - before;

    assert!(opened > 200);
    assert_eq!(allocations, 0);
    drop(memory);
    assert!(ALLOCATIONS.get() > before, "the counter counts");
}
