//! Values of the rows of groups that have limits of their own. The rows of the groups themselves are in `fair`.

use crate::codec::{Malformed, Reader};
use crate::settings::GroupSettings;

const VERSION: u8 = 1;

/// Appends the row's value.
pub(crate) fn write_group_settings(settings: &GroupSettings, out: &mut Vec<u8>) {
    out.push(VERSION);
    settings.put(out);
}

pub(crate) fn read_group_settings(value: &[u8]) -> Result<GroupSettings, Malformed> {
    let mut reader = Reader::new(value);
    if reader.u8("group settings version")? != VERSION {
        return Err(Malformed("unknown group settings version"));
    }
    let settings = GroupSettings::read(&mut reader)?;
    reader.end("bytes behind the settings of a group")?;
    Ok(settings)
}
