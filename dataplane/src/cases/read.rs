//! A case file, read and held against the policy that it tests: names, addresses and bytes, all that is wrong at once.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::expect::{self, Expected};
use super::file::{CaseLine, ConnectionLine, File, Fill, PacketLine};
use super::frame::{self, ACK, Described, FIN, PSH, RST, SYN};
use super::talk::{Talk, first_bytes};
use crate::config::at::At;
use crate::config::{Code, Policy, Problem, Source, nearest};
use crate::io::pcap;
use crate::plan::steering;
use crate::wire::ethernet::Mac;
use crate::wire::prefix::Prefix;

/// Port of a source that has none written.
const CLIENT: u16 = 40_000;
/// Packets with data of a connection: more than any recogniser looks at.
const PACKETS: u32 = 128;
/// Bytes of data in those behind the first.
const DATA: usize = 200;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What the ports' surroundings are.
#[derive(Clone, Debug, Default)]
pub struct Lab {
    pub invent: bool,
    /// By port of the policy.
    pub veth: Vec<bool>,
    pub mtu: Vec<Option<u16>>,
    pub mac: Vec<Option<Mac>>,
    pub addresses: Vec<Vec<IpAddr>>,
    /// `None`: the kernel's.
    pub routes: Vec<(Prefix, Option<usize>, Option<IpAddr>)>,
    pub neighbours: Vec<(usize, IpAddr, Mac)>,
}

/// One case.
#[derive(Debug)]
pub struct Case {
    pub name: String,
    pub span: Range<usize>,
    pub steps: Vec<Step>,
    pub expect: Option<Expected>,
    pub counters: Vec<Counter>,
}

#[derive(Debug)]
pub struct Step {
    /// `None`: an answer, by the port that what it answers went out of.
    pub port: Option<usize>,
    /// One after the other.
    pub frames: Vec<Arc<[u8]>>,
    pub times: u32,
    /// Written from its ends: its station's address is put in.
    pub described: bool,
    /// The tunnel whose other end seals it.
    pub sealed: Option<usize>,
    pub expect: Option<Expected>,
}

#[derive(Debug)]
pub struct Counter {
    pub name: String,
    pub is: Option<u64>,
    pub least: Option<u64>,
    pub span: Range<usize>,
}

/// A whole file.
#[derive(Debug)]
pub struct Loaded {
    pub source: Arc<Source>,
    pub lab: Lab,
    pub cases: Vec<Case>,
}

/// What stands between a reading and its end.
pub struct Reader<'a> {
    pub policy: &'a Policy,
    pub folder: PathBuf,
    pub problems: Vec<Problem>,
}

/// Holds a file against its policy.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check(file: &File, source: &Arc<Source>, path: &Path, policy: &Policy) -> Result<Loaded, Vec<Problem>> {
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut reader = Reader { policy, folder, problems: Vec::new() };
    let lab = reader.lab(file);
    let mut names: HashMap<&str, Range<usize>> = HashMap::new();
    let mut cases = Vec::new();
    for line in &file.case {
        if let Some(first) = names.insert(line.name.as_str(), line.name.span()) {
            let message = format!("two cases are called \"{}\"", *line.name);
            let problem =
                Problem::error(Code::DuplicateName, line.name.span(), message, "give each case a name of its own");
            reader.problems.push(problem.label("again").other(first, "first here"));
        }
        cases.extend(reader.case(line));
    }
    if file.case.is_empty() {
        let message = format!("{} has no case", source.name);
        let help = "write at least one [[case]]; docs/config-tests.md has examples";
        reader.problems.push(Problem::error(Code::MissingKey, 0..0, message, help));
    }
    if reader.problems.is_empty() {
        Ok(Loaded { source: source.clone(), lab, cases })
    } else {
        reader.problems.sort_by_key(|problem| (problem.span.start, problem.code));
        Err(reader.problems)
    }
}

