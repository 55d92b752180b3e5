//! The verbs: one file each; here they are only told apart.

mod add_peer;
mod completions;
mod consume;
mod diagnostic;
mod health;
mod info;
mod matched;
mod ping;
mod queue_create;
mod queue_delete;
mod queue_events;
mod queue_explain;
mod queue_get;
mod queue_group;
mod queue_list;
mod queue_pause;
mod queue_policy;
mod queue_purge;
mod queue_redrive;
mod queue_set;
mod queue_stats;
mod queue_top;
mod remove_peer;
mod schedule_create;
mod schedule_delete;
mod schedule_get;
mod schedule_history;
mod schedule_list;
mod schedule_next;
mod schedule_pause;
mod schedule_run;
mod schedule_set;
mod shard_list;
mod shard_transfer_leader;
mod shard_verify;
mod task_cancel;
mod task_explain;
mod task_get;
mod task_list;
mod task_push;
mod task_redrive;
mod task_run;
mod task_tail;
mod task_update;

use z4_client::{Client, Selection, TaskId};

use crate::args::{Cli, GroupVerb, QueueVerb, ScheduleVerb, ShardVerb, TaskVerb, Verb, Which};
use crate::failure::Failure;
use crate::output::Format;

/// Runs the verb of the command line.
pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    check_flags(&cli)?;
    if let Verb::Completions { shell } = cli.verb {
        return completions::run(shell);
    }
    let client = Client::builder(cli.target).timeout(cli.timeout).fail_fast(true).build()?;
    let table = cli.output == Some(Format::Table);
    let json = cli.output == Some(Format::Json);
    match cli.verb {
        Verb::Info => info::run(&client, table).await,
        Verb::Ping => ping::run(&client, json).await,
        Verb::Health => health::run(&client, json).await,
        Verb::Diagnostic => diagnostic::run(&client).await,
        Verb::AddPeer => {
            let (host, address) = (host(cli.id)?, cli.peer);
            let address = address.ok_or_else(|| {
                Failure::Usage("give the peer address of the host to add: -p HOST:PORT".to_owned())
            })?;
            add_peer::run(&client, &host, &address, json).await
        }
        Verb::RemovePeer => remove_peer::run(&client, &host(cli.id)?, json).await,
        Verb::Shard(ShardVerb::List) => shard_list::run(&client, json).await,
        Verb::Shard(ShardVerb::Verify { shards }) => shard_verify::run(&client, &shards, json).await,
        Verb::Shard(ShardVerb::TransferLeader { shard, to }) => {
            shard_transfer_leader::run(&client, shard, &to, json).await
        }
        Verb::Consume(consume) => consume::run(&client, cli.timeout, cli.queue, consume).await,
        Verb::Task(TaskVerb::Push(push)) => task_push::run(&client, cli.timeout, *push, json).await,
        Verb::Task(TaskVerb::Get { key: Some(key), .. }) => {
            task_get::by_key(&client, &queue_of_key(cli.queue)?, &key, json).await
        }
        Verb::Task(TaskVerb::Get { task, stale, .. }) => {
            let ids = ids(task.into_iter().collect(), cli.id)?;
            let [id] = ids[..] else { return Err(Failure::Usage("give one id, not two".to_owned())) };
            task_get::run(&client, id, stale, json).await
        }
        Verb::Task(TaskVerb::List(list)) => task_list::run(&client, list, json).await,
        Verb::Task(TaskVerb::Tail(tail)) => task_tail::run(&client, cli.queue, tail).await,
        Verb::Task(TaskVerb::Explain { task }) => {
            let ids = ids(task.into_iter().collect(), cli.id)?;
            let [id] = ids[..] else { return Err(Failure::Usage("give one id, not two".to_owned())) };
            task_explain::run(&client, id, json).await
        }
        Verb::Task(TaskVerb::Update(update)) => {
            let chosen = chosen(&client, &update.which, cli.queue, cli.id).await?;
            task_update::run(&client, chosen, *update, json).await
        }
        Verb::Task(TaskVerb::Run(which)) => {
            task_run::run(&client, chosen(&client, &which, cli.queue, cli.id).await?, json).await
        }
        Verb::Task(TaskVerb::Redrive(redrive)) => {
            let chosen = chosen(&client, &redrive.which, cli.queue, cli.id).await?;
            task_redrive::run(&client, chosen, redrive.rate, json).await
        }
        Verb::Task(TaskVerb::Cancel(which)) if !which.key.is_empty() => {
            task_cancel::by_key(&client, &queue_of_key(cli.queue)?, &which.key, json).await
        }
        Verb::Task(TaskVerb::Cancel(which)) => {
            task_cancel::run(&client, chosen(&client, &which, cli.queue, cli.id).await?, json).await
        }
        Verb::Queue(QueueVerb::List) => queue_list::run(&client, json).await,
        Verb::Queue(QueueVerb::Get { name, effective: true }) => {
            queue_get::effective(&client, &name, json).await
        }
        Verb::Queue(QueueVerb::Get { name, .. }) => queue_get::run(&client, &name, json).await,
        Verb::Queue(QueueVerb::Create { name, settings }) => {
            queue_create::run(&client, &name, *settings, json).await
        }
        Verb::Queue(QueueVerb::Set(set)) => queue_set::run(&client, *set, json).await,
        Verb::Queue(QueueVerb::Pause { name, note, author }) => {
            queue_pause::pause(&client, &name, &note, author, json).await
        }
        Verb::Queue(QueueVerb::Resume { name }) => queue_pause::resume(&client, &name, json).await,
        Verb::Queue(QueueVerb::Purge(purge)) => queue_purge::run(&client, purge, json).await,
        Verb::Queue(QueueVerb::Delete { name, if_etag }) => {
            queue_delete::run(&client, &name, if_etag.as_deref(), json).await
        }
        Verb::Queue(QueueVerb::Explain { name }) => queue_explain::run(&client, &name, json).await,
        Verb::Queue(QueueVerb::Redrive(redrive)) => queue_redrive::run(&client, redrive, json).await,
        Verb::Queue(QueueVerb::Group(GroupVerb::Set(set))) => queue_group::set(&client, set, json).await,
        Verb::Queue(QueueVerb::Group(GroupVerb::Get { name, group })) => {
            queue_group::get(&client, &name, &group, json).await
        }
        Verb::Queue(QueueVerb::Group(GroupVerb::List { name, limit })) => {
            queue_group::list(&client, &name, limit, json).await
        }
        Verb::Queue(QueueVerb::Stats { name }) => queue_stats::run(&client, &name, json).await,
        Verb::Queue(QueueVerb::Events(events)) => queue_events::run(&client, events, json).await,
        Verb::Queue(QueueVerb::Top(top)) => queue_top::run(&client, top, json).await,
        Verb::Queue(QueueVerb::Policy(verb)) => queue_policy::run(&client, verb, json).await,
        Verb::Schedule(verb) => schedule(&client, verb, json).await,
        Verb::Completions { .. } => unreachable!("answered above, without a client"),
    }
}

