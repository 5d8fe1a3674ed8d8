//! Personas: the limits of DPUs by their public figures, to plan against hardware one does not own.

use anyhow::{Context, Result, bail};
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::Path;

use super::site::Site;
use crate::config::at::At;
use crate::config::rates::Bandwidth;
use crate::config::{self, Code, Problem, Source, nearest};

/// Those that come with softdpu.
const OWN: [(&str, &str); 4] = [
    ("bluefield-2", include_str!("../../../configs/personas/bluefield-2.toml")),
    ("bluefield-3", include_str!("../../../configs/personas/bluefield-3.toml")),
    ("intel-ipu-e2000", include_str!("../../../configs/personas/intel-ipu-e2000.toml")),
    ("pensando-dsc2-100g", include_str!("../../../configs/personas/pensando-dsc2-100g.toml")),
];

/// What a persona may say. What it does not say is not known.
const KEYS: [&str; 7] = ["bandwidth", "crypto", "connections", "tunnels", "ciphers", "cores", "memory"];

/// Limits of a DPU that one may not own, by figures that somebody published.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(title = "softdpu persona")]
#[serde(deny_unknown_fields)]
pub struct Persona {
    /// What the file is called, without `.toml`.
    pub name: String,
    /// Maker and model.
    pub title: String,
    /// Figures that somebody published.
    #[serde(default)]
    pub figure: Vec<Figure>,
    /// Figures that were looked for and not found.
    #[serde(default)]
    pub unknown: Vec<Unknown>,
}

/// A figure that somebody published.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// What it is the figure of.
    pub key: At<String>,
    /// A bandwidth as in a policy, a number, or a list of ciphers.
    pub value: At<Any>,
    /// Address of the page that says so.
    pub source: At<String>,
    /// What exactly it says.
    pub says: At<String>,
}

/// A value whose kind depends on the key beside it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Any(#[schemars(with = "serde_json::Value")] pub toml::Value);

/// A figure that was looked for and not found.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Unknown {
    /// What it would be the figure of.
    pub key: At<String>,
    /// Where it was looked for.
    pub note: String,
}

/// A figure, understood.
enum Known {
    Rate(u64),
    Count(u64),
    Ciphers(Vec<String>),
}

impl Figure {
    /// What it says, or what is wrong with that, and what to write instead.
    fn known(&self) -> Result<Known, (String, String)> {
        let value = &self.value.0;
        let said = || format!("`{}` is not {value}", *self.key);
        match self.key.as_str() {
            "bandwidth" | "crypto" => {
                let help = "a bandwidth as in a policy, in quotes: \"100 Gbit/s\"";
                let text = value.as_str().ok_or_else(|| (said(), help.to_owned()))?;
                text.parse::<Bandwidth>().map(|rate| Known::Rate(rate.0)).map_err(|bad| (bad.message, help.to_owned()))
            }
            "ciphers" => {
                let names = value.as_array().and_then(|list| {
                    list.iter().map(|cipher| cipher.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
                });
                names
                    .map(Known::Ciphers)
                    .ok_or_else(|| (said(), "a list of ciphers' names: [\"aes-128-gcm\", \"aes-256-gcm\"]".to_owned()))
            }
            _ => {
                let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
                number.map(Known::Count).ok_or_else(|| (said(), "a whole number, without quotes: 1_000_000".to_owned()))
            }
        }
    }
}

/// Names of those that come with softdpu.
pub fn names() -> impl Iterator<Item = &'static str> {
    OWN.iter().map(|(name, _)| *name)
}

impl Persona {
    /// One of softdpu's own by its name, or one from a file by its path.
    ///
    /// # Errors
    /// There is none of that name; the file cannot be read or is not a persona.
    pub fn load(name: &str) -> Result<Self> {
        if name.contains('/') || Path::new(name).extension().is_some_and(|end| end == "toml") {
            let text = std::fs::read_to_string(name).with_context(|| format!("cannot read {name}"))?;
            return Self::parse(&text, name);
        }
        match OWN.iter().find(|(own, _)| *own == name) {
            Some((own, text)) => Self::parse(text, own),
            None => {
                let hint = nearest(name, names()).map_or_else(String::new, |near| format!("did you mean {near}? "));
                bail!(
                    "no persona is called `{name}`: {hint}there is {}, or a file",
                    names().collect::<Vec<_>>().join(", ")
                )
            }
        }
    }

    fn parse(text: &str, name: &str) -> Result<Self> {
        let source = Source { name: name.to_owned(), text: text.to_owned() };
        let mut problems = Vec::new();
        let persona: Option<Self> = config::shaped::read(&source, &mut problems);
        if let Some(persona) = &persona {
            persona.check(text.len(), &mut problems);
        }
        match persona {
            Some(persona) if problems.is_empty() => Ok(persona),
            _ => bail!("{name} is not a persona\n{}", source.render(&problems, false)),
        }
    }

