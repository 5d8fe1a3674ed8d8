#![allow(clippy::unwrap_used)]
use super::super::{load, load_again};
use super::*;
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};

const HEAD: &str = "intents = \"intents\"\n[[port]]\nname = \"a\"\nkind = \"xdp\"\ninterface = \"lo\"\n";
const STEER: &str = "# All of it.\n[[steer]]\nname = \"all\"\naction = \"worker\"\n";

fn rule(n: usize) -> String {
    format!(
        "[[rule]]\nname = \"r{n}\" # number {n}\nto = [\"10.0.{n}.0/24\"]\nprotocol = \"tcp\"\nports = [{}]\n",
        1000 + n
    )
}

fn rules(count: usize) -> Vec<String> {
    (0..count).map(rule).collect()
}

struct Files {
    folder: tempfile::TempDir,
    path: PathBuf,
    memo: Memo,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("intents")).unwrap();
        let path = folder.path().join("edge.toml");
        Self { folder, path, memo: Memo::default() }
    }

    fn intent(&self, name: &str, rest: &str) {
        let text = format!("name = \"{name}\"\nowner = \"team\"\n{rest}[[flow]]\nto = [\"10.0.3.0/24\"]\n");
        fs::write(self.folder.path().join(format!("intents/{name}.intent.toml")), text).unwrap();
    }

    /// How many rules and intents were parsed, when what is remembered changes nothing of what comes out.
    fn read(&mut self, text: &str) -> usize {
        fs::write(&self.path, text).unwrap();
        self.again()
    }

    fn again(&mut self) -> usize {
        let said = |path: &Path, memo: Option<&mut Memo>| {
            let read = match memo {
                Some(memo) => load_again(path, memo),
                None => load(path),
            };
            match read {
                Ok(mut policy) => {
                    // Takes what time it takes; and the memory differs.
                    Arc::make_mut(&mut policy.contract).compile_us = 0;
                    // A map's order is another one each time.
                    policy.index = None;
                    format!("{policy:#?}")
                }
                Err(errors) => errors.render(false),
            }
        };
        let (memory, afresh) = (said(&self.path, Some(&mut self.memo)), said(&self.path, None));
        assert!(memory == afresh, "with memory:\n{memory}\nafresh:\n{afresh}");
        self.memo.parsed
    }
}

#[test]
fn only_what_changed_is_parsed() {
    let mut files = Files::new();
    files.intent("pay", "encrypt = \"never\"\n");
    files.intent("shop", "");
    let mut all = rules(100);
    let text = |all: &[String]| format!("{HEAD}{}{STEER}{}", all[..30].concat(), all[30..].concat());
    assert_eq!(files.read(&text(&all)), 102);
    assert_eq!(files.again(), 0);
    all.swap(3, 90);
    assert_eq!(files.read(&text(&all)), 0, "they are known wherever they stand");
    all[7].push_str("action = \"drop\"\n");
    all.insert(50, rule(200));
    assert_eq!(files.read(&text(&all)), 2);
    all.remove(2);
    files.intent("shop", "priority = 7\n");
    assert_eq!(files.read(&text(&all)), 3, "of rules those two that the comment before [[steer]] goes with");
    assert_eq!(files.read(&text(&all).replace("\"a\"", "\"longer\"")), 0, "all have moved");
}

/// Size and time of a file are the same as before.
#[test]
fn nothing_hangs_on_a_clock() {
    let mut files = Files::new();
    files.intent("pay", "priority = 1\n");
    files.read(&format!("{HEAD}{STEER}{}", rules(80).concat()));
    let paths = [files.path.clone(), files.folder.path().join("intents/pay.intent.toml")];
    for (path, old, new) in [(&paths[0], "[1007]", "[2007]"), (&paths[1], "= 1\n", "= 2\n")] {
        let when = fs::metadata(path).unwrap().modified().unwrap();
        let text = fs::read_to_string(path).unwrap().replace(old, new);
        fs::write(path, text).unwrap();
        fs::File::options().append(true).open(path).unwrap().set_modified(when).unwrap();
        assert_eq!(files.again(), 1);
    }
}

#[test]
fn the_policys_defaults_count_for_intents_too() {
    let mut files = Files::new();
    files.intent("pay", "");
    let text = format!("{HEAD}{STEER}{}", rules(80).concat());
    files.read(&text);
    assert_eq!(files.read(&format!("{text}[defaults]\npriority = 9\n")), 1);
}

