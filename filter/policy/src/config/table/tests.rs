//! That the parser does what the tables say: every key of every block, in the block's own example.

use super::*;
use crate::authority;
use crate::config::Errors;
use crate::config::json::Node;
#[cfg(target_arch = "wasm32")]
use crate::config::parse;
// In Node there is no validator: the schema is held against the parser natively only.
#[cfg(not(target_arch = "wasm32"))]
use crate::config::schema::agreement::parse;
use crate::document::{Detector, Dimension, Document, Reason, RetryWord};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// A key at one of its paths.
struct Place {
    block: &'static Block,
    /// Of the object that the key stands in, as [`Section`] has it.
    path: String,
    key: &'static Key,
}

/// Every key at every path.
fn places() -> Vec<Place> {
    let mut places = Vec::new();
    for section in sections() {
        for path in section.paths {
            let keys = section.block.keys.iter();
            places.extend(keys.map(|key| Place { block: section.block, path: path.clone(), key }));
        }
    }
    places
}

impl Place {
    /// The block's example with `value` for this key, or without the key, and the key's path in that document.
    fn document(&self, value: Option<&str>) -> (String, String) {
        edited(self.block, &self.path, self.key.name, value)
    }

    /// What is said at the key's own path when it has this value.
    fn problem(&self, value: &str) -> Option<String> {
        let (text, path) = self.document(Some(value));
        let errors = parse(text.as_bytes()).err()?;
        errors.listed().iter().find(|error| error.path == path).map(|error| error.problem.clone())
    }

    /// What the document is with this value, or without the key.
    fn parsed(&self, value: Option<&str>) -> Result<Document, Errors> {
        parse(self.document(value).0.as_bytes())
    }
}

/// The block's example with a key of the object at `path` changed, and the path of that key.
pub(in crate::config) fn edited(block: &Block, path: &str, name: &str, value: Option<&str>) -> (String, String) {
    let mut root = Node::parse(block.example.as_str().as_bytes()).expect("an example is JSON");
    let (mut node, mut place) = (&mut root, String::new());
    for step in path.split('.').filter(|step| !step.is_empty()) {
        let (key, in_list) = step.strip_suffix("[]").map_or((step, false), |key| (key, true));
        place = if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
        node = child(node, key);
        if in_list {
            let Node::Array(items) = node else { panic!("{place} is no list") };
            let at = items.iter().position(|item| matches!(item, Node::Object(_))).expect("an object in the list");
            place.push_str(&format!("[{at}]"));
            node = items.get_mut(at).unwrap();
        }
    }
    let Node::Object(entries) = node else { panic!("{place} is no object") };
    entries.retain(|(key, _)| key != name);
    if let Some(value) = value {
        entries.push((name.to_owned(), Node::parse(value.as_bytes()).expect("a value is JSON")));
    }
    (root.to_text(), if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") })
}

/// The value of a key, which becomes an object where it is absent or something else that one can stand for.
fn child<'a>(node: &'a mut Node, key: &str) -> &'a mut Node {
    let Node::Object(entries) = node else { panic!("{key} is in no object") };
    let at = entries.iter().position(|(name, _)| name == key).unwrap_or(entries.len());
    if at == entries.len() {
        entries.push((key.to_owned(), Node::Null));
    }
    let (_, node) = entries.get_mut(at).unwrap();
    if !matches!(node, Node::Object(_) | Node::Array(_)) {
        *node = Node::Object(Vec::new());
    }
    node
}

#[test]
fn every_example_is_valid_and_uses_its_block() {
    for section in sections() {
        let example = section.block.example.as_str();
        if let Err(errors) = parse(example.as_bytes()) {
            panic!("{:?}: {errors}", section.paths);
        }
        let uses = |path: &String| {
            let node = Node::parse(example.as_bytes()).unwrap();
            section.block.keys.iter().any(|key| edited(section.block, path, key.name, None).0 != node.to_text())
        };
        assert!(section.paths.iter().any(uses), "{:?}", section.paths);
    }
}

#[test]
fn a_default_that_is_spelled_out_changes_nothing() {
    let mut spelled = 0;
    for place in places() {
        let Some(default) = place.key.default.spelled() else { continue };
        let absent = place.parsed(None).unwrap_or_else(|errors| panic!("{}: {errors}", place.path));
        assert_eq!(place.parsed(Some(&default)), Ok(absent), "{}.{}: {default}", place.path, place.key.name);
        spelled += 1;
    }
    assert!(spelled > 60, "{spelled}");
}

