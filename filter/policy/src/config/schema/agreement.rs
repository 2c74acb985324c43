//! Whether schema and parser agree on a document: what the parser takes is valid, and each of the parser's errors is one of the
//! schema's at the same place, unless it is of a kind that no schema can say.
// In Node there is no validator.
#![cfg(not(target_arch = "wasm32"))]

use std::sync::LazyLock;

use jsonschema::{PatternOptions, Validator, error::ValidationErrorKind};
use serde_json::{Map, Value};

use crate::config::json::Node;
use crate::config::reader::key_path;
use crate::config::{Error, Errors, MAX_LISTED, schema};
use crate::document::Document;

/// A kind of error that only the parser tells.
pub(in crate::config) struct Untold {
    /// Why the schema cannot.
    pub(in crate::config) why: &'static str,
    /// Whether a problem is of this kind.
    pub(in crate::config) is: fn(&str) -> bool,
    /// Keys of a policy whose only error it is.
    pub(in crate::config) example: fn() -> String,
}

/// All of them. Whatever else is refused by the parser alone fails the tests.
pub(in crate::config) const UNTOLD: &[Untold] = &[
    Untold {
        why: "JSON Schema judges values, in which no key can be twice",
        is: |problem| problem.starts_with("the key is there "),
        example: || r#""breaker": {"ramp": "1s", "ramp": "2s"}"#.to_owned(),
    },
    Untold {
        why: "it compares numbers, and a duration is a string",
        is: |problem| is_range_of_durations(problem),
        example: || r#""breaker": {"open_for": "25h"}"#.to_owned(),
    },
    Untold {
        why: "the same, for a size",
        is: |problem| problem.starts_with("must be within 1KiB..=1MiB"),
        example: || r#""fallback": [{"on": ["failure"], "stale": {"max_body": "2MiB"}}]"#.to_owned(),
    },
    Untold {
        why: "it cannot count the items that have a key",
        is: |problem| problem.starts_with("must be there once in a policy"),
        example: || r#""fallback": [{"on": ["failure"], "stale": {}}, {"on": ["timeout"], "stale": {}}]"#.to_owned(),
    },
    Untold {
        why: "it cannot say which methods a glob matches",
        is: |problem| problem.starts_with("keeps answers to GET"),
        example: || r#""match": {"method": "POST"}, "fallback": [{"on": ["failure"], "stale": {}}]"#.to_owned(),
    },
    Untold {
        why: "it cannot compare the values of two keys",
        is: |problem| {
            ["must be at least base_ejection_time (", "must be at least open_for (", "must be at least base ("]
                .iter()
                .any(|start| problem.starts_with(start))
        },
        example: || r#""breaker": {"open_for": "1m", "open_max": "30s"}"#.to_owned(),
    },
    Untold {
        why: "the same, for the time of one attempt and of all",
        is: |problem| problem.starts_with("must be at most timeout ("),
        example: || r#""retry": {"per_try_timeout": "2s", "timeout": "1s"}"#.to_owned(),
    },
    Untold {
        why: "the same, for the time of a call and of all attempts",
        is: |problem| problem.starts_with("must not be longer than retry.timeout"),
        example: || {
            r#""retry": {"timeout": "100ms"}, "fallback": [{"on": ["failure"], "call": {"cluster": "a"}}]"#.to_owned()
        },
    },
    Untold {
        why: "the same, for numbers",
        is: |problem| problem.starts_with("must be at most the ") && problem.contains("outcomes of window"),
        example: || r#""breaker": {"window": 10, "min_requests": 11}"#.to_owned(),
    },
    Untold {
        why: "the same, for the two ends of a range in one string",
        is: |problem| problem.starts_with("must be an ascending range"),
        example: || r#""outcome": {"failure": {"status": ["599-500"]}}"#.to_owned(),
    },
    Untold {
        why: "the items of a list can be told to differ as a whole, and not in one of their keys",
        is: |problem| problem.starts_with("must be unique, "),
        example: || r#""mode": "off"}, {"name": "p""#.to_owned(),
    },
    Untold {
        why: "names and addresses can be written in several ways, and to a schema these differ",
        is: |problem| {
            ["is the same header as ", "is the same as ", "is the same host as "]
                .iter()
                .any(|start| problem.starts_with(start))
        },
        example: || r#""scope": [{"header": "x-a"}, {"header": "X-A"}]"#.to_owned(),
    },
    Untold {
        why: "in this list statuses may be there twice, so that no value can be told to be there once",
        is: |problem| problem.starts_with("must be a word that is not in the list yet"),
        example: || r#""retry": {"on": ["reset", "reset"]}"#.to_owned(),
    },
    Untold {
        why: "a pattern for the groups of an IPv6 address is longer than anybody reads",
        is: |problem| problem.starts_with("must be an address") && problem.contains("was \"["),
        example: || r#""outlier": {"hosts": ["[1:2:3]:80"]}"#.to_owned(),
    },
    Untold {
        why: "the same, for a host",
        is: |problem| problem.starts_with("must be a host such as ") && problem.contains("was \"["),
        example: || r#""outlier": {"heartbeat": {"host": "[1:2:3]:80"}}"#.to_owned(),
    },
    Untold {
        why: "it counts characters, and the parser bytes",
        is: |problem| problem.starts_with("must be at most 1024 bytes long"),
        example: || format!(r#""match": {{"route": "{}"}}"#, "é".repeat(600)),
    },
    Untold {
        why: "it cannot compare names in two places",
        is: |problem| problem.starts_with("must be another cluster than match.cluster"),
        example: || {
            r#""match": {"cluster": "a"}, "breaker": {}, "fallback": [{"on": ["open"], "route": {"cluster": "a"}}]"#
                .to_owned()
        },
    },
    Untold {
        why: "it cannot measure the text of an object or a list",
        is: |problem| problem.starts_with("must be at most 1 MiB"),
        example: || {
            let body = format!("[\"{}\"]", "a".repeat(1024 * 1024));
            format!(r#""fallback": [{{"on": ["failure"], "respond": {{"status": 200, "body": {body}}}}}]"#)
        },
    },
    Untold {
        why: "it cannot count what stands in several strings",
        is: |problem| problem.starts_with("must have at most 64 variables"),
        example: || {
            let body = format!("[{}0]", "\"${path}\",".repeat(65));
            format!(r#""fallback": [{{"on": ["failure"], "respond": {{"status": 200, "body": {body}}}}}]"#)
        },
    },
];

/// `must be within 1ms..=24h`, where numbers have no unit.
fn is_range_of_durations(problem: &str) -> bool {
    let range = problem.strip_prefix("must be within ").and_then(|rest| rest.split(", was ").next());
    range.is_some_and(|range| range.ends_with(|char: char| char.is_ascii_alphabetic()))
}

static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| {
    let schema: Value = serde_json::from_str(&schema::json_schema()).expect("the schema is JSON");
    jsonschema::draft7::meta::validate(&schema).expect("the schema is a schema");
    // This engine has no look-around, as others have none.
    jsonschema::draft7::options().with_pattern_options(PatternOptions::regex()).build(&schema).expect("it compiles")
});

/// As [`parse`](crate::config::parse), for documents on which the schema is to agree; a panic where it does not.
pub(in crate::config) fn parse(bytes: &[u8]) -> Result<Document, Errors> {
    let result = crate::config::parse(bytes);
    assert_agreement(bytes, result.as_ref().err());
    result
}

#[track_caller]
fn assert_agreement(bytes: &[u8], errors: Option<&Errors>) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(node) = Node::parse(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)) else {
        assert!(errors.is_some(), "no JSON, and taken: {text}");
        return;
    };
    let told = told(&node);
    let listed = errors.map(Errors::listed).unwrap_or_default();
    for error in listed {
        let is_told = told.iter().any(|told| told.covers(error));
        let is_untold = UNTOLD.iter().any(|untold| (untold.is)(&error.problem));
        assert!(is_told || is_untold, "the schema takes what the parser refuses: {error}\n{text}\n{told:?}");
    }
    // Behind the last one that is listed there may be more.
    let all_listed = errors.is_none_or(|errors| errors.total() < MAX_LISTED);
    for told in told.iter().filter(|_| all_listed) {
        let is_refused = listed.iter().any(|error| told.follows_from(error));
        assert!(is_refused, "the schema refuses what the parser takes: {told:?}\n{text}\n{listed:?}");
    }
}

