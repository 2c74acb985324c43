//! Several request seats in one chain of filters: two teams in one gateway, two services on one sidecar's port.
//!
//! The first seat whose policy matches governs the request, and the others leave everything of it alone. Who governs stands in the
//! filter state that the access log shows, where no client can write.

use super::access_log;
use super::active::ActivePolicy;
use super::facts::Facts;
use crate::host::{Headers, Host};
use crate::outlier::steering;
use crate::store::{Expected, Store, paths};

/// Lets a request pass that no policy of this seat matches: without a client's own choice of a host, with that of a seat before this
/// one.
pub fn pass(host: &dyn Host, facts: &Facts<'_>) {
    if !facts.lacks_header(steering::HEADER)
        && host.header(Headers::Request, steering::HEADER).is_some()
        && !is_governed(host)
    {
        host.remove_header(Headers::Request, steering::HEADER);
    }
}

/// Whether a policy may govern the request that it matches. Where a seat before this one does, that is said once.
pub fn may_govern(store: &mut dyn Store, host: &dyn Host, active: &ActivePolicy) -> bool {
    let Some(line) = access_log::read(host) else { return true };
    // Another filter may hold the name.
    let Some(other) = access_log::policy_of(&line) else { return true };
    if !active.has_reported_chain.replace(true) {
        report(store, host, &active.policy().name, other);
    }
    false
}

/// Notes that a policy governs the request which does nothing at all.
pub fn claim(host: &dyn Host, active: &ActivePolicy) {
    access_log::write(host, &access_log::line_of_off(&active.policy().name));
}

fn is_governed(host: &dyn Host) -> bool {
    access_log::read(host).is_some_and(|line| access_log::policy_of(&line).is_some())
}

/// Says once for all workers that a policy does not govern what it matches.
fn report(store: &mut dyn Store, host: &dyn Host, policy: &str, other: &[u8]) {
    if store.swap(&paths::told_of_chain(policy), b"1", Expected::Absent).is_ok() {
        let other = String::from_utf8_lossy(other);
        let line = format!(
            "{policy}: does not govern a request that it matches: the policy {other} of a request seat before this one does"
        );
        host.log(true, &line);
    }
}
