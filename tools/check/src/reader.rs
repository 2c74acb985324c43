//! What becomes of a scalar of YAML on its way to the module: who reads the file decides which of them are texts.

use holdfast_yaml::{Kind, Node, Style};
use serde_json::Value;

use crate::texts::{At, Texts};

/// Who reads a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// A reader of JSON, or one of YAML 1.2 as `holdfast wrap`.
    Plain,
    /// Envoy's own of YAML: what is no integer of 32 bits and no boolean is a text. Source: Envoy, `parseYamlNode`.
    Envoy,
    /// Kubernetes' tools: YAML 1.1.
    Kubernetes,
}

impl Reader {
    /// Who reads the file that a part of Envoy's configuration stands in.
    pub fn of(texts: &Texts, at: &At<'_>) -> Self {
        let Some(text) = texts.all.get(at.text) else { return Reader::Plain };
        let root = text.roots.get(at.root);
        if root.is_some_and(|root| root.get("apiVersion").is_some() && root.get("kind").is_some()) {
            Reader::Kubernetes
        } else if text.json {
            Reader::Plain
        } else {
            Reader::Envoy
        }
    }

    /// A scalar as JSON; `None` for what JSON has no word for.
    pub fn scalar(self, node: &Node) -> Option<Value> {
        let Kind::Scalar(text) = &node.kind else { return None };
        if self == Reader::Plain || node.style != Style::Plain || node.is_null() {
            let value = serde_json::to_value(node.value()).ok()?;
            return (!value.is_null() || node.is_null()).then_some(value);
        }
        if let Some(word) = boolean(text) {
            return Some(word.into());
        }
        match self {
            Reader::Envoy => match text.parse::<i32>() {
                Ok(whole) => Some(whole.into()),
                Err(_) => Some(text.as_str().into()),
            },
            _ => Reader::Plain.scalar(node),
        }
    }
}

/// The words of YAML 1.1 for a boolean, in small or capital letters or with a capital one first.
fn boolean(text: &str) -> Option<bool> {
    let lower = text.to_ascii_lowercase();
    let rest = text.get(1..)?;
    let is_word =
        rest.bytes().all(|byte| byte.is_ascii_lowercase()) || text.bytes().all(|byte| byte.is_ascii_uppercase());
    match lower.as_str() {
        "y" | "yes" | "true" | "on" if is_word => Some(true),
        "n" | "no" | "false" | "off" if is_word => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scalar_is_what_its_reader_makes_of_it() {
        let as_read = |reader: Reader, text: &str| {
            let node = holdfast_yaml::parse(&format!("a: {text}\n")).unwrap().remove(0).root.unwrap();
            reader.scalar(node.get("a").unwrap()).map(|value| value.to_string())
        };
        for (text, plain, envoy, kubernetes) in [
            ("50", "50", "50", "50"),
            ("62.5", "62.5", r#""62.5""#, "62.5"),
            ("3000000000", "3000000000", r#""3000000000""#, "3000000000"),
            ("off", r#""off""#, "false", "false"),
            ("Yes", r#""Yes""#, "true", "true"),
            ("oFF", r#""oFF""#, r#""oFF""#, r#""oFF""#),
            ("'off'", r#""off""#, r#""off""#, r#""off""#),
            ("10s", r#""10s""#, r#""10s""#, r#""10s""#),
            ("~", "null", "null", "null"),
            ("true", "true", "true", "true"),
        ] {
            let all = [Reader::Plain, Reader::Envoy, Reader::Kubernetes].map(|reader| as_read(reader, text));
            assert_eq!(all, [plain, envoy, kubernetes].map(|json| Some(json.to_owned())), "{text}");
        }
        assert_eq!(as_read(Reader::Plain, ".nan"), None);
        assert_eq!(as_read(Reader::Envoy, ".nan").as_deref(), Some(r#"".nan""#));
    }
}
