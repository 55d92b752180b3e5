//! Runs the golden scripts in `src/testscripts`: commands, a line `---`, and what they print.
//!
//! After every command the registry is read back from its bytes and its invariants are checked. `UPDATE_SCRIPTS=1` writes
//! the output back: read the diff.
//!
//! ```text
//! form HOST@ADDRESS… shards=N [replication=N]
//! add HOST ADDRESS [instance=N]       remove HOST       replace HOST ADDRESS instance=N
//! announce HOST ADDRESS instance=N [service=ADDRESS] [tags=k:v,k:v]
//! address HOST ADDRESS [service=ADDRESS]
//! drain HOST       undrain HOST       replication N
//! policy PATTERN SETTINGS             unpolicy PATTERN
//! left SHARD REPLICA…                  settle: every group reports all that leave
//! admit HOST instance=N                show
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

use z4_types::{ClusterId, HostId, ShardId};

use super::everything_left;
use crate::{Command, Host, Registry, Role};

#[test]
fn golden_scripts_print_what_they_claim() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/testscripts");
    let update = std::env::var_os("UPDATE_SCRIPTS").is_some();
    let paths = scripts(&root);
    assert!(paths.len() >= 10, "the scripts are there");
    let mut failed = String::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a script is UTF-8");
        let (commands, expected) = text.split_once("---\n").unwrap_or((&text, ""));
        let got = Runner::run(commands);
        if update {
            std::fs::write(&path, format!("{commands}---\n{got}")).expect("the tree is writable");
        } else if got != expected {
            let name = path.display();
            write!(failed, "{name}:\n--- expected\n{expected}--- got\n{got}\n").expect("to a string");
        }
    }
    assert!(failed.is_empty(), "{failed}");
}

fn scripts(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("readable").path();
        if path.is_dir() { paths.extend(scripts(&path)) } else { paths.push(path) }
    }
    paths.sort();
    paths
}

/// One line, cut into words: the verb, what it is about, and `key=value`.
struct Line<'l> {
    verb: &'l str,
    about: Vec<&'l str>,
    values: BTreeMap<&'l str, &'l str>,
}

impl<'l> Line<'l> {
    fn parse(line: &'l str) -> Self {
        let mut words = line.split_whitespace();
        let verb = words.next().expect("not blank");
        let (mut about, mut values) = (Vec::new(), BTreeMap::new());
        for word in words {
            match word.split_once('=') {
                Some((key, value)) => assert!(values.insert(key, value).is_none(), "{key} twice"),
                None => about.push(word),
            }
        }
        Self { verb, about, values }
    }

    fn host(&self) -> HostId {
        HostId(self.about[0].into())
    }

    fn address(&self) -> String {
        self.about[1].into()
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.values.get(key).map(|value| value.parse().expect("a number"))
    }

    fn service(&self) -> String {
        self.values.get("service").copied().unwrap_or("").into()
    }

    fn tags(&self) -> BTreeMap<String, String> {
        let tags = self.values.get("tags").copied().unwrap_or("");
        let pairs = tags.split(',').filter_map(|tag| tag.split_once(':'));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}

#[derive(Default)]
struct Runner {
    registry: Option<Registry>,
    out: String,
}

impl Runner {
    fn run(commands: &str) -> String {
        let mut runner = Self::default();
        for line in commands.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            runner.line(&Line::parse(line));
        }
        runner.out
    }

    fn say(&mut self, text: impl std::fmt::Display) {
        writeln!(self.out, "{text}").expect("to a string");
    }

    fn registry(&self) -> &Registry {
        self.registry.as_ref().expect("a script forms its cluster first")
    }

    fn line(&mut self, line: &Line<'_>) {
        match line.verb {
            "form" => self.form(line),
            "show" => self.show(),
            "settle" => {
                for report in everything_left(self.registry()) {
                    self.apply(&report);
                }
            }
            "admit" => {
                let instance = line.number("instance").expect("instance=");
                match self.registry().admit(&line.host(), instance) {
                    Ok(()) => self.say("admitted"),
                    Err(refusal) => self.say(format!("{}: {refusal}", refusal.reason())),
                }
            }
            _ => self.apply(&command(line)),
        }
    }

