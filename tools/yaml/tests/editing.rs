//! Changes of a file: what stays is as it was, byte for byte.

// Clippy allows it in test functions only, and not in the helpers that they share.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use holdfast_yaml::{Yaml, edit, parse};

fn tree(text: &str) -> Yaml {
    Yaml::from(parse(text).unwrap()[0].root.as_ref().unwrap())
}

#[track_caller]
fn becomes(text: &str, change: impl Fn(&mut Yaml), expected: &str) {
    let mut want = tree(text);
    change(&mut want);
    assert_eq!(edit(text, 0, &want).unwrap(), expected);
}

const FILE: &str = "\
# A head.
clusters:   # all of them
- name: a   # the first
  # Why.
  type: STATIC

# The second.
- name: b
  options: {x: 1, y: [1, 2]}
  list:
    - one
    # about two
    - two
# The end.
";

#[test]
fn nothing_changes_where_nothing_is_asked_for() {
    becomes(FILE, |_| {}, FILE);
}

#[test]
fn a_new_key_stands_behind_the_one_before_it() {
    becomes(
        FILE,
        |root| {
            let first = &mut root.get_mut("clusters").unwrap().items_mut().unwrap()[0];
            first.set("New.", "more", Yaml::map().with("z", 1_u32).with("l", vec!["x".into()]));
        },
        &FILE.replace("  type: STATIC\n", "  type: STATIC\n  # New.\n  more:\n    z: 1\n    l:\n    - x\n"),
    );
}

#[test]
fn keys_go_with_their_lines_and_values_change_in_their_place() {
    becomes(
        FILE,
        |root| {
            let first = &mut root.get_mut("clusters").unwrap().items_mut().unwrap()[0];
            first.remove("type");
            *first.get_mut("name").unwrap() = "c".into();
        },
        &FILE.replace("  type: STATIC\n", "").replace("name: a ", "name: c "),
    );
    // The first one of an item stands behind its dash.
    becomes(
        "l:\n- a: 1\n  b: 2\n",
        |root| {
            root.get_mut("l").unwrap().items_mut().unwrap()[0].remove("a");
        },
        "l:\n- b: 2\n",
    );
    becomes("a: {x: 1, y: 2}\n", |root| drop(root.get_mut("a").unwrap().remove("y")), "a: {x: 1}\n");
    becomes("a: {x: 1, y: 2}\n", |root| drop(root.get_mut("a").unwrap().remove("x")), "a: {y: 2}\n");
}

#[test]
fn braces_and_brackets_stay_braces_and_brackets() {
    becomes(
        FILE,
        |root| {
            let options = root.get_mut("clusters").unwrap().items_mut().unwrap()[1].get_mut("options").unwrap();
            options.set("", "z", Yaml::map().with("@type", "t"));
            options.get_mut("y").unwrap().items_mut().unwrap().insert(1, 7_u32.into());
        },
        &FILE.replace("{x: 1, y: [1, 2]}", "{x: 1, y: [1, 7, 2], z: {\"@type\": t}}"),
    );
}

#[test]
fn an_item_comes_before_another_and_its_comment() {
    becomes(
        FILE,
        |root| {
            let second = &mut root.get_mut("clusters").unwrap().items_mut().unwrap()[1];
            second.get_mut("list").unwrap().items_mut().unwrap().insert(1, "new".into());
            let all = root.get_mut("clusters").unwrap().items_mut().unwrap();
            all.insert(1, Yaml::map().noted("About it.", "name", "between"));
            all.push(Yaml::map().with("name", "last").with("l", vec!["x".into()]));
        },
        &FILE
            .replace("    # about two\n", "    - new\n    # about two\n")
            .replace("# The second.\n", "# About it.\n- name: between\n# The second.\n")
            .replace("    - two\n", "    - two\n- name: last\n  l:\n  - x\n"),
    );
}

