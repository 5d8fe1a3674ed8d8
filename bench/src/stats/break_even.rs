//! From when on something pays that costs once and then saves with every packet.

/// What it costs to leave a flow's packets where they are, and to move them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// Packets that the slow way sees in any case, before the flow can be moved.
    pub before: f64,
    /// Of moving the flow there, and of taking it back at the end, ns.
    pub once: f64,
    /// Per packet, the slow way, ns.
    pub slow: f64,
    /// Per packet, the fast way, ns.
    pub fast: f64,
}

impl Costs {
    /// Packets from which on moving costs less than not moving. `None`: never, as the fast way is not the faster one.
    pub fn break_even(&self) -> Option<f64> {
        let gain = self.slow - self.fast;
        (gain > 0.0).then(|| self.before + self.once / gain)
    }

    /// What a flow of `packets` costs that stays, ns.
    pub fn staying(&self, packets: f64) -> f64 {
        packets * self.slow
    }

    /// What it costs moved as soon as that can be, ns. Shorter flows end before.
    pub fn moving(&self, packets: f64) -> f64 {
        if packets <= self.before {
            return self.staying(packets);
        }
        self.before * self.slow + self.once + (packets - self.before) * self.fast
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn known_values() {
        let c = Costs { before: 4.0, once: 1000.0, slow: 150.0, fast: 50.0 };
        assert_eq!(c.break_even(), Some(14.0));
        assert_eq!(c.staying(14.0), c.moving(14.0));
        assert!(c.moving(13.0) > c.staying(13.0) && c.moving(15.0) < c.staying(15.0));
        assert_eq!(c.moving(3.0), c.staying(3.0));
    }

    #[test]
    fn never_where_nothing_is_gained() {
        let c = Costs { before: 0.0, once: 0.0, slow: 50.0, fast: 50.0 };
        assert_eq!(c.break_even(), None);
        assert_eq!(Costs { fast: 60.0, ..c }.break_even(), None);
    }
}
