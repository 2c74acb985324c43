//! The schema beside the parser: on documents made from the tables, and on those that only the parser refuses.
//!
//! Every document of the parser's own tests goes through [`agreement`] as well.
// In Node there is no validator.
#![cfg(not(target_arch = "wasm32"))]

use core::time::Duration;
use std::fs;
use std::path::Path;

use proptest::collection;
use proptest::prelude::*;
use proptest::sample::Index;

use super::agreement::{UNTOLD, is_valid, parse};
use super::*;
use crate::config::table::tests::edited;
use crate::config::table::{Segments, sections};

/// The policy with these keys beside its name.
fn policy(keys: &str) -> String {
    format!(r#"{{"policies": [{{"name": "p", {keys}}}]}}"#)
}

#[test]
fn it_lists_the_keys_of_a_block_in_the_order_of_the_table() {
    let schema = Node::parse(json_schema().as_bytes()).unwrap();
    for section in sections() {
        for path in &section.paths {
            let Node::Object(found) = within(&schema, path) else { panic!("{path}") };
            let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, section.block.keys.iter().map(|key| key.name).collect::<Vec<_>>(), "{path}");
        }
    }
}

/// The `properties` of the block at `path`.
fn within<'a>(schema: &'a Node, path: &str) -> &'a Node {
    let mut node = schema;
    for step in path.split('.').filter(|step| !step.is_empty()) {
        let (key, in_list) = step.strip_suffix("[]").map_or((step, false), |key| (key, true));
        node = child(child(node, "properties"), key);
        if in_list {
            node = child(node, "items");
        }
        // A part of `scope` may be a word as well, and so may `balance`.
        if let Node::Object(entries) = node
            && let Some((_, Node::Array(others))) = entries.iter().find(|(name, _)| name == "anyOf")
        {
            node = others.last().unwrap();
        }
    }
    child(node, "properties")
}

fn child<'a>(node: &'a Node, key: &str) -> &'a Node {
    let Node::Object(entries) = node else { panic!("{key}: {node:?}") };
    &entries.iter().find(|(name, _)| name == key).unwrap_or_else(|| panic!("{key}")).1
}

#[test]
fn every_key_is_explained() {
    fn look(node: &Node, keys: &mut usize) {
        let Node::Object(entries) = node else { return };
        for (name, value) in entries {
            if name == "properties"
                && let Node::Object(properties) = value
            {
                for (key, schema) in properties {
                    let text = |keyword: &str| match child(schema, keyword) {
                        Node::String(text) => text.clone(),
                        other => panic!("{key}: {other:?}"),
                    };
                    assert!(text("markdownDescription").contains("*Takes:* "), "{key}");
                    assert!(text("description").contains("\nTakes: "), "{key}");
                    look(schema, keys);
                    *keys += 1;
                }
            } else if ["items", "anyOf"].contains(&name.as_str()) {
                match value {
                    Node::Array(items) => items.iter().for_each(|item| look(item, keys)),
                    item => look(item, keys),
                }
            }
        }
    }
    let mut keys = 0;
    look(&Node::parse(json_schema().as_bytes()).unwrap(), &mut keys);
    let expected: usize = sections().iter().map(|section| section.block.keys.len() * section.paths.len()).sum();
    assert_eq!(keys, expected);
}

#[test]
fn what_only_the_parser_tells_is_told_by_it_alone() {
    for untold in UNTOLD {
        let document = policy(&(untold.example)());
        let errors = parse(document.as_bytes()).expect_err(untold.why);
        assert!(errors.listed().iter().all(|error| (untold.is)(&error.problem)), "{}: {errors}", untold.why);
        assert!(is_valid(&Node::parse(document.as_bytes()).unwrap()), "the schema tells it: {}", untold.why);
    }
}

