//! Runs the golden scripts in `src/testscripts`: commands, a line `---`, and what they print.
//!
//! Each script is run twice: as it stands, and with the machine opened anew after every command, which must print the
//! same. All invariants are checked after every command. `UPDATE_SCRIPTS=1` writes the output back: read the diff.
//!
//! ```text
//! clock T                             later entries carry this time
//! tick T [limit=N]                    the same, and an Advance
//! push QUEUE [count= at= after= prio= payload= size= meta=k:v,k:v ttl= max= retry=initial:cap:percent:jitter
//!             group=NAME req=N,N,… batch=N raw=1]      req: each task's request, batch: the whole's, raw: no check
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
//! cancelif ID… etag=
//! group QUEUE NAME [weight= serial= conc= rate= clear=weight,serial,conc,rate raw=1]
//! restart      entry HEX              applies raw bytes
//! A & B                               both in one entry
//! ```
//! A task is named by the number of its creation.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use z4_types::{Duration, Millis, Priority, QueueName, RequestId, ShardId, TaskId, Token};

use super::strict::StrictStore;
use crate::command::{
    Command, Due, NewTask, Pause, Purge, PurgeStates, Retry, SetGroup, SetMode, SetQueue, Settlement, Target,
    UpdateTask, Verdict,
};
use crate::outcome::{Outcome, Refusal, Settled, Updated};
use crate::{
    Breaker, End, EntryBuilder, Fields, GroupFields, GroupPatch, GroupSettings, ListFilter, Machine,
    PageToken, Patch, Phase, Policies, Rate, Retention, Settings, TaskInfo, TaskState, explain, get, hydrate,
    list, queues, result,
};

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
    out: String,
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
        if verb == "policies" {
            // Its words are settings of their own.
            return Self { verb, about: words.collect(), values: BTreeMap::new() };
        }
        let (mut about, mut values) = (Vec::new(), BTreeMap::new());
        for word in words {
            match word.split_once('=') {
                Some((key, value)) => assert!(values.insert(key, value).is_none(), "{key} twice"),
                None => about.push(word),
            }
        }
        Self { verb, about, values }
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.values
            .get(key)
            .map(|value| value.parse().unwrap_or_else(|_| panic!("{key}={value} is no number")))
    }

    fn numbers(&self, key: &str) -> Option<Vec<u64>> {
        let value = self.values.get(key)?;
        Some(value.split(':').map(|part| part.parse().expect("a number")).collect())
    }

    fn retry(&self) -> Option<Retry> {
        self.numbers("retry").map(|parts| Retry {
            initial: Duration(parts[0]),
            cap: Duration(parts[1]),
            multiplier_percent: parts[2] as u32,
            jitter_percent: parts[3] as u8,
        })
    }

    fn metadata(&self) -> Option<Vec<(String, String)>> {
        let pairs = self.values.get("meta")?;
        let pair = |pair: &str| pair.split_once(':').map(|(key, value)| (key.into(), value.into()));
        Some(pairs.split(',').map(|text| pair(text).expect("key:value")).collect())
    }

    fn settings(&self) -> Settings {
        let span = |key| self.number(key).map(Duration);
        let small = |key| self.number(key).map(|number| number as u32);
        let rate =
            |key| self.numbers(key).map(|parts| Rate { thousandths: parts[0], burst: parts[1] as u32 });
        Settings {
            lease_duration: span("lease"),
            retry: self.retry(),
            max_attempts: small("max"),
            non_retryable: self
                .values
                .get("fatal")
                .map(|texts| texts.split(',').map(str::to_owned).collect()),
            retention: self
                .numbers("keep")
                .map(|parts| Retention { age: Duration(parts[0]), count: parts.get(1).copied() }),
            ttl: span("ttl"),
            priority: self.number("prio").map(|priority| Priority(priority as u8)),
            max_backlog: self.number("backlog"),
            rate: rate("rate"),
            concurrency: small("conc"),
            group_concurrency: small("gconc"),
            group_rate: rate("grate"),
            group_weight: small("weight"),
            group_serial: self.number("serial").map(|serial| serial == 1),
            ageing: span("ageing"),
            breaker: self.numbers("breaker").map(|parts| Breaker {
                deliveries: parts[0] as u32,
                failure_percent: parts[1] as u8,
                window: Duration(parts[2]),
                cool_down: Duration(parts[3]),
            }),
            events: self.number("events"),
        }
    }

    fn queue(&self) -> QueueName {
        QueueName::new(self.about[0]).expect("a valid queue name")
    }
}

