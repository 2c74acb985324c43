//! The licences' texts, as those who give a program away have to give them too.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use crate::bom::Linked;
use crate::packages::{Package, Parts};
use crate::{Fault, licence};

/// How the files begin that hold a licence or a notice.
const NAMES: [&str; 6] = ["licen", "copying", "copyright", "notice", "unlicense", "authors"];

/// Every part with its licence, then each text once with the parts that it is of.
///
/// # Errors
/// When a package of a registry has no licence, or has no file with its text; when what is linked in has a licence that is not in
/// SPDX's list, which has their texts.
pub fn of(parts: &[Parts], linked: &[Linked]) -> Result<String, Fault> {
    let mut packages: Vec<&Package> = parts.iter().flat_map(Parts::all).filter(|one| one.source.is_some()).collect();
    packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    packages.dedup_by(|a, b| a.id == b.id);
    let mut list = String::new();
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages {
        let name = format!("{} {}", package.name, package.version);
        let licence = licence::canonical(&name, package.license.as_deref().unwrap_or_default())?;
        list.push_str(&format!("* {name}: {licence}\n"));
        let folder = Path::new(&package.manifest_path).parent().unwrap_or(Path::new("."));
        let found = texts_in(folder).map_err(|error| Fault::new(format!("{}: {error}", folder.display())))?;
        if found.is_empty() {
            return Err(Fault::new(format!("{name}: {} has no file with the text of its licence", folder.display())));
        }
        for text in found {
            texts.entry(text).or_default().push(name.clone());
        }
    }
    for (at, one) in linked.iter().enumerate() {
        if linked.iter().take(at).any(|before| before == one) {
            continue;
        }
        let name = format!("{} {}", one.name, one.version);
        list.push_str(&format!("* {name}: {}. {}\n", licence::canonical(&name, &one.licence)?, one.copyright));
        for text in licence::texts(&name, &one.licence)? {
            texts.entry(text.trim_end().to_owned()).or_default().push(name.clone());
        }
    }
    let mut by_parts: Vec<(Vec<String>, String)> = texts.into_iter().map(|(text, names)| (names, text)).collect();
    by_parts.sort();
    let rule = "-".repeat(80);
    let mut page =
        format!("Holdfast has parts that others wrote. These are their licences, and below are the texts.\n\n{list}");
    for (names, text) in by_parts {
        page.push_str(&format!("\n{rule}\n{}\n{rule}\n\n{text}\n", names.join(", ")));
    }
    Ok(page)
}

/// The texts of a folder's files, by the files' names.
fn texts_in(folder: &Path) -> io::Result<Vec<String>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_lowercase();
        if entry.file_type()?.is_file() && NAMES.iter().any(|start| name.starts_with(start)) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    let text_of = |path| fs::read_to_string(path).map(|text| text.replace("\r\n", "\n").trim_end().to_owned());
    paths.into_iter().map(text_of).collect()
}
