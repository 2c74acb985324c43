//! Finds the governing policy without asking each of many.
//!
//! A policy that names a cluster, route, authority or path without a star can only govern requests with just that
//! value, so a table leads to it. The first policy in the document's order still governs.

use crate::http::matching;
use std::borrow::Cow;

use crate::http::matching::comparable;
use crate::http::request::Field;
use holdfast_policy::document::{Document, Match};
use holdfast_policy::glob::Glob;

/// The fields that tables are made of, those that are cheap to get first.
const FIELDS: [Field<'static>; 4] = [Field::Cluster, Field::Path, Field::Authority, Field::Route];

/// With so few policies asking each is as fast.
const FEW: usize = 4;

/// The policies of a document by what they match. A policy is named by its place in the document.
#[derive(Debug, Clone, Default)]
pub struct Index {
    matches: Vec<Match>,
    /// Policies that no table leads to, in order.
    others: Vec<usize>,
    tables: Vec<Table>,
}

/// The policies that one field leads to.
#[derive(Debug, Clone)]
struct Table {
    field: Field<'static>,
    /// The first policy in it.
    first: usize,
    /// By value, each with its policies in order.
    by_value: Vec<(Vec<u8>, Vec<usize>)>,
}

impl Table {
    /// The place of a value, or where it would be.
    fn search(&self, value: &[u8]) -> Result<usize, usize> {
        self.by_value.binary_search_by(|(other, _)| other.as_slice().cmp(value))
    }

    /// The policies that a value leads to.
    fn places(&self, value: &[u8]) -> Option<&[usize]> {
        self.by_value.get(self.search(value).ok()?).map(|(_, places)| places.as_slice())
    }

    /// Lets a value lead to a policy, which stands behind all others that it leads to.
    fn lead(&mut self, value: Vec<u8>, place: usize) {
        match self.search(&value) {
            Ok(at) => {
                if let Some((_, places)) = self.by_value.get_mut(at)
                    && places.last() != Some(&place)
                {
                    places.push(place);
                }
            }
            Err(at) => self.by_value.insert(at, (value, vec![place])),
        }
    }
}

impl Index {
    /// The index of a document's policies.
    pub fn new(document: &Document) -> Self {
        let matches: Vec<Match> = document.policies.iter().map(|policy| policy.matches.clone()).collect();
        let mut index = Index { matches, ..Index::default() };
        if index.matches.len() <= FEW {
            index.others = (0..index.matches.len()).collect();
            return index;
        }
        for field in FIELDS {
            index.tables.push(Table { field, first: usize::MAX, by_value: Vec::new() });
        }
        for (place, conditions) in index.matches.iter().enumerate() {
            let led = index.tables.iter_mut().find_map(|table| {
                let values = literals(conditions, table.field)?;
                Some((table, values))
            });
            match led {
                None => index.others.push(place),
                Some((table, values)) => {
                    table.first = table.first.min(place);
                    for value in values {
                        table.lead(value, place);
                    }
                }
            }
        }
        index.tables.retain(|table| !table.by_value.is_empty());
        index
    }

    /// The first policy that governs the request. `value` gives a field of it and is asked only for fields that matter.
    pub fn find<'v>(&self, mut value: impl FnMut(Field<'_>) -> Option<Cow<'v, [u8]>>) -> Option<usize> {
        let mut holds = |place: usize| self.matches.get(place).is_some_and(|one| matching::holds(one, &mut value));
        let mut found = self.others.iter().copied().find(|place| holds(*place));
        for table in &self.tables {
            // What stands behind a policy that is found already need not be looked at.
            if found.is_some_and(|found| found < table.first) {
                continue;
            }
            let Some(text) = value(table.field) else { continue };
            let Some(places) = table.places(comparable(table.field, text).as_ref()) else { continue };
            let mut holds = |place: usize| self.matches.get(place).is_some_and(|one| matching::holds(one, &mut value));
            let led = places.iter().copied().take_while(|place| found.is_none_or(|found| *place < found));
            let mut led = led.filter(|place| holds(*place));
            found = led.next().or(found);
        }
        found
    }
}

/// The values that a field must have one of, if the conditions name them without stars.
fn literals(conditions: &Match, field: Field<'_>) -> Option<Vec<Vec<u8>>> {
    let globs: &[Glob] = match field {
        Field::Cluster => &conditions.cluster,
        Field::Route => &conditions.route,
        Field::Authority => &conditions.authority,
        Field::Path => &conditions.path,
        Field::Method | Field::Header(_) => &[],
    };
    if globs.is_empty() {
        return None;
    }
    globs.iter().map(|glob| glob.is_literal().then(|| glob.as_str().as_bytes().to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_policy::config;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn document(conditions: &[&str]) -> Document {
        let policies: Vec<_> = conditions
            .iter()
            .enumerate()
            .map(|(place, conditions)| format!(r#"{{"name":"p{place}","match":{conditions}}}"#))
            .collect();
        config::parse(format!(r#"{{"policies":[{}]}}"#, policies.join(",")).as_bytes()).unwrap()
    }

    fn request(cluster: &str, path: &str) -> impl Fn(Field<'_>) -> Option<Cow<'static, [u8]>> {
        let (cluster, path) = (cluster.as_bytes().to_vec(), path.as_bytes().to_vec());
        move |field| match field {
            Field::Cluster => Some(Cow::Owned(cluster.clone())),
            Field::Path => Some(Cow::Owned(path.clone())),
            Field::Authority => Some(Cow::Borrowed(b"Shop.example.COM")),
            Field::Method => Some(Cow::Borrowed(b"GET")),
            Field::Route | Field::Header(_) => None,
        }
    }

    #[test]
    fn it_finds_what_asking_each_in_order_finds() {
        let kinds = [
            r#"{"cluster":["a"]}"#,
            r#"{"cluster":["a","b"],"path":["/x/**"]}"#,
            r#"{"cluster":["*c"]}"#,
            r#"{"path":["/x/1","/y"]}"#,
            r#"{"authority":["shop.EXAMPLE.com"],"path":["/z/*"]}"#,
            r#"{"route":["r"]}"#,
            r#"{"path":["/never"],"method":["POST"]}"#,
            "{}",
        ];
        // Every rotation of the list, with and without the policy for all the rest.
        for turn in 0..kinds.len() {
            for rest in [true, false] {
                let mut conditions: Vec<_> = (0..kinds.len()).map(|n| kinds[(n + turn) % kinds.len()]).collect();
                conditions.retain(|kind| rest || *kind != "{}");
                let document = document(&conditions);
                let index = Index::new(&document);
                for cluster in ["a", "b", "abc", "d"] {
                    for path in ["/x/1", "/x/1?q=/y", "/y", "/z/9", "/never", "/"] {
                        let value = request(cluster, path);
                        let each = document.policies.iter().position(|policy| matching::holds(&policy.matches, &value));
                        assert_eq!(index.find(&value), each, "{cluster} {path} in {conditions:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_field_that_cannot_matter_is_not_fetched() {
        let document = document(&["{}", r#"{"cluster":["a"]}"#, r#"{"cluster":["b"]}"#, "{}", "{}", "{}"]);
        let found = Index::new(&document).find(|_| panic!("the first policy governs everything"));
        assert_eq!(found, Some(0));
    }
}