impl Runner {
    fn run(name: &str, commands: &str, restarts: bool) -> String {
        let store = StrictStore::default();
        let machine = Machine::open(SHARD, &store).expect("empty");
        let (ids, tokens) = (BTreeMap::new(), BTreeMap::new());
        let mut runner = Self { store, machine, clock: 0, ids, tokens, out: String::new() };
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
        if self.read(&parts[0]) {
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
                let id = self.id(line.about[0]);
                match get(&self.store, id).expect("reads") {
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
                self.say(why.map_or("no such task".into(), |why| format!("{why:?}").replace("Millis", "")));
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
            "stats" => {
                let text = self.machine.stats(&line.queue()).map_or("no such queue".into(), |stats| {
                    let text = format!("{stats:?}");
                    text.replace("QueueStats { ", "")
                        .replace(" }", "")
                        .replace(": ", "=")
                        .replace(',', "")
                        .replace(" finished=0", "")
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

    fn id(&self, word: &str) -> TaskId {
        let counter = word.parse().expect("a task's number");
        self.ids.get(&counter).copied().unwrap_or_else(|| TaskId::new(Millis(0), SHARD, counter))
    }

    /// Builds the command of a line; None if the door would refuse it.
    fn command(&mut self, line: &Line<'_>) -> Option<Command> {
        let ttl = Duration(line.number("ttl").unwrap_or(1_000));
        let delay = line.number("delay").map(Duration);
        let reason = line.values.get("reason").copied().unwrap_or("").to_owned();
        let verdict = match line.verb {
            "push" => return self.push(line),
            "set" | "delete" | "policies" | "pause" | "resume" | "purge" | "group" => {
                return self.of_queue(line);
            }
            "ack" if line.values.contains_key("result") => {
                Verdict::AckWith { result: Bytes::copy_from_slice(line.values["result"].as_bytes()) }
            }
            "extend" if line.values.contains_key("progress") => {
                Verdict::ExtendWith { ttl, progress: line.values["progress"].into() }
            }
            "kill" => Verdict::NackDead { reason },
            "update" | "run" | "redrive" | "cancelif" => return self.of_tasks(line),
            "pull" => {
                return Some(Command::Lease {
                    queue: line.queue(),
                    consumer: line.values["by"].into(),
                    max: line.number("max").unwrap_or(1) as u32,
                    max_bytes: line.number("bytes").unwrap_or(u64::MAX),
                    ttl,
                });
            }
            "tick" => {
                self.clock = line.about[0].parse().expect("a time");
                return Some(Command::Advance { limit: line.number("limit").unwrap_or(1_000) as u32 });
            }
            "cancel" => return Some(Command::Cancel(line.about.iter().map(|word| self.id(word)).collect())),
            "ack" => Verdict::Ack,
            "nack" => Verdict::Nack { delay, slow_group: line.number("slow").map(Duration), reason },
            "release" => Verdict::Release { delay: delay.unwrap_or_default() },
            "extend" => Verdict::Extend { ttl },
            verb => panic!("unknown command {verb}"),
        };
        let settlement = |word: &&str| {
            let id = self.id(word);
            let token = line.number("token").map(Token).or(self.tokens.get(&id).copied()).unwrap_or_default();
            Settlement { id, token, verdict: verdict.clone() }
        };
        Some(Command::Settle(line.about.iter().map(settlement).collect()))
    }

    /// Builds a command that changes tasks; None if the door would refuse it.
    fn of_tasks(&mut self, line: &Line<'_>) -> Option<Command> {
        let etag = line.number("etag");
        let targets: Vec<Target> = line.about.iter().map(|word| Target { id: self.id(word), etag }).collect();
        Some(match line.verb {
            "run" => Command::RunNow(targets),
            "redrive" => {
                let delay = Duration(line.number("delay").unwrap_or(0));
                Command::Redrive(targets.into_iter().map(|target| (target, delay)).collect())
            }
            "cancelif" => {
                Command::CancelIf(targets.iter().map(|target| (target.id, etag.expect("an etag"))).collect())
            }
            _ => {
                let due = match (line.number("at"), line.number("after"), line.number("now")) {
                    (Some(at), ..) => Some(Due::At(Millis(at))),
                    (_, Some(delay), _) => Some(Due::After(Duration(delay))),
                    (.., Some(_)) => Some(Due::Now),
                    _ => None,
                };
                let update = UpdateTask {
                    target: targets[0],
                    due,
                    priority: line.number("prio").map(|priority| Priority(priority as u8)),
                    payload: line.values.get("payload").map(|text| Bytes::copy_from_slice(text.as_bytes())),
                    metadata: line.metadata(),
                };
                if let Err(invalid) = update.check() {
                    self.say(format_args!("invalid {invalid}"));
                    return None;
                }
                Command::UpdateTask(Box::new(update))
            }
        })
    }

    fn push(&mut self, line: &Line<'_>) -> Option<Command> {
        let requests: Vec<&str> = line.values.get("req").map_or(Vec::new(), |list| list.split(',').collect());
        let count = line.number("count").unwrap_or(requests.len().max(1) as u64);
        let payload = match line.values.get("payload") {
            Some(text) => Bytes::copy_from_slice(text.as_bytes()),
            None => vec![b'.'; line.number("size").unwrap_or(0) as usize].into(),
        };
        let metadata = line.metadata().unwrap_or_default();
        let retry = line.retry();
        let due = match (line.number("at"), line.number("after")) {
            (Some(at), None) => Due::At(Millis(at)),
            (None, Some(delay)) => Due::After(Duration(delay)),
            _ => Due::Now,
        };
        let task = |n: u64| NewTask {
            payload: payload.clone(),
            metadata: metadata.clone(),
            due,
            priority: line.number("prio").map(|priority| Priority(priority as u8)),
            max_attempts: line.number("max").map(|max| max as u32),
            retry,
            ttl: line.number("ttl").map(Duration),
            request: requests.get(n as usize).map(|text| RequestId(text.parse().expect("a number"))),
            group: line.values.get("group").map(|group| (*group).to_owned()),
        };
        let request = line.number("batch").map(|request| RequestId(request.into()));
        let tasks: Vec<NewTask> = (0..count).map(task).collect();
        if line.number("raw").is_none()
            && let Err(invalid) = tasks.iter().try_for_each(NewTask::check)
        {
            self.say(format_args!("invalid {invalid}"));
            return None;
        }
        Some(Command::Create { queue: line.queue(), request, tasks })
    }

    /// Builds a command that acts on a whole queue; None if the door would refuse it.
    fn of_queue(&mut self, line: &Line<'_>) -> Option<Command> {
        let text = |key| line.values.get(key).copied().unwrap_or("").to_owned();
        let etag = line.number("etag");
        let (command, checked) = match line.verb {
            "set" => {
                let clear = line.values.get("clear").map_or(Fields::default(), |names| {
                    let field = |name| Fields::named(name).unwrap_or_else(|| panic!("no field {name}"));
                    names.split(',').map(field).fold(Fields::default(), Fields::union)
                });
                let mode = match line.values.get("mode") {
                    Some(&"create") => SetMode::Create,
                    Some(&"update") => SetMode::Update,
                    _ => SetMode::Upsert,
                };
                let patch = Patch { set: line.settings(), clear };
                let set = SetQueue { queue: line.queue(), mode, etag, patch };
                let checked = set.check();
                (Command::SetQueue(Box::new(set)), checked)
            }
            "group" => {
                let field = |name| match name {
                    "weight" => GroupFields::WEIGHT,
                    "serial" => GroupFields::SERIAL,
                    "conc" => GroupFields::CONCURRENCY,
                    "rate" => GroupFields::RATE,
                    other => panic!("no field {other}"),
                };
                let clear = line.values.get("clear").map_or(0, |names| {
                    names.split(',').map(|name| field(name).0).fold(0, |all, bit| all | bit)
                });
                let settings = line.settings();
                let set = GroupSettings {
                    weight: settings.group_weight,
                    serial: settings.group_serial,
                    concurrency: settings.concurrency,
                    rate: settings.rate,
                };
                let patch = GroupPatch { set, clear: GroupFields(clear) };
                let group = line.about.get(1).copied().unwrap_or("").to_owned();
                let set = SetGroup { queue: line.queue(), group, patch };
                let checked = set.check();
                (Command::SetGroup(set), checked)
            }
            "delete" => (Command::DeleteQueue { queue: line.queue(), etag }, Ok(())),
            "policies" => {
                let version = line.about[0].parse().expect("a version");
                let policy = |word: &&str| {
                    let (pattern, settings) = word.split_once('|').unwrap_or((word, ""));
                    let settings = format!("set - {}", settings.replace('|', " "));
                    (pattern.to_owned(), Line::parse(&settings).settings())
                };
                let policies = Policies { version, list: line.about[1..].iter().map(policy).collect() };
                let checked = policies.check();
                (Command::SetPolicies(policies), checked)
            }
            "purge" => {
                let states = line.values.get("states").map_or(PurgeStates::ALL, |names| {
                    let state = |name| match name {
                        "waiting" => PurgeStates::WAITING,
                        "leased" => PurgeStates::LEASED,
                        "dead" => PurgeStates::DEAD,
                        "finished" => PurgeStates::FINISHED,
                        other => panic!("no state {other}"),
                    };
                    PurgeStates(names.split(',').map(|name| state(name).0).fold(0, |all, bit| all | bit))
                });
                let before = line.values.get("before").map_or(TaskId(u128::MAX), |word| self.id(word));
                let limit = line.number("limit").unwrap_or(1_000) as u32;
                (Command::Purge(Purge { queue: line.queue(), states, before, limit, after: None }), Ok(()))
            }
            verb => {
                let (queue, paused) = (line.queue(), verb == "pause");
                (Command::Pause(Pause { queue, paused, note: text("note"), author: text("by") }), Ok(()))
            }
        };
        if line.number("raw").is_none()
            && let Err(invalid) = checked
        {
            self.say(format_args!("invalid {invalid}"));
            return None;
        }
        Some(command)
    }

    fn config(&mut self, line: &Line<'_>) {
        let Some(config) = self.machine.config(&line.queue()) else { return self.say("no such queue") };
        let set: Vec<&str> = config.settings.fields().names().collect();
        let effective = &config.effective;
        let mut text = format!("etag={} set=[{}]", config.etag, set.join(" "));
        write!(
            text,
            " lease={} max={} prio={} keep={}:{:?} ttl={:?} backlog={:?}",
            effective.lease_duration.0,
            effective.max_attempts,
            effective.priority.0,
            effective.retention.age.0,
            effective.retention.count,
            effective.ttl.map(|ttl| ttl.0),
            effective.max_backlog
        )
        .expect("to a string");
        if let Some(paused) = config.paused {
            write!(text, " paused since={} note={:?} by={:?}", paused.since.0, paused.note, paused.author)
                .expect("to a string");
            if let Some(until) = paused.until {
                write!(text, " until={}", until.0).expect("to a string");
            }
        }
        self.say(text);
    }

    fn updated(&mut self, id: TaskId, result: &Result<Updated, Refusal>) {
        let text = match result {
            Ok(Updated { etag, deliver_at }) => format!("etag={etag} due at {}", deliver_at.0),
            Err(refusal) => refused(refusal),
        };
        self.say(format_args!("task {} {text}", id.counter()));
    }

    fn print(&mut self, command: &Command, outcome: &Outcome) {
        match outcome {
            Outcome::Created(results) => {
                let mut text = String::from("created");
                if let Some(Err(refusal)) = results.first()
                    && results.iter().all(|result| result.as_ref() == Err(refusal))
                {
                    return self.say(refused(refusal));
                }
                for id in results {
                    let id = match id {
                        Ok(id) => id,
                        Err(refusal) => {
                            write!(text, " ({})", refused(refusal)).expect("to a string");
                            continue;
                        }
                    };
                    self.ids.insert(id.counter(), *id);
                    write!(text, " {}", id.counter()).expect("to a string");
                }
                self.say(text);
            }
            Outcome::Leased(leased) => {
                let Command::Lease { consumer, .. } = command else { panic!("an answer to a lease") };
                if leased.picks.is_empty() {
                    self.say(format_args!("{consumer} <- nothing due"));
                }
                if leased.picks.len() > 10 {
                    self.say(format_args!("{consumer} <- {} tasks", leased.picks.len()));
                }
                let bodies = hydrate(&self.store, &leased.picks).expect("reads");
                for (pick, body) in leased.picks.iter().zip(bodies) {
                    let body = body.expect("just picked");
                    assert_eq!(body.payload.len(), pick.payload_bytes as usize);
                    self.tokens.insert(pick.id, pick.token);
                    if leased.picks.len() > 10 {
                        continue;
                    }
                    self.say(format_args!(
                        "{consumer} <- task {} token={} due={} delivery={} failures={} until={}",
                        pick.id.counter(),
                        pick.token,
                        pick.due.0,
                        pick.deliveries,
                        pick.failures,
                        leased.until.0
                    ));
                }
            }
            Outcome::Settled(results) => {
                let Command::Settle(settlements) = command else { panic!("an answer to a settle") };
                for (settlement, result) in settlements.iter().zip(results) {
                    let task = settlement.id.counter();
                    let text = match result {
                        Ok(Settled::Acked) => "acked".into(),
                        Ok(Settled::Retried(at)) => format!("due again at {}", at.0),
                        Ok(Settled::Released(at)) => format!("released, due again at {}", at.0),
                        Ok(Settled::Dead) => "dead".into(),
                        Ok(Settled::Extended(until)) => format!("leased until {}", until.0),
                        Err(refusal) => refused(refusal),
                    };
                    self.say(format_args!("task {task} {text}"));
                }
            }
            Outcome::Cancelled(results) => {
                let ids: Vec<TaskId> = match command {
                    Command::Cancel(ids) => ids.clone(),
                    Command::CancelIf(tasks) => tasks.iter().map(|task| task.0).collect(),
                    _ => panic!("an answer to a cancel"),
                };
                for (id, result) in ids.iter().zip(results) {
                    let text = result.as_ref().map_or_else(refused, |()| "cancelled".into());
                    self.say(format_args!("task {} {text}", id.counter()));
                }
            }
            Outcome::Advanced { more, dead } => {
                self.say(if *more { "advanced, more to do" } else { "advanced" });
                if *dead > 0 {
                    self.say(format_args!("dead with it: {dead}"));
                }
            }
            Outcome::QueueSet(result) => self.say(match result {
                Ok(set) => {
                    format!("{} etag={}", if set.created { "queue created" } else { "queue set" }, set.etag)
                }
                Err(refusal) => refused(refusal),
            }),
            Outcome::QueueDeleted(result) => {
                self.say(result.as_ref().map_or_else(refused, |()| "queue deleted".into()));
            }
            Outcome::PoliciesSet(version) => self.say(format_args!("policies of version {version}")),
            Outcome::QueuePaused(result) => {
                let Command::Pause(pause) = command else { panic!("an answer to a pause") };
                let done = if pause.paused { "paused" } else { "resumed" };
                self.say(result.as_ref().map_or_else(refused, |()| done.into()));
            }
            Outcome::Updated(result) => {
                let Command::UpdateTask(update) = command else { panic!("an answer to an update") };
                self.updated(update.target.id, result);
            }
            Outcome::MadeDue(results) => {
                let Command::RunNow(targets) = command else { panic!("an answer to a run now") };
                targets.iter().zip(results).for_each(|(target, result)| self.updated(target.id, result));
            }
            Outcome::Redriven(results) => {
                let Command::Redrive(targets) = command else { panic!("an answer to a redrive") };
                for ((target, _), result) in targets.iter().zip(results) {
                    let text =
                        result.as_ref().map_or_else(refused, |at| format!("redriven, due at {}", at.0));
                    self.say(format_args!("task {} {text}", target.id.counter()));
                }
            }
            Outcome::GroupSet(result) => self.say(match result {
                Ok(set) => format!(
                    "group set: weight={:?} serial={:?} conc={:?} rate={:?}",
                    set.weight,
                    set.serial,
                    set.concurrency,
                    set.rate.map(|rate| (rate.thousandths, rate.burst))
                ),
                Err(refusal) => refused(refusal),
            }),
            Outcome::Purged(result) => {
                self.say(result.as_ref().map_or_else(refused, |purged| format!("purged {}", purged.count)));
            }
        }
    }
}

fn refused(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NotFound(_) => "refused: not found".into(),
        Refusal::TooManyQueues(queues) => format!("refused: {queues} queues already"),
        Refusal::RequestReused { then, now } => {
            format!("refused: the request was of {then} tasks, not {now}")
        }
        Refusal::LeaseLost { token, .. } => format!("refused: lease {token} is lost"),
        Refusal::TaskChanged { etag, given, .. } => format!("refused: etag is {etag}, not {given}"),
        Refusal::TaskLeased { until, .. } => format!("refused: leased until {}", until.0),
        Refusal::TaskDead(_) => "refused: dead".into(),
        Refusal::TaskNotDead(_) => "refused: not dead".into(),
        other => format!("refused: {other}"),
    }
}

fn describe(info: &TaskInfo) -> String {
    let mut text = format!("task {} in {}: ", info.id.counter(), info.queue);
    match &info.state {
        TaskState::Waiting { .. } => text += "waiting",
        TaskState::Leased { until, token, consumer } => {
            write!(text, "leased until={} token={token} by={consumer}", until.0).expect("to a string");
        }
        TaskState::Dead { since, reason } => {
            write!(text, "dead since={} reason={reason}", since.0).expect("to a string")
        }
        TaskState::Finished { end, at } => {
            write!(text, "{} ended={}", format!("{end:?}").to_lowercase(), at.0).expect("to a string");
        }
    }
    write!(
        text,
        " at={} prio={} created={} deliveries={} failures={}/{}",
        info.deliver_at.0,
        info.priority.0,
        info.created_at.0,
        info.deliveries,
        info.failures,
        info.max_attempts
    )
    .expect("to a string");
    if let Some(group) = &info.group {
        write!(text, " group={group}").expect("to a string");
    }
    if let Some(at) = info.expires_at {
        write!(text, " expires={}", at.0).expect("to a string");
    }
    if let Some(error) = &info.last_error {
        let cut: String = error.chars().take(40).collect();
        write!(text, " error={cut:?}({})", error.len()).expect("to a string");
    }
    if let Some(progress) = &info.progress {
        write!(text, " progress={progress}").expect("to a string");
    }
    if let Some(bytes) = info.result_bytes {
        write!(text, " result={bytes}").expect("to a string");
    }
    for (key, value) in &info.metadata {
        write!(text, " {key}:{value}").expect("to a string");
    }
    if !info.payload.is_empty() {
        let cut = &info.payload[..info.payload.len().min(20)];
        write!(text, " payload={}({})", String::from_utf8_lossy(cut), info.payload.len())
            .expect("to a string");
    }
    text
}