    /// Everything that its shape does not say.
    fn check(&self, end: usize, problems: &mut Vec<Problem>) {
        let keys = self.figure.iter().map(|f| &f.key).chain(self.unknown.iter().map(|u| &u.key));
        for key in keys.clone().filter(|key| !KEYS.contains(&key.as_str())) {
            let help = match nearest(key, KEYS) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are {}", KEYS.join(", ")),
            };
            problems.push(Problem::error(
                Code::UnknownWord,
                key.span(),
                format!("no figure is called `{}`", **key),
                help,
            ));
        }
        for figure in &self.figure {
            let key = figure.key.as_str();
            if !figure.source.starts_with("https://") {
                let message = format!("figure `{key}` has no public source");
                let help = "the address of the page that says so, as in \"https://…\"; what nobody says is [[unknown]]";
                problems.push(Problem::error(Code::ImpossibleValue, figure.source.span(), message, help));
            }
            if figure.says.is_empty() {
                let message = format!("figure `{key}` does not say what its source says");
                problems.push(Problem::error(Code::ImpossibleValue, figure.says.span(), message, "quote the page"));
            }
            if let (true, Err((message, help))) = (KEYS.contains(&key), figure.known()) {
                problems.push(Problem::error(Code::WrongType, figure.value.span(), message, help));
            }
        }
        for key in KEYS {
            let mut given = keys.clone().filter(|given| given.as_str() == key);
            let help = "give it as [[figure]], or as [[unknown]] where nobody says it";
            match (given.next(), given.next()) {
                (None, _) => {
                    let message = format!("nothing is said of `{key}`");
                    problems.push(Problem::error(Code::MissingKey, end..end, message, help).label("is missing"));
                }
                (Some(first), Some(again)) => {
                    let message = format!("`{key}` is given twice");
                    let problem = Problem::error(Code::DuplicateName, again.span(), message, help);
                    problems.push(problem.other(first.span(), "the first"));
                }
                _ => {}
            }
        }
        problems.sort_by_key(|problem| problem.span.start);
    }

    fn known(&self, key: &str) -> Option<Known> {
        self.figure.iter().find(|figure| *figure.key == key)?.known().ok()
    }

    fn rate(&self, key: &str) -> Option<u64> {
        self.known(key).and_then(|known| if let Known::Rate(rate) = known { Some(rate) } else { None })
    }

    /// As a place to plan for.
    pub fn site(&self) -> Site {
        let known = self
            .figure
            .iter()
            .map(|f| format!("{}: `{}` is {} ({}), by {}", self.name, *f.key, f.value.0, *f.says, *f.source));
        let unknown = self
            .unknown
            .iter()
            .map(|u| format!("{}: `{}` is not known ({}); it limits nothing here", self.name, *u.key, u.note));
        let notes = known.chain(unknown).collect();
        Site {
            label: format!("persona {}", self.name),
            bandwidth: self.rate("bandwidth"),
            crypto: self.rate("crypto"),
            connections: match self.known("connections") {
                Some(Known::Count(count)) => Some(count),
                _ => None,
            },
            ciphers: match self.known("ciphers") {
                Some(Known::Ciphers(names)) => Some(names),
                _ => None,
            },
            nic: true,
            native_xdp: None,
            notes,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_own_persona_is_sound() {
        for (name, _) in OWN {
            let persona = Persona::load(name).unwrap();
            assert_eq!(persona.name, name);
            assert!(!persona.site().notes.is_empty());
        }
        assert!(Persona::load("bluefeld-2").unwrap_err().to_string().contains("did you mean bluefield-2"));
    }

    /// What is said of a persona that differs from a sound one in one thing.
    fn said_of(from: &str, to: &str) -> String {
        let (_, text) = OWN[0];
        let broken = text.replacen(from, to, 1);
        assert_ne!(text, broken);
        Persona::parse(&broken, "x.toml").unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_said_with_line_column_and_remedy() {
        for (from, to, at, message, help) in [
            ("https://", "hearsay://", "x.toml:9:10", "has no public source", "[[unknown]]"),
            (
                "key = \"bandwidth\"",
                "key = \"bandwith\"",
                "x.toml:7:7",
                "no figure is called `bandwith`",
                "`bandwidth`?",
            ),
            ("200 Gbit/s", "fast", "x.toml:8:9", "fast", "100 Gbit/s"),
            ("value = 8", "value = \"8\"", "x.toml:14:9", "`cores` is not \"8\"", "without quotes"),
            ("title =", "titel =", "x.toml:4:1", "no key `titel`", "did you mean `title`?"),
            ("key = \"cores\"", "key = \"memory\"", "x.toml:", "`memory` is given twice", "[[figure]]"),
            ("name = ", "name ", "x.toml:3:", "", ""),
        ] {
            let said = said_of(from, to);
            assert!(said.contains(at) && said.contains(message) && said.contains(help), "{to}: {said}");
        }
    }
}
