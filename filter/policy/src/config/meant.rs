//! What was probably meant by a configuration that is no policy document: the end of the message that refuses it.
//!
//! A cheap look at how the text begins, or at the outermost keys. It only ever adds words to an error.

use super::POLICIES;
use super::json::Node;

const YAML: &str =
    "; this looks like YAML: write the document as JSON, or as YAML in the value of a google.protobuf.Struct";
const ENVOY: &str =
    "; this looks like a configuration of Envoy, of which the policy document is a part: write that alone";
const KUBERNETES: &str =
    "; this looks like a resource of Kubernetes, of which the policy document is a part: write that alone";
const ANY: &str = "; this looks like a message with its type: write its value alone";
const FIELDS: &str = "; this looks like the fields of a google.protobuf.Struct: write the JSON that it stands for";
const FILE: &str = "; this looks like the name of a file: write the text that is in it";
const BASE64: &str =
    "; this looks like base64, which a BytesValue takes and a StringValue does not: write the text itself";
const COMMENTS: &str = "; JSON has no comments";
const TWICE: &str = "; this looks like JSON that was put into a text once more: write the object itself";
const AROUND: &str = "; this looks like the inside of a document: write {\"policies\": [...]} around it";
const UTF_16: &str = "; this looks like UTF-16: write UTF-8";

/// Keys that stand outermost in Envoy's configuration, or in a part of it that has the policy document in it.
const OF_ENVOY: [&str; 12] = [
    "static_resources",
    "dynamic_resources",
    "admin",
    "node",
    "layered_runtime",
    "stats_config",
    "listeners",
    "clusters",
    "resources",
    "typed_config",
    "vm_config",
    "configuration",
];

/// So much of a text is looked at.
const LINES: usize = 100;

/// What bytes that are no JSON were probably meant as; empty where nothing is probable.
pub(super) fn by_text(bytes: &[u8]) -> &'static str {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return UTF_16;
    }
    let bytes = bytes.trim_ascii();
    let is_name = !bytes.iter().any(u8::is_ascii_whitespace);
    if is_name && bytes.starts_with(b"eyJ") {
        return BASE64;
    }
    let ends = [&b".json"[..], b".yaml", b".yml"].iter().any(|end| bytes.ends_with(end));
    if is_name
        && !bytes.starts_with(b"{")
        && (ends || [&b"/"[..], b"./", b"file:"].iter().any(|start| bytes.starts_with(start)))
    {
        return FILE;
    }
    let is_comment = |line: &&[u8]| line.starts_with(b"#") || line.starts_with(b"//") || line.starts_with(b"/*");
    let lines = || bytes.split(|byte| *byte == b'\n').take(LINES);
    let says = |line: &&[u8]| !line.trim_ascii().is_empty() && !is_comment(line) && !line.starts_with(b"---");
    let Some(first) = lines().find(says) else { return "" };
    if first.starts_with(b"{") || first.starts_with(b"[") {
        let inner = first.get(1..).unwrap_or_default().trim_ascii_start();
        return match inner.first() {
            _ if is_comment(&bytes) => COMMENTS,
            Some(letter) if letter.is_ascii_alphabetic() && first.starts_with(b"{") => YAML,
            _ => "",
        };
    }
    let keys = || lines().filter(says).filter_map(key);
    if keys().any(|key| key == b"apiVersion") {
        KUBERNETES
    } else if keys().any(|key| OF_ENVOY.iter().any(|known| known.as_bytes() == key)) {
        ENVOY
    } else if first.starts_with(b"- ") || key(first).is_some() {
        YAML
    } else {
        ""
    }
}

/// The key of YAML that a line without indentation begins with.
fn key(line: &[u8]) -> Option<&[u8]> {
    let end = line.iter().position(|byte| *byte == b':')?;
    let (key, rest) = line.split_at_checked(end)?;
    let key = key.strip_prefix(b"\"").and_then(|key| key.strip_suffix(b"\"")).unwrap_or(key);
    let is_word = !key.is_empty() && key.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-.@".contains(byte));
    let ends = rest.get(1).is_none_or(u8::is_ascii_whitespace);
    (is_word && ends).then_some(key)
}

/// What a value without policies was probably meant as; empty where nothing is probable.
pub(super) fn by_value(root: &Node) -> &'static str {
    let keys = match root {
        Node::Object(entries) if entries.is_empty() => return "; the document is empty",
        Node::Object(entries) => entries.iter().map(|(key, _)| key.as_str()),
        Node::Array(items) if items.iter().any(|item| matches!(item, Node::Object(_))) => return AROUND,
        Node::String(text) if text.trim_start().starts_with(['{', '[']) => return TWICE,
        Node::String(text) => return by_text(text.as_bytes()),
        _ => return "",
    };
    let has = |known: &[&str]| keys.clone().any(|key| known.contains(&key));
    if has(&["apiVersion"]) {
        KUBERNETES
    } else if has(&["@type"]) {
        ANY
    } else if has(&OF_ENVOY) {
        ENVOY
    } else if let Node::Object(entries) = root
        && entries.iter().any(|(key, fields)| key == "fields" && fields.has(POLICIES))
    {
        FIELDS
    } else if has(&["name"]) {
        AROUND
    } else {
        ""
    }
}

