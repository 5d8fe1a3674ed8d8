//! Logs go to standard error; under systemd without time and colour, which the journal adds itself.

use std::io::IsTerminal;

use anyhow::{Context, anyhow};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::config::use_colour;

/// Environment variable that overrides the level: directives as in `softdpu=debug,aya=warn`.
pub const LOG_ENV: &str = "SOFTDPU_LOG";

/// The time, or nothing where whoever reads adds it.
struct Stamp {
    on: bool,
}

impl FormatTime for Stamp {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        if self.on { SystemTime.format_time(w) } else { Ok(()) }
    }
}

/// The filter for `level`, or what [`LOG_ENV`] says when that is set.
///
/// # Errors
/// A directive that is none.
pub fn filter(level: &str, env: Option<&str>) -> anyhow::Result<EnvFilter> {
    let (text, from) = match env {
        Some(text) if !text.is_empty() => (text, LOG_ENV),
        _ => (level, "--log-level"),
    };
    EnvFilter::try_new(text)
        .with_context(|| format!("{from}: `{text}` is not a log filter (try info, or softdpu=debug)"))
}

/// Sets up logging for the whole process, once.
///
/// # Errors
/// A filter that is none, or a second call.
pub fn init(level: &str) -> anyhow::Result<()> {
    let env = std::env::var(LOG_ENV).ok();
    let filter = filter(level, env.as_deref())?;
    let stderr = std::io::stderr();
    // systemd sets JOURNAL_STREAM where standard error is the journal (systemd.exec(5)).
    let journal = std::env::var_os("JOURNAL_STREAM").is_some() && !stderr.is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(use_colour(&stderr))
        .with_target(false)
        .with_timer(Stamp { on: !journal })
        .try_init()
        .map_err(|e| anyhow!("logging is set up already: {e}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_environment_overrides_the_option() {
        assert_eq!(filter("info", None).unwrap().to_string(), "info");
        assert_eq!(filter("info", Some("")).unwrap().to_string(), "info");
        assert_eq!(filter("info", Some("softdpu=trace")).unwrap().to_string(), "softdpu=trace");
        let error = filter("info", Some("softdpu=nonsense")).unwrap_err().to_string();
        assert!(error.starts_with("SOFTDPU_LOG: `softdpu=nonsense`"), "{error}");
    }
}