/// Runs a verb about schedules.
async fn schedule(client: &Client, verb: ScheduleVerb, json: bool) -> Result<(), Failure> {
    match verb {
        ScheduleVerb::Create { named, flags } => schedule_create::run(client, &named, *flags, json).await,
        ScheduleVerb::Set(set) => schedule_set::run(client, *set, json).await,
        ScheduleVerb::Get { named } => schedule_get::run(client, &named, json).await,
        ScheduleVerb::List { of } => schedule_list::run(client, &of, json).await,
        ScheduleVerb::Pause { named, note, author } => {
            schedule_pause::pause(client, &named, &note, author, json).await
        }
        ScheduleVerb::Resume { named } => schedule_pause::resume(client, &named, json).await,
        ScheduleVerb::Run { named } => schedule_run::run(client, &named, json).await,
        ScheduleVerb::Delete { named, if_etag } => {
            schedule_delete::run(client, &named, if_etag.as_deref(), json).await
        }
        ScheduleVerb::Next { of: Some(of), name: Some(name), count, .. } => {
            schedule_next::of_schedule(client, &of, &name, count, json).await
        }
        ScheduleVerb::Next { cron: Some(cron), time_zone, count, .. } => {
            schedule_next::preview(client, &cron, &time_zone, count, json).await
        }
        ScheduleVerb::Next { .. } => {
            Err(Failure::Usage("give the queue and name of a schedule, or --cron".to_owned()))
        }
        ScheduleVerb::History { named, limit } => schedule_history::run(client, &named, limit, json).await,
    }
}