#[test]
fn a_key_is_required_where_the_table_says_so_and_nowhere_else() {
    for place in places() {
        let (text, path) = place.document(None);
        let missing = parse(text.as_bytes()).is_err_and(|errors| {
            errors.listed().iter().any(|error| error.path == path && error.problem.starts_with("is missing"))
        });
        assert_eq!(missing, matches!(place.key.default, Absent::Required), "{path}");
    }
}

#[test]
fn every_key_is_read() {
    for place in places().iter().filter(|place| !matches!(place.key.kind, Kind::Body(_))) {
        assert!(place.problem("null").is_some(), "{}.{}", place.path, place.key.name);
    }
}

#[test]
fn unknown_keys_are_told_all_that_the_table_has() {
    for section in sections() {
        for path in &section.paths {
            let (text, place) = edited(section.block, path, "qqqqqqqqqqqqqqq", Some("1"));
            let names: Vec<&str> = section.block.keys.iter().map(|key| key.name).collect();
            let expected = format!("unknown key; accepted here: {}", names.join(", "));
            let errors = parse(text.as_bytes()).unwrap_err();
            let place = if path.is_empty() { format!("document.{place}") } else { place };
            let found = errors.listed().iter().find(|error| error.path == place);
            assert_eq!(found.map(|error| error.problem.as_str()), Some(expected.as_str()), "{place}");
            for name in section.block.not_yet {
                let (text, place) = edited(section.block, path, name, Some("{}"));
                let errors = parse(text.as_bytes()).unwrap_err().to_string();
                assert!(errors.contains(&format!("{place}: not supported yet")), "{errors}");
            }
        }
    }
}

/// Values just inside and just outside a range, and how errors write it. Nothing outside is left out but what a document
/// cannot say.
fn bounds(kind: &Kind) -> Option<([String; 2], Vec<String>, String)> {
    let duration = |duration: Duration| format!("\"{}\"", duration::text(duration));
    let nanosecond = Duration::from_nanos(1);
    Some(match kind {
        Kind::Duration(range) => {
            let (start, end) = (*range.start(), *range.end());
            let below = start.checked_sub(nanosecond).into_iter();
            let outside = below.chain([end + nanosecond]).map(duration).collect();
            ([duration(start), duration(end)], outside, duration::within(range))
        }
        Kind::Size(range) => {
            let size = |bytes: u32| format!("\"{}\"", size::text(bytes));
            let (start, end) = (*range.start(), *range.end());
            ([size(start), size(end)], vec![size(start - 1), size(end + 1)], size::within(range))
        }
        Kind::Percent { min } => {
            let outside = vec![(f64::from(*min) - 0.001).to_string(), "100.001".to_owned()];
            ([min.to_string(), "100".to_owned()], outside, format!("within {min}..=100"))
        }
        Kind::PositivePercent => (["0.001".to_owned(), "100".to_owned()], vec!["0".to_owned()], "above 0".to_owned()),
        Kind::Number(range) | Kind::Whole(range) => {
            let (start, end) = (*range.start(), *range.end());
            let outside = vec![(i64::from(start) - 1).to_string(), (i64::from(end) + 1).to_string()];
            ([start.to_string(), end.to_string()], outside, format!("within {start}..={end}"))
        }
        Kind::Status => (["100", "599"].map(str::to_owned), vec!["99".to_owned(), "600".to_owned()], {
            format!("within {}..={}", STATUS.start(), STATUS.end())
        }),
        Kind::GrpcStatus => (["0", "16"].map(str::to_owned), vec!["-1".to_owned(), "17".to_owned()], {
            format!("within {}..={}", GRPC_STATUS.start(), GRPC_STATUS.end())
        }),
        _ => return None,
    })
}

#[test]
fn every_range_holds_to_its_ends() {
    let mut ranges = 0;
    for place in places() {
        for kind in place.key.kind.alternatives() {
            let Some((inside, outside, range)) = bounds(kind) else { continue };
            for value in inside {
                // What other keys say may still stand in the way.
                let problem = place.problem(&value).unwrap_or_default();
                assert!(!problem.contains(&range), "{}.{}: {value}: {problem}", place.path, place.key.name);
            }
            for value in outside {
                let problem = place.problem(&value).unwrap_or_else(|| panic!("{}: {value}", place.key.name));
                assert!(problem.starts_with(&format!("must be {range}")), "{}: {problem}", place.key.name);
            }
            ranges += 1;
        }
    }
    assert!(ranges > 60, "{ranges}");
}

