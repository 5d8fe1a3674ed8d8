//! What can be typed, and the help for it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::telemetry::top::Tab;

/// A DPU in software: takes flows off the NIC, encrypts, compresses and classifies them.
#[derive(Debug, Parser)]
#[command(
    name = "softdpu",
    version,
    max_term_width = 100,
    long_about = "softdpu takes the flows that a policy names off the network interface with XDP and AF_XDP, does to them what a \
                  DPU would do (encrypt, compress, classify) and hands them back.\n\n\
                  `softdpu run` is the dataplane. `softdpu status`, `softdpu top` and `softdpu flows` ask a running one. `softdpu check` says what \
                  is wrong with a policy, `softdpu doctor` what is wrong with the host for it, and `softdpu replay` runs the same graph over capture files, without privileges.",
    after_long_help = "EXAMPLES:\n  softdpu check /etc/softdpu/edge.toml && softdpu run -c /etc/softdpu/edge.toml\n  softdpu status\n  softdpu help \
                       plan\n\nEXIT CODES:\n  0  done\n  1  failed, or something wrong was found\n  2  wrong usage\n\n\
                       ENVIRONMENT:\n  SOFTDPU_LOG  log filter, stronger than --log-level: softdpu=debug,aya=warn\n  \
                       NO_COLOR     no colour, whatever the terminal\n\n\
                       FILES:\n  /run/softdpu/NAME.sock  control socket of the instance NAME"
)]
pub struct Cli {
    #[command(subcommand)]
    pub(super) verb: Verb,

