//! The JSON Schema of the policy document: a walk over the tables by which documents are read.
//!
//! It is for editors, which complete and explain keys by it, and for whatever checks documents without the module. It refuses
//! what a schema can tell to be wrong, and never what the parser takes. What the parser alone can tell (how two durations
//! compare, whether a name is unique) is listed in the tests.
//!
//! The dialect is draft-07, which every editor and validator has, and nothing here needs more: under 2020-12 the language
//! servers that the tests drive answer the same. There is no `$id`: it would be an address, and the schema has none; an editor
//! is told the file.
//!
//! Beside the dialect's own keywords there are those that the language servers of VS Code (JSON) and Red Hat (YAML) know, and
//! that others pass over: `markdownDescription`, `enumDescriptions`, `markdownEnumDescriptions`, `patternErrorMessage` and
//! `errorMessage`.

#[cfg(test)]
pub(in crate::config) mod agreement;
mod pattern;
mod rules;
#[cfg(test)]
mod tests;
mod tree;

use super::json::Node;
use super::prose::{accepted, default_of, type_of, words_of};
use super::table::{Absent, Block, Body, DOCUMENT, Form, GRPC_STATUS, Key, Kind, Names, RESPOND, STATUS, Word};
use super::{duration, size};
use crate::document::GRPC_STATUS_NAMES;
use tree::{Schema, properties};

const DIALECT: &str = "http://json-schema.org/draft-07/schema#";

/// The schema as JSON, indented, with a newline at its end.
pub fn json_schema() -> String {
    let head = Schema::any().with("$schema", DIALECT).with("title", "Holdfast policy document");
    let about = DOCUMENT.about.as_str();
    let example = Node::parse(DOCUMENT.example.as_str().as_bytes()).ok();
    let head = head.with("description", about).with("markdownDescription", about);
    let head = head.with_some("examples", example.map(|example| vec![example]));
    let root = Node::from(head.and(object(&DOCUMENT, "")).with("definitions", properties(definitions())));
    // Only a map with keys that are no texts has no JSON, and there is none here.
    serde_json::to_string_pretty(&root).unwrap_or_default() + "\n"
}

/// What is in a body: the one kind of value that nests.
const IN_BODY: &str = "in_body";

/// Schemas that others refer to.
fn definitions() -> Vec<(&'static str, Schema)> {
    let bodies =
        RESPOND.keys.iter().filter_map(|key| if let Kind::Body(limits) = &key.kind { Some(limits) } else { None });
    bodies.map(|limits| (IN_BODY, body(limits))).collect()
}

/// A body, or a value in one: a string is a template, and so are the strings in a list or an object.
fn body(limits: &Body) -> Schema {
    let inner = || Schema::any().with("$ref", format!("#/definitions/{IN_BODY}"));
    let template = pattern::template(&limits.template).with("maxLength", limits.bytes);
    template.with("items", inner()).with("additionalProperties", inner())
}

/// The object of a block that stands at `path`.
fn object(block: &'static Block, path: &str) -> Schema {
    let parent = if path.is_empty() { String::new() } else { format!("{path}.") };
    let keys =
        block.keys.iter().map(|key| (key.name, described(key, block, &format!("{parent}{}", key.name)))).collect();
    let required: Vec<&str> =
        block.keys.iter().filter(|key| matches!(key.default, Absent::Required)).map(|key| key.name).collect();
    let rules = rules::of(block);
    Schema::of_type("object")
        .with("properties", properties(keys))
        .with_some("required", (!required.is_empty()).then_some(required))
        .with("additionalProperties", false)
        .with_some("allOf", (!rules.is_empty()).then_some(rules))
}

/// The value of a key, with what there is to say about it.
fn described(key: &'static Key, block: &'static Block, path: &str) -> Schema {
    Schema::any()
        .with("title", within_policy(path))
        .with("description", description(key, false))
        .with("markdownDescription", description(key, true))
        .with_some("default", key.default.spelled().and_then(|text| Node::parse(text.as_bytes()).ok()))
        .with_some("examples", example(key, block, path).map(|example| vec![example]))
        .and(of(&key.kind, path))
}

