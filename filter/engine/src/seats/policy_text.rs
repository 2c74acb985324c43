//! How the attempt seat finds the policies: the request seat publishes each of them in the store.

use holdfast_policy::config;
use holdfast_policy::document::Policy;

use crate::base::fingerprint;
use crate::store::record::{Kind, Reader, Record, Writer};
use crate::store::{Expected, Store, paths};

/// A document with one policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyText(pub Vec<u8>);

impl Record for PolicyText {
    const KIND: Kind = Kind::PolicyText;
    fn size(&self) -> usize {
        self.0.len()
    }
    fn write(&self, out: &mut Writer) {
        out.rest(&self.0);
    }
    fn read(input: &mut Reader<'_>) -> Option<Self> {
        Some(PolicyText(input.rest().to_owned()))
    }
}

/// Publishes a policy of this name and content. `text` is a document with just this policy.
pub fn publish(store: &mut dyn Store, name: &str, fingerprint: u64, text: &str) {
    let key = paths::policy_text(&paths::of_policy(name, fingerprint));
    let bytes = PolicyText(text.as_bytes().to_owned()).encode(fingerprint);
    // The same policy may have been written in other words; other bytes are replaced.
    if store.swap(&key, &bytes, Expected::Absent).is_err() && fetch(store, name, fingerprint).is_none() {
        store.set(&key, &bytes);
    }
}

/// The policy of this name and content, as the request seat has published it; `None` if it is not there.
pub fn fetch(store: &mut dyn Store, name: &str, fingerprint: u64) -> Option<Policy> {
    let (bytes, _) = store.get(&paths::policy_text(&paths::of_policy(name, fingerprint)))?;
    let text = PolicyText::decode(&bytes, fingerprint)?;
    let policy = config::parse_struct_json(&text.0).ok()?.policies.pop()?;
    (policy.name == name && fingerprint::of_policy(&policy) == fingerprint).then_some(policy)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_text_longer_than_other_fields_can_be_is_kept_whole() {
        let text = PolicyText(vec![b'x'; 100_000]);
        assert_eq!(PolicyText::decode(&text.encode(7), 7), Some(text));
    }
}
