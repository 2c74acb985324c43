//! Where links lead.

use std::path::{Component, Path};

use crate::page::Page;

/// What is wrong with a link of `page`, which may lead to another of `pages`, to a file below `root`, or out of the repository.
#[must_use]
pub fn fault(root: &Path, pages: &[Page], page: &Page, target: &str) -> Option<String> {
    if target.starts_with("https://") {
        return None;
    }
    if target.contains("://") || target.starts_with('/') {
        return Some("leads neither into the repository nor to https".to_owned());
    }
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let Some(name) = (if path.is_empty() { Some(page.name.clone()) } else { resolved(&page.name, path) }) else {
        return Some("leads out of the repository".to_owned());
    };
    if !root.join(&name).exists() {
        return Some(format!("there is no {name}"));
    }
    let anchor = anchor?;
    match pages.iter().find(|other| other.name == name) {
        Some(other) if other.anchors.iter().any(|known| known == anchor) => None,
        Some(_) => Some(format!("{name} has no heading #{anchor}")),
        None => Some(format!("{name} is no page, and has no headings")),
    }
}

/// A path that is relative to a page, from the repository's root; `None` if it leads out of it.
fn resolved(page: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_to_a_file_or_a_heading() {
        // Any files that are there do as pages.
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (one, other) = (Page::read("src/link.rs", "# One"), Page::read("src/lib.rs", "# The other"));
        let pages = [one.clone(), other];
        for good in ["", "#one", "lib.rs", "./lib.rs#the-other", "../Cargo.toml", "..", "https://www.envoyproxy.io/#x"]
        {
            assert_eq!(fault(root, &pages, &one, good), None, "{good}");
        }
        for (bad, expected) in [
            ("#two", "no heading #two"),
            ("lib.rs#one", "no heading #one"),
            ("lib.md", "there is no src/lib.md"),
            ("../Cargo.toml#x", "no page"),
            ("../../README.md", "out of the repository"),
            ("/src/lib.rs", "neither"),
            ("http://example.org", "neither"),
        ] {
            let fault = fault(root, &pages, &one, bad).unwrap_or_default();
            assert!(fault.contains(expected), "{bad}: {fault:?}");
        }
    }
}
