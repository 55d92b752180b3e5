//! Settings by name pattern: set, forget, list.
//!
//! The host carries changes to the registry's leader itself, so a door need not forward them.

use z4_proto::convert::{pb_policy, policy};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;

use crate::call::Call;

pub(super) async fn set(
    call: Call<'_>,
    request: v1::SetPolicyRequest,
) -> Result<v1::SetPolicyResponse, Failure> {
    let (pattern, settings) = policy(request.policy)?;
    call.write(call.handle().set_policy(pattern.clone(), &settings)).await?;
    Ok(v1::SetPolicyResponse { policy: Some(pb_policy(pattern, &settings)) })
}

pub(super) async fn delete(
    call: Call<'_>,
    request: v1::DeletePolicyRequest,
) -> Result<v1::DeletePolicyResponse, Failure> {
    if request.pattern.is_empty() {
        let what = "is empty; give the pattern of the policy, as they are listed";
        return Err(Failure::invalid("pattern", reason::FIELD_MISSING, what));
    }
    call.write(call.handle().delete_policy(request.pattern)).await?;
    Ok(v1::DeletePolicyResponse {})
}

pub(super) async fn list(
    call: Call<'_>,
    _: v1::ListPoliciesRequest,
) -> Result<v1::ListPoliciesResponse, Failure> {
    let (version, policies) = call.handle().policies();
    let policies = policies.into_iter().map(|(pattern, settings)| pb_policy(pattern, &settings)).collect();
    Ok(v1::ListPoliciesResponse { policies, version })
}
