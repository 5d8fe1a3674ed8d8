//! `softdpu plan`: what becomes of the intents.

use std::fmt::Write as _;
use std::io::Write;

use anyhow::Context;

use super::args::PlanArgs;
use super::ask::ask;
use super::show::{Rows, clean, number, or_dash};
use crate::config;
use crate::config::rates::Bandwidth;
use crate::control::client;
use crate::plan::contract::{Because, Contract, Difference, Finding, Outcome, Place, Verdict};
use crate::plan::persona::Persona;
use crate::plan::site::{Inventory, Site};

pub fn run(args: &PlanArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let inventory = args.host.as_ref().map(|path| -> anyhow::Result<Inventory> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        // Whether it is one at all, and of a version that is known; then the part that plans need.
        crate::host::inventory::Inventory::parse(&text).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not what `softdpu inventory --json` prints", path.display()))
    });
    let inventory = inventory.transpose()?;
    let persona = args.persona.as_deref().map(|name| Persona::load(name).map(|persona| persona.site())).transpose()?;
    let mut against = Vec::new();
    let site = |policy: &config::Policy| match (&inventory, persona) {
        (Some(inventory), _) => {
            let (site, not) = inventory.site(policy);
            against = not;
            site
        }
        (None, Some(site)) => site,
        (None, None) => Site::default(),
    };
    let colour = config::use_colour(&std::io::stdout());
    let policy = match config::load_for(&args.config, site) {
        Ok(policy) => policy,
        Err(errors) => {
            eprint!("{}", errors.render(config::use_colour(&std::io::stderr())));
            eprintln!("{}: not valid, there is no plan", args.config.display());
            return Ok(false);
        }
    };
    let mut contract = Contract::clone(&policy.contract);
    contract.findings.extend(policy.warnings.iter().map(|warning| of_policy(&policy, warning)));
    // Said at the end, with what follows from it.
    contract.notes.retain(|note| args.json || !against.contains(note));
    let contract = &contract;
    let good = contract.count(Verdict::Refused) == 0 && against.is_empty();
    if args.diff {
        let running = ask(client::plan(&args.instance.path()?))?;
        let changes = running.difference(contract);
        if args.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&changes)?)?;
        } else {
            write!(out, "{}", difference(&changes, Paint(colour)))?;
        }
    } else if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(contract)?)?;
    } else {
        write!(out, "{}", page(contract, Paint(colour)))?;
        for what in &against {
            writeln!(out, "{} {}", Paint(colour).red("not on this host:"), clean(what))?;
        }
    }
    Ok(good)
}

/// What a check of the policy found: rules that others shadow, and whatever else is allowed and likely not meant.
fn of_policy(policy: &config::Policy, warning: &config::Problem) -> Finding {
    let place = |start: usize| {
        let (line, column) = policy.source.position(start);
        let text = policy.source.text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
        Place {
            file: policy.source.name.as_str().into(),
            line,
            column,
            owner: policy.terms.owner.clone(),
            quote: text.trim().into(),
        }
    };
    Finding {
        kind: if warning.code == config::Code::Shadowed { "shadowed" } else { "warning" }.into(),
        text: format!("{}: {}", warning.message, warning.help),
        here: place(warning.span.start),
        other: warning.other.as_ref().map(|(span, _)| place(span.start)),
    }
}

/// As policies and intents write it where that is short: 500 Mbit/s.
fn bits(rate: u64) -> String {
    let exact = Bandwidth(rate).to_string();
    if exact.len() > 12 { format!("{}bit/s", number(rate as f64)) } else { exact }
}

/// Colour, or none.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn red(self, text: &str) -> String {
        self.with("1;31", text)
    }

    fn verdict(self, verdict: Verdict) -> String {
        let code = match verdict {
            Verdict::Met => "32",
            Verdict::Degraded => "33",
            Verdict::Refused => "1;31",
        };
        self.with(code, verdict.as_str())
    }
}