/// What a key does, what it takes, and why one would change it; in Markdown, or as a plain text.
fn description(key: &'static Key, markdown: bool) -> String {
    let label = |label: &str| if markdown { format!("*{label}:*") } else { format!("{label}:") };
    let mut parts = vec![key.does.as_str().to_owned()];
    parts.extend(blocks_of(&key.kind).iter().map(|block| block.about.as_str().to_owned()));
    let (kind, accepted) = (type_of(&key.kind, false), accepted(key, &|_| String::new()));
    let values = if accepted.is_empty() { kind } else { format!("{kind}: {accepted}") };
    parts.push(format!("{} {values}.", label("Takes")));
    let words: Vec<&Word> = words_of(&key.kind).into_iter().flatten().collect();
    if !words.is_empty() {
        let lines: Vec<String> =
            words.iter().map(|word| format!("* `{}`: {}", word.name, word.means.as_str())).collect();
        parts.push(lines.join("\n"));
    }
    if !matches!(key.default, Absent::Required) {
        parts.push(format!("{} {}.", label("Without it"), default_of(&key.default)));
    }
    for (name, text) in [("Why change it", key.change.as_str()), ("In Envoy", key.envoy.as_str())] {
        if !text.is_empty() {
            parts.push(format!("{} {text}", label(name)));
        }
    }
    parts.join(if markdown { "\n\n" } else { "\n" })
}

/// The blocks that a value may be, but not those in a list, whose items have descriptions of their own.
fn blocks_of(kind: &'static Kind) -> Vec<&'static Block> {
    let block = |kind: &Kind| if let Kind::Object(block) = kind { Some(*block) } else { None };
    kind.alternatives().iter().filter_map(block).collect()
}

/// A value of the key from the example of its own block, or of the block that it stands in.
fn example(key: &'static Key, block: &'static Block, path: &str) -> Option<Node> {
    let own = blocks_of(&key.kind);
    let value = own.iter().chain([&block]).find_map(|block| {
        let document = Node::parse(block.example.as_str().as_bytes()).ok()?;
        at(&document, path).cloned()
    })?;
    let default = key.default.spelled().and_then(|text| Node::parse(text.as_bytes()).ok());
    (Some(&value) != default.as_ref()).then_some(value)
}

/// The first value at a path such as `policies[].breaker`.
fn at<'a>(node: &'a Node, path: &str) -> Option<&'a Node> {
    let (step, rest) = path.split_once('.').map_or((path, None), |(step, rest)| (step, Some(rest)));
    let (key, in_list) = step.strip_suffix("[]").map_or((step, false), |key| (key, true));
    let Node::Object(entries) = node else { return None };
    let (_, value) = entries.iter().find(|(name, _)| name == key)?;
    match (value, rest) {
        (Node::Array(items), Some(rest)) if in_list => items.iter().find_map(|item| at(item, rest)),
        (Node::Array(items), None) if in_list => items.first(),
        (_, Some(rest)) => at(value, rest),
        (_, None) => Some(value),
    }
}

/// What a kind of value looks like.
fn of(kind: &'static Kind, path: &str) -> Schema {
    match kind {
        Kind::Boolean => Schema::of_type("boolean"),
        Kind::Duration(range) => {
            let (first, last) = (duration::text(*range.start()), duration::text(*range.end()));
            pattern::duration(&format!("from {first} to {last}"))
        }
        Kind::Size(range) => {
            let (first, last) = (size::text(*range.start()), size::text(*range.end()));
            pattern::size(&format!("from {first} to {last}"))
        }
        // Three decimals count, and a share that is rounded to nothing is refused.
        Kind::Percent { min: 0 } => number(0.0, 100.0).and(rules::nothing_that_rounds_to_none()),
        Kind::Percent { min } => number(f64::from(*min), 100.0),
        Kind::PositivePercent => number(rules::ROUNDS_TO_NONE, 100.0),
        Kind::Number(range) => number(f64::from(*range.start()), f64::from(*range.end())),
        Kind::Whole(range) => bounded("integer", *range.start(), *range.end()),
        Kind::Word(words) => word(words),
        Kind::String(form) => string(form),
        Kind::Status => either(bounded("integer", *STATUS.start(), *STATUS.end()), string_of(pattern::status())),
        Kind::GrpcStatus => Schema::any_of(vec![
            Schema::of_type("string").with("enum", GRPC_STATUS_NAMES.to_vec()),
            bounded("integer", *GRPC_STATUS.start(), *GRPC_STATUS.end()),
        ]),
        Kind::Globs(_) => {
            let list = Schema::of_type("array").with("items", string_of(pattern::glob())).with("minItems", 1u32);
            either(string_of(pattern::glob()), list)
        }
        Kind::List { of: item, empty, unique, most } => Schema::of_type("array")
            .with("items", titled(item, &format!("{path}[]")))
            .with_some("minItems", (!empty).then_some(1u32))
            .with_some("maxItems", *most)
            .with_some("uniqueItems", unique.then_some(true)),
        Kind::Headers { names, of: value, most } => {
            let object = Schema::of_type("object").with("propertyNames", pattern::header_names(*names));
            // What is sent and not only looked at.
            let fixed = (*names == Names::Sent).then(pattern::fixed_header);
            let object = object
                .with_some("patternProperties", fixed.map(|(name, fixed)| properties(vec![(name.as_str(), fixed)])));
            object.with("additionalProperties", of(value, path)).with("maxProperties", *most)
        }
        Kind::Body(limits) => body(limits),
        Kind::Object(block) => object(block, path),
        Kind::OneOf(kinds) => {
            let schemas: Vec<Schema> = kinds.iter().map(|kind| of(kind, path)).collect();
            if are_apart(&schemas) {
                schemas.into_iter().reduce(either).unwrap_or_default()
            } else {
                Schema::any_of(schemas)
            }
        }
    }
}

