//! Section 5: the files that people write, from the same schemas as `docs/config.md`.

use serde_json::Value;

use super::roff::{bold, escaped, head, item, see_also, title, words};
use super::{MANUAL, SOURCE};
use crate::cases;
use crate::config;

pub struct Page {
    pub name: &'static str,
    about: &'static str,
    description: &'static str,
    example: &'static str,
    files: &'static [(&'static str, &'static str)],
    schema: fn() -> Value,
}

const TOML: &str = "The file is TOML. `[name]` is a table that stands once, `[[name]]` one that may stand often and whose order counts. A \
                    key that must be there is called required.";

pub const PAGES: &[Page] = &[
    Page {
        name: "softdpu-policy",
        about: "what a host has and allows",
        description: "A policy is the network operator's: ports, workers, what to take from the driver, tunnels, rules, capacity, and what \
                      applications may ask for. Relative paths in it start at its folder. Nothing starts and nothing is taken up unless \
                      the whole policy is valid.",
        example: "name = \"edge\"\n\n[[port]]\nname = \"apps\"\ninterface = \"eth1\"\n\n[[port]]\nname = \"uplink\"\ninterface = \"eth0\"\n\n\
                  [[steer]]\nname = \"from-apps\"\nport = \"apps\"\nfrom = [\"10.1.0.0/24\"]",
        files: &[
            ("/etc/softdpu/NAME.toml", "The policy of the instance NAME, where the systemd unit looks for it."),
            ("configs/policies/full.toml", "An example with every key."),
        ],
        schema: config::json_schema,
    },
    Page {
        name: "softdpu-intent",
        about: "what the flows of an application need",
        description: "An intent is the application developer's: which flows, whether they are encrypted and compressed, how much bandwidth \
                      and how little delay they need. One file per application, its name ends in `.intent.toml`, in the folder \
                      that the policy's `intents` names. `softdpu plan` says what becomes of it.",
        example: "name = \"payments\"\nowner = \"payments team\"\nencrypt = \"required\"\n\n[[flow]]\nfrom = [\"10.1.0.0/24\"]\nto = \
                  [\"10.2.0.0/24\"]\nprotocol = \"tcp\"\nports = [443]",
        files: &[("/etc/softdpu/intents/NAME.intent.toml", "The intent of the application NAME.")],
        schema: config::intent_json_schema,
    },
    Page {
        name: "softdpu-case",
        about: "packets, and what a policy is to make of them",
        description: "A case file is for `softdpu test`: packets that go in by a port of a policy, and what is expected of them. Its name \
                      ends in `.case.toml`.",
        example: "policy = \"edge.toml\"\n\n[[case]]\nname = \"payments are encrypted\"\n[case.connection]\nport = \"apps\"\nfrom = \
                  \"10.1.0.10\"\nto = \"10.2.0.20:443\"\n[case.expect]\nencrypted = true",
        files: &[("configs/tests", "A worked example.")],
        schema: cases::json_schema,
    },
];

pub fn text(page: &Page, all: &[(String, u8)]) -> String {
    let mut out = title(page.name, 5, SOURCE, MANUAL);
    out.push_str(&format!(".SH NAME\n{} \\- {}\n", escaped(page.name), escaped(page.about)));
    out.push_str(&format!(".SH DESCRIPTION\n{}\n.PP\n{}\n", words(page.description), words(TOML)));
    for table in config::reference::tables(&(page.schema)()) {
        let name = match (table.place.as_str(), table.list) {
            ("", _) => "At the top".to_owned(),
            (place, true) => format!("[[{place}]]"),
            (place, false) => format!("[{place}]"),
        };
        out.push_str(&if table.place.is_empty() { head("KEYS") } else { String::new() });
        out.push_str(&format!(".SS \"{}\"\n", escaped(&name)));
        if !table.about.is_empty() {
            out.push_str(&format!("{}\n", words(&table.about)));
        }
        for key in &table.keys {
            let required = if key.required { " (required)" } else { "" };
            let term = format!("{}{required}: {}", bold(&key.name), words(&key.value));
            out.push_str(&item(&term, &key.meaning));
        }
    }
    out.push_str(&format!(".SH EXAMPLES\n.nf\n{}\n.fi\n.SH FILES\n", escaped(page.example)));
    for (file, about) in page.files {
        out.push_str(&item(&bold(file), about));
    }
    out.push_str(&see_also(page.name, 5, all));
    out
}
