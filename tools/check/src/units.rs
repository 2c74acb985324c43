//! Which documents belong together.

use crate::assembly::Unit;
use crate::sources::{Kind, Plugin, kind};
use crate::texts::{At, Texts};
use crate::wasm::Wasm;

/// All units.
#[derive(Debug, Default)]
pub struct Units<'a> {
    /// One for each bootstrap; the files of discovery are in each of them.
    bootstraps: Vec<Unit<'a>>,
    /// Files of discovery.
    resources: Unit<'a>,
    /// Other files, by their numbers.
    files: Vec<(usize, Unit<'a>)>,
    /// Files that are policy documents.
    alone: Vec<usize>,
    /// Whether the files of discovery have been given to the bootstraps.
    joined: bool,
}

impl<'a> Units<'a> {
    /// Adds a document with what was found in it; `alone` where it is a policy document by itself.
    pub fn add(&mut self, texts: &Texts, root: At<'a>, filters: Vec<Wasm<'a>>, plugins: Vec<Plugin<'a>>, alone: bool) {
        let file = texts.file(&root);
        if alone {
            self.alone.push(file);
            return;
        }
        let whole = texts.outer_path(root.text).is_empty();
        let unit = match kind(&root) {
            Kind::Bootstrap if whole => {
                self.bootstraps.push(Unit::default());
                self.bootstraps.last_mut()
            }
            Kind::Resources if whole => Some(&mut self.resources),
            _ => {
                if !self.files.iter().any(|(number, _)| *number == file) {
                    self.files.push((file, Unit::default()));
                }
                self.files.iter_mut().find(|(number, _)| *number == file).map(|(_, unit)| unit)
            }
        };
        if let Some(unit) = unit {
            unit.roots.push(root);
            unit.filters.extend(filters);
            unit.plugins.extend(plugins);
        }
    }

    /// Filters by the names under which discovery gives them: `TypedExtensionConfig` in files, `EXTENSION_CONFIG` in patches.
    pub fn discovered(&mut self) -> Vec<(&'a str, Wasm<'a>)> {
        if !self.joined && !self.bootstraps.is_empty() {
            self.joined = true;
            let resources = std::mem::take(&mut self.resources);
            for unit in &mut self.bootstraps {
                unit.roots.extend(resources.roots.iter().cloned());
                unit.filters.extend(resources.filters.iter().cloned());
            }
            if let [only] = self.bootstraps.as_mut_slice() {
                only.companions.clone_from(&self.alone);
            }
        }
        let filters = self.all().flat_map(|unit| &unit.filters);
        filters.filter_map(|wasm| Some((wasm.extension?, wasm.clone()))).collect()
    }

    /// Those that have the module somewhere.
    pub fn with_holdfast(&self) -> impl Iterator<Item = &Unit<'a>> {
        self.all().filter(|unit| !unit.filters.is_empty() || !unit.plugins.is_empty() || discovers(unit))
    }

    /// The units.
    fn all(&self) -> impl Iterator<Item = &Unit<'a>> {
        self.bootstraps.iter().chain(std::iter::once(&self.resources)).chain(self.files.iter().map(|(_, unit)| unit))
    }

    /// The files that are about Holdfast: policy documents, and all of a unit that has the module somewhere.
    pub fn files_with_holdfast(&self, texts: &Texts) -> Vec<usize> {
        let files = self.with_holdfast().flat_map(|unit| unit.roots.iter().map(|root| texts.file(root)));
        files.chain(self.alone.iter().copied()).collect()
    }
}

/// Whether a filter is Holdfast by the name under which it is discovered.
fn discovers(unit: &Unit<'_>) -> bool {
    fn walk(at: &At<'_>) -> bool {
        let named = at.text("name").is_some_and(|name| name.split(['.', '-']).next() == Some("holdfast"));
        (named && at.get("config_discovery").is_some())
            || at.items().iter().any(walk)
            || at.entries().iter().any(|(_, value)| walk(value))
    }
    unit.roots.iter().any(walk)
}
