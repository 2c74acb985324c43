//! Whether metrics and decisions can be seen.

use regex_lite::Regex;

use super::Assembly;
use crate::rules;
use crate::rules::Rule;
use crate::texts::At;

/// Names that have to pass: the signal between workers, and a metric of a policy.
const NAMES: [&str; 2] =
    ["wasmcustom.holdfast.epoch", "wasmcustom.holdfast.policy=.=orders;.;key=.=cluster=orders;.;requests"];
/// The text of the filter state with the decision.
const STATE: &str = "wasm.holdfast";

impl<'a> Assembly<'a, '_> {
    /// Looks at stats and access logs.
    pub(super) fn stats(&mut self) {
        let seated: Vec<At<'a>> =
            self.managers.iter().filter(|manager| manager.seats().next().is_some()).map(|one| one.at.clone()).collect();
        let mut found: Vec<(&'static Rule, At<'a>, String)> = Vec::new();
        for bootstrap in self.bootstraps.iter().filter(|_| !seated.is_empty() || !self.unit.filters.is_empty()) {
            let config = bootstrap.get("stats_config");
            if let Some(matcher) = config.as_ref().and_then(|config| config.get("stats_matcher"))
                && let Some(name) = NAMES.iter().find(|name| drops(&matcher, name))
            {
                found.push((&rules::STATS_MATCHER, matcher, format!("drops {name}")));
            }
            let tags = config.as_ref().map(|config| config.list("stats_tags")).unwrap_or_default();
            let missing: Vec<&str> =
                ["policy", "key"].into_iter().filter(|name| !tags.iter().any(|tag| makes(tag, name))).collect();
            if !missing.is_empty() {
                let at = config.as_ref().and_then(|config| config.get("stats_tags")).or(config);
                let problem = format!("no tag makes a label of {}", missing.join(" and "));
                found.push((&rules::STATS_TAGS, at.unwrap_or_else(|| bootstrap.clone()), problem));
            }
        }
        for manager in &seated {
            let logs = manager.list("access_log");
            if !logs.is_empty() && !logs.iter().any(|log| mentions(log)) {
                let at = manager.get("access_log").unwrap_or_else(|| manager.clone());
                found.push((&rules::ACCESS_LOG, at, "no access log has Holdfast's decision".to_owned()));
            }
        }
        for (rule, at, problem) in found {
            self.add(rule, &at, problem);
        }
    }
}

/// Whether a tag takes a label out of the metrics' names.
fn makes(tag: &At<'_>, label: &str) -> bool {
    let Some(pattern) = tag.text("regex").and_then(|pattern| Regex::new(pattern).ok()) else { return false };
    let value = if label == "policy" { "orders" } else { "cluster=orders" };
    NAMES.iter().any(|name| {
        pattern.captures(name).and_then(|found| found.get(found.len() - 1)).is_some_and(|found| found.as_str() == value)
    })
}

/// Whether a matcher keeps a name out.
fn drops(matcher: &At<'_>, name: &str) -> bool {
    let any = |list: &str| {
        let patterns = matcher.get(list).map(|list| list.list("patterns"))?;
        Some(patterns.iter().any(|pattern| matches(pattern, name)))
    };
    matcher.is_true("reject_all") || any("exclusion_list") == Some(true) || any("inclusion_list") == Some(false)
}

/// Whether a pattern takes a name. Source: Envoy, `type.matcher.v3.StringMatcher`.
fn matches(pattern: &At<'_>, name: &str) -> bool {
    let fold = pattern.is_true("ignore_case");
    let folded = |text: &str| if fold { text.to_ascii_lowercase() } else { text.to_owned() };
    let text = |field: &str| pattern.text(field).map(folded);
    let name = folded(name);
    let regex = pattern.get("safe_regex").and_then(|regex| regex.text("regex"));
    text("exact").is_some_and(|exact| exact == name)
        || text("prefix").is_some_and(|prefix| name.starts_with(&prefix))
        || text("suffix").is_some_and(|suffix| name.ends_with(&suffix))
        || text("contains").is_some_and(|part| name.contains(&part))
        // The whole name has to match.
        || regex.and_then(|regex| Regex::new(&format!("^(?:{regex})$")).ok()).is_some_and(|regex| regex.is_match(&name))
}

/// Whether a text in it names the filter state.
fn mentions(at: &At<'_>) -> bool {
    at.node.text().is_some_and(|text| text.contains(STATE))
        || at.items().iter().any(mentions)
        || at.entries().iter().any(|(_, value)| mentions(value))
}
