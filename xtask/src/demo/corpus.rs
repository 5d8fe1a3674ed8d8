//! What the demo's server serves: text as shops serve it, generated the same on every run, and bytes that no codec can
//! shrink.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use ring::digest::{Context as Digest, SHA256};

/// A file of the server.
#[derive(Debug, Clone)]
pub struct Document {
    pub name: &'static str,
    pub sha256: String,
    /// Whether it is text, which LZ4 shrinks.
    pub text: bool,
}

/// In every line of the text files: what a capture of the wire must not hold.
pub const MARKER: &[u8] = b"shop.example";

/// Numbers that are the same on every run (xorshift64*). Not random enough for secrets, which these are not.
#[derive(Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// `seed` must not be 0.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

/// Writes the documents into `folder`: three texts of `text_bytes` each, and `noise_bytes` of noise.
///
/// # Errors
/// When a file cannot be written.
pub fn write(folder: &Path, text_bytes: usize, noise_bytes: usize) -> Result<Vec<Document>> {
    type Line = fn(&mut Numbers, usize, &mut String);
    let texts: [(&'static str, Line); 3] =
        [("catalogue.html", product_row), ("orders.json", order), ("access.log", log_line)];
    let mut documents = Vec::new();
    for (seed, (name, line)) in (1u64..).zip(texts) {
        let mut numbers = Numbers::new(seed * 0x9e37_79b9);
        let mut text = String::with_capacity(text_bytes + 1024);
        let mut at = 0;
        while text.len() < text_bytes {
            line(&mut numbers, at, &mut text);
            at += 1;
        }
        documents.push(store(folder, name, text.as_bytes(), true)?);
    }
    let mut numbers = Numbers::new(0x5eed);
    let noise: Vec<u8> = (0..noise_bytes.div_ceil(8)).flat_map(|_| numbers.next().to_le_bytes()).collect();
    documents.push(store(folder, "photo.raw", &noise, false)?);
    Ok(documents)
}

fn store(folder: &Path, name: &'static str, bytes: &[u8], text: bool) -> Result<Document> {
    let path = folder.join(name);
    fs::write(&path, bytes).with_context(|| path.display().to_string())?;
    Ok(Document { name, sha256: hex(ring::digest::digest(&SHA256, bytes).as_ref()), text })
}

/// SHA-256 of a file, as hex.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let mut digest = Digest::new(&SHA256);
    digest.update(&fs::read(path).with_context(|| path.display().to_string())?);
    Ok(hex(digest.finish().as_ref()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const ADJECTIVES: [&str; 12] = [
    "sturdy", "light", "oak", "foldable", "wool", "ceramic", "compact", "outdoor", "vintage", "steel", "quiet", "blue",
];
const THINGS: [&str; 14] = [
    "lamp",
    "chair",
    "kettle",
    "desk",
    "bicycle bell",
    "tent",
    "notebook",
    "radio",
    "rug",
    "shelf",
    "clock",
    "teapot",
    "backpack",
    "mug",
];
const PLACES: [&str; 8] = ["Graz", "Porto", "Gent", "Turku", "Lyon", "Brno", "Cork", "Aarhus"];

fn product_row(numbers: &mut Numbers, at: usize, out: &mut String) {
    let (adjective, thing) = (numbers.pick(&ADJECTIVES), numbers.pick(&THINGS));
    let (euros, cents, stock) = (numbers.below(400), numbers.below(100), numbers.below(60));
    let _ = writeln!(
        out,
        "<tr class=\"product\"><td><a href=\"https://shop.example/item/{at:06}\">{adjective} {thing}</a></td>\
         <td class=\"price\">&euro; {euros}.{cents:02}</td><td class=\"stock\">{stock} in {}</td></tr>",
        numbers.pick(&PLACES)
    );
}

fn order(numbers: &mut Numbers, at: usize, out: &mut String) {
    let _ = writeln!(
        out,
        "{{\"shop\":\"shop.example\",\"order\":{},\"status\":\"{}\",\"city\":\"{}\",\"lines\":[{{\"sku\":\"{:08x}\",\
         \"name\":\"{} {}\",\"quantity\":{},\"price\":{}.{:02}}}],\"paid\":{}}}",
        100_000 + at,
        numbers.pick(&["new", "packed", "shipped", "delivered", "returned"]),
        numbers.pick(&PLACES),
        numbers.next() as u32,
        numbers.pick(&ADJECTIVES),
        numbers.pick(&THINGS),
        1 + numbers.below(5),
        numbers.below(400),
        numbers.below(100),
        numbers.below(2) == 0
    );
}

fn log_line(numbers: &mut Numbers, at: usize, out: &mut String) {
    let _ = writeln!(
        out,
        "198.51.100.{} - - [14/Mar/2026:{:02}:{:02}:{:02} +0000] \"{} /item/{:06} HTTP/1.1\" {} {} \
         \"https://shop.example/catalogue.html\" \"Mozilla/5.0 (X11; Linux x86_64; rv:136.0) Gecko/20100101 Firefox/136.0\"",
        numbers.below(254) + 1,
        at / 3600 % 24,
        at / 60 % 60,
        at % 60,
        numbers.pick(&["GET", "GET", "GET", "POST"]),
        numbers.below(20_000),
        numbers.pick(&["200", "200", "200", "304", "404"]),
        numbers.below(90_000),
    );
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use softdpu_testbed::cleanup::RunDir;

    #[test]
    fn the_same_every_time_and_marked() {
        let (one, two) = (RunDir::new("unit").unwrap(), RunDir::new("unit").unwrap());
        let (first, second) = (write(one.path(), 20_000, 1000).unwrap(), write(two.path(), 20_000, 1000).unwrap());
        for (a, b) in first.iter().zip(&second) {
            assert_eq!(a.sha256, b.sha256);
            assert_eq!(sha256(&one.file(a.name)).unwrap(), a.sha256);
            let bytes = fs::read(one.file(a.name)).unwrap();
            assert!(bytes.len() >= 1000);
            if a.text {
                let marker = std::str::from_utf8(MARKER).unwrap();
                assert!(String::from_utf8(bytes).unwrap().lines().all(|line| line.contains(marker)));
            }
        }
    }
}
