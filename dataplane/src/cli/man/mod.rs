//! `softdpu man`: a page per verb, made of what `--help` says, and a page per kind of file, made of its schema.

mod files;
mod roff;

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::Cli;

/// Verbs that need no rights over the host; the others are in section 8.
const FOR_USERS: &[&str] = &[
    "check",
    "classify",
    "completions",
    "explain",
    "flows",
    "history",
    "inventory",
    "man",
    "plan",
    "replay",
    "schema",
    "status",
    "test",
];
const MANUAL: &str = "softdpu manual";
const SOURCE: &str = concat!("softdpu ", env!("CARGO_PKG_VERSION"));

/// Writes all pages into the folders `man1`, `man5` and `man8` of a folder, which are made where they are not there.
pub fn run(folder: &Path, out: &mut impl Write) -> anyhow::Result<bool> {
    let pages = pages()?;
    for (name, page) in &pages {
        let folder = folder.join(format!("man{}", name.rsplit('.').next().unwrap_or("8")));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(name);
        std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    writeln!(out, "{} pages in {}", pages.len(), folder.display())?;
    Ok(true)
}

/// File names and texts of all pages.
pub fn pages() -> anyhow::Result<Vec<(String, String)>> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let verbs: Vec<&Command> = command.get_subcommands().filter(|verb| !verb.is_hide_set()).collect();
    let name_of = |verb: &Command| format!("softdpu-{}", verb.get_name());
    let all: Vec<(String, u8)> = std::iter::once(("softdpu".to_owned(), 8))
        .chain(verbs.iter().map(|verb| (name_of(verb), section(verb))))
        .chain(files::PAGES.iter().map(|page| (page.name.to_owned(), 5)))
        .collect();
    let mut pages = vec![("softdpu.8".to_owned(), of_command(&command, 8, &all)?)];
    for verb in &verbs {
        let section = section(verb);
        pages.push((format!("{}.{section}", name_of(verb)), of_command(verb, section, &all)?));
    }
    for page in files::PAGES {
        pages.push((format!("{}.5", page.name), files::text(page, &all)));
    }
    pages.iter_mut().for_each(|(_, page)| *page = roff::ascii(page));
    Ok(pages)
}

fn section(verb: &Command) -> u8 {
    if FOR_USERS.contains(&verb.get_name()) { 1 } else { 8 }
}

fn of_command(command: &Command, section: u8, all: &[(String, u8)]) -> anyhow::Result<String> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).replace(' ', "-");
    let man = Man::new(command.clone()).section(section.to_string()).source(SOURCE).manual(MANUAL);
    let mut page = Vec::new();
    page.write_all(roff::title(&name, section, SOURCE, MANUAL).as_bytes())?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut page = String::from_utf8(page)?;
    if command.has_subcommands() {
        page.push_str(".SH COMMANDS\n");
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let name = format!("softdpu-{}({})", verb.get_name(), self::section(verb));
            let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
            page.push_str(&roff::item(&roff::bold(&name), &about));
        }
    }
    let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    page.push_str(&roff::sections(&help));
    page.push_str(&roff::see_also(&name, section, all));
    Ok(page)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::Command as Process;

    #[test]
    fn every_verb_and_every_kind_of_file_has_a_page() {
        let pages = pages().unwrap();
        for name in
            ["softdpu.8", "softdpu-run.8", "softdpu-check.1", "softdpu-test.1", "softdpu-policy.5", "softdpu-intent.5"]
        {
            assert!(pages.iter().any(|(page, _)| page == name), "{name}");
        }
        for (name, page) in &pages {
            assert!(page.contains(".TH ") && page.contains(".SH NAME") && page.contains(".SH \"SEE ALSO\""), "{name}");
            if !name.ends_with(".5") {
                for head in ["SYNOPSIS", "DESCRIPTION", "EXAMPLES", "EXIT CODES", "FILES"] {
                    assert!(
                        page.contains(&format!(".SH {head}")) || page.contains(&format!(".SH \"{head}\"")),
                        "{name}: {head}"
                    );
                }
            }
        }
        let (_, policy) = pages.iter().find(|(name, _)| name == "softdpu-policy.5").unwrap();
        assert!(policy.contains("key_file") && policy.contains("[[tunnel]]") && policy.contains("meter_rate"));
    }

    /// By whichever of man and mandoc is here.
    #[test]
    fn formatters_have_nothing_to_say() {
        let folder = tempfile::tempdir().unwrap();
        run(folder.path(), &mut Vec::new()).unwrap();
        let mut tried = false;
        for (name, _) in pages().unwrap() {
            let path = folder.path().join(format!("man{}", name.rsplit('.').next().unwrap())).join(name);
            for (program, arguments) in
                [("groff", &["-man", "-ww", "-Tutf8", "-z"][..]), ("mandoc", &["-Tlint", "-Wwarning"][..])]
            {
                let Ok(said) = Process::new(program).args(arguments).arg(&path).output() else { continue };
                tried = true;
                let words = String::from_utf8_lossy(&said.stderr).into_owned() + &String::from_utf8_lossy(&said.stdout);
                // The library that writes options ends paragraphs twice where it lists words.
                let harmless = ["missing date", "outdated mandoc.db", "skipping paragraph macro"];
                let words: Vec<&str> = words.lines().filter(|l| !harmless.iter().any(|h| l.contains(h))).collect();
                assert!(words.is_empty(), "{program} {}: {words:?}", path.display());
            }
        }
        if !tried {
            println!("skipped: neither groff nor mandoc");
        }
    }
}
