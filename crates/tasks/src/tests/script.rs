//! Runs the golden scripts in `src/testscripts`: commands, a line `---`, and what they print.
//!
//! Each script is run twice: as it stands, and with the machine opened anew after every command, which must print the
//! same. All invariants are checked after every command. `UPDATE_SCRIPTS=1` writes the output back: read the diff.
//!
//! ```text
//! clock T                             later entries carry this time
//! tick T [limit=N]                    the same, and an Advance
//! push QUEUE [count= at= after= prio= payload= size= meta=k:v,k:v ttl= max= retry=initial:cap:percent:jitter
//!             group=NAME [follows=ID,ID,… onfail=run]     x: before the number of one of another shard
//!             key=NAME,NAME,… [conflict=keep|replace|debounce window=]     each task's key
//!             req=N,N,… batch=N raw=1]      req: each task's request, batch: the whole's, raw: no check
//! pull QUEUE by=NAME [max= bytes= ttl=]
//! ack|nack|kill|release|extend ID… [token= delay= slow= reason= ttl= result= progress=]
//!                                     the task's last token, unless one is given; kill: a nack for good
//! cancel ID…   get ID   why ID   rev ID   result ID   list QUEUE [state= from= to= limit=]   stats QUEUE   due QUEUE   next QUEUE
//! deadline     queues   rows   config QUEUE
//! set QUEUE [mode=create|update etag= clear=FIELD,FIELD raw=1 lease= retry= max= fatal=TEXT,TEXT keep=AGE[:COUNT] ttl=
//!             prio= backlog= rate=THOUSANDTHS:BURST conc= gconc= grate= weight= serial= ageing= events=
//!             breaker=DELIVERIES:PERCENT:WINDOW:COOL]          without a mode: either
//! delete QUEUE [etag=]                policies VERSION PATTERN|setting=…|setting=… …
//! pause QUEUE [note= by=]             resume QUEUE
//! purge QUEUE [states=waiting,leased,dead,finished before=ID limit= raw=1]     to its end, batch by batch
//! update ID [etag= at= after= now=1 prio= payload= meta=]   run ID… [etag=]   redrive ID… [etag= delay=]
//! events QUEUE [from=earliest|now|last kinds=KIND,KIND task=ID limit=N]     last: where the last of them ended, the default
//! cancelif ID… [etag=]
//! group QUEUE NAME [weight= serial= conc= rate= clear=weight,serial,conc,rate raw=1]
//! restart      entry HEX              applies raw bytes
//! A & B                               both in one entry
//! ```
//! A task is named by the number of its creation; by `get`, `update`, `run`, `redrive` and `cancelif` also as QUEUE:KEY.
//! Lines about schedules: `script/schedules.rs`.

mod commands;
mod events;
mod line;
mod print;
mod schedules;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use z4_types::{Millis, ShardId, TaskId, Token};

use super::strict::StrictStore;
use crate::command::Command;
use crate::outcome::Outcome;
use crate::{
    End, EntryBuilder, GroupInfo, ListFilter, Machine, PageToken, Phase, Why, by_key, explain, explain_queue,
    get, list, queues, result,
};
use line::Line;
use print::describe;

const SHARD: ShardId = ShardId(3);

#[cfg(not(feature = "bug-dedup-lost-at-restart"))]
#[test]
fn golden_scripts_print_what_they_claim() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/testscripts");
    let update = std::env::var_os("UPDATE_SCRIPTS").is_some();
    let paths = scripts(&root);
    assert!(paths.len() >= 40, "the scripts are there");
    let mut failed = String::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a script is UTF-8");
        let (commands, expected) = text.split_once("---\n").unwrap_or((&text, ""));
        let name = path.strip_prefix(&root).expect("found below").display().to_string();
        let plain = Runner::run(&name, commands, false);
        let restarted = Runner::run(&name, commands, true);
        assert_eq!(plain, restarted, "{name}: a restart after each command changed an answer");
        if update {
            std::fs::write(&path, format!("{commands}---\n{plain}")).expect("the tree is writable");
        } else if plain != expected {
            write!(failed, "{name}:\n--- expected\n{expected}--- got\n{plain}\n").expect("to a string");
        }
    }
    assert!(failed.is_empty(), "{failed}");
}

#[cfg(feature = "bug-dedup-lost-at-restart")]
#[test]
fn the_planted_bug_makes_a_repeated_create_twice_after_a_restart() {
    let commands = "push mail req=1\nrestart\npush mail req=1\n";
    assert_eq!(Runner::run("bug", commands, false), "created 1\ncreated 2\n");
}

#[cfg(not(feature = "bug-dedup-lost-at-restart"))]
fn scripts(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("readable").path();
        if path.is_dir() { paths.extend(scripts(&path)) } else { paths.push(path) }
    }
    paths.sort();
    paths
}