#[test]
fn what_is_wrong_is_said_as_ever_and_does_not_stay() {
    let mut files = Files::new();
    files.intent("pay", "");
    let sound = format!("{HEAD}{STEER}{}", rules(80).concat());
    files.read(&sound);
    let broken = [
        sound.replace("ports = [1009]", "ports = [1009"),
        sound.replace("ports = [1009]", "port = [1009]"),
        sound.replace("\"r9\"", "\"r8\""),
        sound.replace("[[steer]]", "[[steers]]"),
        sound.replace("ports = [1009]", "ports = [1009]\n[rule.more]\nx = 1"),
        sound.replace("ports = [1009]", "ports = [1009]\n  [[rule]]\nname = \"x\""),
        sound.replace("ports = [1009]", "ports = [1009]\n[[ rule ]]\nname = \"x\""),
        sound.replace("ports = [1009]", "ports = [\n1009,\n]\n"),
        sound.replace("ports = [1009]", "encrypt = \"none\""),
        format!("rule = []\n{sound}"),
        format!("[rule]\n{sound}"),
        sound.replace("# All of it.", "[maintenance]\nnote = \"\"\"\n[[rule]]\nname = 1\n\"\"\"\n"),
        sound.replace("# number 9\n", "# number 9\r\n"),
        sound.replace("10.0.9.0/24", "10.0.8.0/24"),
        String::new(),
        rules(80).concat(),
    ];
    for text in broken {
        files.read(&text);
        files.read(&sound);
        files.intent("pay", "encrypt = \"often\"\n");
        files.again();
        files.intent("pay", "");
        files.again();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever is put where, what comes out is what the whole text says.
    #[test]
    fn memory_changes_nothing(edits in proptest::collection::vec((0usize..5, 0usize..100, 0usize..100), 1..12)) {
        let mut files = Files::new();
        files.intent("pay", "");
        let mut all = rules(90);
        for (what, a, b) in edits {
            let (at, other) = (a % all.len(), b % all.len());
            match what {
                0 => all.swap(at, other),
                1 => all[at] = rule(b),
                2 => all.insert(at, STEER.replace("all", &format!("s{b}"))),
                3 => drop(all.remove(at)),
                _ => all[at].push_str(["dscp = 3\n", "\n# more\n", "host = [\"*.org\"]\n", "dscp = 99\n", "class = [\"web\"]\n"][b % 5]),
            }
            files.read(&format!("{HEAD}{STEER}{}", all.concat()));
        }
    }

    /// Rules that hide each other, in any order: warnings are those of the whole text, with their places, and so is what intents
    /// find of rules.
    #[test]
    fn shadows_are_those_of_the_whole(
        seeds in proptest::collection::vec(0usize..10_000, 80..120),
        rounds in proptest::collection::vec(proptest::collection::vec((0usize..5, 0usize..10_000, 0usize..10_000), 0..5), 1..5),
    ) {
        let mut files = Files::new();
        files.intent("pay", "encrypt = \"never\"\n");
        let mut all: Vec<String> = seeds.iter().enumerate().map(|(n, seed)| overlapping(&format!("r{n}"), *seed)).collect();
        let mut names = all.len();
        files.read(&format!("{HEAD}{STEER}{}", all.concat()));
        for round in rounds {
            for (what, a, b) in round {
                let (at, other) = (a % all.len(), b % all.len());
                match what {
                    0 => all.swap(at, other),
                    // Now and then a name that another has.
                    1 if b % 16 == 0 => all[at] = overlapping("r7", b),
                    1 => all[at] = overlapping(all[at].split('"').nth(1).unwrap_or("r"), b),
                    2 => {
                        names += 1;
                        all.insert(at, overlapping(&format!("r{names}"), b));
                    }
                    3 => drop(all.remove(at)),
                    _ => {
                        let moved = all.remove(at);
                        all.insert(b % (all.len() + 1), moved);
                    }
                }
            }
            files.read(&format!("{HEAD}{STEER}{}", all.concat()));
        }
    }
}

/// A rule of a kind that others are likely to hide, or to be hidden by.
fn overlapping(name: &str, seed: usize) -> String {
    let to = [
        "",
        "to = [\"10.0.0.0/8\"]\n",
        "to = [\"10.0.3.0/24\"]\n",
        "to = [\"10.0.3.4\", \"10.0.4.0/24\"]\n",
        "to = [\"2001:db8::/32\"]\n",
    ];
    let ports =
        ["", "ports = [80]\n", "ports = [\"80-90\"]\n", "ports = [\"70-85\", \"86-100\"]\n", "source_ports = [9]\n"];
    let more = [
        "",
        "host = [\"*.org\"]\n",
        "host = [\"a.org\"]\n",
        "class = [\"dns\"]\n",
        "action = \"drop\"\n",
        "from = [\"10.0.0.0/9\"]\n",
    ];
    // Few are so wide that they hide all others.
    let pick =
        |list: &[&str], n: usize| list[if n.is_multiple_of(37) { 0 } else { 1 + n % (list.len() - 1) }].to_owned();
    format!(
        "[[rule]]\nname = \"{name}\"\nprotocol = \"tcp\"\n{}{}{}",
        pick(&to, seed),
        pick(&ports, seed / 7),
        pick(&more, seed / 31)
    )
}

/// What is looked at again is what has to do with the change, and it is enough.
#[test]
fn a_shadow_comes_and_goes_with_what_casts_it() {
    let mut files = Files::new();
    let wide = "[[rule]]\nname = \"wide\"\nto = [\"10.0.0.0/16\"]\nprotocol = \"tcp\"\n";
    let mut all = rules(100);
    let warnings = |files: &Files, memo: &mut Memo| load_again(&files.path, memo).unwrap().warnings.len();
    let mut read = |all: &[String]| {
        files.read(&format!("{HEAD}{STEER}{}", all.concat()));
        let looked = files.memo.checked.looked;
        let mut memo = std::mem::take(&mut files.memo);
        let count = warnings(&files, &mut memo);
        files.memo = memo;
        (looked, count)
    };
    assert_eq!(read(&all), (100, 0));
    all[40].push_str("dscp = 3\n");
    let (looked, count) = read(&all);
    assert!(looked < 5 && count == 0, "{looked}");
    all.insert(30, wide.to_owned());
    assert_eq!(read(&all).1, 70);
    all.swap(30, 60);
    assert_eq!(read(&all).1, 40, "those behind it");
    all.remove(60);
    assert_eq!(read(&all).1, 0);
    assert_eq!(read(&all), (0, 0), "nothing has changed");
}
