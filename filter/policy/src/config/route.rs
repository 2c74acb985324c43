//! `route`: another cluster.

use super::error::{Report, Reported};
use super::other_cluster::{self, CLUSTER};
use super::reader::Item;
use super::table::{ROUTE, key, keys};
use crate::document::{Match, Route};

/// Reads it for requests that match.
pub(super) fn read(item: &Item<'_>, matches: Option<&Match>, report: &mut Report) -> Result<Route, Reported> {
    let fields = item.object(keys!(ROUTE), report)?;
    let cluster = fields.required(key!(ROUTE.required("cluster")), CLUSTER, report, |item, report| {
        other_cluster::read(item, matches, report)
    });
    match (cluster, fields.not_yet) {
        (_, Some(reported)) => Err(reported),
        (cluster, None) => Ok(Route { cluster: cluster? }),
    }
}