    /// How much to log: error, warn, info, debug, trace, or a filter as in softdpu=debug
    #[arg(long, global = true, default_value = "info", value_name = "LEVEL")]
    pub(super) log_level: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Run the dataplane until SIGINT or SIGTERM
    #[command(
        long_about = "Runs the dataplane in the foreground until SIGINT or SIGTERM, then detaches its XDP programs and leaves nothing \
                      behind. What a killed instance left, the next start removes.\n\n\
                      Nothing is changed on the host unless the whole policy is valid. Needs CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and \
                      CAP_IPC_LOCK, or root, where the policy has ports of kind xdp.",
        after_long_help = "EXAMPLES:\n  softdpu run -c /etc/softdpu/edge-a.toml\n  softdpu run -c edge-a.toml --log-level softdpu=debug\n\n\
                           EXIT CODES:\n  0  stopped by a signal\n  1  the policy is not valid, or the dataplane could not start\n\n\
                           FILES:\n  /etc/softdpu/NAME.toml  the policy of the systemd unit softdpu@NAME\n  /run/softdpu/NAME.sock  control socket of the instance NAME"
    )]
    Run {
        /// The policy
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// Let the XDP program log each packet it sees: for finding faults on a quiet link, not for production
        #[arg(long)]
        steer_log: bool,
        /// Folder of the sockets by which `wg` configures WireGuard tunnels. `wg` itself looks in /var/run/wireguard
        #[arg(long, value_name = "FOLDER", env = "SOFTDPU_WIREGUARD_DIR", default_value = "/var/run/wireguard")]
        wireguard_dir: PathBuf,
        /// Take the policy up again whenever its file changes, as SIGHUP and `softdpu reload` do when told
        #[arg(long)]
        watch: bool,
    },

    /// Say what is wrong with a policy
    #[command(
        long_about = "Checks a policy and says everything that is wrong with it at once: file, line, column and remedy. Looks at the file \
                      and at the mode of its key files, and changes nothing. Warnings are about what is allowed but likely not meant.",
        after_long_help = "EXAMPLES:\n  softdpu check edge-a.toml\n  softdpu check -c edge-a.toml --json | jq .errors\n\n\
                           EXIT CODES:\n  0  valid, perhaps with warnings\n  1  not valid\n\n\
                           FILES:\n  configs/policies/full.toml  a policy with every key"
    )]
    Check(CheckArgs),

    /// Say what becomes of the applications' intents under a policy
    #[command(
        long_about = "Compiles a policy with the intents of its folder and says of each intent whether it is met, degraded or refused: the \
                      tier, the tunnel and nodes, the capacity it takes, the reason, and the line and owner that decide it. Then conflicts, \
                      shadowed flows and what is booked beyond what there is. Changes nothing. Reason codes: docs/plan-reasons.md.",
        after_long_help = "EXAMPLES:\n  softdpu plan -c /etc/softdpu/edge-a.toml\n  softdpu plan -c edge-a.toml --json | jq '.intents[] | \
                           select(.verdict != \"met\")'\n  softdpu plan -c edge-a.toml --diff\n  softdpu plan -c edge-a.toml --persona \
                           bluefield-2\n  softdpu plan -c edge-a.toml --host edge-7.json\n\n\
                           EXIT CODES:\n  0  no intent is refused\n  1  an intent is refused, or the files are not valid\n\n\
                           FILES:\n  *.intent.toml  intents, in the folder that the policy names\n  configs/personas  figures of DPUs one does not own"
    )]
    Plan(PlanArgs),

    /// Show a running instance: ports, workers, tunnels, rules, classes, drops
    #[command(
        long_about = "Asks a running instance how it is: ports with the mode they really have, packets per second, tunnels, rules, classes \
                      of flows, and packets dropped by reason. Rates are over a third of a second.",
        after_long_help = "EXAMPLES:\n  softdpu status\n  softdpu status -n edge-a\n  softdpu status --json | jq '.tunnels[].sealed'\n\n\
                           EXIT CODES:\n  0  answered\n  1  no instance, or it could not be asked\n\n\
                           FILES:\n  /run/softdpu/NAME.sock  control socket of the instance NAME"
    )]
    Status(StatusArgs),

    /// Watch a running instance: rates of ports, workers, tiers, intents, tunnels, drops and flows
    #[command(
        long_about = "Shows a running instance as it goes, with histories: ports and queues, workers and how busy they are, tiers, intents and \
                      applications (verdict, rate, how much of it is encrypted), tunnels and peers, drops by reason, the largest \
                      flows. `?` lists the keys. Rates are differences between two looks. While the instance is away it says so \
                      and waits.\n\n\
                      With --once it prints one page of text after two looks and ends.",
        after_long_help = "EXAMPLES:\n  softdpu top\n  softdpu top -n edge-a --interval 500ms --tab apps\n  softdpu top --once\n  softdpu top \
                           --once --tab drops\n  softdpu top --tab flows --filter payments\n\nEXIT CODES:\n  0  done\n  1  no terminal; with \
                           --once: no instance, or it could not be asked\n\nFILES:\n  /run/softdpu/NAME.sock  control socket of the instance NAME"
    )]
    Top(TopArgs),

    /// List the flows of a running instance
    #[command(
        long_about = "Lists the flows in the tables of a running instance, the biggest first: who with whom, class and host name, the tier \
                      that handles them, packets and bytes, and the rule and tunnel they are under.",
        after_long_help = "EXAMPLES:\n  softdpu flows --class tls\n  softdpu flows --host '*.example.com' --limit 20\n  \
                           softdpu flows --json | jq -r '.[].host'\n\n\
                           EXIT CODES:\n  0  answered, even when there are no flows\n  1  no instance, or it could not be asked\n\n\
                           FILES:\n  /run/softdpu/NAME.sock  control socket of the instance NAME"
    )]
    Flows(FlowsArgs),

    /// Follow what happens to a running instance
    #[command(
        long_about = "Prints what happens to a running instance, as it happens, one line each: policies taken up, refused and taken \
                      back, intents whose verdict changed, peers and tunnels that come, go, move and get new keys, ports and \
                      neighbours that change, workers in trouble, drops that rise. Goes on when the instance is restarted, from where \
                      it was. docs/api.md lists the kinds.",
        after_long_help = "EXAMPLES:\n  softdpu events\n  softdpu events --since 10m --kind plan,intent\n  softdpu events --kind flow\n  \
                           softdpu events --json --since 0 | jq -c 'select(.level == \"error\")'\n\n\
                           EXIT CODES:\n  0  ended by SIGINT\n  1  no instance, or it could not be asked\n\n\
                           FILES:\n  /run/softdpu/NAME.sock  control socket of the instance NAME"
    )]
    Events(EventsArgs),

    /// Say which tier a flow is on and why not on a higher one, or why an application is served as it is
    #[command(
        long_about = "Says of one flow which tier handles it (nic, xdp, worker, kernel), why each higher one does not, and what would \
                      change that. The reason codes are in docs/offload-reasons.md.\n\n\
                      Of an application's intent it says whether it is encrypted, offloaded and slow, and why: what the plan decided, \
                      the line that decides and whose it is, and what its flows, rules and tunnel have counted meanwhile. A word that \
                      can be no flow is taken for an intent's name.",
        after_long_help = "EXAMPLES:\n  softdpu explain --intent payments\n  softdpu explain payments --watch 5 --json\n  softdpu explain 0:17\n  softdpu explain 10.1.0.2:40000 10.2.0.2:443\n  softdpu explain tcp \
                           10.2.0.2:443 --json\n\nEXIT CODES:\n  0  answered\n  1  no such flow or intent, or the instance could not be asked\n\n\
                           FILES:\n  /run/softdpu/NAME.sock  control socket of the instance NAME"
    )]
    Explain(ExplainArgs),

    /// Take flows back from the driver to their workers
    #[command(
        long_about = "Takes one flow, or all, out of the driver's table. No packet is lost: the next one goes to the worker. A flow that \
                      was demoted so stays with its worker.",
        after_long_help = "EXAMPLES:\n  softdpu demote 0:17\n  softdpu demote --all\n\nEXIT CODES:\n  0  done, also where nothing was \
                           offloaded\n  1  no such flow, or the instance could not be asked\n\n\
                           FILES:\n  /run/softdpu/NAME.sock  control socket of the instance NAME"
    )]
    Demote(DemoteArgs),

    /// Take up the changed policy of a running instance
    #[command(
        long_about = "Reads the instance's policy file again, checks and compiles it, shows what changes and puts it in force: \
                      in one step for every packet, none is lost or handled by half a plan. An invalid file changes nothing. Where the \
                      policy names a health check ([apply] health), the policy before is put back by itself when the check does not \
                      say yes in time.\n\n\
                      Rules, steering rules and the flow table's timeouts can change so. Ports, workers, tunnels, the control \
                      socket, [offload] and [export] are read at the start; a file that changes them is refused, whole.",
        after_long_help = "EXAMPLES:\n  softdpu reload --dry-run\n  softdpu reload -n edge-a\n  systemctl reload softdpu@edge-a\n\n\
                           EXIT CODES:\n  0  in force, or nothing to change\n  1  not valid, refused, or taken back by the health check\n\n\
                           FILES:\n  /run/softdpu/NAME.sock  control socket of the instance NAME"
    )]
    Reload(ReloadArgs),

    /// List the policies that were in force
    #[command(
        long_about = "Lists the policies that were in force, the newest first: since when, who asked for it, how much changed, and what \
                      became of it. They are kept until the instance ends, or for good in the folder that [apply] history names.",
        after_long_help = "EXAMPLES:\n  softdpu history\n  softdpu history --json | jq '.[0]'\n\n\
                           EXIT CODES:\n  0  answered\n  1  no instance, or it could not be asked\n\n\
                           FILES:\n  /run/softdpu/NAME.sock  control socket of the instance NAME"
    )]
    History(StatusArgs),

    /// Go back to a policy that was in force
    #[command(
        long_about = "Puts a policy of `softdpu history` in force again, checked as any other. The policy file is not touched: the next \
                      reload takes it up again.",
        after_long_help = "EXAMPLES:\n  softdpu rollback 3 --dry-run\n  softdpu rollback 3\n\n\
                           EXIT CODES:\n  0  in force, or nothing to change\n  1  no such plan, not valid any more, or taken back\n\n\
                           FILES:\n  /run/softdpu/NAME.sock  control socket of the instance NAME"
    )]
    Rollback(RollbackArgs),

    /// Make new session keys in a WireGuard tunnel, at once
    #[command(
        long_about = "Begins a handshake with a peer of a WireGuard tunnel, or with all that have an endpoint, without waiting for the \
                      two minutes after which one is due. Traffic goes on meanwhile: the old keys serve until the new ones do. \
                      Associations of IPsec are renewed by their IKE daemon: `swanctl --rekey`.",
        after_long_help = "EXAMPLES:\n  softdpu rekey wg0\n  softdpu rekey -n edge-a wg0 --peer branch\n\n\
                           EXIT CODES:\n  0  handshakes were begun\n  1  no such tunnel or peer, or none could be begun\n\n\
                           FILES:\n  /run/softdpu/NAME.sock  control socket of the instance NAME"
    )]
    Rekey(RekeyArgs),

    /// Run the graph over capture files
    #[command(
        long_about = "Runs the graph of a policy over capture files instead of interfaces: what a capture holds is received on its port, \
                      what a port sends is written to its file. Needs no privileges. The result is the same each time, but for the \
                      timestamps. The port may be of any kind in the policy.",
        after_long_help = "EXAMPLES:\n  softdpu replay -c replay.toml --in apps=clear.pcap --out uplink=esp.pcap\n  \
                           softdpu replay -c edge-b.toml --in uplink=esp.pcap --out apps=clear.pcap --json\n\n\
                           EXIT CODES:\n  0  every packet was read and is accounted for\n  1  the policy or a file could not be used\n\n\
                           FILES:\n  configs/policies/replay.toml  a policy for captures"
    )]
    Replay(ReplayArgs),

    /// Say what flows capture files hold
    #[command(
        long_about = "Reads capture files (pcap or pcapng) and says for each flow what it is: protocol, host name, packets and bytes. With \
                      --json one JSON object per line: file, l4, a, b, protocol, host, packets, bytes; `a` opened the flow; addresses are \
                      ip:port, IPv6 in brackets. With --policy also application: the name by which that policy knows the flow. Key \
                      files of the policy are not looked at.",
        after_long_help = "EXAMPLES:\n  softdpu classify capture.pcap\n  softdpu classify --json *.pcap | jq -r .protocol | sort | uniq -c\n  softdpu classify --policy edge.toml capture.pcap\n\n\
                           EXIT CODES:\n  0  all files were read\n  1  a file could not be read\n\n\
                           FILES:\n  *.pcap, *.pcapng  captures"
    )]
    Classify {
        /// Capture files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Name the flows' applications as this policy defines them
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
        /// One JSON object per flow and line
        #[arg(long)]
        json: bool,
    },

    /// Say what on this host keeps a policy from running well, and put it right
    #[command(
        long_about = "Looks at kernel, process, processors, interfaces, queues, offloads and the network around them, and says of each \
                      thing whether it is ok, could be better (warn), or will fail; what that means; and the exact command that puts it \
                      right. With --policy it looks at the policy's ports and workers, with --interface at interfaces that no policy \
                      names.\n\n\
                      --fix makes those changes that are safe: settings that can be read, written and put back, on this host and at the \
                      other end of its veths. It shows them first and asks. --undo puts back what --fix changed, unless somebody has \
                      changed it since. Run it as the instance will be run: limits and capabilities are those of the caller. \
                      docs/troubleshooting.md lists the checks.",
        after_long_help = "EXAMPLES:\n  softdpu doctor --policy edge-a.toml\n  softdpu doctor -c edge-a.toml --fix\n  softdpu doctor \
                           --undo\n  softdpu doctor --interface eth0 --probe\n  softdpu doctor -c edge-a.toml --json | jq \
                           '.findings[] | select(.state == \"fail\")'\n\n\
                           EXIT CODES:\n  0  nothing will fail, perhaps with warnings\n  1  something will fail, or could not be put back\n\n\
                           FILES:\n  /var/lib/softdpu/doctor.json  what --fix changed"
    )]
    Doctor(DoctorArgs),

    /// Run config tests: packets in, and what is expected of them, against a policy and its intents
    #[command(
        long_about = "Runs every case of the files named *.case.toml below the folders: packets, described, in hex or from a capture, go in \
                      by a port of the policy, and what becomes of them is held against what the case expects: forwarded, passed \
                      to the kernel or dropped and why, rule, intent, tunnel, tier, class, host, application, bytes out, counters.\n\n\
                      The graph is the one that workers run, the driver's decision comes from the tables that the XDP program gets. No \
                      NIC, no privileges and no keys are needed: tunnels run with keys made for the moment, and the other ends \
                      of the test open what was sealed. docs/config-tests.md shows how cases are written.",
        after_long_help = "EXAMPLES:\n  softdpu test tests/\n  softdpu test -c candidate.toml tests/ --filter payments\n  softdpu test tests/ \
                           --junit report.xml\n  softdpu test tests/ --json | jq '.cases[] | select(.ok | not)'\n\n\
                           EXIT CODES:\n  0  everything is as expected\n  1  a case failed\n  2  wrong usage, or a case file or policy that \
                           is not valid: nothing was tested\n\n\
                           FILES:\n  *.case.toml  cases"
    )]
    Test(TestArgs),

    /// Say what this host has, for planning here or elsewhere
    #[command(
        long_about = "Lists kernel, processors, memory, limits, capabilities, and every interface with driver, queues, rings, RSS, XDP \
                      features and program, offloads, interrupts, NAPI settings and the other end of a veth. Only reads. With --json \
                      everything, versioned: the file that `softdpu plan --host` takes.",
        after_long_help = "EXAMPLES:\n  softdpu inventory\n  softdpu inventory --json > edge-7.json\n  softdpu inventory --host edge-7.json\n\n\
                           EXIT CODES:\n  0  done\n  1  the interfaces cannot be listed, or the file is no inventory\n\n\
                           FILES:\n  *.json  what --json printed on another host"
    )]
    Inventory(InventoryArgs),

    /// Measure on this host what ring sizes, batch, idle mode and copy mode are worth
    #[command(
        long_about = "Starts the policy's instance with one setting changed at a time and measures what it forwards and what it costs, in \
                      alternating rounds, so that noise hits all alike. Writes a policy fragment with the choice for each setting and the \
                      figures behind it (median and range). Where noise is larger than the difference it says so and chooses nothing.\n\n\
                      Traffic is generated over a throw-away pair of veths; nothing of the host is touched, and the figures compare \
                      settings, not hosts. With --real the instance runs on the policy's own ports with the traffic that is there: it is \
                      restarted for each turn. Needs root and two cores.",
        after_long_help = "EXAMPLES:\n  softdpu tune --policy edge-a.toml > tuned.toml\n  softdpu tune -c edge-a.toml --rounds 9 -o tuned.toml\n  \
                           softdpu tune -c edge-a.toml --real --yes\n\n\
                           EXIT CODES:\n  0  done, also where nothing could be concluded\n  1  it could not be measured\n\n\
                           FILES:\n  configs/policies/full.toml  every key, with its default"
    )]
    Tune(TuneArgs),

    /// Show packets' ways: what each node decided and wrote
    #[command(
        long_about = "Shows the way of packets through a running instance: what the XDP program decided, then every node that the \
                      packet met, what it decided (rule, tunnel, flow, class, next hop, drop reason) and which bytes it wrote. A packet \
                      is one that the filter (in tcpdump's syntax) matches as received, or as opened from its tunnel. \
                      The first 128 bytes are looked at. While nobody traces it costs nothing; one trace or capture at a time.\n\n\
                      With -c and --in, the same over capture files, without an instance and without privileges.\n\n\
                      It shows what flows carry that are sealed on the wire: only root and the user of the instance may.",
        after_long_help = "EXAMPLES:\n  softdpu trace\n  softdpu trace -n 5 host 10.2.0.2 and tcp port 443\n  softdpu trace --json esp | jq \
                           '.steps[].node'\n  softdpu trace -c edge-a.toml --in apps=clear.pcap udp\n\n\
                           EXIT CODES:\n  0  a packet was seen\n  1  none was, or the instance could not be asked\n\n\
                           FILES:\n  /run/softdpu/NAME.sock  control socket of the instance NAME"
    )]
    Trace(TraceArgs),

    /// Write packets to a pcapng file, also as they are within tunnels
    #[command(
        long_about = "Captures packets of a running instance: as received (rx), as opened from a tunnel (open), as they are before they are \
                      sealed (seal), and as sent (tx). Each port has an interface per point in the file. Each packet has as its comment what became of \
                      it: rule, tunnels, class, flow, verdict, drop reason and node; the same packet has the same epb_packetid at all \
                      points. The filter is in tcpdump's syntax, and a packet that matches at one point is written at all that are \
                      asked for. What the instance could not keep is lost for the capture only, and counted.\n\n\
                      WARNING: open and seal are the clear text of flows that are sealed on the wire. The file (mode 0600) is as sensitive as \
                      those. Only root and the user of the instance may capture; that it began and ended is logged.",
        after_long_help = "EXAMPLES:\n  softdpu capture -w all.pcapng\n  softdpu capture -w clear.pcapng --at open,seal tcp port 80\n  softdpu \
                           capture -w - host 10.2.0.2 | tshark -r - -T fields -e frame.comment\n  softdpu capture -w ring.pcapng -C 100 -W 10\n\n\
                           EXIT CODES:\n  0  done\n  1  no instance, or it could not be asked, or the file not written\n\n\
                           FILES:\n  *.pcapng  what -w writes\n  /run/softdpu/NAME.sock  control socket of the instance NAME"
    )]
    Capture(CaptureArgs),

    /// Print the JSON Schema of a policy
    #[command(
        long_about = "Prints the JSON Schema (draft 2020-12) of a policy. Editors use it to complete keys and to explain them.",
        after_long_help = "EXAMPLES:\n  softdpu schema > softdpu.schema.json\n  softdpu schema | jq '.properties.port.items.properties | keys'\n\n\
                           EXIT CODES:\n  0  printed\n  1  it could not be written\n\nFILES:\n  softdpu.schema.json  where editors are told to look"
    )]
    Schema,

    /// Write the manual pages
    #[command(
        long_about = "Writes the manual: softdpu(8), a page for each verb, and softdpu-policy(5), softdpu-intent(5) and softdpu-case(5), \
                      which explain every key of those files. They are made of what this program knows, so they fit it.",
        after_long_help = "EXAMPLES:\n  softdpu man --out /usr/local/share/man\n  softdpu man --out man && man -M man 5 softdpu-policy\n\n\
                           EXIT CODES:\n  0  written\n  1  a page could not be written\n\nFILES:\n  /usr/local/share/man  where man(1) looks"
    )]
    Man {
        /// Folder whose man1, man5 and man8 to write them into
        #[arg(short, long, value_name = "FOLDER")]
        out: PathBuf,
    },

    /// Print a completion script for a shell
    #[command(
        long_about = "Prints a script that completes verbs, options and words for a shell, to be installed with the program.\n\n\
                      A shell can also ask the program itself, which then knows what runs: instances, flows, intents, tunnels, peers, plans: write `source \
                      <(COMPLETE=bash softdpu)` into ~/.bashrc, `source <(COMPLETE=zsh softdpu)` into ~/.zshrc, or `COMPLETE=fish \
                      softdpu | source` into ~/.config/fish/config.fish.",
        after_long_help = "EXAMPLES:\n  softdpu completions bash > /etc/bash_completion.d/softdpu\n  softdpu completions zsh > ~/.zfunc/_softdpu\n\n\
                           EXIT CODES:\n  0  printed\n  1  it could not be written\n\nFILES:\n  /etc/bash_completion.d/softdpu, ~/.zfunc/_softdpu, ~/.config/fish/completions/softdpu.fish  where shells look"
    )]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The policy
    #[arg(value_name = "FILE", required_unless_present = "config", conflicts_with = "config")]
    pub(super) file: Option<PathBuf>,
    /// The policy, as for `run`
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// One JSON object: valid, errors, warnings
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// Folders of case files, or case files
    #[arg(required = true, value_name = "FOLDER")]
    pub(super) paths: Vec<PathBuf>,
    /// The policy to test, in place of those that the case files name
    #[arg(short, long, value_name = "POLICY")]
    pub(super) config: Option<PathBuf>,
    /// Only cases with this text in their name or their file's; may be given several times
    #[arg(short, long, value_name = "TEXT")]
    pub(super) filter: Vec<String>,
    /// Also write a report that CI systems read
    #[arg(long, value_name = "FILE")]
    pub(super) junit: Option<PathBuf>,
    /// Also say of cases that are ok what was seen
    #[arg(short, long)]
    pub(super) verbose: bool,
    /// Only say what failed
    #[arg(short, long, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// One JSON object: cases, ok, failed
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The policy; its `intents` names the folder of the intents
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// The contract as JSON; with --diff the differences
    #[arg(long)]
    pub(super) json: bool,
    /// What would change against the plan that runs
    #[arg(long)]
    pub(super) diff: bool,
    #[command(flatten)]
    pub(super) instance: Instance,
    /// Plan for another host, by what `softdpu inventory --json` printed there
    #[arg(long, value_name = "FILE", conflicts_with = "persona")]
    pub(super) host: Option<PathBuf>,
    /// Plan for a DPU by its public figures: bluefield-2, bluefield-3, intel-ipu-e2000, pensando-dsc2-100g, or a file
    #[arg(long, value_name = "NAME", add = clap_complete::ArgValueCandidates::new(super::complete::personas))]
    pub(super) persona: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// The policy whose ports, workers and tunnels to look at
    #[arg(short = 'c', long, value_name = "FILE", visible_alias = "config")]
    pub(super) policy: Option<PathBuf>,
    /// An interface to look at that no policy names; may be given several times
    #[arg(short, long, value_name = "IF")]
    pub(super) interface: Vec<String>,
    /// Judge another host, by the file that `softdpu inventory --json` wrote there
    #[arg(long, value_name = "FILE", conflicts_with_all = ["fix", "probe", "undo"])]
    pub(super) host: Option<PathBuf>,
    /// Show what does not apply as well
    #[arg(short, long)]
    pub(super) all: bool,
    /// Attach a program to the ports and bind a socket, for a moment. Some devices reset their link for it
    #[arg(long)]
    pub(super) probe: bool,
    /// Make the changes that are safe, after showing them
    #[arg(long, conflicts_with = "undo")]
    pub(super) fix: bool,
    /// Put back what --fix changed
    #[arg(long, conflicts_with = "json")]
    pub(super) undo: bool,
    /// Do not ask before changing anything
    #[arg(short, long)]
    pub(super) yes: bool,
    /// Where --fix notes what it changed
    #[arg(long, value_name = "FILE", default_value = crate::doctor::state::FILE)]
    pub(super) state: PathBuf,
    /// One JSON object: version, counts, findings, fixes. With --fix it needs --yes
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct InventoryArgs {
    /// Everything, as one JSON object
    #[arg(long)]
    pub(super) json: bool,
    /// Show another host, by the file that --json wrote there
    #[arg(long, value_name = "FILE")]
    pub(super) host: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct TuneArgs {
    /// The policy to begin with
    #[arg(short = 'c', long, value_name = "FILE", visible_alias = "config")]
    pub(super) policy: PathBuf,
    /// Measure on the policy's own ports, with the traffic that is there. The instance is restarted for each turn
    #[arg(long)]
    pub(super) real: bool,
    /// Do not ask before --real
    #[arg(short, long)]
    pub(super) yes: bool,
    /// Rounds; each measures every candidate once
    #[arg(long, default_value_t = 7, value_name = "N", value_parser = clap::value_parser!(u32).range(3..=99))]
    pub(super) rounds: u32,
    /// Seconds of each turn
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    pub(super) turn: f64,
    /// Only these settings: ring, batch, idle, copy, busy-poll
    #[arg(long, value_name = "SETTING", value_delimiter = ',')]
    pub(super) only: Vec<String>,
    /// Bytes of each generated frame
    #[arg(long, default_value_t = 60, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(60..=1514))]
    pub(super) size: u16,
    /// Generated flows, a power of two
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(super) flows: u32,
    /// Where to write the fragment. Default: standard output
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
}

/// Which instance to ask.
#[derive(Debug, Args)]
pub(super) struct Instance {
    /// Control socket of the instance
    #[arg(long, value_name = "PATH", conflicts_with = "name")]
    pub(super) socket: Option<PathBuf>,
    /// Name of the instance, of those in /run/softdpu; not needed when only one runs
    #[arg(short, long, value_name = "NAME", add = clap_complete::ArgValueCandidates::new(super::complete::instances))]
    pub(super) name: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pub(super) instance: Instance,
    /// The answer of the instance as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    #[command(flatten)]
    pub(super) instance: Instance,
    /// Time between two looks: 100ms to 60s
    #[arg(short, long, default_value = "1s", value_name = "TIME", value_parser = super::top::interval)]
    pub(super) interval: Duration,
    /// What to show first: ports, workers, tiers, apps, tunnels, drops, flows. With --once: only that
    #[arg(short, long, value_name = "TAB")]
    pub(super) tab: Option<Tab>,
    /// Only rows with this text somewhere
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub(super) filter: String,
    /// Most flows to ask for; of these the largest are shown
    #[arg(long, default_value_t = 2000, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    pub(super) flows: usize,
    /// Print one page of text and end
    #[arg(long)]
    pub(super) once: bool,
}

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    #[command(flatten)]
    pub(super) instance: Instance,
    /// Only this kind, or all whose name begins so: plan, peer_up, flow; may be given several times. Flows are told of on wish only
    #[arg(short, long, value_name = "KIND", value_delimiter = ',', add = clap_complete::ArgValueCandidates::new(super::complete::kinds))]
    pub(super) kind: Vec<String>,
    /// Begin with what happened so long ago (30s, 5m, 2h), or behind the event of this number; 0: all that is kept
    #[arg(long, value_name = "N")]
    pub(super) since: Option<super::events::Since>,
    /// One JSON object per event and line
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RekeyArgs {
    #[command(flatten)]
    pub(super) instance: Instance,
    /// The tunnel, as in the policy
    #[arg(value_name = "TUNNEL", add = clap_complete::ArgValueCandidates::new(super::complete::tunnels))]
    pub(super) tunnel: String,
    /// Only this peer: its name in the policy, or its public key
    #[arg(long, value_name = "PEER", add = clap_complete::ArgValueCandidates::new(super::complete::peers))]
    pub(super) peer: Option<String>,
    /// The answer of the instance as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    pub(super) instance: Instance,
    /// Say what would change, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// The answer of the instance as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// Number of the plan, as `softdpu history` shows it
    #[arg(value_name = "PLAN", add = clap_complete::ArgValueCandidates::new(super::complete::plans))]
    pub(super) plan: u64,
    #[command(flatten)]
    pub(super) how: ReloadArgs,
}

#[derive(Debug, Args)]
pub(super) struct FlowsArgs {
    #[command(flatten)]
    pub(super) instance: Instance,
    /// Only flows of this class: tls, http, dns, ...
    #[arg(long, add = clap_complete::ArgValueCandidates::new(super::complete::classes))]
    pub(super) class: Option<String>,
    /// Only flows of this application of the policy
    #[arg(long, value_name = "NAME", add = clap_complete::ArgValueCandidates::new(super::complete::applications))]
    pub(super) app: Option<String>,
    /// Only flows with this host name, or below a domain: *.example.com
    #[arg(long)]
    pub(super) host: Option<String>,
    /// Only flows on this tier: worker, xdp, nic, kernel
    #[arg(long, add = clap_complete::ArgValueCandidates::new(super::complete::tiers))]
    pub(super) tier: Option<String>,
    /// Only flows with this port on either side
    #[arg(long)]
    pub(super) port: Option<u16>,
    /// Only flows with an address in this prefix on either side
    #[arg(long)]
    pub(super) prefix: Option<String>,
    /// What comes first
    #[arg(long, value_enum, default_value = "bytes")]
    pub(super) sort: FlowSort,
    /// Most flows to list
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub(super) limit: usize,
    /// One JSON array of flows
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum FlowSort {
    /// Most bytes first
    Bytes,
    /// Most packets first
    Packets,
    /// Oldest first
    Age,
    /// Last seen first
    Idle,
    Class,
    /// Highest tier first, then by what refused it
    Tier,
}

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    pub(super) instance: Instance,
    /// The flow: its id, or one or both ends: 10.0.0.1:5000 10.0.0.2:443; or an application's intent, by its name
    #[arg(required_unless_present = "intent", conflicts_with = "intent", value_name = "FLOW", add = clap_complete::ArgValueCandidates::new(super::complete::flows))]
    pub(super) flow: Vec<String>,
    /// Explain an application's intent
    #[arg(long, value_name = "NAME", add = clap_complete::ArgValueCandidates::new(super::complete::intents))]
    pub(super) intent: Option<String>,
    /// Of an intent: how long to look at its counters, for rates. 0: once
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub(super) watch: f64,
    /// JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct DemoteArgs {
    #[command(flatten)]
    pub(super) instance: Instance,
    /// The flow, as for `explain`
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "FLOW", add = clap_complete::ArgValueCandidates::new(super::complete::flows))]
    pub(super) flow: Vec<String>,
    /// Every flow
    #[arg(long)]
    pub(super) all: bool,
    /// JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// The policy
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Capture file to receive on a port; may be given for several ports
    #[arg(long = "in", value_name = "PORT=FILE", value_parser = port_file, required = true)]
    pub(super) inputs: Vec<(String, PathBuf)>,
    /// Capture file for what a port sends; may be given for several ports
    #[arg(long = "out", value_name = "PORT=FILE", value_parser = port_file)]
    pub(super) outputs: Vec<(String, PathBuf)>,
    /// The report as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TraceArgs {
    /// The instance, where several run
    #[arg(long, value_name = "NAME", conflicts_with = "config", add = clap_complete::ArgValueCandidates::new(super::complete::instances))]
    pub(super) name: Option<String>,
    /// Its control socket
    #[arg(long, value_name = "PATH", conflicts_with_all = ["name", "config"])]
    pub(super) socket: Option<PathBuf>,
    /// How many packets; 0: until it is stopped
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 1)]
    pub(super) count: u64,
    /// How long at most; 0: until there are enough
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=crate::watch::request::MAX_SECONDS))]
    pub(super) seconds: u64,
    /// Trace over capture files, with this policy
    #[arg(short, long, value_name = "FILE", requires = "inputs")]
    pub(super) config: Option<PathBuf>,
    /// Capture file to receive on a port; may be given for several ports
    #[arg(long = "in", value_name = "PORT=FILE", value_parser = port_file, requires = "config")]
    pub(super) inputs: Vec<(String, PathBuf)>,
    /// One JSON object per packet and line
    #[arg(long)]
    pub(super) json: bool,
    /// Which packets, in tcpdump's syntax
    #[arg(value_name = "FILTER", trailing_var_arg = true)]
    pub(super) filter: Vec<String>,
}

