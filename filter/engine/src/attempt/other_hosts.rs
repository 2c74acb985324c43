//! Whether a retry may find a host that has not asked for a wait.

use super::policy::AttemptPolicy;
use crate::base::time::Timestamp;
use crate::seats::retry_context::RetryContext;

impl AttemptPolicy {
    /// Takes note of the host that an attempt of this request goes to. Costs nothing as long as no host asks for waits.
    pub(super) fn see_host(&mut self, context: &RetryContext, address: impl FnOnce() -> Vec<u8>) {
        if self.hosts_ask_for_waits
            && let Some(seen) = self.seen_hosts(context)
        {
            seen.begin(address);
        }
    }

    /// Whether a host that has not asked for a wait in this request may serve its next attempt. Where hosts are judged their table
    /// says so; what it does not know follows from where attempts went.
    pub(super) fn another_may_serve(&mut self, context: &RetryContext, now: Timestamp) -> bool {
        let has_asked = |address: &[u8]| context.asked_by(address, now).is_some();
        if let Some(is_there) = self.table_has_another(context, &has_asked, now) {
            return is_there;
        }
        self.seen_hosts(context).is_none_or(|seen| seen.may_be_another(has_asked))
    }

    /// Whether there is a host that is none of `these` and gets requests, as far as the table of hosts can tell.
    fn table_has_another(&self, context: &RetryContext, these: &dyn Fn(&[u8]) -> bool, now: Timestamp) -> Option<bool> {
        let rules = self.policy.active_outlier()?;
        self.with_hosts(context, |hosts| {
            let table = hosts.table()?;
            // Without steering nobody keeps requests from a host that is out.
            let is_steered = table.steers(rules, now);
            let (mut has_others, mut is_listed) = (false, table.known() > 0);
            for (_, host) in table.hosts() {
                is_listed &= host.listed;
                if !these(&host.address) {
                    has_others = true;
                    if host.is_in() || !is_steered {
                        return Some(true);
                    }
                }
            }
            // Hosts that are learned from traffic may have been seen one by one.
            (has_others || is_listed).then_some(false)
        })?
    }
}