/// Refuses a flag that the verb would ignore: silence would look like consent.
fn check_flags(cli: &Cli) -> Result<(), Failure> {
    let about_task =
        matches!(&cli.verb, Verb::Task(verb) if !matches!(verb, TaskVerb::Push(_) | TaskVerb::List(_)));
    let takes_id = about_task || matches!(cli.verb, Verb::AddPeer | Verb::RemovePeer);
    if cli.id.is_some() && !takes_id {
        return Err(Failure::Usage("--id does not belong to this verb".to_owned()));
    }
    if cli.peer.is_some() && !matches!(cli.verb, Verb::AddPeer) {
        return Err(Failure::Usage("-p belongs to add-peer".to_owned()));
    }
    let which = match &cli.verb {
        Verb::Task(TaskVerb::Update(update)) => Some(&update.which),
        Verb::Task(TaskVerb::Redrive(redrive)) => Some(&redrive.which),
        Verb::Task(TaskVerb::Run(which) | TaskVerb::Cancel(which)) => Some(which),
        _ => None,
    };
    let by_filter = which.is_some_and(|which| which.filter.is_some());
    let by_key = which.is_some_and(|which| !which.key.is_empty())
        || matches!(&cli.verb, Verb::Task(TaskVerb::Get { key: Some(_), .. }));
    let follows = matches!(cli.verb, Verb::Consume(_) | Verb::Task(TaskVerb::Tail(_)));
    if cli.queue.is_some() && !by_key && !by_filter && !follows {
        return Err(Failure::Usage(
            "-q belongs to consume, task tail, --key and --filter; this verb takes its queue as an argument"
                .to_owned(),
        ));
    }
    if cli.id.is_some() && by_key {
        return Err(Failure::Usage("give --key or --id, not both".to_owned()));
    }
    if cli.output == Some(Format::Table)
        && matches!(cli.verb, Verb::Consume(_) | Verb::Diagnostic | Verb::Task(TaskVerb::Tail(_)))
    {
        return Err(Failure::Usage("this verb prints JSON only".to_owned()));
    }
    Ok(())
}

/// Returns the queue given by -q, in which a key is looked for.
fn queue_of_key(queue: Option<String>) -> Result<String, Failure> {
    queue.ok_or_else(|| Failure::Usage("give the queue the key is of: -q QUEUE".to_owned()))
}

/// Returns the host given by --id.
fn host(id: Option<String>) -> Result<String, Failure> {
    id.ok_or_else(|| {
        Failure::Usage("give the name of the host: -id NAME, as it has it in Z4_PEER_ID".to_owned())
    })
}

/// The tasks that a verb is about.
enum Chosen {
    /// These, all with the same etag if one is given.
    Ids(Vec<TaskId>, Option<String>),
    /// All that pass a filter.
    All(Selection),
}

/// Returns the tasks that a command line names.
async fn chosen(
    client: &Client,
    which: &Which,
    queue: Option<String>,
    flag: Option<String>,
) -> Result<Chosen, Failure> {
    if let Some(filter) = &which.filter {
        if flag.is_some() {
            return Err(Failure::Usage("give ids or a filter, not both".to_owned()));
        }
        let queue =
            queue.ok_or_else(|| Failure::Usage("--filter needs a queue: give it by -q".to_owned()))?;
        let (filter, dry_run) = (filter.clone(), which.dry_run);
        return Ok(Chosen::All(Selection { queue, filter, dry_run, page_token: String::new() }));
    }
    let ids = if which.key.is_empty() {
        ids(which.tasks.clone(), flag)?
    } else {
        let queue = queue_of_key(queue)?;
        let mut ids = Vec::with_capacity(which.key.len());
        for key in &which.key {
            ids.push(client.get_by_key(&queue, key).await?.id);
        }
        ids
    };
    if which.if_etag.is_some() && ids.len() > 1 {
        return Err(Failure::Usage("--if-etag goes with one task".to_owned()));
    }
    Ok(Chosen::Ids(ids, which.if_etag.clone()))
}

/// Returns the ids given as arguments and by --id, at least one.
fn ids(mut ids: Vec<TaskId>, flag: Option<String>) -> Result<Vec<TaskId>, Failure> {
    if let Some(text) = flag {
        ids.push(text.parse().map_err(|why| Failure::Usage(format!("--id {text:?}: {why}")))?);
    }
    if ids.is_empty() {
        return Err(Failure::Usage("give the id of a task".to_owned()));
    }
    Ok(ids)
}
