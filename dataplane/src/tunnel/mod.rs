//! Who tells the workers what to seal and open: the control side of tunnels.

pub mod xfrm;