/// Values of each JSON type, and of each form near to right and wrong: what is not accepted of them must be refused by both.
fn values(kind: &'static Kind) -> Vec<String> {
    let quoted = |text: &str| format!("\"{}\"", crate::config::json::escaped(text));
    let mut values: Vec<String> =
        ["null", "true", "0", "-1", "1.5", "5.0", "1e3", "1e300", "0.0001", "0.0005", "101"].map(str::to_owned).into();
    values.extend(["[]", "{}", "[null]", "[[]]", r#"{"": 1}"#, r#"{"zz": {}}"#].map(str::to_owned));
    for kind in kind.alternatives() {
        match kind {
            Kind::Duration(range) => {
                let near = [*range.start(), *range.end(), *range.end() + Duration::from_nanos(1), Duration::ZERO];
                values.extend(near.map(|near| quoted(&duration::text(near))));
                values.extend(DURATIONS.map(quoted));
            }
            Kind::Size(range) => {
                let near = [*range.start(), *range.end(), range.end() + 1, range.start() - 1];
                values.extend(near.map(|near| quoted(&size::text(near))));
                values.extend(["64", "64KB", "64 KiB", "-1B", "1.5MiB", "99999999999999MiB"].map(quoted));
            }
            Kind::Percent { .. } | Kind::PositivePercent => values.extend(["100", "100.001"].map(str::to_owned)),
            Kind::Number(range) | Kind::Whole(range) => {
                values.extend([range.start(), range.end()].map(u32::to_string));
                values.extend(
                    [f64::from(*range.start()) - 0.5, f64::from(*range.end()) + 0.5].map(|near| near.to_string()),
                );
            }
            Kind::Word(words) => {
                values.extend(words.iter().map(|word| quoted(word.name)));
                values.extend(["", "Off", "OFF ", "enforced"].map(quoted));
            }
            Kind::String(form) => values.extend([""].iter().chain(strings(form)).map(|text| quoted(text))),
            Kind::Status => {
                values.extend([99, 100, 599, 600].map(|status| status.to_string()));
                let written =
                    ["99", "100", "599", "600", "5xx", "500-599", "500-600", "500-", "-500", "+50", "0500", ""];
                values.extend(written.map(quoted));
            }
            Kind::GrpcStatus => {
                values.extend(["-1", "16", "17", "16.5"].map(str::to_owned));
                values.extend(["UNAVAILABLE", "OK", "unavailable", "CANCELED", "14", ""].map(quoted));
            }
            Kind::Globs(_) => {
                values.extend(GLOBS.map(quoted));
                values.extend(GLOBS.map(|glob| format!("[\"a\", {}]", quoted(glob))));
                values.push(quoted(&"a".repeat(1025)));
            }
            Kind::List { of, most, .. } => {
                let items: Vec<String> = self::values(of);
                values.extend(items.iter().map(|item| format!("[{item}]")));
                values.extend(items.iter().map(|item| format!("[{item}, {item}]")));
                let many = most.map(|most| vec!["null"; most + 1].join(","));
                values.extend(many.map(|many| format!("[{many}]")));
            }
            Kind::Headers { of, most, .. } => {
                for name in ["x-a", "Content-Type"] {
                    values.extend(self::values(of).iter().map(|value| format!(r#"{{"{name}": {value}}}"#)));
                }
                let names = strings(&Form::HeaderName);
                let reserved = [
                    "Content-Length",
                    "TE",
                    "te-a",
                    "x-holdfast",
                    "X-Holdfast-A",
                    "GRPC-status",
                    "upgrade",
                    "Connection",
                    "Host",
                    "X-Envoy-Max-Retries",
                    "grpc-timeout",
                ];
                values.extend(names.iter().chain(&reserved).map(|name| format!("{{{}: \"a\"}}", quoted(name))));
                let many: Vec<String> = (0..=*most).map(|at| format!("\"x-{at}\": \"a\"")).collect();
                values.push(format!("{{{}}}", many.join(",")));
            }
            Kind::Body(_) => {
                values.extend(TEMPLATES.map(quoted));
                values.extend([64, 65].map(|count| quoted(&"a$${$${path}".repeat(count))));
                values.extend([64, 65].map(|count| quoted(&"${path}".repeat(count))));
                values.extend(TEMPLATES.iter().flat_map(|text| {
                    let text = quoted(text);
                    [format!("[7, {text}]"), format!("{{{text}: {{\"a b\": [null, {text}]}}}}")]
                }));
            }
            Kind::Object(block) => {
                // Each key with what it never takes, and one that is none.
                values.extend(block.keys.iter().map(|key| format!(r#"{{"{}": [[]]}}"#, key.name)));
                values.extend(block.not_yet.iter().map(|name| format!(r#"{{"{name}": {{}}}}"#)));
            }
            Kind::Boolean | Kind::OneOf(_) => {}
        }
    }
    values
}

const DURATIONS: [&str; 18] = [
    "", "10", "s", "-1s", "+1s", "1 s", " 1s", "1s ", "1S", "1d", "1.s", ".5s", "1.2.3s", "1s1s", "1s1m", "1e3s", "١s",
    "1s\n",
];

const GLOBS: [&str; 11] = ["", "*", "**", "***", "a**", "**a*", "a***b", "é*\n", "* * *", "**a**b**", "****"];

const TEMPLATES: [&str; 24] = [
    "",
    "a",
    "$",
    "$$",
    "{}",
    "$5 and $$ and $",
    "${reason}${policy} ${retry_after}${path}",
    "${header.X-Id}",
    "${header.a|b}",
    "${header.}",
    "${header.:path}",
    "${header.a b}",
    "${Reason}",
    "${reason",
    "${",
    "${}",
    "$${",
    "$${reason}",
    "$$${reason}",
    "$$$${nope",
    "$ {nope}",
    "$$ ${nope}",
    "${reason}}",
    "a\n${path}$\n",
];

/// Right and wrong ones.
fn strings(form: &Form) -> &'static [&'static str] {
    match form {
        Form::Name { .. } => {
            &["a", "A", "a_1-b", "a b", "é", "a\n", "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffggg"]
        }
        Form::Glob(_) => &GLOBS,
        Form::HeaderName => {
            &["X-Tenant_1", "a b", "a:b", ":path", ":status", "é", "a\r\nb", "a|b~c", "(a)", "-", "a/b"]
        }
        Form::HeaderValue(_) => &[
            "a",
            "a b",
            " a",
            "a ",
            "\t",
            "é",
            "a\r\nb: c",
            "~!",
            "a  b",
            " ",
            "${reason}",
            "a ${header.X-Id}, $${b}",
            "${nope}",
            "$",
            "$${path",
            "${path",
            " ${path}",
        ],
        Form::Text { .. } => &["a", "a b", " a", "a ", "\t", "é", "a\r\nb: c", "~!", "${nope}"],
        Form::Authority => &[
            "orders",
            "orders.default:8080",
            "10.0.0.1",
            "[::1]",
            "[::1]:8080",
            "[1:2:3]:8080",
            "[::1]8080",
            "::1",
            "a|b",
            "a/b",
            "a b",
            "a@b",
            "a%2f",
            "a%2",
            ":80",
            "a:",
            "a:0",
            "a:65535",
            "a:65536",
            "a:080",
            "a:b",
            "é",
            "a\n",
            "*.example.com",
        ],
        Form::Method => &[
            "GET", "get", "Post", "PURGE", "purge", "A B", "GETS", "gets", "é", "Connect", "PATCH", "patcH", "M-SEARCH",
        ],
        Form::Path => &["/", "a", "/a?b=c", "/a b", "/é", "/a\n", "//", "/~"],
        Form::Cluster => &["a", "a b", "é", " "],
        Form::Host => &[
            "10.0.0.1:80",
            "10.0.0.1",
            "10.0.0.256:80",
            "010.0.0.1:80",
            "01.0.0.1:80",
            "10.0.0:80",
            "10.0.0.1:0",
            "10.0.0.1:00",
            "10.0.0.1:0080",
            "10.0.0.1:65535",
            "10.0.0.1:65536",
            "10.0.0.1:100000",
            "[::1]:80",
            "[2001:DB8:0:0:0:0:0:1]:8080",
            "[::ffff:10.0.0.1]:80",
            "[fe80::1%2]:80",
            "[fe80::1%0]:80",
            "::1:80",
            "orders:80",
            " 10.0.0.1:80",
        ],
    }
}

/// Every key of every block in the block's own example, with values in and out of what the table says.
#[test]
fn schema_and_parser_agree_on_every_key() {
    let (mut taken, mut refused) = (0, 0);
    for section in sections() {
        for (path, key) in section.paths.iter().flat_map(|path| section.block.keys.iter().map(move |key| (path, key))) {
            for value in values(&key.kind) {
                let (text, _) = edited(section.block, path, key.name, Some(&value));
                match parse(text.as_bytes()) {
                    Ok(_) => taken += 1,
                    Err(_) => refused += 1,
                }
            }
            let (text, _) = edited(section.block, path, &format!("{}x", key.name), Some("1"));
            assert!(parse(text.as_bytes()).is_err(), "a key that is none: {text}");
        }
    }
    assert!(taken > 500 && refused > 3000, "{taken} taken, {refused} refused");
}

/// A document with every block, of which the properties below change some keys.
const WHOLE: &str = r#"{"policies": [{
    "name": "a", "match": {"path": "/a/**", "header": {"x-a": "*"}}, "scope": ["route", {"header": "x-tenant"}],
    "outcome": {"failure": {"status": [429], "header": {"x-a": "*"}}, "ignore": {"status": [404]}, "slow_after": "1s"},
    "breaker": {"slow_rate": 80, "half_open": {"probes": 3}}, "concurrency": {"max_requests": 10}, "throttle": {},
    "retry": {"on": [503], "per_try_timeout": "1s", "backoff": {}, "retry_after": {}, "budget": {}},
    "outlier": {"consecutive_failures": {"threshold": 3}, "consecutive_gateway_failures": {}, "failure_rate": {},
                "consecutive_local_failures": {}, "success_rate": {}, "latency": {}, "heartbeat": {}, "probe": {},
                "discover": {"cluster": "a", "path": "/"}},
    "fallback": [{"on": ["open", "failure"], "respond": {"status": 503, "headers": {"x-a": "b"}, "body": "${reason}"}}]
}]}"#;

/// Gives a key of the object at `path` a value, or takes the key away; nothing where there is no such object any more.
fn change(root: &mut Node, path: &str, name: &str, value: Option<Node>) {
    let mut node = root;
    for step in path.split('.').filter(|step| !step.is_empty()) {
        let Node::Object(entries) = node else { return };
        let key = step.trim_end_matches("[]");
        let Some((_, child)) = entries.iter_mut().find(|(name, _)| name == key) else { return };
        node = child;
        if step.ends_with("[]") {
            let Node::Array(items) = node else { return };
            let Some(item) = items.iter_mut().find(|item| matches!(item, Node::Object(_))) else { return };
            node = item;
        }
    }
    let Node::Object(entries) = node else { return };
    entries.retain(|(other, _)| other != name);
    entries.extend(value.map(|value| (name.to_owned(), value)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Errors beside each other, and conditions whose keys are wrong themselves.
    #[test]
    fn schema_and_parser_agree_on_several_keys_at_once(
        changes in collection::vec((any::<Index>(), any::<Index>(), prop::bool::weighted(0.3)), 1..8),
    ) {
        let places = sections().into_iter().flat_map(|section| {
            let of_path = |path: String| section.block.keys.iter().map(move |key| (path.clone(), key));
            section.paths.into_iter().flat_map(of_path)
        });
        let places: Vec<(String, &Key)> = places.collect();
        let mut document = Node::parse(WHOLE.as_bytes()).unwrap();
        for (place, value, is_taken_away) in changes {
            let (path, key) = place.get(&places);
            let value = (!is_taken_away).then(|| Node::parse(value.get(&values(&key.kind)).as_bytes()).unwrap());
            change(&mut document, path, key.name, value);
        }
        // It says itself where they do not.
        let _ = parse(document.to_text().as_bytes());
    }
}

/// Conditions between keys, from both sides.
#[test]
fn schema_and_parser_agree_where_one_key_needs_another() {
    let modes = ["", r#""mode": "off","#, r#""mode": "shadow","#, r#""mode": 7,"#];
    let mut documents = Vec::new();
    for slow_rate in ["0", "50", "\"x\"", "-1"] {
        for outcome in ["", r#""outcome": {},"#, r#""outcome": {"slow_after": "1s"},"#, r#""outcome": 7,"#] {
            documents.push(format!(r#"{outcome} "breaker": {{"slow_rate": {slow_rate}}}"#));
            for rest in ["", r#", "consecutive_failures": 0"#, r#", "consecutive_failures": 3"#, r#", "state": "auto""#]
            {
                let breaker = format!(r#"{{"failure_rate": 0, "slow_rate": {slow_rate} {rest}}}"#);
                documents.push(format!(r#"{outcome} "breaker": {breaker}"#));
            }
        }
    }
    for keys in
        [r#""failure_rate": 0.0"#, r#""failure_rate": 0, "state": "forced_open""#, r#""failure_rate": 0, "state": 7"#]
    {
        documents.push(format!(r#""breaker": {{{keys}}}"#));
    }
    for hedge in ["true", "false", "1"] {
        for limit in ["", r#", "per_try_timeout": "1s""#, r#", "per_try_timeout": 7"#] {
            documents.push(format!(r#""retry": {{"hedge_on_per_try_timeout": {hedge} {limit}}}"#));
        }
    }
    for ratio in ["0", "0.0", "1", "-1"] {
        for rate in ["", r#", "min_per_second": 0"#, r#", "min_per_second": 0.0001"#, r#", "min_per_second": 2"#] {
            documents.push(format!(r#""retry": {{"budget": {{"ratio": {ratio} {rate}}}}}"#));
        }
    }
    for status in ["200", "204", "205", "304", "204.0", "199"] {
        for body in ["\"\"", "\"a\"", "{}", "null", "\"${nope}\""] {
            let respond = format!(r#"{{"status": {status}, "body": {body}}}"#);
            documents.push(format!(r#""fallback": [{{"on": ["failure"], "respond": {respond}}}]"#));
        }
    }
    for (reason, feature, block) in [
        ("open", "breaker", "{"),
        ("concurrency", "concurrency", r#"{"max_requests": 1,"#),
        ("throttled", "throttle", "{"),
        ("retries_exhausted", "retry", "{"),
        ("failure", "retry", "{"),
    ] {
        let fallback = |on: &str| format!(r#""fallback": [{{"on": {on}, "respond": {{"status": 503}}}}]"#);
        for of_policy in modes {
            documents.push(format!("{of_policy} {}", fallback(&format!("[\"{reason}\"]"))));
            documents
                .push(format!(r#"{of_policy} "{feature}": 7, {}"#, fallback(&format!("[\"timeout\", \"{reason}\"]"))));
            for own in modes {
                let block = format!("{block}{own}").trim_end_matches(',').to_owned() + "}";
                documents
                    .push(format!(r#"{of_policy} "{feature}": {block}, {}"#, fallback(&format!("[\"{reason}\"]"))));
                documents.push(format!(r#"{of_policy} "{feature}": {block}, {}"#, fallback(&format!("\"{reason}\""))));
            }
        }
    }
    let rows = ["0", "5", r#"{"threshold": 0}"#, r#"{"mode": "off"}"#, r#"{"mode": "shadow"}"#, "7.5"];
    for (of_policy, own) in modes.iter().flat_map(|of_policy| modes.map(|own| (of_policy, own))) {
        for row in rows {
            for other in ["latency", "heartbeat", "failure_rate", "success_rate"] {
                for block in ["{}", r#"{"mode": "off"}"#, "7"] {
                    let outlier = format!(r#"{{{own} "consecutive_failures": {row}, "{other}": {block}}}"#);
                    documents.push(format!(r#"{of_policy} "outlier": {outlier}"#));
                }
            }
            for other in ["consecutive_gateway_failures", "consecutive_local_failures"] {
                for row in rows {
                    let outlier = format!(r#"{{{own} "consecutive_failures": {{"mode": "off"}}, "{other}": {row}}}"#);
                    documents.push(format!(r#"{of_policy} "outlier": {outlier}"#));
                }
            }
            documents.push(format!(r#"{of_policy} "outlier": {{{own} "consecutive_failures": {row}}}"#));
        }
    }
    let taken = documents.iter().filter(|keys| parse(policy(keys).as_bytes()).is_ok()).count();
    assert!(taken > 300 && documents.len() - taken > 300, "{taken} of {} taken", documents.len());
}

/// What the program is tested with.
#[test]
fn schema_and_parser_agree_on_the_documents_of_check() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/check/tests/fixtures");
    let files: Vec<_> = fs::read_dir(&fixtures).unwrap().map(|file| file.unwrap().path()).collect();
    let documents: Vec<_> = files.iter().filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    let taken = documents.iter().filter(|path| parse(&fs::read(path).unwrap()).is_ok()).count();
    assert!(taken >= 2 && taken < documents.len(), "{taken} of {documents:?}");
}

/// What [`string_of`] of a glob says does not depend on where segments end.
#[test]
fn a_glob_of_any_segments_has_one_schema() {
    let of_form = |separator, case| Node::from(string(&Form::Glob(Segments { separator, case }))).to_text();
    assert_eq!(of_form(None, true), of_form(Some(b'.'), false));
}