#[test]
fn a_value_of_several_lines_takes_the_place_of_another() {
    becomes(
        "a: 1 # one\nb:\n  c: 2\nd: [x]\n",
        |root| {
            root.set("", "a", Yaml::map().with("x", 1_u32));
            root.set("", "b", 3_u32);
            root.set("", "d", vec![Yaml::map().with("e", 1_u32).with("f", 2_u32)]);
        },
        "# one\na:\n  x: 1\nb: 3\nd: [{e: 1, f: 2}]\n",
    );
    becomes("a:\nb: 1\n", |root| root.set("", "a", Yaml::map().with("x", 1_u32)), "a:\n  x: 1\nb: 1\n");
    becomes("a: {}\nb: 1\n", |root| root.set("", "a", Yaml::map().with("x", 1_u32)), "a:\n  x: 1\nb: 1\n");
}

#[test]
fn a_value_moves_with_its_comments() {
    let text = "c:\n  # by load\n  policy:\n    first: # one\n      - a: 1 # x\n        # y\n        b: |\n          1\n           2\n  z: 1\n";
    let documents = parse(text).unwrap();
    let policy = documents[0].root.as_ref().unwrap().at(&["c", "policy"]).unwrap().clone();
    becomes(
        text,
        |root| {
            root.get_mut("c").unwrap().set(
                "",
                "policy",
                Yaml::map().with("deep", Yaml::map().with("old", Yaml::moved(&policy, text))),
            )
        },
        "c:\n  # by load\n  policy:\n    deep:\n      old:\n        first: # one\n          - a: 1 # x\n            # y\n            b: |\n              1\n               2\n  z: 1\n",
    );
}

#[test]
fn json_stays_json() {
    let text = "{\n    \"a\": {\n        \"b\": [1],\n        \"c\": \"x\"\n    }\n}\n";
    becomes(
        text,
        |root| {
            let a = root.get_mut("a").unwrap();
            a.set("Not in JSON.", "d", Yaml::map().with("@type", "yes").with("long", "x".repeat(90).as_str()));
            a.get_mut("b").unwrap().items_mut().unwrap().push("two".into());
        },
        &text
            .replace("[1]", "[1, \"two\"]")
            .replace("\"x\"\n", &format!("\"x\",\n        \"d\": {{\n            \"@type\": \"yes\",\n            \"long\": \"{}\"\n        }}\n", "x".repeat(90))),
    );
}

#[test]
fn the_files_own_layout_is_kept() {
    let text = "a:\n    b:\n        - c: 1\n          d:\n              e: 2\n";
    becomes(
        text,
        |root| {
            root.get_mut("a").unwrap().set("", "f", Yaml::map().with("g", Yaml::map().with("h", vec!["i".into()])));
        },
        &format!("{text}    f:\n        g:\n            h:\n                - i\n"),
    );
    let dos = FILE.replace('\n', "\r\n");
    becomes(
        &dos,
        |root| root.set("", "x", 1_u32),
        &format!("{}x: 1\r\n", dos.replace("# The end.\r\n", "")).replace("x: 1\r\n", "x: 1\r\n# The end.\r\n"),
    );
    becomes("\u{feff}a: 1", |root| root.set("", "x", 1_u32), "\u{feff}a: 1\nx: 1");
}

#[test]
fn other_documents_of_the_file_are_left_alone() {
    let text = "a: 1\n---\nb: 1 # b\n";
    let documents = parse(text).unwrap();
    let mut want = Yaml::from(documents[1].root.as_ref().unwrap());
    want.set("", "c", 2_u32);
    assert_eq!(edit(text, 1, &want).unwrap(), "a: 1\n---\nb: 1 # b\nc: 2\n");
}

#[test]
fn an_alias_is_written_out_where_it_changes() {
    let text = "a: &x {k: 1}\nb: *x\nc: 1\n";
    becomes(text, |root| root.get_mut("b").unwrap().set("", "z", 2_u32), "a: &x {k: 1}\nb:\n  k: 1\n  z: 2\nc: 1\n");
    // What the anchor names cannot change alone.
    let mut want = tree(text);
    want.get_mut("a").unwrap().set("", "z", 2_u32);
    let error = edit(text, 0, &want).unwrap_err().to_string();
    assert!(error.starts_with("1:") || error.starts_with("2:"), "{error}");
}

