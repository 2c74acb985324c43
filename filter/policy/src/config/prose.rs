//! What the tables say about a value, in words: for the reference, and for the JSON Schema's descriptions.

use super::table::{Absent, Block, Form, GRPC_STATUS, Key, Kind, STATUS, Segments, Word};
use super::{duration, size};
use crate::authority;

/// Longer lists of words do not fit into a line.
const FEW_WORDS: usize = 5;

/// What a value is, `many` of it or one.
pub fn type_of(kind: &Kind, many: bool) -> String {
    let (one, more) = match kind {
        Kind::Boolean => ("boolean", "booleans"),
        Kind::Duration(_) => ("duration", "durations"),
        Kind::Size(_) => ("size", "sizes"),
        Kind::Percent { .. } | Kind::PositivePercent => ("percentage", "percentages"),
        Kind::Number(_) => ("number", "numbers"),
        Kind::Whole(_) => ("whole number", "whole numbers"),
        Kind::Word(_) => ("word", "words"),
        Kind::Status => ("status", "statuses"),
        Kind::GrpcStatus => ("gRPC status", "gRPC statuses"),
        Kind::Body(_) => ("string, or any other JSON value", "bodies"),
        Kind::Object(_) => ("object", "objects"),
        Kind::Globs(_) => ("glob, or list of globs", "lists of globs"),
        Kind::String(Form::Name { .. } | Form::Cluster) => ("name", "names"),
        Kind::String(Form::Glob(_)) => ("glob", "globs"),
        Kind::String(Form::HeaderName) => ("header name", "header names"),
        Kind::String(Form::HeaderValue(_) | Form::Text { .. }) => ("text", "texts"),
        Kind::String(Form::Authority) => ("host", "hosts"),
        Kind::String(Form::Method) => ("method", "methods"),
        Kind::String(Form::Path) => ("path", "paths"),
        Kind::String(Form::Host) => ("address and port", "addresses and ports"),
        Kind::List { of, .. } => return format!("list of {}", type_of(of, true)),
        Kind::Headers { of, .. } => return format!("object of header names and {}", type_of(of, true)),
        Kind::OneOf(kinds) => {
            let kinds: Vec<String> = kinds.iter().map(|kind| type_of(kind, many)).collect();
            return kinds.join(if many { " and " } else { ", or " });
        }
    };
    if many { more } else { one }.to_owned()
}

/// What holds without a key.
pub fn default_of(default: &Absent) -> String {
    match default {
        Absent::Required => "required".to_owned(),
        Absent::Means(text) => text.as_str().to_owned(),
        _ => default.spelled().map(|text| format!("`{text}`")).unwrap_or_default(),
    }
}

/// What a key takes: its range and its limit. `keys_of` says where the keys of an object are told; nothing is said of
/// them where it says nothing.
pub fn accepted(key: &Key, keys_of: &dyn Fn(&'static Block) -> String) -> String {
    let mut parts = accepted_by(&key.kind, keys_of);
    parts.push(key.limit.as_str().to_owned());
    parts.retain(|part| !part.is_empty());
    parts.join("; ")
}

fn accepted_by(kind: &Kind, keys_of: &dyn Fn(&'static Block) -> String) -> Vec<String> {
    let text = match kind {
        Kind::Boolean => "`true`, `false`".to_owned(),
        Kind::Duration(range) => format!("`{}` to `{}`", duration::text(*range.start()), duration::text(*range.end())),
        Kind::Size(range) => format!("`{}` to `{}`", size::text(*range.start()), size::text(*range.end())),
        Kind::Percent { min } => range(min, 100),
        Kind::PositivePercent => "above 0, to 100".to_owned(),
        Kind::Number(numbers) | Kind::Whole(numbers) => range(numbers.start(), numbers.end()),
        Kind::Word(words) if words.len() <= FEW_WORDS => {
            let words: Vec<String> = words.iter().map(|word| format!("`{}`", word.name)).collect();
            words.join(", ")
        }
        Kind::Word(_) => "the words below".to_owned(),
        Kind::Globs(segments) => format!("at least one; {}", segments_of(*segments)),
        Kind::String(Form::Glob(segments)) => segments_of(*segments),
        Kind::String(Form::Name { most }) => format!("1 to {most} of `a-z`, `0-9`, `_` and `-`"),
        Kind::String(Form::HeaderName) => "any case; no pseudo header".to_owned(),
        Kind::String(Form::HeaderValue(template)) => {
            format!("printable ASCII, no space at its ends, at most {} variables in each", template.most)
        }
        Kind::String(Form::Text { most }) => {
            format!("printable ASCII, no space at its ends, at most {} characters", number(*most))
        }
        Kind::String(Form::Authority) => format!(
            "`orders.example.com`, `orders:8080`, `[2001:db8::1]:8080`; at most {} characters",
            authority::MAX_LEN
        ),
        Kind::String(Form::Method) => "case counts".to_owned(),
        Kind::String(Form::Path) => "begins with `/`; visible ASCII".to_owned(),
        Kind::String(Form::Cluster) => "not empty".to_owned(),
        Kind::String(Form::Host) => "`10.0.0.1:8080`, `[2001:db8::1]:8080`".to_owned(),
        Kind::Status => range(STATUS.start(), STATUS.end()),
        Kind::GrpcStatus => format!("names, {}", range(GRPC_STATUS.start(), GRPC_STATUS.end())),
        Kind::List { of, empty, most, .. } => {
            let count = match (empty, most) {
                (true, None) => "may be empty".to_owned(),
                (true, Some(most)) => format!("at most {}", number(*most)),
                (false, None) => "at least one".to_owned(),
                (false, Some(most)) => range(1, most),
            };
            return [vec![count], accepted_by(of, keys_of)].concat();
        }
        Kind::Headers { of, most, .. } => {
            return [vec![format!("at most {}", number(*most))], accepted_by(of, keys_of)].concat();
        }
        Kind::Body(body) => {
            let mebibytes = body.bytes / (1024 * 1024);
            format!("at most {mebibytes} MiB; at most {} variables", body.template.most)
        }
        Kind::Object(block) => keys_of(block),
        Kind::OneOf(kinds) => return kinds.iter().flat_map(|kind| accepted_by(kind, keys_of)).collect(),
    };
    vec![text]
}

fn segments_of(segments: Segments) -> String {
    let ends = segments.separator.map(|byte| format!("segments end at `{}`", char::from(byte)));
    let ends = ends.unwrap_or_else(|| "one segment".to_owned());
    if segments.case { ends } else { format!("{ends}; case does not count") }
}

/// The lists of words that a key takes, variables of a template included.
pub fn words_of(kind: &Kind) -> Vec<&'static [Word]> {
    match kind {
        Kind::Word(words) => vec![words],
        Kind::Body(body) => vec![body.template.variables],
        Kind::String(Form::HeaderValue(template)) => vec![template.variables],
        Kind::List { of, .. } | Kind::Headers { of, .. } => words_of(of),
        Kind::OneOf(kinds) => kinds.iter().flat_map(words_of).collect(),
        _ => Vec::new(),
    }
}

/// `1 to 1,000,000`.
pub fn range(first: impl ToString, last: impl ToString) -> String {
    format!("{} to {}", number(first), number(last))
}

/// A number with commas between its thousands.
pub fn number(number: impl ToString) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn numbers_have_commas_between_their_thousands() {
        assert_eq!(range(1, 1_000_000), "1 to 1,000,000");
        assert_eq!(["0", "100", "1024"].map(number), ["0", "100", "1,024"]);
    }
}
