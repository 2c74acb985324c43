//! The cluster that a fallback names in place of the request's own.

use super::error::{Report, Reported};
use super::reader::Item;
use crate::document::Match;

/// What a cluster's name is called where there is something else.
pub(super) const CLUSTER: &str = "the name of a cluster such as \"standby\"";

/// Reads its name for requests that match.
pub(super) fn read(item: &Item<'_>, matches: Option<&Match>, report: &mut Report) -> Result<String, Reported> {
    let own = matches.map(|matches| matches.cluster.as_slice()).unwrap_or_default();
    let name = item.string(CLUSTER, report)?;
    if name.is_empty() {
        return Err(item.bad("must not be empty", report));
    }
    if name.contains('*') {
        return Err(item.bad("must be the name of one cluster: it is no glob", report));
    }
    // A policy of several clusters may well fall back to one of them.
    if !own.is_empty() && own.iter().all(|glob| glob.is_literal() && glob.matches(name.as_bytes())) {
        return Err(item.bad("must be another cluster than match.cluster, which requests come from", report));
    }
    Ok(name.to_owned())
}
