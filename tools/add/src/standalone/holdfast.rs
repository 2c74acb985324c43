//! Holdfast's own filters in a chain: finding them, and putting them in.

use holdfast_yaml::Yaml;

use super::Changes;
use super::file::{At, File};
use super::found::Manager;
use crate::envoy::seat::{Module, Seat, VM_ID, codec, wasm};
use crate::place::Report;
use crate::policy::{self, Policy, Side, Target};

/// What a filter of ours is called where it is new.
const NAME: &str = "holdfast";

/// A request seat that is there already.
#[derive(Debug, Clone)]
pub struct Present<'a> {
    filter: At<'a>,
    index: usize,
    /// Where it has the module from, if that is a file.
    pub module: Option<Module>,
}

/// Whether a filter is Holdfast, in whatever seat.
fn is_ours(filter: &At<'_>) -> bool {
    let by_name = filter.get("config_discovery").is_some()
        && filter.text("name").is_some_and(|name| name.split(['.', '-']).next() == Some(NAME));
    let config = filter.get("typed_config").filter(|config| config.is("Wasm")).and_then(|config| config.get("config"));
    let by_config = config.is_some_and(|config| {
        let vm_id = config.get("vm_config").and_then(|vm| vm.text("vm_id"));
        [config.text("root_id"), config.text("name"), vm_id].contains(&Some(NAME))
    });
    by_name || by_config
}

/// The manager's request seat: of several the first one that governs a target, else the first.
pub fn request_seat<'a>(manager: &Manager<'a>, targets: &[Target]) -> Option<Present<'a>> {
    let governs = |filter: &At<'_>| {
        let value = filter.at(&["typed_config", "config", "configuration", "value"]);
        value.and_then(|value| document_of(&value)).is_some_and(|text| policy::governs_any(&text, targets))
    };
    let mut seats = manager.at.list("http_filters").into_iter().enumerate().filter(|(_, filter)| is_ours(filter));
    let first = seats.next()?;
    let (index, filter) =
        if governs(&first.1) { first } else { seats.find(|(_, seat)| governs(seat)).unwrap_or(first) };
    let file = filter.at(&["typed_config", "config", "vm_config", "code", "local"]);
    let module = file.and_then(|local| local.text("filename")).map(|path| Module::File(path.to_owned()));
    Some(Present { filter, index, module })
}

impl Present<'_> {
    /// Whether Envoy is told of it later.
    fn discovered(&self) -> bool {
        self.filter.get("config_discovery").is_some()
    }

    /// A policy of another file cannot be put into it, if it is discovered.
    pub fn takes_policy(&self, files: &[File], report: &mut Report) {
        if let Some(file) = files.get(self.filter.file).filter(|_| self.discovered()) {
            let problem = "its policy comes by discovery: `holdfast wrap` writes it into the file that Envoy follows, so leave out --policy";
            report.error(&file.place(&self.filter.path), problem);
        }
    }

    /// Its policy document, with a policy for each target that it does not govern yet.
    pub fn updated(&self, files: &[File], targets: &[Target], report: &mut Report) -> Option<Policy> {
        let file = files.get(self.filter.file)?;
        if self.discovered() {
            let problem = "its policy comes by discovery and stays as it is: see to it that it governs these clusters";
            report.warn(&file.place(&self.filter.path), problem);
            return policy::by_default(targets, Side::Calls, report);
        }
        let configuration = self.filter.at(&["typed_config", "config", "configuration"]);
        let configuration = configuration.filter(|at| at.is("StringValue") || at.is("Struct"));
        let value = configuration.and_then(|at| at.get("value"));
        let Some((value, text)) = value.and_then(|value| Some((value.clone(), document_of(&value)?))) else {
            let problem =
                "its policy cannot be read here: write it as a StringValue, or give another one with --policy";
            report.error(&file.place(&self.filter.path), problem);
            return None;
        };
        let documents = value.node.text().map(|text| holdfast_yaml::parse(text).unwrap_or_default());
        let place = file.place(&value.path);
        let within = |path: &str| {
            let at = match &documents {
                Some(documents) => {
                    let inner = documents.first().and_then(|document| Some(document.root.as_ref()?.find(path)));
                    inner.map_or(value.node.start, |at| value.node.inner(&file.text, at.line, at.column))
                }
                None => value.node.find(path),
            };
            format!("{}:{at}: {}: ", file.name, place.path())
        };
        policy::extended(&text, targets, &within, report)
    }
}

/// The JSON of the policy document that is the value of a configuration: a text, or a `google.protobuf.Struct`.
fn document_of(value: &At<'_>) -> Option<String> {
    match value.node.text() {
        Some(text) => Some(text.to_owned()),
        None => serde_json::to_string(&value.node.value()).ok(),
    }
}

