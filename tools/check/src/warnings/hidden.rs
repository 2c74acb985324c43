//! Policies that govern nothing, because an earlier one governs all of their requests: the first that matches does.

use holdfast_policy::document::{Match, Policy};
use holdfast_policy::glob::Glob;

/// How `earlier` leaves nothing for `later`, if it does.
pub fn hides(earlier: &Policy, later: &Policy) -> Option<&'static str> {
    if everything(&earlier.matches) {
        Some("comes first and matches every request")
    } else if earlier.matches == later.matches {
        Some("comes first and matches the same ones")
    } else if covers(&earlier.matches, &later.matches) {
        Some("comes first and matches all that this one does")
    } else {
        None
    }
}

fn everything(matches: &Match) -> bool {
    // A header has to be there, so that any condition on one leaves something out.
    let Match { cluster, route, authority, path, method, headers } = matches;
    let any = |globs: &[Glob], all: &[&str]| globs.is_empty() || globs.iter().any(|glob| all.contains(&glob.as_str()));
    any(cluster, &["*", "**"])
        && any(route, &["*", "**"])
        && any(method, &["*", "**"])
        && any(authority, &["**"])
        && any(path, &["**", "/**"])
        && headers.is_empty()
}

/// Whether `one` matches every request that `other` does, as far as their globs tell.
fn covers(one: &Match, other: &Match) -> bool {
    // A path begins with a slash.
    let any = |globs: &[Glob]| globs.is_empty() || globs.iter().any(|glob| ["**", "/**"].contains(&glob.as_str()));
    let lists = [
        (&one.cluster, &other.cluster),
        (&one.route, &other.route),
        (&one.authority, &other.authority),
        (&one.path, &other.path),
        (&one.method, &other.method),
    ];
    let listed = lists.into_iter().all(|(globs, others)| {
        let each = || others.iter().all(|other| globs.iter().any(|glob| glob.covers(other)));
        any(globs) || (!others.is_empty() && each())
    });
    listed
        && one.headers.iter().all(|(name, glob)| {
            other.headers.iter().any(|(other_name, other)| name == other_name && glob.covers(other))
        })
}
