//! The bootstrap's settings of statistics: two tags that make labels, and a matcher that lets the module's metrics through.

use holdfast_yaml::Yaml;

use super::Changes;
use super::file::{At, File};
use crate::place::Report;

/// What the names of the module's metrics begin with.
const PREFIX: &str = "wasmcustom.holdfast.";

/// Puts them in.
pub fn put(bootstrap: &At<'_>, files: &[File], changes: &mut Changes, report: &mut Report) {
    const COMMENT: &str = "Holdfast: the policy and the key of a metric become labels.";
    let Some(file) = files.get(bootstrap.file) else { return };
    let config = bootstrap.get("stats_config");
    let tags = config.as_ref().map(|config| config.list("stats_tags")).unwrap_or_default();
    let mut missing = Vec::new();
    for label in ["policy", "key"] {
        let regex = format!(r"({label}=\.=(.*?);\.;)");
        match tags.iter().find(|tag| tag.text("tag_name") == Some(label)) {
            Some(tag) if tag.text("regex") != Some(regex.as_str()) => {
                let problem =
                    format!("stays, and Holdfast's label {label} is not made: it would be `regex: '{regex}'`");
                report.warn(&file.place(&tag.path), problem);
            }
            Some(_) => {}
            None => missing.push(
                // In single quotes, as people write patterns.
                Yaml::map().with("tag_name", label).with("regex", Yaml::Plain(format!("'{regex}'"))),
            ),
        }
    }
    let matcher = config.as_ref().and_then(|config| config.get("stats_matcher"));
    let mut pass = false;
    if let Some(matcher) = matcher {
        let drops = matcher.text("reject_all") == Some("true")
            || matcher.at(&["exclusion_list"]).is_some_and(|list| list.list("patterns").iter().any(matches));
        if drops {
            let problem =
                format!("drops {PREFIX}*, which the module needs to be told of changes at once: let it through");
            report.warn(&file.place(&matcher.path), problem);
        }
        pass = matcher.at(&["inclusion_list"]).is_some_and(|list| !list.list("patterns").iter().any(matches));
    }
    if missing.is_empty() && !pass {
        return;
    }
    changes.at(bootstrap, move |bootstrap| {
        if bootstrap.get("stats_config").is_none() {
            bootstrap.set_behind(&["node", "admin"], COMMENT, "stats_config", Yaml::map());
        }
        let Some(config) = bootstrap.get_mut("stats_config") else { return };
        if !missing.is_empty() {
            if config.get("stats_tags").is_none() {
                config.set("", "stats_tags", Yaml::List(Vec::new()));
            }
            if let Some(list) = config.get_mut("stats_tags").and_then(Yaml::items_mut) {
                list.extend(missing);
            }
        }
        let patterns = config.at_mut(&["stats_matcher", "inclusion_list", "patterns"]).and_then(Yaml::items_mut);
        if let Some(patterns) = patterns.filter(|_| pass) {
            patterns.push(Yaml::map().noted("Holdfast: the module reads its own gauges.", "prefix", PREFIX));
        }
    });
}

/// Whether a pattern takes the module's metrics. One by regex is taken as one that does not.
fn matches(pattern: &At<'_>) -> bool {
    let fold = pattern.text("ignore_case") == Some("true");
    let folded = |text: &str| if fold { text.to_ascii_lowercase() } else { text.to_owned() };
    let prefix = pattern.text("prefix").map(folded);
    let contains = pattern.text("contains").map(folded);
    prefix.is_some_and(|prefix| PREFIX.starts_with(&prefix)) || contains.is_some_and(|part| PREFIX.contains(&part))
}