struct Runner {
    store: StrictStore,
    machine: Machine,
    clock: u64,
    ids: BTreeMap<u64, TaskId>,
    tokens: BTreeMap<TaskId, Token>,
    /// Where the last page of events ended.
    resume: Option<Vec<u8>>,
    out: String,
}

impl Runner {
    fn run(name: &str, commands: &str, restarts: bool) -> String {
        let store = StrictStore::default();
        let machine = Machine::open(SHARD, &store).expect("empty");
        let (ids, tokens) = (BTreeMap::new(), BTreeMap::new());
        let mut runner = Self { store, machine, clock: 0, ids, tokens, resume: None, out: String::new() };
        for line in commands.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            runner.line(line);
            runner
                .machine
                .check(&runner.store)
                .unwrap_or_else(|broken| panic!("{name}: after {line:?}: {broken}"));
            if restarts {
                runner.reopen();
            }
        }
        runner.out
    }

    fn reopen(&mut self) {
        self.machine = Machine::open(SHARD, &self.store).expect("opens");
    }

    fn say(&mut self, text: impl std::fmt::Display) {
        writeln!(self.out, "{text}").expect("to a string");
    }

    fn line(&mut self, text: &str) {
        let parts: Vec<Line<'_>> = text.split(" & ").map(Line::parse).collect();
        if self.read(&parts[0]) || self.read_schedules(&parts[0]) {
            return;
        }
        let mut commands = Vec::new();
        for part in &parts {
            let Some(command) = self.command(part) else { return };
            commands.push(command);
        }
        let mut entry = EntryBuilder::new(Millis(self.clock));
        commands.iter().for_each(|command| entry.push(command));
        let entry = entry.finish();
        let outcomes = self.machine.apply(&mut self.store, &entry).expect("a built entry applies");
        assert_eq!(outcomes.len(), commands.len());
        for (command, outcome) in commands.iter().zip(&outcomes) {
            self.print(command, outcome);
        }
        // A purge goes on where it ended, each batch an entry of its own.
        if let (Some(Command::Purge(purge)), Some(Outcome::Purged(Ok(purged)))) =
            (commands.last_mut(), outcomes.last())
        {
            let mut next = purged.next.clone();
            for _ in 0..100 {
                let Some(after) = next else { return };
                purge.after = Some(after);
                let mut entry = EntryBuilder::new(Millis(self.clock));
                entry.push(&Command::Purge(purge.clone()));
                let outcomes =
                    self.machine.apply(&mut self.store, &entry.finish()).expect("a built entry applies");
                let [Outcome::Purged(Ok(purged))] = &outcomes[..] else { panic!("an answer to a purge") };
                self.say(format_args!("purged {}", purged.count));
                next = purged.next.clone();
            }
            panic!("a purge that does not end");
        }
    }

    /// Runs a line that is no command; false if it is one.
    fn read(&mut self, line: &Line<'_>) -> bool {
        match line.verb {
            "clock" => self.clock = line.about[0].parse().expect("a time"),
            "restart" => self.reopen(),
            "get" => {
                let found = match line.about[0].split_once(':') {
                    Some((queue, key)) => {
                        by_key(&self.store, &z4_types::QueueName::new(queue).expect("valid"), key)
                    }
                    None => get(&self.store, self.id(line.about[0])),
                };
                match found.expect("reads") {
                    Some(info) => self.say(describe(&info)),
                    None => self.say("no such task"),
                }
            }
            "result" => {
                let result = result(&self.store, self.id(line.about[0])).expect("reads");
                self.say(result.map_or("no result".into(), |bytes| {
                    format!("result {:?}", String::from_utf8_lossy(&bytes))
                }));
            }
            "config" => self.config(line),
            "why" => {
                let why = explain(&self.store, &self.machine, self.id(line.about[0]), Millis(self.clock));
                let why = why.expect("reads");
                self.say(match why {
                    None => "no such task".into(),
                    Some(Why::Blocked { blockers, first }) => {
                        let first: Vec<u64> = first.iter().map(|id| id.counter()).collect();
                        format!("blocked by {blockers}: {first:?}")
                    }
                    Some(why) => format!("{why:?}").replace("Millis", ""),
                });
            }
            "held" => {
                let holds = explain_queue(&self.store, &self.machine, &line.queue(), Millis(self.clock));
                let holds = holds.expect("reads");
                self.say(
                    holds.map_or("no such queue".into(), |holds| format!("{holds:?}").replace("Millis", "")),
                );
            }
            "groups" => {
                let (mut after, limit) = (None, line.number("limit").unwrap_or(10) as usize);
                while let Some(page) = self.machine.groups(&line.queue(), after.as_ref(), limit) {
                    for group in page.groups {
                        let GroupInfo { name, waiting, leased, first_due, blocked_until, effective, .. } =
                            group;
                        let (due, blocked) = (first_due.map(|at| at.0), blocked_until.map(|at| at.0));
                        let (weight, conc) = (effective.weight, effective.concurrency);
                        self.say(format_args!(
                            "{name}: waiting={waiting} leased={leased} due={due:?} blocked={blocked:?} weight={weight:?} conc={conc:?}"
                        ));
                    }
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                    self.say("next page");
                }
            }
            "rev" => {
                let info = get(&self.store, self.id(line.about[0])).expect("reads");
                self.say(info.map_or("no such task".into(), |info| format!("revision {}", info.revision)));
            }
            "due" => {
                let due = self.machine.due(&self.store, &line.queue(), Millis(self.clock)).expect("reads");
                self.say(due.map_or("no such queue".into(), |due| {
                    let oldest = due.oldest_due.map_or("none".into(), |at| at.0.to_string());
                    format!(
                        "due={} in1={} in5={} in60={} oldest={oldest}",
                        due.due, due.in_1_minute, due.in_5_minutes, due.in_60_minutes
                    )
                }));
            }
            "list" => self.list(line),
            "events" => self.events(line),
            "stats" => {
                let text = self.machine.stats(&line.queue()).map_or("no such queue".into(), |stats| {
                    let text = format!("{stats:?}");
                    text.replace("QueueStats { ", "")
                        .replace(" }", "")
                        .replace(": ", "=")
                        .replace(',', "")
                        .replace(" finished=0", "")
                        .replace(" blocked=0", "")
                        .replace(" awaited=0", "")
                });
                self.say(text);
            }
            "next" => {
                let due = self.machine.next_due(&self.store, &line.queue()).expect("reads");
                self.say(due.map_or("nothing waits".into(), |at| format!("next due at {}", at.0)));
            }
            "deadline" => {
                let at = self.machine.next_deadline(&self.store).expect("reads");
                self.say(at.map_or("no deadline".into(), |at| format!("next deadline at {}", at.0)));
            }
            "queues" => {
                let names: Vec<String> = self.machine.queues().map(|(name, _)| name.to_string()).collect();
                let mut stored = Vec::new();
                while let Some(info) = queues(&self.store, stored.last(), 1).expect("reads").pop() {
                    assert_eq!(self.machine.stats(&info.name), Some(info.stats));
                    stored.push(info.name);
                }
                assert_eq!(names, stored.iter().map(ToString::to_string).collect::<Vec<_>>());
                self.say(format_args!("queues: {}", names.join(" ")));
            }
            "rows" => self.say(format_args!("{} rows", self.store.len())),
            "entry" => {
                let hex = line.about.first().copied().unwrap_or("");
                let bytes: Vec<u8> = (0..hex.len() / 2)
                    .map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).expect("hex"))
                    .collect();
                match self.machine.apply(&mut self.store, &bytes) {
                    Ok(outcomes) => self.say(format_args!("{outcomes:?}")),
                    Err(fault) => self.say(format_args!("fault: {fault}")),
                }
            }
            _ => return false,
        }
        true
    }

    fn list(&mut self, line: &Line<'_>) {
        let state = line.values.get("state").map(|state| match *state {
            "waiting" => Phase::Waiting,
            "leased" => Phase::Leased,
            "dead" => Phase::Dead,
            "blocked" => Phase::Blocked,
            "finished" => Phase::Finished(None),
            "done" => Phase::Finished(Some(End::Done)),
            "cancelled" => Phase::Finished(Some(End::Cancelled)),
            "expired" => Phase::Finished(Some(End::Expired)),
            other => panic!("unknown state {other}"),
        });
        let filter =
            ListFilter { state, from: line.number("from").map(Millis), to: line.number("to").map(Millis) };
        let limit = line.number("limit").unwrap_or(1_000) as u32;
        let mut after = None;
        loop {
            let page = list(&self.store, &line.queue(), filter, after.as_ref(), limit).expect("reads");
            for info in &page.tasks {
                assert_eq!(
                    get(&self.store, info.id).expect("reads").as_ref(),
                    Some(info),
                    "list shows what get shows"
                );
                let state = format!("{:?}", info.state);
                let state = state.split(' ').next().expect("a word").to_lowercase();
                self.say(format_args!("- task {} at={} {state}", info.id.counter(), info.deliver_at.0));
            }
            let Some(next) = page.next else { break };
            self.say("- next page");
            after = Some(PageToken::from_bytes(&next.to_bytes()).expect("a token survives its bytes"));
        }
    }
}