impl Node {
    /// Whether it is an object with this key.
    fn has(&self, key: &str) -> bool {
        matches!(self, Node::Object(entries) if entries.iter().any(|(name, _)| name == key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// What the whole message says of a configuration.
    fn told(bytes: impl AsRef<[u8]>) -> String {
        crate::config::parse(bytes.as_ref()).unwrap_err().to_string()
    }

    #[test]
    fn yaml_is_told_from_a_mistake_in_json() {
        for text in [
            "policies:\n- name: orders\n",
            "# Orders.\n---\npolicies: []",
            "\n\npolicies:\n",
            "- name: orders\n",
            "{policies: [{name: orders}]}",
            "name: orders",
        ] {
            let told = told(text);
            assert!(told.starts_with("document: not valid JSON at line ") && told.ends_with(YAML), "{text:?}: {told}");
        }
        for text in ["{\"policies\": [}", "[1,", "{\"a\" 1}", "nul", "hello world", "\u{e9}", "{'policies': []}", "\"a"]
        {
            let told = told(text);
            assert!(
                told.starts_with("document: not valid JSON at line ") && !told.contains("looks like"),
                "{text:?}: {told}"
            );
        }
    }

    #[test]
    fn what_the_document_stands_in_is_told() {
        for text in [
            "static_resources:\n  listeners: []\n",
            "admin: {address: {}}\nstatic_resources:\n",
            "# Envoy\n\"node\":\n  id: a\n",
            "vm_config:\n  vm_id: holdfast\nconfiguration:\n",
        ] {
            assert!(told(text).ends_with(ENVOY), "{text:?}: {}", told(text));
        }
        let told_of = |text: &str| told(text).lines().last().unwrap_or_default().to_owned();
        assert_eq!(
            told_of(r#"{"static_resources": {"listeners": []}, "admin": {}}"#),
            format!("policies: is missing; must be a list of policies, [] lets everything pass{ENVOY}")
        );
        assert!(told("kind: EnvoyFilter\napiVersion: networking.istio.io/v1alpha3\n").ends_with(KUBERNETES));
        assert!(told(r#"{"kind": "WasmPlugin", "apiVersion": "a/v1", "spec": {}}"#).ends_with(KUBERNETES));
        assert!(
            told(r#"{"@type": "type.googleapis.com/google.protobuf.Struct", "value": {"policies": []}}"#)
                .ends_with(ANY)
        );
        let fields = r#"{"fields": {"policies": {"list_value": {"values": []}}}}"#;
        assert!(told(fields).ends_with(FIELDS));
    }

    #[test]
    fn what_has_been_left_out_or_put_around_is_told() {
        let document = r#"{"policies": [{"name": "a"}]}"#;
        let twice = serde_json::to_string(document).unwrap();
        assert_eq!(
            told(&twice),
            format!(
                "document: must be an object with the keys policies, was the string \"{}\"{TWICE}",
                document.replace('"', "\\\"")
            )
        );
        assert!(told(r#"{"name": "orders", "breaker": {}}"#).ends_with(AROUND));
        assert_eq!(
            told(r#"[{"name": "orders"}]"#),
            format!("document: must be an object with the keys policies, was a list{AROUND}")
        );
        assert!(!told("[1]").contains("looks like"));
        for text in ["", "{}"] {
            assert!(told(text).ends_with("[] lets everything pass; the document is empty"), "{text:?}");
        }
        assert_eq!(told(" \t\n"), "document: must be a JSON object {\"policies\": [...]}, was empty");
    }

    #[test]
    fn what_is_not_the_text_itself_is_told() {
        for text in ["/etc/envoy/policy.json", "policy.yaml", "./policy", "file:///a\n", "\"/etc/envoy/policy.json\""] {
            assert!(told(text).ends_with(FILE), "{text:?}: {}", told(text));
        }
        assert!(told("eyJwb2xpY2llcyI6IFtdfQ==").ends_with(BASE64));
        assert!(told("// Orders.\n{\"policies\": []}").ends_with(COMMENTS));
        assert!(told("# Orders.\n{\"policies\": []}").ends_with(COMMENTS));
        assert!(told(b"\xff\xfe{\0}\0").ends_with(UTF_16));
        assert_eq!(told(b"\x2a\x02\x0a\x00"), "document: neither a text nor a google.protobuf.Struct");
    }
}
