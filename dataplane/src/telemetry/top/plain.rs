//! One page of text: for scripts, logs and documents.

use std::fmt::Write as _;
use std::io::Write;

use anyhow::Result;

use super::asker::Asking;
use super::pages::{Tab, totals};
use super::sample::{Rekeys, Sample, View};
use super::table::{Table, fit, pad};
use super::{Find, Options};
use crate::telemetry::figures::{clean, count, duration, unit};

/// Rows of each table.
const ROWS: usize = 20;

/// Two looks, an interval apart, and what they say.
///
/// # Errors
/// No instance, or it cannot be asked.
pub fn once(find: &Find, options: &Options, out: &mut impl Write) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let socket = find()?;
    let flows = options.tab.is_none_or(|tab| tab == Tab::Flows);
    let (before, now) = runtime.block_on(async {
        let mut asking = Asking::new(options.flows);
        let before = asking.look(&socket, flows).await?;
        tokio::time::sleep(options.interval).await;
        Ok::<_, anyhow::Error>((before, asking.look(&socket, flows).await?))
    })?;
    out.write_all(page(&before, &now, options).as_bytes())?;
    Ok(())
}

/// The page: figures of `now`, rates since `before`.
pub fn page(before: &Sample, now: &Sample, options: &Options) -> String {
    let mut rekeys = Rekeys::default();
    rekeys.look(before, now);
    let view = View::new(Some(before), now, &rekeys);
    let mut page = header(&view);
    let tabs = Tab::ALL.into_iter().filter(|tab| options.tab.is_none_or(|wanted| wanted == *tab));
    for tab in tabs {
        for (at, mut table) in tab.tables(&view).into_iter().enumerate() {
            if at > 0 && table.rows.is_empty() {
                continue;
            }
            table.filter(&options.filter);
            table.sort(None, false);
            write_table(&mut page, &table);
        }
    }
    page
}

fn header(view: &View<'_>) -> String {
    let (status, all) = (&view.now.status, totals(view));
    let rate = |rate: Option<f64>, what: &str| rate.map_or_else(|| "-".to_owned(), |rate| unit(rate.round(), what));
    let mut text = format!(
        "{}: softdpu {}, pid {}, up {}\n",
        clean(&status.name),
        clean(&status.version),
        status.pid,
        duration(status.uptime_s)
    );
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "rx {} {}, tx {} {}, drops {}, {} flows",
        rate(all.rx, "pps"),
        rate(all.rx_bytes.map(|bytes| bytes * 8.0), "bit/s"),
        rate(all.tx, "pps"),
        rate(all.tx_bytes.map(|bytes| bytes * 8.0), "bit/s"),
        rate(all.drops, "pps"),
        count(all.flows)
    );
    if all.escaped_bytes > 0 {
        let _ = writeln!(
            text,
            "ESCAPED: {} held back in clear although a rule encrypts them",
            unit(all.escaped_bytes as f64, "B")
        );
    }
    text
}

fn write_table(page: &mut String, table: &Table) {
    let _ = writeln!(page, "\n{}", table.title);
    if table.rows.is_empty() {
        let _ = writeln!(page, " {}", if table.nothing.is_empty() { "nothing" } else { table.nothing });
    } else {
        let columns = fit(table, usize::MAX);
        let line = |cells: &mut dyn Iterator<Item = (&str, bool, usize)>| {
            let cells: Vec<String> = cells.map(|(text, right, width)| pad(text, right, width)).collect();
            format!(" {}", cells.join("  ").trim_end()).trim_end().to_owned()
        };
        let heads: Vec<String> = table.columns.iter().map(|column| column.title.to_uppercase()).collect();
        let mut head = columns.iter().map(|(at, width)| (heads[*at].as_str(), table.columns[*at].right, *width));
        let _ = writeln!(page, "{}", line(&mut head));
        for row in table.rows.iter().take(ROWS) {
            let mut cells =
                columns.iter().map(|(at, width)| (row.cells[*at].text.as_str(), table.columns[*at].right, *width));
            let _ = writeln!(page, "{}", line(&mut cells));
        }
        if table.rows.len() > ROWS {
            let _ = writeln!(page, " and {} more", table.rows.len() - ROWS);
        }
    }
    for note in &table.notes {
        let _ = writeln!(page, "   {}", clean(note));
    }
}
