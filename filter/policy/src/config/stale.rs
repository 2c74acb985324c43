//! `stale`: the last good answer.

use super::error::{Report, Reported};
use super::reader::Item;
use super::table::{STALE, key, keys};
use crate::document::{Match, Stale};

/// The method whose answers are kept.
const KEPT: &str = "GET";

/// Reads it for requests that match. `first` is where the policy has another one, if it has.
pub(super) fn read(
    item: &Item<'_>,
    matches: Option<&Match>,
    first: Option<&str>,
    report: &mut Report,
) -> Result<Stale, Reported> {
    if let Some(first) = first {
        let problem =
            format!("must be there once in a policy, which keeps its answers in one way: name its reasons in {first}");
        return Err(report.add(&item.path, problem));
    }
    let methods = matches.map(|matches| matches.method.as_slice()).unwrap_or_default();
    let is_possible = methods.is_empty() || methods.iter().any(|method| method.matches(KEPT.as_bytes()));
    let possible = if is_possible {
        Ok(())
    } else {
        let methods: Vec<&str> = methods.iter().map(|method| method.as_str()).collect();
        let problem = format!("keeps answers to GET, and match.method lets only {} through", methods.join(", "));
        Err(report.add(&item.path, problem))
    };
    let fields = item.object(keys!(STALE), report)?;
    let max_age = fields.duration(key!(STALE.duration("max_age")), report);
    let max_body = fields.size(key!(STALE.size("max_body")), report);
    let entries = fields.small_count(key!(STALE.small_count("entries")), report);
    possible?;
    Ok(Stale { max_age: max_age?, max_body: max_body?, entries: entries? })
}