fn page(contract: &Contract, paint: Paint) -> String {
    let mut page =
        format!("{}: {}, for {}\n", clean(&contract.name), clean(&contract.policy), clean(&contract.planned_for));
    if contract.intents.is_empty() {
        page.push_str(
            "no intents: the policy names no folder (`intents = \"DIR\"`), or it holds no NAME.intent.toml\n",
        );
    }
    let mut rows = Rows::new(&[
        "intent",
        "verdict",
        "tier",
        "tunnel",
        ">bandwidth",
        ">encrypted",
        ">connections",
        ">priority",
        "reason",
        "owner",
    ]);
    for intent in &contract.intents {
        rows.add(row(intent));
    }
    if !rows.is_empty() {
        let _ = write!(page, "\n{}", painted(&rows.to_string(), contract, paint));
    }
    for intent in &contract.intents {
        page.push_str(&details(intent, paint));
    }
    if contract.budgets.iter().any(|budget| budget.asked > 0 || budget.have.is_some()) {
        let mut rows = Rows::new(&["capacity", ">there is", ">asked for", ">booked", "limited by"]);
        for budget in &contract.budgets {
            let amount = |n: u64| if budget.what == "connections" { n.to_string() } else { bits(n) };
            rows.add([
                budget.what.clone(),
                budget.have.map_or_else(|| "no limit".to_owned(), amount),
                amount(budget.asked),
                amount(budget.booked),
                or_dash(Some(&budget.limited_by)),
            ]);
        }
        let _ = write!(page, "\n{rows}");
    }
    for finding in &contract.findings {
        let kind = finding.kind.replace('_', " ");
        let _ = writeln!(page, "\n{}: {}", paint.with("1", &kind), clean(&finding.text));
        let _ = writeln!(page, "    {}", place(&finding.here));
        if let Some(other) = &finding.other {
            let _ = writeln!(page, "    {}", place(other));
        }
    }
    for (at, note) in contract.notes.iter().enumerate() {
        let _ = writeln!(page, "{}note: {}", if at == 0 { "\n" } else { "" }, clean(note));
    }
    let _ = writeln!(
        page,
        "\n{} met, {} degraded, {} refused",
        contract.count(Verdict::Met),
        contract.count(Verdict::Degraded),
        contract.count(Verdict::Refused)
    );
    page
}

fn row(intent: &Outcome) -> [String; 10] {
    let amount = |n: u64| if n == 0 { "-".to_owned() } else { bits(n) };
    [
        intent.name.clone(),
        intent.verdict.as_str().to_owned(),
        or_dash(intent.tier.as_deref()),
        or_dash(intent.tunnel.as_deref()),
        amount(intent.takes.bandwidth),
        amount(intent.takes.crypto),
        if intent.takes.connections == 0 { "-".to_owned() } else { intent.takes.connections.to_string() },
        intent.priority.to_string(),
        intent.because.reason.code().to_owned(),
        intent.owner.as_ref().to_owned(),
    ]
}

/// The table with its verdicts in colour: done behind the layout, which counts characters.
fn painted(table: &str, contract: &Contract, paint: Paint) -> String {
    let mut lines = table.lines();
    let mut out = lines.next().map_or_else(String::new, |head| format!("{head}\n"));
    for (line, intent) in lines.zip(&contract.intents) {
        let word = format!(" {} ", intent.verdict.as_str());
        let from = 1 + clean(&intent.name).len();
        let (name, rest) = line.split_at_checked(from).unwrap_or(("", line));
        let _ = writeln!(out, "{name}{}", rest.replacen(&word, &format!(" {} ", paint.verdict(intent.verdict)), 1));
    }
    out
}

fn details(intent: &Outcome, paint: Paint) -> String {
    let mut out = format!(
        "\n{}: {}, encrypt = {}{}\n",
        paint.with("1", &clean(&intent.name)),
        paint.verdict(intent.verdict),
        intent.encrypt,
        if intent.nodes.is_empty() { String::new() } else { format!(", {}", intent.nodes.join(" > ")) }
    );
    let all = if intent.all.is_empty() { std::slice::from_ref(&intent.because) } else { &intent.all };
    for because in all {
        out.push_str(&why(because));
    }
    for note in &intent.notes {
        let _ = writeln!(out, "  note: {}", clean(note));
    }
    out
}

pub(super) fn why(because: &Because) -> String {
    let mut out = format!("  {}: {}\n    {}\n", because.reason.code(), clean(&because.text), place(&because.by));
    if because.reason.verdict() != Verdict::Met {
        let _ = writeln!(out, "    {}", because.reason.help());
    }
    out
}

/// Where it stands and whose it is, and the line itself below.
pub(super) fn place(place: &Place) -> String {
    let owner = if place.owner.is_empty() { String::new() } else { format!(" ({})", clean(&place.owner)) };
    let quote = if place.quote.is_empty() {
        String::new()
    } else {
        let number = place.line.to_string();
        format!("\n      {number} | {}", clean(&place.quote))
    };
    format!("{}{owner}{quote}", clean(&place.to_string()))
}

fn difference(changes: &[Difference], paint: Paint) -> String {
    if changes.is_empty() {
        return "nothing changes for any intent\n".to_owned();
    }
    let mut out = String::new();
    for change in changes {
        let (sign, code) = match change.kind.as_str() {
            "new" => ("+", "32"),
            "gone" => ("-", "31"),
            _ => ("~", "33"),
        };
        let _ = writeln!(out, "{} {}", paint.with(code, sign), clean(&change.intent));
        for what in &change.what {
            let _ = writeln!(out, "    {}", clean(what));
        }
    }
    out
}