    fn form(&mut self, line: &Line<'_>) {
        let peers = line.about.iter().map(|peer| peer.split_once('@').expect("HOST@ADDRESS"));
        let mut peers: Vec<_> = peers.map(|(id, at)| (HostId(id.into()), at.to_owned())).collect();
        let number = |key| line.number(key).map(|n| u32::try_from(n).expect("32 bits"));
        let shards = number("shards").expect("shards=");
        self.registry = Some(if peers.len() == 1 {
            let (id, at) = peers.remove(0);
            Registry::form(ClusterId(7), "z4", Host::new(id, at), shards)
        } else {
            Registry::form_many("z4", peers, shards, number("replication").unwrap_or(3)).expect("forms")
        });
    }

    fn apply(&mut self, command: &Command) {
        let mut registry = self.registry().clone();
        let command = Command::decode(&command.encode()).expect("survives its bytes");
        match registry.apply(&command) {
            Ok(true) => self.say("ok"),
            Ok(false) => self.say("nothing to change"),
            Err(refusal) => self.say(format!("{}: {refusal}", refusal.reason())),
        }
        registry.check().expect("the invariants hold");
        self.registry = Some(Registry::decode(&registry.encode()).expect("survives its bytes"));
    }

    fn show(&mut self) {
        let registry = self.registry().clone();
        for host in &registry.hosts {
            let mut text = format!("{} {} {}", host.id, host.status, host.address);
            if !host.service.is_empty() {
                write!(text, " service={}", host.service).expect("to a string");
            }
            if host.instance != 0 {
                write!(text, " instance={}", host.instance).expect("to a string");
            }
            if !host.former.is_empty() {
                write!(text, " former={:?}", host.former).expect("to a string");
            }
            for (key, value) in &host.tags {
                write!(text, " {key}:{value}").expect("to a string");
            }
            self.say(text);
        }
        for shard in &registry.shards {
            let mut text = format!("shard {} epoch {}", shard.id, shard.epoch);
            for (role, name) in
                [(Role::Voter, "voters"), (Role::Learner, "learners"), (Role::Leaving, "leaving")]
            {
                let ids: Vec<String> =
                    shard.with_role(role).map(|each| format!("{}@{}", each.id, each.host)).collect();
                if !ids.is_empty() {
                    write!(text, " | {name} {}", ids.join(" ")).expect("to a string");
                }
            }
            self.say(text);
        }
        for (pattern, settings) in &registry.policies.list {
            let settings = String::from_utf8_lossy(settings);
            self.say(format!("policy {pattern} {settings}, version {}", registry.policies.version));
        }
    }
}

fn command(line: &Line<'_>) -> Command {
    let host = || line.host();
    let instance = || line.number("instance").expect("instance=");
    match line.verb {
        "add" => {
            Command::AddHost { host: host(), address: line.address(), instance: line.number("instance") }
        }
        "policy" => {
            Command::SetPolicy { pattern: line.about[0].into(), settings: line.about[1].as_bytes().to_vec() }
        }
        "unpolicy" => Command::DeletePolicy { pattern: line.about[0].into() },
        "remove" => Command::RemoveHost { host: host() },
        "replace" => Command::ReplaceHost { host: host(), instance: instance(), address: line.address() },
        "announce" => Command::Announce {
            host: host(),
            instance: instance(),
            address: line.address(),
            service: line.service(),
            tags: line.tags(),
        },
        "address" => Command::SetAddress { host: host(), address: line.address(), service: line.service() },
        "drain" => Command::DrainHost { host: host() },
        "undrain" => Command::UndrainHost { host: host() },
        "replication" => Command::SetReplication { replication: line.about[0].parse().expect("a number") },
        "left" => {
            let mut numbers = line.about.iter().map(|word| word.parse::<u64>().expect("a number"));
            let shard = ShardId(u32::try_from(numbers.next().expect("a shard")).expect("32 bits"));
            Command::Left { shard, replicas: numbers.collect() }
        }
        verb => panic!("unknown verb {verb}"),
    }
}
