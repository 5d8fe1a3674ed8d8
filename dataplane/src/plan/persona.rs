//! Personas: the limits of DPUs by their public figures, to plan against hardware one does not own.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::path::Path;

use super::site::Site;
use crate::config::nearest;
use crate::config::rates::Bandwidth;

/// Those that come with softdpu.
const OWN: [(&str, &str); 4] = [
    ("bluefield-2", include_str!("../../../configs/personas/bluefield-2.toml")),
    ("bluefield-3", include_str!("../../../configs/personas/bluefield-3.toml")),
    ("intel-ipu-e2000", include_str!("../../../configs/personas/intel-ipu-e2000.toml")),
    ("pensando-dsc2-100g", include_str!("../../../configs/personas/pensando-dsc2-100g.toml")),
];

/// What a persona may say. What it does not say is not known.
const KEYS: [&str; 7] = ["bandwidth", "crypto", "connections", "tunnels", "ciphers", "cores", "memory"];

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Persona {
    pub name: String,
    pub title: String,
    #[serde(default)]
    pub figure: Vec<Figure>,
    #[serde(default)]
    pub unknown: Vec<Unknown>,
}

/// A figure that somebody published.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    pub key: String,
    /// A bandwidth as in a policy, a number, or a list of ciphers.
    pub value: toml::Value,
    /// Address of the page that says so.
    pub source: String,
    /// What exactly it says.
    pub says: String,
}

/// A figure that was looked for and not found.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unknown {
    pub key: String,
    pub note: String,
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
                let names = OWN.iter().map(|(own, _)| *own);
                let hint =
                    nearest(name, names.clone()).map_or_else(String::new, |near| format!("did you mean {near}? "));
                bail!(
                    "no persona is called `{name}`: {hint}there is {}, or a file",
                    names.collect::<Vec<_>>().join(", ")
                )
            }
        }
    }

    fn parse(text: &str, name: &str) -> Result<Self> {
        let persona: Self = toml::from_str(text).with_context(|| format!("{name} is not a persona"))?;
        for figure in &persona.figure {
            ensure!(
                KEYS.contains(&figure.key.as_str()),
                "{name}: no figure is called `{}`: {}",
                figure.key,
                KEYS.join(", ")
            );
            ensure!(figure.source.starts_with("https://"), "{name}: figure `{}` has no public source", figure.key);
            ensure!(!figure.says.is_empty(), "{name}: figure `{}` does not say what its source says", figure.key);
            match figure.key.as_str() {
                "bandwidth" | "crypto" => drop(persona.rate(&figure.key)?),
                "ciphers" => drop(persona.ciphers()?),
                _ => drop(persona.count(&figure.key)?),
            }
        }
        for key in KEYS {
            let figure = persona.figure.iter().filter(|figure| figure.key == key).count();
            let unknown = persona.unknown.iter().filter(|unknown| unknown.key == key).count();
            ensure!(figure + unknown == 1, "{name}: `{key}` is to be given once: as [[figure]], or as [[unknown]]");
        }
        Ok(persona)
    }

    fn figure(&self, key: &str) -> Option<&Figure> {
        self.figure.iter().find(|figure| figure.key == key)
    }

    fn rate(&self, key: &str) -> Result<Option<u64>> {
        let Some(figure) = self.figure(key) else { return Ok(None) };
        let text = figure.value.as_str().with_context(|| format!("`{key}` is a bandwidth, as \"100 Gbit/s\""))?;
        text.parse::<Bandwidth>().map(|rate| Some(rate.0)).map_err(|bad| anyhow::anyhow!("`{key}`: {bad}"))
    }

    fn count(&self, key: &str) -> Result<Option<u64>> {
        let Some(figure) = self.figure(key) else { return Ok(None) };
        let number = figure.value.as_integer().and_then(|number| u64::try_from(number).ok());
        Ok(Some(number.with_context(|| format!("`{key}` is a number"))?))
    }

    fn ciphers(&self) -> Result<Option<Vec<String>>> {
        let Some(figure) = self.figure("ciphers") else { return Ok(None) };
        let list = figure.value.as_array().context("`ciphers` is a list")?;
        let names = list.iter().map(|cipher| cipher.as_str().map(str::to_owned));
        Ok(Some(names.collect::<Option<_>>().context("`ciphers` is a list of names")?))
    }

    /// As a place to plan for.
    ///
    /// # Errors
    /// A figure is not of its kind.
    pub fn site(&self) -> Result<Site> {
        let known = self
            .figure
            .iter()
            .map(|f| format!("{}: `{}` is {} ({}), by {}", self.name, f.key, f.value, f.says, f.source));
        let unknown = self
            .unknown
            .iter()
            .map(|u| format!("{}: `{}` is not known ({}); it limits nothing here", self.name, u.key, u.note));
        let notes = known.chain(unknown).collect();
        Ok(Site {
            label: format!("persona {}", self.name),
            bandwidth: self.rate("bandwidth")?,
            crypto: self.rate("crypto")?,
            connections: self.count("connections")?,
            ciphers: self.ciphers()?,
            nic: true,
            native_xdp: None,
            notes,
        })
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
            persona.site().unwrap();
        }
        assert!(Persona::load("bluefeld-2").unwrap_err().to_string().contains("did you mean bluefield-2"));
    }

    #[test]
    fn a_figure_without_source_is_refused() {
        let (_, text) = OWN[0];
        let error = Persona::parse(&text.replace("https://", "hearsay://"), "x").unwrap_err();
        assert!(error.to_string().contains("has no public source"), "{error}");
    }
}