impl Reader<'_> {
    pub fn bad(&mut self, code: Code, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Problem::error(code, span, message, help));
    }

    /// A name of the policy's, by its index.
    pub fn named<'n>(
        &mut self,
        what: &str,
        name: &str,
        span: Range<usize>,
        names: impl Iterator<Item = &'n str> + Clone,
    ) -> Option<usize> {
        let found = names.clone().position(|known| known == name);
        if found.is_none() {
            let message = format!("there is no {what} `{name}`");
            let mut all: Vec<&str> = names.clone().take(12).collect();
            all.dedup();
            let help = match (nearest(name, names), all.is_empty()) {
                (Some(near), _) => format!("did you mean `{near}`?"),
                (None, false) => format!("there is {}", all.join(", ")),
                (None, true) => format!("the policy has no {what}"),
            };
            self.bad(Code::UnknownName, span, message, help);
        }
        found
    }

    pub fn port<T: ToString>(&mut self, name: &At<T>) -> Option<usize> {
        let policy = self.policy;
        self.named("port", &name.to_string(), name.span(), policy.ports.iter().map(|port| port.name.as_str()))
    }

    pub fn tunnel(&mut self, name: &str, span: Range<usize>) -> Option<usize> {
        let policy = self.policy;
        self.named("tunnel", name, span, policy.tunnels.iter().map(|tunnel| tunnel.name.as_str()))
    }

    fn lab(&mut self, file: &File) -> Lab {
        let ports = self.policy.ports.len();
        let mut lab = Lab {
            invent: file.invent.unwrap_or(true),
            veth: vec![false; ports],
            mtu: vec![None; ports],
            mac: vec![None; ports],
            addresses: vec![Vec::new(); ports],
            ..Lab::default()
        };
        for name in &file.veth {
            if let Some(port) = self.port(name) {
                lab.veth[port] = true;
            }
        }
        for line in &file.link {
            let mac = line.mac.as_ref().map(|mac| self.mac(mac));
            if let Some(port) = self.port(&line.port) {
                lab.mtu[port] = line.mtu;
                lab.mac[port] = mac.flatten();
                lab.addresses[port].extend(line.addresses.iter().map(|address| address.0));
            }
        }
        for line in &file.route {
            let port = line.port.as_ref().map(|name| self.port(name));
            lab.routes.push((line.to, port.flatten(), line.via.map(|via| via.0)));
        }
        for line in &file.neighbour {
            if let (Some(port), Some(mac)) = (self.port(&line.port), self.mac(&line.mac)) {
                lab.neighbours.push((port, line.address.0, mac));
            }
        }
        lab
    }

    fn mac(&mut self, text: &At<String>) -> Option<Mac> {
        let bytes: Vec<u8> = text.split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
        match <[u8; 6]>::try_from(bytes) {
            Ok(mac) if text.split(':').count() == 6 => Some(Mac(mac)),
            _ => {
                let message = format!("`{}` is not a MAC address", **text);
                self.bad(Code::ImpossibleValue, text.span(), message, "write six bytes: \"02:00:00:00:00:aa\"");
                None
            }
        }
    }

    fn case(&mut self, line: &CaseLine) -> Option<Case> {
        let before = self.problems.len();
        let steps = match (&line.connection, line.packet.is_empty()) {
            (Some(connection), true) => self.connection(connection),
            (None, false) => self.packets(&line.packet),
            (Some(connection), false) => {
                let help = "write either [case.connection] or [[case.packet]]";
                self.bad(Code::Conflict, connection.span(), format!("\"{}\" has both", *line.name), help);
                Vec::new()
            }
            (None, true) => {
                let message = format!("\"{}\" has no packet", *line.name);
                let help = "add a [case.connection], or at least one [[case.packet]]";
                self.bad(Code::MissingKey, line.name.span(), message, help);
                Vec::new()
            }
        };
        let expect = line.expect.as_ref().and_then(|expect| expect::typed(self, expect));
        let nothing = expect.is_none() && line.counter.is_empty() && steps.iter().all(|step| step.expect.is_none());
        if nothing && self.problems.len() == before {
            let message = format!("\"{}\" expects nothing", *line.name);
            self.bad(Code::MissingKey, line.name.span(), message, "add [case.expect], as in: verdict = \"forwarded\"");
        }
        let counters = line.counter.iter().filter_map(|counter| {
            if counter.is.is_none() && counter.least.is_none() {
                self.bad(Code::MissingKey, counter.name.span(), "a counter without a value", "add `is` or `least`");
                return None;
            }
            Some(Counter {
                name: (*counter.name).clone(),
                is: counter.is.as_ref().map(|value| u64::from(**value)),
                least: counter.least.as_ref().map(|value| u64::from(**value)),
                span: counter.name.span(),
            })
        });
        let counters = counters.collect();
        let (name, span) = ((*line.name).clone(), line.name.span());
        (self.problems.len() == before).then_some(Case { name, span, steps, expect, counters })
    }

    /// An address with or without a port.
    fn end(&mut self, text: &At<String>, port: u16) -> Option<SocketAddr> {
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        let end = text.parse().ok().or_else(|| Some(SocketAddr::new(bare.parse().ok()?, port)));
        if end.is_none() {
            let message = format!("`{}` is neither an address nor an address and a port", **text);
            let help = "write \"10.1.0.10:40000\", \"10.1.0.10\" or \"[2001:db8::10]:40000\"";
            self.bad(Code::ImpossibleValue, text.span(), message, help);
        }
        end
    }

    fn both(&mut self, from: &At<String>, to: &At<String>, port: u16) -> Option<(SocketAddr, SocketAddr)> {
        let (a, b) = (self.end(from, CLIENT), self.end(to, port));
        let (a, b) = (a?, b?);
        if a.is_ipv4() != b.is_ipv4() {
            let message = format!("`{}` and `{}` are of different families", **from, **to);
            let help = "write two IPv4 addresses, or two IPv6 addresses";
            let problem = Problem::error(Code::Conflict, to.span(), message, help);
            self.problems.push(problem.other(from.span(), "from here"));
            return None;
        }
        Some((a, b))
    }

    fn connection(&mut self, line: &At<ConnectionLine>) -> Vec<Step> {
        let protocol = line.protocol.as_ref().map_or(Some(TCP), |protocol| protocol.0);
        if !matches!(protocol, Some(TCP | UDP)) {
            let span = line.protocol.as_ref().map_or(line.span(), At::span);
            self.bad(Code::ImpossibleValue, span, "a connection is of TCP or UDP", "write \"tcp\" or \"udp\"");
        }
        let known = if line.sni.is_some() { 443 } else { 80 };
        let ends = self.both(&line.from, &line.to, known);
        let (Some(port), Some((from, to)), Some(protocol)) = (self.port(&line.port), ends, protocol) else {
            return Vec::new();
        };
        let mut talk = Talk::new(from, to, protocol, line.vlan.clone(), line.dscp.unwrap_or(0));
        let mut steps = Vec::new();
        let mut say = |answer: bool, flags: u8, payload: &[u8]| {
            let frame = talk.say(answer, flags, 64, payload).frame();
            steps.push(Step {
                port: (!answer).then_some(port),
                frames: vec![frame.into()],
                times: 1,
                described: true,
                sealed: None,
                expect: None,
            });
        };
        if protocol == TCP {
            say(false, SYN, b"");
            say(true, SYN | ACK, b"");
            say(false, ACK, b"");
        }
        let first = first_bytes(line.sni.as_deref(), line.http_host.as_deref(), line.payload.as_deref());
        let filler = frame::filled(b"", false, DATA);
        say(false, PSH | ACK, first.as_deref().unwrap_or(&filler));
        say(true, PSH | ACK, line.answer.as_deref().map_or(&filler[..], str::as_bytes));
        // The last one is the initiator's: what is expected is looked at there.
        for at in 2..line.packets.unwrap_or(PACKETS) | 1 {
            say(at % 2 == 1, PSH | ACK, &filler);
        }
        steps
    }

    fn packets(&mut self, lines: &[PacketLine]) -> Vec<Step> {
        let mut talks: Vec<Talk> = Vec::new();
        let mut last = None;
        lines.iter().filter_map(|line| self.packet(line, &mut talks, &mut last)).collect()
    }

    fn packet(&mut self, line: &PacketLine, talks: &mut Vec<Talk>, last: &mut Option<usize>) -> Option<Step> {
        let here = [
            line.from.as_ref().map(At::span),
            line.to.as_ref().map(At::span),
            line.hex.as_ref().map(At::span),
            line.capture.as_ref().map(At::span),
            line.port.as_ref().map(At::span),
        ];
        let here = here.into_iter().flatten().next().unwrap_or(0..0);
        let expect = line.expect.as_ref().and_then(|expect| expect::typed(self, expect));
        let sealed = line.sealed.as_ref().map(|name| self.tunnel(name.as_str(), name.span()));
        let port = match (&line.port, line.answer) {
            (Some(name), _) => Some(self.port(name)?),
            (None, true) => None,
            (None, false) => {
                self.bad(Code::MissingKey, here, "a packet without a port", "add `port`: the port it comes in by");
                return None;
            }
        };
        let (frames, described): (Vec<Arc<[u8]>>, bool) = match (&line.hex, &line.capture, &line.from, &line.to) {
            (Some(hex), None, None, None) => (vec![self.hex(hex)?.into()], false),
            (None, Some(capture), None, None) => {
                let path = self.folder.join(&capture.0);
                match pcap::frames(&path) {
                    Ok(frames) if !frames.is_empty() => (frames.into_iter().map(Into::into).collect(), false),
                    Ok(_) => {
                        let message = format!("{} holds no packet", path.display());
                        self.bad(Code::ImpossibleValue, capture.span(), message, "capture at least one");
                        return None;
                    }
                    Err(error) => {
                        let help = "name a pcap or pcapng file; a relative path starts at this file's folder";
                        self.bad(Code::Unreadable, capture.span(), error.to_string(), help);
                        return None;
                    }
                }
            }
            (None, None, Some(_), Some(_)) | (None, None, None, None) => {
                (vec![self.described(line, talks, last, here)?.frame().into()], true)
            }
            (None, None, Some(_), None) | (None, None, None, Some(_)) => {
                self.bad(Code::MissingKey, here, "a packet has two ends", "give both `from` and `to`");
                return None;
            }
            _ => {
                let help = "give one of: `from` and `to`, `hex`, `capture`";
                self.bad(Code::Conflict, here, "the packet is given twice", help);
                return None;
            }
        };
        let sealed = match sealed {
            Some(None) => return None,
            Some(found) => found,
            None => None,
        };
        Some(Step { port, frames, times: line.times.unwrap_or(1), described, sealed, expect })
    }

    fn described(
        &mut self,
        line: &PacketLine,
        talks: &mut Vec<Talk>,
        last: &mut Option<usize>,
        here: Range<usize>,
    ) -> Option<Described> {
        let protocol = line.protocol.as_ref().map_or(UDP, |protocol| protocol.0.unwrap_or(UDP));
        let at = match (&line.from, &line.to, *last) {
            (Some(from), Some(to), _) => {
                let known = if line.sni.is_some() { 443 } else { 80 };
                let (from, to) = self.both(from, to, known)?;
                // An answer with ends of its own: of the talk the other way round, where there is one.
                let same = talks.iter().position(|talk| talk.is(from, to, protocol, line.answer));
                same.unwrap_or_else(|| {
                    let (a, b) = if line.answer { (to, from) } else { (from, to) };
                    talks.push(Talk::new(a, b, protocol, line.vlan.clone(), line.dscp.unwrap_or(0)));
                    talks.len() - 1
                })
            }
            (_, _, Some(last)) => last,
            (_, _, None) => {
                let help = "give `from` and `to`, `hex` or `capture`; only packets behind others may leave them out";
                self.bad(Code::MissingKey, here, "the first packet has no ends", help);
                return None;
            }
        };
        *last = Some(at);
        let talk = &mut talks[at];
        let mut payload = first_bytes(line.sni.as_deref(), line.http_host.as_deref(), line.payload.as_deref());
        if let Some(length) = &line.length {
            let headers = talk.headers();
            let Some(data) = usize::from(**length).checked_sub(headers) else {
                let message = format!("{} bytes are less than the packet's headers, {headers}", **length);
                self.bad(Code::ImpossibleValue, length.span(), message, format!("at least {headers}"));
                return None;
            };
            let random = line.fill == Some(Fill::Random) && payload.is_none();
            payload = Some(frame::filled(payload.as_deref().unwrap_or(b""), random, data));
        }
        let payload = payload.unwrap_or_default();
        let flags = match &line.flags {
            Some(text) => self.flags(text)?,
            None if payload.is_empty() && !talk.begun => SYN,
            None => PSH | ACK,
        };
        let mut packet = talk.say(line.answer, flags, line.ttl.unwrap_or(64), &payload);
        if let Some(dscp) = line.dscp {
            packet.dscp = dscp;
        }
        Some(packet)
    }

    fn flags(&mut self, text: &At<String>) -> Option<u8> {
        let mut flags = 0;
        for word in text.split([',', ' ']).filter(|word| !word.is_empty()) {
            flags |= match word.to_lowercase().as_str() {
                "fin" => FIN,
                "syn" => SYN,
                "rst" => RST,
                "psh" => PSH,
                "ack" => ACK,
                _ => {
                    let help = "write some of fin, syn, rst, psh, ack: \"syn,ack\"";
                    self.bad(Code::UnknownWord, text.span(), format!("TCP has no flag `{word}`"), help);
                    return None;
                }
            };
        }
        Some(flags)
    }

    fn hex(&mut self, text: &At<String>) -> Option<Vec<u8>> {
        let pattern = expect::pattern(self, text)?;
        let bytes: Option<Vec<u8>> = pattern.into_iter().collect();
        if bytes.is_none() {
            let help = "write every byte; `??` is for what is expected";
            self.bad(Code::ImpossibleValue, text.span(), "a packet cannot have any byte", help);
        }
        bytes
    }

    /// Names of the steering rules, those that tunnels need included.
    pub fn steer_names(&self) -> HashSet<String> {
        let own = steering::of_tunnels(self.policy).into_iter().flatten().map(|rule| rule.name);
        own.chain(self.policy.steer.iter().map(|steer| steer.name.clone())).collect()
    }
}
