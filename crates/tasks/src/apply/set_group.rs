//! SetGroup: limits of one group, which need not have tasks. They are kept only while something is set.

use z4_types::limits::GROUPS_SET_MAX;

use crate::command::SetGroup;
use crate::machine::Machine;
use crate::outcome::Refusal;
use crate::rows::{key, write_group_settings};
use crate::settings::GroupSettings;
use crate::{Fault, Store};

impl Machine {
    pub(super) fn set_group(
        &mut self,
        store: &mut dyn Store,
        set: &SetGroup,
    ) -> Result<Result<GroupSettings, Refusal>, Fault> {
        let Some((number, queue)) = self.named(set.queue.as_str()) else {
            return Ok(Err(Refusal::QueueNotFound(set.queue.clone())));
        };
        let before = queue.group_settings.get(&*set.group).copied();
        let mut settings = before.unwrap_or_default();
        settings.patch(&set.patch);
        if before.unwrap_or_default() == settings {
            return Ok(Ok(settings));
        }
        if before.is_none() && queue.group_settings.len() >= GROUPS_SET_MAX {
            return Ok(Err(Refusal::TooManyGroupsSet { queue: set.queue.clone(), limit: GROUPS_SET_MAX }));
        }
        let key = key::group_settings(number, &set.group);
        if settings == GroupSettings::default() {
            store.delete(&key);
            self.queue_mut(number)?.group_settings.remove(&*set.group);
        } else {
            self.buffer.clear();
            write_group_settings(&settings, &mut self.buffer);
            store.put(&key, &self.buffer);
            self.queue_mut(number)?.group_settings.insert(set.group.as_str().into(), settings);
        }
        self.retune_one(number, &set.group)?;
        Ok(Ok(settings))
    }
}