/// Whether the schema takes a document.
pub(super) fn is_valid(node: &Node) -> bool {
    VALIDATOR.is_valid(&value(node))
}

/// An error of the schema.
#[derive(Debug)]
struct Told {
    /// As the parser writes it.
    path: String,
    /// Whether the value fits none of several alternatives, or is a list with the same item twice: the parser says in which
    /// part of it.
    is_of_whole: bool,
    /// The object of the condition between keys that it is of. Where a key is wrong by itself the parser judges none.
    condition: Option<String>,
    #[expect(dead_code, reason = "shown when an assertion fails")]
    problem: String,
}

impl Told {
    /// Whether it is what the parser says.
    fn covers(&self, error: &Error) -> bool {
        self.path == error.path
            || (self.is_of_whole && is_within(&error.path, &self.path))
            // A condition finds fault with a key where the parser may do so with the object.
            || (self.condition.is_some() && is_within(&self.path, &error.path))
    }

    /// Whether the parser's error is why there is this one.
    fn follows_from(&self, error: &Error) -> bool {
        // Where the parser stops it looks at nothing deeper.
        self.covers(error)
            || self.path == "document"
            || is_within(&self.path, &error.path)
            || self.condition.as_ref().is_some_and(|object| is_within(&error.path, object))
            // That a key is missing beside one of a later version is no second problem to the parser.
            || (error.problem == "not supported yet" && parent(&self.path) == parent(&error.path))
    }
}

