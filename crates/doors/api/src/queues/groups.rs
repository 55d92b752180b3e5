//! Groups of a queue: limits of one, what one has, and all of them a page at a time.

use z4_proto::convert::{group_name, pb_group, queue_name, set_group};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::GroupCursor;
use z4_types::{Kind, QueueName};

use super::accepted;
use crate::call::Call;
use crate::tasks::{bad_token, hex, page_size, unhex};

/// First byte of a token behind a group with tasks; its number follows.
const OPEN: u8 = 1;
/// Of one behind a group that only has limits; its name follows.
const SET: u8 = 2;

pub(super) async fn set(
    call: Call<'_>,
    request: v1::SetGroupRequest,
) -> Result<v1::SetGroupResponse, Failure> {
    let queue = queue_name(&request.queue, "queue")?;
    let command = set_group(queue.clone(), &request.group, request.settings, request.update_mask.as_ref())?;
    let shard = call.handle().shard_of(&queue);
    let local = |request: v1::SetGroupRequest| async move {
        accepted(call.write(call.handle().set_group(command)).await?)?;
        // It is done: whatever the read says, "nothing was done" would not be true.
        let group = one(call, queue, request.group).await.map_err(|failure| {
            let what = format!("the group is set, but what it is now could not be read: {}", failure.message);
            Failure::new(Kind::OutcomeUnknown, reason::OUTCOME_UNKNOWN, what)
        })?;
        Ok(v1::SetGroupResponse { group: Some(group), forwarded_to: String::new() })
    };
    call.serve(shard, request, local).await
}

pub(super) async fn get(
    call: Call<'_>,
    request: v1::GetGroupRequest,
) -> Result<v1::GetGroupResponse, Failure> {
    let queue = queue_name(&request.queue, "queue")?;
    let group = group_name(&queue, &request.group)?;
    let shard = call.handle().shard_of(&queue);
    let local = |_| async move {
        let group = Some(one(call, queue, group).await?);
        Ok(v1::GetGroupResponse { group, forwarded_to: String::new() })
    };
    call.serve(shard, request, local).await
}

pub(super) async fn list(
    call: Call<'_>,
    request: v1::ListGroupsRequest,
) -> Result<v1::ListGroupsResponse, Failure> {
    let queue = queue_name(&request.queue, "queue")?;
    let after = cursor(&request.page_token)?;
    let limit = page_size(request.page_size) as usize;
    let shard = call.handle().shard_of(&queue);
    let local = |_| async move {
        let (_, page) = call.read(call.handle().groups_of(queue, after, limit)).await?;
        Ok(v1::ListGroupsResponse {
            groups: page.groups.iter().map(pb_group).collect(),
            next_page_token: page.next.map(|next| token(&next)).unwrap_or_default(),
            forwarded_to: String::new(),
        })
    };
    call.serve(shard, request, local).await
}

/// Returns one group of a queue whose shard is led here.
async fn one(call: Call<'_>, queue: QueueName, group: String) -> Result<v1::Group, Failure> {
    let (_, info) = call.read(call.handle().group_of(queue, group)).await?;
    Ok(pb_group(&info))
}

fn token(cursor: &GroupCursor) -> String {
    let mut bytes = Vec::new();
    match cursor {
        GroupCursor::Number(number) => {
            bytes.push(OPEN);
            bytes.extend(number.to_le_bytes());
        }
        GroupCursor::Name(name) => {
            bytes.push(SET);
            bytes.extend(name.as_bytes());
        }
    }
    hex(&bytes)
}

fn cursor(token: &str) -> Result<Option<GroupCursor>, Failure> {
    if token.is_empty() {
        return Ok(None);
    }
    let bytes = unhex(token).ok_or_else(bad_token)?;
    let cursor = match bytes.split_first() {
        Some((&OPEN, rest)) => rest.try_into().ok().map(|rest| GroupCursor::Number(u32::from_le_bytes(rest))),
        Some((&SET, rest)) => String::from_utf8(rest.to_vec()).ok().map(GroupCursor::Name),
        _ => None,
    };
    cursor.map(Some).ok_or_else(bad_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_other_text_is_refused() {
        for at in [GroupCursor::Number(7), GroupCursor::Name("acme".into())] {
            assert_eq!(cursor(&token(&at)), Ok(Some(at)));
        }
        assert_eq!(cursor(""), Ok(None));
        for wrong in ["0", "03", "zz", "01aa", "02ff"] {
            assert_eq!(cursor(wrong), Err(bad_token()), "{wrong}");
        }
    }
}
