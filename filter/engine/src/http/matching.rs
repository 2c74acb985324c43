//! Which policy governs a request.

use std::borrow::Cow;

use crate::http::request::Field;
use holdfast_policy::document::Match;
use holdfast_policy::glob::Glob;

/// Whether a request matches. `value` gives a field of it and is asked only for those that a condition needs.
pub fn holds<'v>(matches: &Match, mut value: impl FnMut(Field<'_>) -> Option<Cow<'v, [u8]>>) -> bool {
    let mut any = |globs: &[Glob], field: Field<'_>| {
        if globs.is_empty() {
            return true;
        }
        let Some(text) = value(field) else { return false };
        let text = comparable(field, text);
        globs.iter().any(|glob| glob.matches(&text))
    };
    any(&matches.method, Field::Method)
        && any(&matches.path, Field::Path)
        && any(&matches.authority, Field::Authority)
        && matches.headers.iter().all(|(name, glob)| any(core::slice::from_ref(glob), Field::Header(name)))
        && any(&matches.cluster, Field::Cluster)
        && any(&matches.route, Field::Route)
}

/// A field's value as globs see it: an authority in lower case, a path without its query.
pub(crate) fn comparable<'v>(field: Field<'_>, mut text: Cow<'v, [u8]>) -> Cow<'v, [u8]> {
    match field {
        Field::Authority => lower(&mut text),
        Field::Path => without_query(&mut text),
        Field::Cluster | Field::Route | Field::Method | Field::Header(_) => {}
    }
    text
}

fn lower(text: &mut Cow<'_, [u8]>) {
    if text.iter().any(u8::is_ascii_uppercase) {
        text.to_mut().make_ascii_lowercase();
    }
}

fn without_query(text: &mut Cow<'_, [u8]>) {
    if let Some(end) = text.iter().position(|byte| matches!(byte, b'?' | b'#')) {
        match text {
            Cow::Borrowed(bytes) => *bytes = bytes.get(..end).unwrap_or_default(),
            Cow::Owned(bytes) => bytes.truncate(end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_policy::config;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn holds(conditions: &str, path: &str) -> bool {
        let text = format!(r#"{{"policies":[{{"name":"p","match":{conditions}}}]}}"#);
        let policy = config::parse(text.as_bytes()).unwrap().policies.remove(0);
        super::holds(&policy.matches, |field| {
            Some(Cow::Owned(match field {
                Field::Cluster => b"orders".to_vec(),
                Field::Authority => b"Shop.Example.com".to_vec(),
                Field::Path => path.as_bytes().to_vec(),
                Field::Method => b"GET".to_vec(),
                Field::Header("x-tenant") => b"gold".to_vec(),
                Field::Route | Field::Header(_) => return None,
            }))
        })
    }

    #[test]
    fn fields_are_anded_and_lists_are_ored() {
        assert!(holds("{}", "/"));
        assert!(holds(r#"{"cluster":["carts","orders"],"method":["GET"]}"#, "/"));
        assert!(!holds(r#"{"cluster":["orders"],"method":["POST"]}"#, "/"));
        assert!(holds(r#"{"header":{"X-Tenant":"g*"}}"#, "/"));
        assert!(!holds(r#"{"header":{"x-tenant":"g*","x-other":"**"}}"#, "/"), "an absent header matches nothing");
        assert!(!holds(r#"{"route":["**"]}"#, "/"), "nor does an absent route name");
    }

    #[test]
    fn an_authority_is_folded_and_a_path_has_no_query() {
        assert!(holds(r#"{"authority":["*.EXAMPLE.com"]}"#, "/"));
        assert!(!holds(r#"{"authority":["*.com"]}"#, "/"), "one star is one label");
        assert!(holds(r#"{"path":["/api/*"]}"#, "/api/items?next=/x"));
    }
}