impl TraceArgs {
    pub(super) fn instance(&self) -> Instance {
        Instance { name: self.name.clone(), socket: self.socket.clone() }
    }
}

#[derive(Debug, Args)]
pub(super) struct CaptureArgs {
    #[command(flatten)]
    pub(super) instance: Instance,
    /// The file; -: standard output
    #[arg(short, long, value_name = "FILE")]
    pub(super) write: PathBuf,
    /// Where to look: rx, open, seal, tx. All, unless said otherwise
    #[arg(long, value_name = "POINT", value_delimiter = ',', value_parser = ["rx", "open", "seal", "tx"])]
    pub(super) at: Vec<String>,
    /// Bytes kept of each packet; 0: all
    #[arg(short = 's', long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=i64::from(crate::watch::request::MAX_SNAP)))]
    pub(super) snaplen: u32,
    /// How many packets, each at all its points; 0: until it is stopped
    #[arg(short, long, value_name = "COUNT", default_value_t = 0)]
    pub(super) count: u64,
    /// How long; 0: until it is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=crate::watch::request::MAX_SECONDS))]
    pub(super) seconds: u64,
    /// Begin another file (FILE1, FILE2, and so on) before one grows beyond this many millions of bytes
    #[arg(short = 'C', long, value_name = "MILLIONS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) size: Option<u64>,
    /// With -C: at most so many files, then the oldest is written over
    #[arg(short = 'W', long, value_name = "COUNT", requires = "size", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) files: Option<u32>,
    /// Which packets, in tcpdump's syntax
    #[arg(value_name = "FILTER", trailing_var_arg = true)]
    pub(super) filter: Vec<String>,
}

fn port_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((port, file)) if !port.is_empty() && !file.is_empty() => Ok((port.to_owned(), PathBuf::from(file))),
        _ => Err("write PORT=FILE, for example apps=in.pcap".to_owned()),
    }
}