fn told(node: &Node) -> Vec<Told> {
    let value = value(node);
    let mut all = Vec::new();
    for error in VALIDATOR.iter_errors(&value) {
        let pointer = error.instance_path().as_str();
        let place = path(pointer, &value);
        let condition = holder(error.schema_path().as_str(), pointer).map(|holder| path(&holder, &value));
        let is_of_whole = matches!(error.kind(), ValidationErrorKind::AnyOf { .. } | ValidationErrorKind::UniqueItems);
        let problem: String = error.to_string().chars().take(200).collect();
        let keys: Vec<String> = match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected } => unexpected.clone(),
            ValidationErrorKind::Required { property } => property.as_str().map(str::to_owned).into_iter().collect(),
            ValidationErrorKind::PropertyNames { error } => {
                error.instance().as_str().map(str::to_owned).into_iter().collect()
            }
            _ => Vec::new(),
        };
        let at = |path| Told { path, is_of_whole, condition: condition.clone(), problem: problem.clone() };
        match keys.as_slice() {
            [] => all.push(at(place)),
            keys => all.extend(keys.iter().map(|key| at(key_in(&place, key)))),
        }
    }
    all
}

/// The pointer to the object with the condition between keys that an error at `pointer` is of, if it is of one.
fn holder(schema_path: &str, pointer: &str) -> Option<String> {
    let branch = ["/then/", "/else/"].iter().filter_map(|branch| schema_path.find(branch)).min()?;
    let above = schema_path.get(..branch).unwrap_or_default();
    let depth = above.matches("/properties/").count() + above.matches("/items").count();
    Some(pointer.split('/').take(depth + 1).collect::<Vec<_>>().join("/"))
}

fn key_in(path: &str, key: &str) -> String {
    if path == "document" && key == "policies" { key.to_owned() } else { key_path(path, key) }
}

/// A JSON pointer into `root` as the parser writes paths.
fn path(pointer: &str, root: &Value) -> String {
    let (mut path, mut value) = ("document".to_owned(), root);
    for step in pointer.split('/').skip(1) {
        let key = step.replace("~1", "/").replace("~0", "~");
        match value {
            Value::Array(items) => {
                path = format!("{path}[{key}]");
                value = key.parse::<usize>().ok().and_then(|at| items.get(at)).expect("an item");
            }
            _ => {
                path = key_in(&path, &key);
                value = value.get(&key).expect("a key");
            }
        }
    }
    path
}

fn parent(path: &str) -> Option<&str> {
    path.rfind('.').and_then(|at| path.get(..at))
}

/// Whether `path` is `outer` or in it.
fn is_within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// What a reader of JSON that keeps no key twice makes of it; the first one counts, as for the parser.
fn value(node: &Node) -> Value {
    match node {
        Node::Array(items) => Value::Array(items.iter().map(value).collect()),
        Node::Object(entries) => {
            let mut map = Map::new();
            for (key, node) in entries {
                map.entry(key.clone()).or_insert_with(|| value(node));
            }
            Value::Object(map)
        }
        other => serde_json::from_str(&other.to_text()).expect("a value is JSON"),
    }
}