#[test]
fn numbers_are_whole_where_the_table_says_so() {
    for place in places() {
        match place.key.kind.alternatives() {
            [Kind::Whole(range), ..] => {
                let problem = place.problem(&format!("{}.5", range.start())).unwrap_or_default();
                assert!(problem.contains("a whole number"), "{}: {problem}", place.key.name);
            }
            [Kind::Number(range), ..] => {
                assert_eq!(place.problem(&format!("{}.5", range.start())), None, "{}", place.key.name);
            }
            _ => {}
        }
    }
}

#[test]
fn every_word_is_accepted_and_others_are_told_all_of_them() {
    for place in places() {
        let (words, list) = match &place.key.kind {
            Kind::Word(words) => (*words, false),
            Kind::List { of, .. } => match of.alternatives() {
                [Kind::Word(words), ..] => (*words, true),
                _ => continue,
            },
            _ => continue,
        };
        let value = |word: &str| if list { format!("[\"{word}\"]") } else { format!("\"{word}\"") };
        for word in words {
            let refused = match place.parsed(Some(&value(word.name))) {
                Ok(_) => None,
                // Of reasons the policy of the example gives only some.
                Err(errors) => Some(errors.to_string()).filter(|text| !text.contains("can never happen")),
            };
            assert_eq!(refused, None, "{}.{}", place.path, place.key.name);
        }
        let errors = place.parsed(Some(&value("qqqqqqqqqqqqqqq"))).unwrap_err().to_string();
        for word in words {
            assert!(errors.contains(word.name), "{}.{}: {errors}", place.path, place.key.name);
        }
    }
}

#[test]
fn words_are_those_of_the_types() {
    let key = |block: &'static Block, name: &str| block.find(name).unwrap();
    let names = |kind: &'static Kind| -> Vec<&str> {
        let kind = if let Kind::List { of, .. } = kind { of } else { kind };
        let [Kind::Word(words), ..] = kind.alternatives() else { panic!("{kind:?}") };
        words.iter().map(|word| word.name).collect()
    };
    assert_eq!(names(&key(&RETRY, "on").kind), RetryWord::ALL.map(RetryWord::name));
    assert_eq!(names(&key(&FALLBACK, "on").kind), Reason::ALL.map(Reason::name));
    assert_eq!(names(&key(&POLICY, "scope").kind), Dimension::WORDS.map(|(word, _)| word));
    for detector in Detector::ALL {
        assert!(OUTLIER.find(detector.name()).is_some(), "{}", detector.name());
    }
}

#[test]
fn lists_names_and_bodies_are_as_long_as_the_table_says() {
    for place in places() {
        let refused = |value: &str| {
            place
                .problem(value)
                .is_some_and(|problem| ["must have at most", "must be "].iter().any(|start| problem.starts_with(start)))
        };
        let list = |count: usize| format!("[{}]", vec!["null"; count].join(","));
        match &place.key.kind {
            Kind::List { empty, most, .. } => {
                assert_eq!(place.problem("[]").is_none(), *empty, "{}", place.key.name);
                if let Some(most) = most {
                    assert!(!refused(&list(*most)) && refused(&list(most + 1)), "{}", place.key.name);
                }
            }
            Kind::Headers { of, most, .. } => {
                let headers = |count: usize| {
                    let headers: Vec<String> = (0..count).map(|at| format!("\"x-{at}\":\"a\"")).collect();
                    format!("{{{}}}", headers.join(","))
                };
                assert!(!refused(&headers(*most)) && refused(&headers(most + 1)), "{}", place.key.name);
                if let Kind::String(Form::Text { most }) = of {
                    let header = |length: usize| format!("{{\"x-a\":\"{}\"}}", "a".repeat(length));
                    assert_eq!(place.problem(&header(*most)), None);
                    assert!(place.parsed(Some(&header(most + 1))).is_err());
                }
            }
            Kind::String(Form::Text { most }) => {
                let text = |length: usize| format!("\"{}\"", "a".repeat(length));
                assert!(!refused(&text(*most)) && refused(&text(most + 1)), "{}", place.key.name);
            }
            Kind::String(Form::Authority) => {
                let name = |length: usize| format!("\"{}\"", "a".repeat(length));
                assert!(!refused(&name(authority::MAX_LEN)) && refused(&name(authority::MAX_LEN + 1)));
            }
            Kind::String(Form::Name { most }) => {
                let name = |length: usize| format!("\"{}\"", "a".repeat(length));
                assert!(!refused(&name(*most)) && refused(&name(most + 1)) && refused(&name(0)));
            }
            Kind::Body(body) => {
                let text = |length: usize| format!("\"{}\"", "a".repeat(length));
                assert!(!refused(&text(body.bytes)) && refused(&text(body.bytes + 1)));
                let template = &body.template;
                for variable in template.variables {
                    let variables = |count: usize| format!("\"{}\"", variable.name.repeat(count));
                    assert!(!refused(&variables(template.most)) && refused(&variables(template.most + 1)));
                    assert_eq!(place.problem(&variables(1)), None, "{}", variable.name);
                }
                let names: Vec<&str> = template.variables.iter().map(|variable| variable.name).collect();
                let problem = place.problem("\"${nope}\"").unwrap();
                assert!(problem.ends_with(&format!("accepted here: {}", names.join(", "))), "{problem}");
            }
            _ => {}
        }
    }
}

