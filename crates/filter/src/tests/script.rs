//! Runs the golden scripts in `src/testscripts`: commands, a line `---`, and what they print.
//!
//! `UPDATE_SCRIPTS=1` writes the output back: read the diff.
//!
//! ```text
//! match FILTER    which of the ten tasks pass       print FILTER    the filter as it was understood
//! bounds FILTER   where a scan reads, and which fields it needs
//! ```
//! Now is 2026-01-01T12:00:00Z. The tasks, with times from now (ids count up from a, and begin with the creation):
//! ```text
//!   phase      priority  deliver_at  created_at  deliveries/failures
//! a waiting    10        -1h         -2h         0/0    key=order-1 group=acme
//! b waiting    128       0           -1h         0/0
//! c waiting    128       +1h         -1h         0/0    key=order-2 group=acme user_id=newuser@example.com
//! d waiting    200       +2d         -1d         4/3    last_error="connect: timeout after 5s" size=10
//! e leased     128       -5m         -10m        1/0    consumer=worker-1 group=globex
//! f dead       0         -1d         -2d         20/20  consumer=worker-2 last_error="HTTP 500: *boom*" "any name"=x
//! g blocked    128       +1h         -1h         0/0    key=invoice-7
//! h done       128       -3h         -4h         1/0    consumer=worker-1
//! i cancelled  255       +1h         -1h         0/0    empty=
//! j expired    128       -10m        -1h         0/0    app.io/name-x=y
//! ```

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use z4_types::{Millis, ShardId, TaskId};

use super::{NOW, Task};
use crate::{Field, Filter, Phase, Window};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

#[test]
fn golden_scripts_print_what_they_claim() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/testscripts");
    let update = std::env::var_os("UPDATE_SCRIPTS").is_some();
    let tasks = tasks();
    let (mut failed, mut count) = (String::new(), 0);
    for path in scripts(&root) {
        let text = std::fs::read_to_string(&path).expect("a script is UTF-8");
        let (commands, expected) = text.split_once("---\n").unwrap_or((&text, ""));
        let mut out = String::new();
        for line in commands.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            count += 1;
            out += &run(line, &tasks);
        }
        if update {
            std::fs::write(&path, format!("{commands}---\n{out}")).expect("the tree is writable");
        } else if out != expected {
            let name = path.strip_prefix(&root).expect("found below").display();
            write!(failed, "{name}:\n--- expected\n{expected}--- got\n{out}\n").expect("to a string");
        }
    }
    assert!(count >= 150, "the scripts are there, {count} commands");
    assert!(failed.is_empty(), "{failed}");
}

fn scripts(folder: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("readable").path();
        if path.is_dir() { paths.extend(scripts(&path)) } else { paths.push(path) }
    }
    paths.sort();
    paths
}

fn run(line: &str, tasks: &[(char, Task)]) -> String {
    let (verb, text) = line.split_once(' ').unwrap_or((line, ""));
    let filter = match Filter::parse(text, NOW) {
        Ok(filter) => filter,
        Err(error) => return format!("{error}\n"),
    };
    match verb {
        "match" => {
            let passed = tasks.iter().filter(|(_, task)| filter.matches(task)).map(|(name, _)| *name);
            format!("[{}]\n", passed.collect::<String>())
        }
        "print" => format!("{filter}\n"),
        "bounds" => bounds(&filter),
        _ => panic!("{verb} is no command"),
    }
}

fn bounds(filter: &Filter) -> String {
    let bounds = filter.bounds();
    let mut out = String::new();
    let windows = Phase::ALL.map(|phase| bounds.window(phase));
    if let [Some(first), ..] = windows
        && windows == [Some(first); 7]
    {
        out = format!("each phase{}, ", window(first));
    } else {
        for phase in bounds.phases() {
            let found = bounds.window(phase).expect("one of them");
            write!(out, "{phase:?}{}, ", window(found)).expect("to a string");
        }
    }
    let needs = bounds.needs();
    let fields: Vec<&str> =
        Field::ALL.into_iter().filter(|field| needs.has(*field)).map(Field::name).collect();
    let rows = [(needs.state(), " +state row"), (needs.body(), " +body")];
    let rows: String = rows.iter().filter(|(needed, _)| *needed).map(|(_, row)| *row).collect();
    let nothing = if bounds.hull().is_none() { "nothing, " } else { "" };
    format!("{out}{nothing}by {}{rows}\n", fields.join(" "))
}

