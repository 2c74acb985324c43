//! What is read, and where it stands.

// Clippy allows it in test functions only, and not in the helpers that they share.
#![allow(clippy::unwrap_used)]

use holdfast_yaml::{Node, Style, parse};

fn root(text: &str) -> Node {
    parse(text).unwrap().into_iter().next().unwrap().root.unwrap()
}

#[track_caller]
fn at(text: &str, path: &str, expected: &str) {
    assert_eq!(root(text).find(path).to_string(), expected, "{path} in {text}");
}

#[test]
fn every_value_has_its_line_and_column() {
    let text = "# é\nspec:\n  hosts: [a, {b: c}]\n  list:\n  - x: 1\n    y: 2\n  - 'z'\n";
    at(text, "", "2:1");
    at(text, "spec.hosts[1].b", "3:15");
    at(text, "spec.list[0].y", "6:5");
    at(text, "spec.list[1]", "7:5");
    // As far as the path leads.
    at(text, "spec.list[1].more", "7:5");
    at(text, "spec.nothing.there", "2:1");
    at("{\"a.b\": {\"c\": 1}, \"a\": {\"b\": 2}}", "a.b.c", "1:10");
    at("é: ü\nb: 1\n", "b", "2:1");
}

#[test]
fn bytes_are_those_of_the_value_alone() {
    let text = "é: [ü, 'x']  # said\nb:\n  - |\n    literal\n\n  # end\nc: plain  \nd:\n";
    let node = root(text);
    let bytes = |key: &str| text.get(node.get(key).unwrap().span.clone()).unwrap();
    assert_eq!(bytes("é"), "[ü, 'x']");
    assert_eq!(bytes("b"), "- |\n    literal");
    assert_eq!(bytes("c"), "plain");
    assert_eq!(bytes("d"), "");
    assert_eq!(node.get("b").unwrap().items()[0].style, Style::Literal);
}

#[test]
fn scalars_stand_for_what_they_stood_for_without_places() {
    let text = "[1, 1.5, true, 'true', null, ~, \"1\", !!str 1, a b, 0x10, 1s, 1:2, '', x: y]";
    let expected: serde_norway::Value = serde_norway::from_str(text).unwrap();
    assert_eq!(root(text).value(), expected);
}

#[test]
fn an_alias_stands_for_its_anchor_and_both_are_shared() {
    let node = root("a: &x {b: 1}\nc: *x\nd: &y 2\n");
    assert_eq!(node.get("c").unwrap().value(), node.get("a").unwrap().value());
    assert!(node.get("c").unwrap().shared && node.at(&["a", "b"]).unwrap().shared);
    assert!(!node.get("d").unwrap().shared && !node.shared);
    assert_eq!(node.find("c").to_string(), "2:1");
}

#[test]
fn what_is_no_yaml_is_refused_with_its_place() {
    let problem = |text: &str| parse(text).unwrap_err().to_string();
    assert_eq!(problem("a: 1\nb: 2\na: 3\n"), "3:1: the key a is there twice, first in line 1");
    assert!(problem("a: [1, 2\nb: 3\n").starts_with("2:"), "{}", problem("a: [1, 2\nb: 3\n"));
    assert!(problem("a: b: c\n").starts_with("1:"));
    assert_eq!(problem("? [a]\n: 1\n"), "1:3: a key must be a text");
    let deep = "- ".repeat(300) + "x";
    assert!(problem(&deep).contains("nests deeper than 200"));
    let bomb = (1..9).fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, level| {
        let of = format!("*a{}", level - 1);
        text + &format!("a{level}: &a{level} [{}]\n", vec![of; 10].join(","))
    });
    assert!(problem(&bomb).contains("has more than 1000000 values"));
}

#[test]
fn documents_of_a_text_are_told_apart() {
    let documents = parse("# nothing\n---\na: 1\n---\n# nothing\n---\nb: 2\n...\n").unwrap();
    let values: Vec<bool> =
        documents.iter().map(|document| document.root.as_ref().is_some_and(|root| !root.is_null())).collect();
    assert_eq!(values, [true, false, true]);
}

#[test]
fn a_place_in_a_document_within_is_one_of_the_file() {
    let text = "a:\n  value: |\n    {\n      \"é\": x\n    }\n  folded: >\n    x\n  quoted: \"{}\"\n";
    let node = root(text);
    let inner = |keys: &[&str], line, column| node.at(keys).unwrap().inner(text, line, column).to_string();
    assert_eq!(inner(&["a", "value"], 2, 8), "4:12");
    assert_eq!(inner(&["a", "value"], 1, 1), "3:5");
    assert_eq!(inner(&["a", "folded"], 1, 1), "6:11");
    assert_eq!(inner(&["a", "quoted"], 1, 2), "8:11");
}

#[test]
fn json_may_write_a_character_as_two_escapes() {
    let text = r#"{"a": "x\ud83d\uDE00y", "b": "\\ud83d\\ude00", "c": "\u00e9"}"#;
    let node = root(text);
    let expected: serde_norway::Value = serde_json::from_str(text).unwrap();
    assert_eq!(node.value(), expected);
    assert_eq!(node.get("a").unwrap().text(), Some("x\u{1f600}y"));
    let bytes = |key: &str| text.get(node.get(key).unwrap().span.clone()).unwrap();
    assert_eq!((bytes("a"), bytes("c")), (r#""x\ud83d\uDE00y""#, r#""\u00e9""#));
}
