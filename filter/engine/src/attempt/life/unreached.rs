//! What the end of an attempt says of its host that waited for a connection until its request's time was over.
//!
//! Envoy's time-out of an attempt begins when there is a connection, and its own outlier detection hears nothing of a wait that the
//! request's time-out ends (seen on Envoy 1.36 and 1.40). Where `connect_timeout` is longer than that, a host that swallows
//! connections would never be found.

use super::{Attempt, AttemptPlugin};
use crate::attempt::connection::{Connection, WAITED, upstream_address};
use crate::attempt::policy::AttemptPolicy;
use crate::base::time::Timestamp;
use crate::host::Host;

impl Attempt {
    /// Whether its end says something of its host, which it was sent to at `sent`.
    pub(super) fn says_something(
        &self,
        plugin: &AttemptPlugin,
        host: &dyn Host,
        policy: &mut AttemptPolicy,
        connection: Connection,
        (sent, now): (Timestamp, Timestamp),
    ) -> bool {
        match connection {
            Connection::Unheard => self.has_waited_in_vain(plugin, host, policy, now),
            Connection::There => {
                if let Some(unreached) = policy.unreached(&self.context).filter(|hosts| !hosts.is_empty()) {
                    unreached.reach(&self.address(host));
                }
                true
            }
            Connection::Failed | Connection::Without => connection.says_something(now.since(sent)),
        }
    }

    /// Whether it has waited for its host, and long enough: for most of the time that its request had, and not for the first time. One
    /// that had to wait because the host's connections served others says nothing.
    fn has_waited_in_vain(
        &self,
        plugin: &AttemptPlugin,
        host: &dyn Host,
        policy: &mut AttemptPolicy,
        now: Timestamp,
    ) -> bool {
        // Envoy asks for the connection when it begins the attempt, whatever that waits for then.
        let waited = now.since(self.began);
        if !policy.judges_hosts() || waited < WAITED || waited < now.since(self.context.admitted) / 2 {
            return false;
        }
        let (Ok(mut in_flight), Some(unreached)) = (plugin.in_flight.try_borrow_mut(), policy.unreached(&self.context))
        else {
            return false;
        };
        let address = self.address(host);
        if in_flight.has_connection(&address, |stream, path| host.property_of(stream, self.stream, path)) {
            unreached.reach(&address);
            return false;
        }
        unreached.wait_in_vain(&address, self.began, now)
    }

    /// What is known of its connection. Of the attempts of a request Envoy speaks only of the one that was begun last, and it begins a
    /// hedge only beside one that has a connection.
    pub(super) fn connection(&self, host: &dyn Host) -> Connection {
        let is_last = self.address.as_ref().is_none_or(|own| *own == upstream_address(host));
        if is_last { Connection::read(host) } else { Connection::There }
    }
}