/// An item of a list. One that is an object says what it is.
fn titled(kind: &'static Kind, path: &str) -> Schema {
    let Kind::Object(block) = kind else { return of(kind, path) };
    let title = match path {
        "policies[]" => "A policy",
        path => within_policy(path),
    };
    let about = block.about.as_str();
    let head = Schema::any().with("title", title).with("description", about).with("markdownDescription", about);
    head.and(object(block, path))
}

/// The path as the reference writes it.
fn within_policy(path: &str) -> &str {
    path.strip_prefix("policies[].").unwrap_or(path)
}

/// Numbers within a range that holds its ends.
fn number(first: f64, last: f64) -> Schema {
    bounded("number", first, last)
}

fn bounded(name: &str, first: impl Into<Node>, last: impl Into<Node>) -> Schema {
    Schema::of_type(name).with("minimum", first).with("maximum", last)
}

fn string_of(keywords: Schema) -> Schema {
    Schema::of_type("string").and(keywords)
}

/// One of a few words, each with what it stands for.
fn word(words: &'static [Word]) -> Schema {
    let names: Vec<&str> = words.iter().map(|word| word.name).collect();
    let means: Vec<&str> = words.iter().map(|word| word.means.as_str()).collect();
    let enumeration = Schema::of_type("string").with("enum", names).with("enumDescriptions", means.clone());
    enumeration.with("markdownEnumDescriptions", means)
}

fn string(form: &Form) -> Schema {
    match form {
        Form::Name { most } => pattern::name(*most),
        Form::Glob(_) => string_of(pattern::glob()),
        Form::HeaderName => pattern::header_name(),
        Form::HeaderValue(limits) => pattern::header_value(pattern::template(limits)),
        Form::Text { most } => pattern::text(*most),
        Form::Authority => pattern::authority(),
        Form::Method => pattern::method(),
        Form::Path => pattern::path(),
        Form::Cluster => Schema::of_type("string").with("minLength", 1u32),
        Form::Host => pattern::host(),
    }
}

/// Whether each keyword of these binds values of one type only, so that all can stand side by side: an editor then says what is
/// wrong with the value that is there, and not that it fits none of several.
fn are_apart(schemas: &[Schema]) -> bool {
    let names: Vec<Node> = schemas.iter().filter_map(Schema::types).flatten().collect();
    let of_all_types = ["enum", "const", "anyOf", "allOf", "not"];
    let apart = names.iter().enumerate().all(|(at, name)| !names.iter().skip(at + 1).any(|other| other == name));
    apart && schemas.iter().all(|schema| schema.types().is_some() && !of_all_types.iter().any(|word| schema.has(word)))
}

/// Values of either, which are of different types.
fn either(one: Schema, other: Schema) -> Schema {
    let types: Vec<Node> = [one.types(), other.types()].into_iter().flatten().flatten().collect();
    Schema::any().with("type", types).and(one.without_types()).and(other.without_types())
}
