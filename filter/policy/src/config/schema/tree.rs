//! A JSON Schema while it is put together: an object whose keywords keep their order.

use serde_json::Number;

use crate::config::json::Node;

/// A schema. Each keyword is there at most once.
#[derive(Debug, Clone, Default)]
pub(super) struct Schema(Vec<(String, Node)>);

impl Schema {
    /// A schema that takes everything.
    pub(super) fn any() -> Self {
        Schema::default()
    }

    /// Values of one type.
    pub(super) fn of_type(name: &str) -> Self {
        Schema::any().with("type", name)
    }

    /// Objects with these keys, whose values have these schemas.
    pub(super) fn having(keys: Vec<(&str, Schema)>) -> Self {
        let names: Vec<Node> = keys.iter().map(|(name, _)| Node::from(*name)).collect();
        Schema::of_type("object").with("required", names).and(Schema::where_there(keys))
    }

    /// Values whose keys have these schemas where they are there. The keys are patterns because editors offer what stands in
    /// `properties`, and a condition is nothing to offer.
    pub(super) fn where_there(keys: Vec<(&str, Schema)>) -> Self {
        let patterns = keys.into_iter().map(|(name, schema)| (format!("^{name}$"), schema.into())).collect();
        Schema::any().with("patternProperties", Node::Object(patterns))
    }

    /// What holds for a value for which `condition` does.
    pub(super) fn when(condition: Schema, then: Schema) -> Self {
        Schema::any().with("if", condition).with("then", then)
    }

    /// What holds for a value for which `condition` does not.
    pub(super) fn unless(condition: Schema, otherwise: Schema) -> Self {
        Schema::any().with("if", condition).with("else", otherwise)
    }

    /// What is one of these.
    pub(super) fn any_of(schemas: Vec<Schema>) -> Self {
        Schema::any().with("anyOf", schemas)
    }

    /// With one more keyword.
    pub(super) fn with(mut self, keyword: &str, value: impl Into<Node>) -> Self {
        self.0.push((keyword.to_owned(), value.into()));
        self
    }

    /// With one more keyword, where there is a value for it.
    pub(super) fn with_some(self, keyword: &str, value: Option<impl Into<Node>>) -> Self {
        match value {
            Some(value) => self.with(keyword, value),
            None => self,
        }
    }

    /// With all keywords of another schema behind its own.
    pub(super) fn and(mut self, other: Schema) -> Self {
        self.0.extend(other.0);
        self
    }

    /// The names of the types, where the keyword `type` is there.
    pub(super) fn types(&self) -> Option<Vec<Node>> {
        match self.0.iter().find(|(keyword, _)| keyword == "type") {
            Some((_, Node::Array(types))) => Some(types.clone()),
            Some((_, one)) => Some(vec![one.clone()]),
            None => None,
        }
    }

    /// Its keywords but `type`.
    pub(super) fn without_types(mut self) -> Self {
        self.0.retain(|(keyword, _)| keyword != "type");
        self
    }

    /// Whether a keyword is there.
    pub(super) fn has(&self, keyword: &str) -> bool {
        self.0.iter().any(|(other, _)| other == keyword)
    }
}

/// The value of `properties`.
pub(super) fn properties(keys: Vec<(&str, Schema)>) -> Node {
    Node::Object(keys.into_iter().map(|(name, schema)| (name.to_owned(), schema.into())).collect())
}

impl From<Schema> for Node {
    fn from(schema: Schema) -> Self {
        Node::Object(schema.0)
    }
}

impl From<&str> for Node {
    fn from(text: &str) -> Self {
        Node::String(text.to_owned())
    }
}

impl From<String> for Node {
    fn from(text: String) -> Self {
        Node::String(text)
    }
}

impl From<bool> for Node {
    fn from(value: bool) -> Self {
        Node::Bool(value)
    }
}

impl From<u32> for Node {
    fn from(number: u32) -> Self {
        Node::Number(number.into())
    }
}

impl From<usize> for Node {
    fn from(number: usize) -> Self {
        Node::Number(number.into())
    }
}

impl From<f64> for Node {
    /// A whole number is written without decimals, and what is no number at all as `null`.
    fn from(number: f64) -> Self {
        let whole = number as u32;
        if f64::from(whole) == number {
            return whole.into();
        }
        Number::from_f64(number).map_or(Node::Null, Node::Number)
    }
}

impl<T: Into<Node>> From<Vec<T>> for Node {
    fn from(items: Vec<T>) -> Self {
        Node::Array(items.into_iter().map(Into::into).collect())
    }
}
