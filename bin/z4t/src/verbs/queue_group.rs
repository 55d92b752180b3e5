//! `queue group set|get|list`: limits and shares of groups, and what they have to do.

use serde_json::{Value, json};
use z4_client::{Client, Group, GroupPatch, GroupSettings};

use crate::args::GroupSet;
use crate::failure::Failure;
use crate::output;
use crate::time::format_time;

/// Groups of one page.
const PAGE: u64 = 1_000;

pub(super) async fn set(client: &Client, set: GroupSet, json: bool) -> Result<(), Failure> {
    let GroupSet { name, group, weight, concurrency, rate, burst, serial, unset } = set;
    let patch = unset
        .iter()
        .fold(GroupPatch::new(), |patch, field| patch.unset(field.trim_start_matches('-').replace('-', "_")));
    let patch = weight.into_iter().fold(patch, GroupPatch::weight);
    let patch = concurrency.into_iter().fold(patch, GroupPatch::concurrency);
    let patch = rate.into_iter().fold(patch, |patch, rate| patch.rate(rate, burst));
    let patch = serial.into_iter().fold(patch, GroupPatch::serial);
    if patch.is_empty() {
        let what = "give a setting to change, or one to --unset; see --help";
        return Err(Failure::Usage(what.to_owned()));
    }
    show(&client.set_group(&name, &group, patch).await?, json)
}

pub(super) async fn get(client: &Client, name: &str, group: &str, json: bool) -> Result<(), Failure> {
    show(&client.get_group(name, group).await?, json)
}

pub(super) async fn list(client: &Client, name: &str, limit: u64, json: bool) -> Result<(), Failure> {
    let mut left = if limit == 0 { u64::MAX } else { limit };
    let (mut token, mut rows) = (String::new(), Vec::new());
    loop {
        let size = u32::try_from(left.min(PAGE)).expect("a page is small");
        let page = client.list_groups(name, size, &token).await?;
        for group in page.items.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            left -= 1;
            if json {
                output::json(&group_json(group))?;
                continue;
            }
            let effective = group.effective.unwrap_or_default();
            rows.push([
                group.name.clone(),
                group.waiting.to_string(),
                group.leased.to_string(),
                time(group.first_due_at).unwrap_or_else(|| "-".to_owned()),
                time(group.blocked_until).unwrap_or_else(|| "-".to_owned()),
                limits(&effective),
            ]);
        }
        match page.next {
            Some(next) if left > 0 => token = next,
            Some(_) => {
                output::talk(format_args!("there are more; raise --limit to see them"));
                break;
            }
            None => break,
        }
    }
    if json {
        return Ok(());
    }
    output::table(["GROUP", "WAITING", "LEASED", "FIRST DUE", "BLOCKED UNTIL", "LIMITS"], &rows)
}

fn show(group: &Group, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&group_json(group));
    }
    let set = group.settings.unwrap_or_default();
    let mut pairs = vec![
        ("group", group.name.clone()),
        ("waiting", group.waiting.to_string()),
        ("leased", group.leased.to_string()),
    ];
    let times = [("first due", time(group.first_due_at)), ("blocked until", time(group.blocked_until))];
    pairs.extend(times.into_iter().filter_map(|(name, at)| Some((name, at?))));
    let set = if set == GroupSettings::default() { "nothing".to_owned() } else { limits(&set) };
    pairs.push(("set", set));
    pairs.push(("in effect", limits(&group.effective.unwrap_or_default())));
    output::fields(&pairs)
}

fn time(at: Option<z4_proto::Timestamp>) -> Option<String> {
    at.and_then(|at| z4_proto::convert::millis(at, "time").ok()).map(format_time)
}

/// Returns settings in one line.
fn limits(settings: &GroupSettings) -> String {
    let rate = settings
        .rate
        .map(|rate| format!("rate {}/s, burst {}", rate.per_second, rate.burst.unwrap_or_default()));
    let parts = [
        settings.weight.map(|weight| format!("weight {weight}")),
        settings.serial.map(|serial| if serial { "serial" } else { "not serial" }.to_owned()),
        settings.concurrency.map(|limit| format!("concurrency {limit}")),
        rate,
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn group_json(group: &Group) -> Value {
    let settings = |settings: Option<GroupSettings>| {
        let GroupSettings { concurrency, rate, weight, serial } = settings.unwrap_or_default();
        let rate = rate.map(|rate| json!({ "per_second": rate.per_second, "burst": rate.burst }));
        json!({ "weight": weight, "serial": serial, "concurrency": concurrency, "rate": rate })
    };
    json!({
        "group": group.name,
        "waiting": group.waiting,
        "leased": group.leased,
        "first_due_at": time(group.first_due_at),
        "blocked_until": time(group.blocked_until),
        "settings": settings(group.settings),
        "effective": settings(group.effective),
    })
}