#[test]
fn spaces_behind_a_value_go_with_it() {
    becomes(
        "a: \"old\"  \nb: 1\n",
        |root| *root.get_mut("a").unwrap() = Yaml::Block("two\nlines\n".into()),
        "a: |\n  two\n  lines\nb: 1\n",
    );
}

#[test]
fn the_first_keys_of_an_item_go_together() {
    becomes(
        "- a: 1\n  b: {x: 1} # both go\n  # Stays.\n  c: 3\n  d: 4\n  e: 5\n",
        |root| {
            let first = &mut root.items_mut().unwrap()[0];
            for key in ["a", "b", "d"] {
                first.remove(key);
            }
        },
        "- c: 3\n  e: 5\n",
    );
}

/// Any change that a tree can take is written, or refused; what is written is what was wanted (`edit` reads it again itself).
#[test]
fn many_changes_in_many_layouts() {
    let texts = [
        FILE,
        "{\"a\": [{\"name\": \"x\", \"v\": {}}, {\"name\": \"y\"}], \"b\": null}",
        "a:\n    - - 1\n      - 2\n    -\n        k: v\n        l: [\n          1,\n          2 ]\nb: >\n  folded\n  text\nc: |+\n  kept\n\nd: 'x'\n",
        "- a: 1\n- b: {c: {d: e}}\n-\n- f\n",
        "k:\n-   a: 1\n    b: 2\n    # of c\n    c: [3]\n    d: 4\n",
    ];
    let mut state = 1_u64;
    let mut random = |below: usize| {
        // Source: Knuth, The Art of Computer Programming, MMIX's linear congruential generator.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let mut written = 0;
    for round in 0..4000 {
        let text = texts[round % texts.len()];
        let mut want = tree(text);
        for _ in 0..=random(3) {
            change(&mut want, &mut random);
        }
        match edit(text, 0, &want) {
            Ok(_) => written += 1,
            Err(error) => panic!("{error}\n{text}\n->\n{}", want.document()),
        }
    }
    assert_eq!(written, 4000);
}

/// Changes one place of a tree.
fn change(tree: &mut Yaml, random: &mut impl FnMut(usize) -> usize) {
    let new = |random: &mut dyn FnMut(usize) -> usize| match random(6) {
        0 => Yaml::from("text: with # signs"),
        1 => Yaml::from(7_u32),
        2 => Yaml::map().with("n", vec![Yaml::map().with("m", "x").with("o", Yaml::Block("two\nlines\n".into()))]),
        3 => vec!["a".into(), Yaml::map().with("b", true)].into(),
        4 => Yaml::map(),
        _ => Yaml::map().with("p", 1_u32).line(),
    };
    let size = tree.entries().len() + tree.items().len();
    if size > 0 && random(3) > 0 {
        let at = random(size);
        if let Some(key) = tree.entries().get(at).map(|entry| entry.key.clone()) {
            return change(tree.get_mut(&key).unwrap(), random);
        }
        return change(&mut tree.items_mut().unwrap()[at], random);
    }
    if !tree.entries().is_empty() {
        let at = random(tree.entries().len());
        let key = tree.entries()[at].key.clone();
        match random(3) {
            0 => drop(tree.remove(&key)),
            1 => tree.set("A comment.", "new key", new(random)),
            _ => tree.set("", &key, new(random)),
        }
    } else if !tree.items().is_empty() {
        let at = random(tree.items().len());
        match random(3) {
            0 => drop(tree.items_mut().unwrap().remove(at)),
            1 => tree.items_mut().unwrap().insert(at, new(random)),
            _ => tree.items_mut().unwrap()[at] = new(random),
        }
    } else {
        *tree = new(random);
    }
}