/// Puts the request seat just before the router, or brings it up to date.
pub fn put_request_seat(
    manager: &Manager<'_>,
    targets: &[Target],
    policy: &Policy,
    module: &Module,
    files: &[File],
    changes: &mut Changes,
    report: &mut Report,
) {
    let filters = manager.at.list("http_filters");
    let (Some(list), Some(router)) = (manager.at.get("http_filters"), filters.iter().position(is_router)) else {
        let problem = "has no router, before which Holdfast stands";
        match files.get(manager.at.file) {
            Some(file) => report.error(&file.place(&manager.at.path).field("http_filters"), problem),
            None => report.wrong(problem),
        }
        return;
    };
    let present = request_seat(manager, targets).map(|seat| seat.index);
    // Other seats of Holdfast may stand before the router: the first that matches governs, so their order stays.
    let seats = filters.iter().take(router).rev().take_while(|filter| is_ours(filter)).count();
    let first = router - seats;
    let config = wasm(Seat::Request(&policy.text), module, VM_ID);
    let document = policy.text.clone();
    changes.at(&list, move |list| {
        let Some(list) = list.items_mut() else { return };
        let mut seat = match present.filter(|index| *index < list.len()) {
            Some(index) => list.remove(index),
            None => Yaml::map().noted(
                "Holdfast, the request seat: just before the router, so that it judges only what would have reached the service.",
                "name",
                NAME,
            ),
        };
        brought_up_to_date(&mut seat, config, Some(&document));
        let at = match present {
            Some(index) if (first..router).contains(&index) => index,
            Some(index) if index < router => first - 1,
            _ => router,
        };
        list.insert(at.min(list.len()), seat);
    });
}

/// Whether a filter is the router.
pub fn is_router(filter: &At<'_>) -> bool {
    filter.text("name") == Some("envoy.filters.http.router")
        || filter.get("typed_config").is_some_and(|config| config.is("Router"))
}

/// Puts the attempt seat into a list of upstream filters; makes the list where there is none. It stands first: what it takes off a
/// request no other filter has signed, and its wait comes before what others do for an attempt.
pub fn put_attempt_seat(filters: &mut Yaml, module: &Module) {
    const COMMENT: &str =
        "Holdfast, the attempt seat: it judges each attempt and its host, and decides on the next one.";
    let config = wasm(Seat::Attempt, module, VM_ID);
    let Some(list) = filters.items_mut() else {
        let seat = Yaml::map().noted(COMMENT, "name", NAME).with("typed_config", config);
        *filters = vec![seat, codec()].into();
        return;
    };
    let ours = |filter: &Yaml| {
        if is_discovered(filter) {
            return true;
        }
        let config = filter.get("typed_config").and_then(|config| config.get("config"));
        let id = |key: &str| config.and_then(|config| config.get(key)).map(Yaml::value);
        [id("root_id"), id("name")].into_iter().flatten().any(|value| value.as_str() == Some(NAME))
    };
    if let Some(seat) = list.iter_mut().find(|filter| ours(filter)) {
        brought_up_to_date(seat, config, None);
        return;
    }
    let seat = Yaml::map().noted(COMMENT, "name", NAME).with("typed_config", config);
    list.insert(0, seat);
}

/// A filter with all that Holdfast needs. What else it has stays, and so does a module that it has from a file, and a policy
/// that says the same in other words.
fn brought_up_to_date(filter: &mut Yaml, config: Yaml, policy: Option<&str>) {
    if is_discovered(filter) {
        return;
    }
    let Some(present) = filter.get_mut("typed_config").and_then(|typed| typed.get_mut("config")) else {
        filter.set("", "typed_config", config);
        return;
    };
    let Some(wanted) = config.get("config") else { return };
    for entry in wanted.entries() {
        match entry.key.as_str() {
            "vm_config" => {
                for part in entry.value.entries() {
                    let same = present.get("vm_config").and_then(|vm| vm.get(&part.key)).map(Yaml::value);
                    if same.as_ref() == Some(&part.value.value())
                        || (part.key == "configuration" && is_attempt(same.as_ref()))
                    {
                        continue;
                    }
                    if present.get("vm_config").is_none() {
                        present.set("", "vm_config", Yaml::map());
                    }
                    if let Some(vm) = present.get_mut("vm_config") {
                        vm.set("", &part.key, part.value.clone());
                    }
                }
            }
            "configuration" if policy.is_some_and(|policy| says_the_same(present, policy)) => {}
            key => present.set("", key, entry.value.clone()),
        }
    }
}

/// Whether it is one of ours that Envoy is told of later.
fn is_discovered(filter: &Yaml) -> bool {
    let name = filter.get("name").map(Yaml::value);
    let ours = name.as_ref().and_then(serde_norway::Value::as_str).and_then(|name| name.split(['.', '-']).next())
        == Some(NAME);
    ours && filter.get("config_discovery").is_some()
}

fn is_attempt(configuration: Option<&serde_norway::Value>) -> bool {
    let value = configuration.and_then(|configuration| configuration.get("value")).and_then(json_of);
    value.and_then(|value| Some(value.get("seat")?.as_str()? == "attempt")).unwrap_or(false)
}

fn says_the_same(config: &Yaml, policy: &str) -> bool {
    let value = config.get("configuration").map(Yaml::value);
    let present = value.as_ref().and_then(|value| value.get("value")).and_then(json_of);
    present.is_some_and(|present| Some(present) == serde_json::from_str(policy).ok())
}

/// What the value of a configuration says: the JSON in a text, or a `google.protobuf.Struct`.
fn json_of(value: &serde_norway::Value) -> Option<serde_json::Value> {
    match value.as_str() {
        Some(text) => serde_json::from_str(text).ok(),
        None => serde_json::to_value(value).ok(),
    }
}
