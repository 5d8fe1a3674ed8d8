//! Who a contender is, and so its colour: the same in every drawing of every report.

/// In the order of legends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Worker,
    Driver,
    Kernel,
    Other,
    Limit,
}

impl Role {
    /// By what contenders are called throughout the bench.
    pub fn of(name: &str, title: &str) -> Self {
        let text = format!("{name} {title}").to_lowercase();
        let has = |words: &[&str]| words.iter().any(|w| text.contains(w));
        let named = |words: &[&str]| words.iter().any(|w| name == *w || name.starts_with(&format!("{w}-")));
        if has(&["bare", "limit", "nothing between", "in-memory ports alone", "only passes"])
            || named(&["ring", "generator", "direct"])
        {
            Self::Limit
        } else if has(&[
            "wireguard-go",
            "boringtun",
            "gotatun",
            "strongswan",
            "haproxy",
            "ndpi",
            "nftables",
            "zstd-",
            "reader",
        ]) {
            Self::Other
        } else if has(&["kernel"]) && !has(&["softdpu"]) {
            Self::Kernel
        } else if has(&["xdp", "offloaded", "driver"]) {
            Self::Driver
        } else {
            Self::Worker
        }
    }

    /// Of the style sheet.
    pub fn class(self) -> &'static str {
        match self {
            Self::Worker => "r0",
            Self::Driver => "r1",
            Self::Kernel => "r2",
            Self::Other => "r3",
            Self::Limit => "r4",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Worker => "softdpu, in a worker or a library",
            Self::Driver => "softdpu, in the driver (XDP)",
            Self::Kernel => "the kernel by itself",
            Self::Other => "other programs",
            Self::Limit => "limits: bare loops and libraries, the generator",
        }
    }
}

/// Line styles of the style sheet, for contenders of one role.
const DASHES: usize = 5;

/// Classes of lines with these titles: a colour by role, and dashes that tell those of one role apart.
pub fn line_classes<'a>(titles: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut seen: Vec<Role> = Vec::new();
    let class = |title: &str| {
        let role = Role::of("", title);
        let before = seen.iter().filter(|r| **r == role).count();
        seen.push(role);
        format!("l {} d{}", role.class(), before % DASHES)
    };
    titles.map(class).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_have_the_role_that_people_would_say() {
        let cases = [
            ("kernel", "kernel ip_forward, in the sender's softirq", Role::Kernel),
            ("nftables", "kernel, nftables masquerade", Role::Other),
            ("worker", "softdpu, worker forward", Role::Worker),
            ("xdp", "softdpu, XDP forward", Role::Driver),
            ("bare-xdp", "bare XDP redirect", Role::Limit),
            ("bare", "bare AF_XDP receive and send", Role::Limit),
            ("one", "offloaded, 1 entry, 1 flow sent", Role::Driver),
            ("direct", "direct veth, nothing between (limit)", Role::Limit),
            ("softdpu-wireguard", "softdpu WireGuard", Role::Worker),
            ("wireguard-go", "wireguard-go", Role::Other),
            ("clear", "kernel forwards, in clear", Role::Kernel),
            ("ring-64", "ring, 64 B", Role::Limit),
            ("none", "none: forwarded, flow known", Role::Worker),
        ];
        for (name, title, role) in cases {
            assert_eq!(Role::of(name, title), role, "{name}");
        }
    }

    #[test]
    fn lines_of_one_role_differ_by_their_dashes() {
        let classes =
            line_classes(["softdpu, worker", "kernel ip_forward", "softdpu, worker, idle = busy"].into_iter());
        assert_eq!(classes, ["l r0 d0", "l r2 d0", "l r0 d1"]);
    }
}