#[test]
fn strings_have_the_form_that_the_table_says() {
    let (mut seen, all) = (0, 10);
    let mut forms = std::collections::HashSet::new();
    for place in places() {
        let kind = match &place.key.kind {
            Kind::List { of, .. } | Kind::Headers { of, .. } => of,
            kind => kind,
        };
        let Kind::String(form) = kind else { continue };
        let (good, bad) = match form {
            Form::Name { .. } => ("a_1-b", "A"),
            Form::Glob(_) => ("a*", "***"),
            Form::HeaderName => ("X-A", ":path"),
            Form::HeaderValue(_) => ("a ${path}", "${nope}"),
            Form::Text { .. } => ("a ${path}", " a"),
            Form::Authority => ("[::1]:80", "a|b"),
            Form::Method => ("PURGE", "get"),
            Form::Path => ("/a?b", "a"),
            Form::Cluster => ("a b", ""),
            Form::Host => ("[::1]:80", "a:80"),
        };
        let problems = |text: &str| {
            let value = match &place.key.kind {
                Kind::List { .. } => format!("[\"{text}\"]"),
                Kind::Headers { .. } => format!("{{\"x-a\": \"{text}\"}}"),
                _ => format!("\"{text}\""),
            };
            place.parsed(Some(&value)).err().map(|errors| errors.to_string())
        };
        assert_eq!(problems(good), None);
        assert!(problems(bad).is_some(), "{}", place.key.name);
        seen += usize::from(forms.insert(core::mem::discriminant(form)));
    }
    assert_eq!(seen, all, "a form that no key has, or one that this test does not know");
}

#[test]
fn blocks_stand_where_the_table_says() {
    let paths: Vec<String> = sections().into_iter().flat_map(|section| section.paths).collect();
    for path in
        ["", "policies[]", "policies[].breaker.half_open", "policies[].scope[]", "policies[].fallback[].respond"]
    {
        assert_eq!(paths.iter().filter(|other| *other == path).count(), 1, "{path}");
    }
    let shared = sections().into_iter().find(|section| core::ptr::eq(section.block, &CONSECUTIVE)).unwrap();
    assert_eq!(
        shared.paths,
        ["consecutive_failures", "consecutive_gateway_failures", "consecutive_local_failures"]
            .map(|key| format!("policies[].outlier.{key}"))
    );
}

/// Words that we do not use, see the field's own: attempt, retry, permit.
const NOT_OURS: [&str; 7] = [" try ", " tries ", " try.", " tries.", " oftener", "circuit-break", "TODO"];

#[test]
fn every_key_says_what_it_does_and_why_one_would_change_it() {
    let sentences = |text: &str, what: &str| {
        assert!(text.ends_with('.') && text.len() > 10, "{what}: {text}");
        assert!(!NOT_OURS.iter().any(|word| text.contains(word)), "{what}: {text}");
        assert!(!text.contains("  ") && text.matches('`').count().is_multiple_of(2), "{what}: {text}");
    };
    for section in sections() {
        let what = section.paths.join(", ");
        sentences(section.block.about.as_str(), &what);
        for key in section.block.keys {
            let what = format!("{what}.{}", key.name);
            sentences(key.does.as_str(), &what);
            // A block's own keys say that, where it is nothing but them.
            let is_its_keys = matches!((&key.kind, &key.default), (Kind::Object(_), Absent::Object | Absent::Required));
            if !(is_its_keys && key.change.as_str().is_empty()) {
                sentences(key.change.as_str(), &what);
            }
            if !key.envoy.as_str().is_empty() {
                sentences(key.envoy.as_str(), &what);
            }
            assert!(!key.limit.as_str().ends_with('.'), "{what}: stands in a table");
        }
    }
}