fn window(window: Window) -> String {
    let Window { from, until, priority_from, priority_until } = window;
    let mut out = String::new();
    if (from, until) != (Window::ALL.from, Window::ALL.until) {
        write!(out, " {}..={}", from_now(from), from_now(until)).expect("to a string");
    }
    if (priority_from, priority_until) != (Window::ALL.priority_from, Window::ALL.priority_until) {
        write!(out, " priority {}..={}", priority_from.0, priority_until.0).expect("to a string");
    }
    out
}

fn from_now(time: Millis) -> String {
    match time {
        Millis(0) => "0".to_owned(),
        Millis::NEVER => "never".to_owned(),
        NOW => "now".to_owned(),
        time => {
            let ms = i128::from(time.0) - i128::from(NOW.0);
            format!("now{ms:+}ms")
        }
    }
}

/// The tasks of the table above.
fn tasks() -> Vec<(char, Task)> {
    let row = |name: char, phase, priority, deliver_at: i64, created_at: i64, deliveries, failures| {
        let at = |offset: i64| Millis(NOW.0.checked_add_signed(offset).expect("days around now"));
        let task = Task {
            id: TaskId::new(at(created_at), ShardId(1), u64::from(u32::from(name) - u32::from('a'))),
            phase,
            priority,
            deliver_at: at(deliver_at),
            deliveries,
            failures,
            key: String::new(),
            group: String::new(),
            consumer: String::new(),
            last_error: String::new(),
            metadata: std::collections::BTreeMap::new(),
        };
        (name, task)
    };
    let mut tasks = vec![
        row('a', Phase::Waiting, 10, -HOUR, -2 * HOUR, 0, 0),
        row('b', Phase::Waiting, 128, 0, -HOUR, 0, 0),
        row('c', Phase::Waiting, 128, HOUR, -HOUR, 0, 0),
        row('d', Phase::Waiting, 200, 2 * DAY, -DAY, 4, 3),
        row('e', Phase::Leased, 128, -5 * MINUTE, -10 * MINUTE, 1, 0),
        row('f', Phase::Dead, 0, -DAY, -2 * DAY, 20, 20),
        row('g', Phase::Blocked, 128, HOUR, -HOUR, 0, 0),
        row('h', Phase::Done, 128, -3 * HOUR, -4 * HOUR, 1, 0),
        row('i', Phase::Cancelled, 255, HOUR, -HOUR, 0, 0),
        row('j', Phase::Expired, 128, -10 * MINUTE, -HOUR, 0, 0),
    ];
    let mut set = |name: char, field: &str, value: &str| {
        let (_, task) = tasks.iter_mut().find(|(each, _)| *each == name).expect("one of the ten");
        let value = value.to_owned();
        match field {
            "key" => task.key = value,
            "group" => task.group = value,
            "consumer" => task.consumer = value,
            "last_error" => task.last_error = value,
            _ => _ = task.metadata.insert(field.to_owned(), value),
        }
    };
    set('a', "key", "order-1");
    set('a', "group", "acme");
    set('c', "key", "order-2");
    set('c', "group", "acme");
    set('c', "user_id", "newuser@example.com");
    set('d', "last_error", "connect: timeout after 5s");
    set('d', "size", "10");
    set('e', "consumer", "worker-1");
    set('e', "group", "globex");
    set('f', "consumer", "worker-2");
    set('f', "last_error", "HTTP 500: *boom*");
    set('f', "any name", "x");
    set('g', "key", "invoice-7");
    set('h', "consumer", "worker-1");
    set('i', "empty", "");
    set('j', "app.io/name-x", "y");
    tasks
}
