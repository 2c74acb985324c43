//! What is kept of a request that an answer may be kept for, or served to.

use super::vary::Vary;
use crate::base::fingerprint;
use crate::http::headers;

/// The longest target, in bytes. Answers to longer ones are not kept.
const LONGEST_TARGET: usize = 8192;

/// A GET or HEAD without a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedFor {
    /// What was asked for, in one form: cluster, scheme, authority and path with its query.
    target: Vec<u8>,
    /// The request's headers as the host serializes them.
    headers: Vec<u8>,
    /// Whether it is HEAD.
    is_head: bool,
}

impl AskedFor {
    /// A request with these headers, as the host serializes them, to this cluster; `None` where it is another one. `ended` says that it
    /// has no body: some services answer by it.
    ///
    /// The cluster is part of what was asked for: routes choose it by headers that no `vary` names.
    pub fn read<C: AsRef<[u8]>>(headers: &[u8], cluster: impl FnOnce() -> C, ended: bool) -> Option<Self> {
        let first = |wanted: &[u8]| headers::read(headers).find(|(name, _)| *name == wanted).map(|(_, value)| value);
        let is_head = match first(b":method")? {
            b"GET" => false,
            b"HEAD" => true,
            _ => return None,
        };
        let authority = first(b":authority")?.to_ascii_lowercase();
        let (mut target, cluster) = (Vec::new(), cluster());
        for part in [cluster.as_ref(), first(b":scheme").unwrap_or_default(), &authority, first(b":path")?] {
            target.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
            target.extend_from_slice(part);
        }
        (ended && target.len() <= LONGEST_TARGET).then(|| AskedFor { target, headers: headers.to_vec(), is_head })
    }

    /// What was asked for.
    pub fn target(&self) -> &[u8] {
        &self.target
    }

    /// The same as a number.
    pub fn target_hash(&self) -> u64 {
        fingerprint::of_text(&self.target)
    }

    /// Whether it is HEAD.
    pub fn is_head(&self) -> bool {
        self.is_head
    }

    /// What it has of the headers that an answer varies by.
    pub fn values(&self, vary: &Vary) -> Option<Vec<u8>> {
        vary.values(&self.headers)
    }

    /// The lines of a header.
    pub fn lines<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let same = move |name: &[u8]| name.eq_ignore_ascii_case(wanted.as_bytes());
        headers::read(&self.headers).filter(move |(name, _)| same(name)).map(|(_, value)| value)
    }

    /// Whether it has a header.
    pub fn has(&self, wanted: &str) -> bool {
        self.lines(wanted).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn read(method: &str, authority: &str, path: &str, cluster: &str, ended: bool) -> Option<AskedFor> {
        let pairs = [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path)];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value));
        AskedFor::read(&headers::write(&pairs), || cluster, ended)
    }

    #[test]
    fn only_get_and_head_without_a_body_ask_for_something() {
        assert!(read("GET", "a", "/", "c", true).is_some_and(|asked| !asked.is_head()));
        assert!(read("HEAD", "a", "/", "c", true).is_some_and(|asked| asked.is_head()));
        for method in ["POST", "get", "", "OPTIONS"] {
            assert_eq!(read(method, "a", "/", "c", true), None);
        }
        assert_eq!(read("GET", "a", "/", "c", false), None, "it has a body");
        assert_eq!(read("GET", "a", &"/".repeat(9000), "c", true), None);
        assert_eq!(AskedFor::read(&[], || b"c", true), None);
    }

    #[test]
    fn different_targets_are_different_and_the_case_of_an_authority_does_not_count() {
        let target = |authority: &str, path: &str, cluster: &str| {
            read("GET", authority, path, cluster, true).map(|asked| (asked.target_hash(), asked.target().to_vec()))
        };
        assert_eq!(target("Shop.test", "/a", "c"), target("shop.test", "/a", "c"));
        let all = [target("a", "/b", "c"), target("a", "/b?", "c"), target("a", "/B", "c"), target("a/", "b", "c")];
        let all = [&all[..], &[target("a", "/b", "d"), target("a", "/b?x=1", "c")]].concat();
        for (index, one) in all.iter().enumerate() {
            assert!(all.iter().skip(index + 1).all(|other| one != other), "{index}");
        }
    }
}
