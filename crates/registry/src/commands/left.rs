//! Left: a group has let replicas go. They are struck off, which frees their hosts for other replicas of the shard.

use z4_types::ShardId;

use crate::refusal::Refusal;
use crate::registry::Registry;

impl Registry {
    pub(crate) fn left(&mut self, shard: ShardId, replicas: &[u64]) -> Result<(), Refusal> {
        let Some(shard) = self.shards.get_mut(shard.0 as usize) else {
            return Err(Refusal::Invalid(format!("there is no shard {shard} in this cluster")));
        };
        if let Some(wanted) =
            shard.replicas.iter().find(|each| each.is_wanted() && replicas.contains(&each.id))
        {
            // Never true: ids that leave are never wanted again.
            let (id, shard) = (wanted.id, shard.id);
            return Err(Refusal::Invalid(format!(
                "replica {id} of shard {shard} is wanted and cannot have left"
            )));
        }
        // Reports may be repeated, by several leaders: what is not listed has been struck off.
        shard.replicas.retain(|each| !replicas.contains(&each.id));
        Ok(())
    }
}
