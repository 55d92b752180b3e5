//! Policies: settings of all queues whose names match a pattern.

use z4_proto::v1;

use crate::call::Again;
use crate::client::incomplete;
use crate::endpoints::About;
use crate::queues::queues;
use crate::{Client, Error, QueuePatch};

impl Client {
    /// Sets, for all queues whose names match `pattern` (`acme/*`, `*`, or a name), what they do not set themselves. Replaces
    /// what was set for the pattern before: of the patch only what it sets counts.
    ///
    /// # Errors
    /// `Invalid` with the field; any other kind. May be repeated.
    pub async fn set_policy(&self, pattern: &str, patch: QueuePatch) -> Result<v1::Policy, Error> {
        let policy = v1::Policy { pattern: pattern.into(), settings: Some(patch.into_settings()) };
        let request = v1::SetPolicyRequest { policy: Some(policy) };
        let send = |c, r| async move { queues(c).set_policy(r).await };
        let reply = self.call(About::Nothing, Again::Always, request, send).await?;
        reply.policy.ok_or_else(|| incomplete("policy"))
    }

    /// Forgets what was set for a pattern.
    ///
    /// # Errors
    /// `NotFound`, reason `POLICY_NOT_FOUND`, if nothing was; any other kind.
    pub async fn delete_policy(&self, pattern: &str) -> Result<(), Error> {
        let request = v1::DeletePolicyRequest { pattern: pattern.into() };
        let send = |c, r| async move { queues(c).delete_policy(r).await };
        self.call(About::Nothing, Again::IfNotDone, request, send).await.map(drop)
    }

    /// Returns all policies, as the host that is asked knows them.
    ///
    /// # Errors
    /// Any kind.
    pub async fn list_policies(&self) -> Result<Vec<v1::Policy>, Error> {
        let send = |c, r| async move { queues(c).list_policies(r).await };
        let reply = self.call(About::Nothing, Again::Always, v1::ListPoliciesRequest {}, send).await?;
        Ok(reply.policies)
    }
}
