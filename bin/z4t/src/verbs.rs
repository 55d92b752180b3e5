//! The verbs: one file each; here they are only told apart.

mod add_peer;
mod completions;
mod consume;
mod diagnostic;
mod health;
mod info;
mod ping;
mod queue_create;
mod queue_delete;
mod queue_get;
mod queue_list;
mod queue_pause;
mod queue_purge;
mod queue_set;
mod queue_stats;
mod remove_peer;
mod shard_list;
mod shard_transfer_leader;
mod shard_verify;
mod task_cancel;
mod task_get;
mod task_list;
mod task_push;

use z4_client::{Client, TaskId};

use crate::args::{Cli, QueueVerb, ShardVerb, TaskVerb, Verb};
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
        Verb::Task(TaskVerb::Get { task }) => {
            let ids = ids(task.into_iter().collect(), cli.id)?;
            let [id] = ids[..] else { return Err(Failure::Usage("give one id, not two".to_owned())) };
            task_get::run(&client, id, json).await
        }
        Verb::Task(TaskVerb::List(list)) => task_list::run(&client, list, json).await,
        Verb::Task(TaskVerb::Cancel { tasks }) => task_cancel::run(&client, &ids(tasks, cli.id)?, json).await,
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
        Verb::Queue(QueueVerb::Stats { name }) => queue_stats::run(&client, &name, json).await,
        Verb::Completions { .. } => unreachable!("answered above, without a client"),
    }
}

/// Refuses a flag that the verb would ignore: silence would look like consent.
fn check_flags(cli: &Cli) -> Result<(), Failure> {
    let about_task = matches!(cli.verb, Verb::Task(TaskVerb::Get { .. } | TaskVerb::Cancel { .. }));
    let takes_id = about_task || matches!(cli.verb, Verb::AddPeer | Verb::RemovePeer);
    if cli.id.is_some() && !takes_id {
        return Err(Failure::Usage("--id does not belong to this verb".to_owned()));
    }
    if cli.peer.is_some() && !matches!(cli.verb, Verb::AddPeer) {
        return Err(Failure::Usage("-p belongs to add-peer".to_owned()));
    }
    if cli.queue.is_some() && !matches!(cli.verb, Verb::Consume(_)) {
        return Err(Failure::Usage(
            "-q belongs to consume; this verb takes its queue as an argument".to_owned(),
        ));
    }
    if let Verb::Task(TaskVerb::Push(push)) = &cli.verb
        && push.key.is_some()
    {
        return Err(Failure::Usage(
            "--key: keys are not offered yet; --request-id makes one task of equal ids within ten minutes"
                .to_owned(),
        ));
    }
    if cli.output == Some(Format::Table) && matches!(cli.verb, Verb::Consume(_) | Verb::Diagnostic) {
        return Err(Failure::Usage("this verb prints JSON only".to_owned()));
    }
    Ok(())
}

/// Returns the host given by --id.
fn host(id: Option<String>) -> Result<String, Failure> {
    id.ok_or_else(|| {
        Failure::Usage("give the name of the host: -id NAME, as it has it in Z4_PEER_ID".to_owned())
    })
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
