//! Lines of a script as commands.

use bytes::Bytes;
use z4_types::{Duration, Millis, Priority, QueueName, RequestId, ShardId, TaskId, Token};

use super::line::Line;
use super::{Runner, SHARD};
use crate::command::{
    Command, Due, Key, NewTask, OnConflict, OnFailure, Pause, Purge, PurgeStates, SetGroup, SetMode,
    SetQueue, Settlement, Target, UpdateTask, Verdict, Which,
};
use crate::{Fields, GroupFields, GroupPatch, GroupSettings, Patch, Policies};

impl Runner {
    pub(super) fn id(&self, word: &str) -> TaskId {
        let counter = word.parse().expect("a task's number");
        self.ids.get(&counter).copied().unwrap_or_else(|| TaskId::new(Millis(0), SHARD, counter))
    }

    /// Builds the command of a line; None if the door would refuse it.
    pub(super) fn command(&mut self, line: &Line<'_>) -> Option<Command> {
        if let Some(command) = self.of_schedule(line) {
            return command;
        }
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

    fn target(&self, word: &str, etag: Option<u64>) -> Target {
        let Some((queue, key)) = word.split_once(':') else { return Target::id(self.id(word), etag) };
        let queue = QueueName::new(queue).expect("a valid queue name");
        Target { which: Which::Key { queue, key: key.into() }, etag }
    }

    /// Builds a command that changes tasks; None if the door would refuse it.
    fn of_tasks(&mut self, line: &Line<'_>) -> Option<Command> {
        let etag = line.number("etag");
        let targets: Vec<Target> = line.about.iter().map(|word| self.target(word, etag)).collect();
        Some(match line.verb {
            "run" => Command::RunNow(targets),
            "redrive" => {
                let delay = Duration(line.number("delay").unwrap_or(0));
                Command::Redrive(targets.into_iter().map(|target| (target, delay)).collect())
            }
            "cancelif" => Command::CancelIf(targets),
            _ => {
                let due = match (line.number("at"), line.number("after"), line.number("now")) {
                    (Some(at), ..) => Some(Due::At(Millis(at))),
                    (_, Some(delay), _) => Some(Due::After(Duration(delay))),
                    (.., Some(_)) => Some(Due::Now),
                    _ => None,
                };
                let update = UpdateTask {
                    target: targets[0].clone(),
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
        let keys: Vec<&str> = line.values.get("key").map_or(Vec::new(), |list| list.split(',').collect());
        let on_conflict = match line.values.get("conflict") {
            None => OnConflict::Fail,
            Some(&"keep") => OnConflict::Keep,
            Some(&"replace") => OnConflict::Replace,
            Some(&"debounce") => OnConflict::Debounce,
            Some(other) => panic!("no conflict {other}"),
        };
        let window = Duration(line.number("window").unwrap_or(0));
        let key = |name: &&str| Box::new(Key { name: (*name).to_owned(), on_conflict, window });
        let several = requests.len().max(keys.len()).max(1) as u64;
        let count = line.number("count").unwrap_or(several);
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
        let other = |number: &str| {
            TaskId::new(Millis(0), ShardId(SHARD.0 + 1), number.parse().expect("a task's number"))
        };
        let follows = line.values.get("follows").map_or(Vec::new(), |ids| ids.split(',').collect());
        let after: Vec<TaskId> =
            follows.iter().map(|word| word.strip_prefix('x').map_or_else(|| self.id(word), other)).collect();
        let on_failure = match line.values.get("onfail") {
            None => OnFailure::Cancel,
            Some(&"run") => OnFailure::Run,
            Some(other) => panic!("no policy {other}"),
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
            key: keys.get(n as usize).map(key),
            after: after.clone(),
            on_failure,
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
}
