//! How the attempt seat finds the policies: the request seat publishes each of them in the store.

use holdfast_policy::config;
use holdfast_policy::document::Policy;

use crate::store::block::{BlockKind, ByKind, KINDS};
use crate::store::directory::Occupant;
use crate::store::record::{Kind, Mark, Reader, Record, Writer};
use crate::store::{Store, paths};

/// A document with one policy, and where its blocks are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyText {
    /// Where they are.
    pub places: ByKind<Option<Occupant>>,
    /// The document.
    pub text: Vec<u8>,
}

impl Record for PolicyText {
    const KIND: Kind = Kind::PolicyText;
    fn size(&self) -> usize {
        self.text.len() + KINDS * 7
    }
    fn write(&self, out: &mut Writer) {
        for kind in BlockKind::ALL {
            let place = self.places.get(kind);
            out.u8(place.is_some().into());
            if let Some(place) = place {
                place.write(out);
            }
        }
        out.rest(&self.text);
    }
    fn read(input: &mut Reader<'_>) -> Option<Self> {
        let mut places = ByKind::default();
        for kind in BlockKind::ALL {
            if input.flag()? {
                *places.get_mut(kind) = Some(Occupant::read(input)?);
            }
        }
        Some(PolicyText { places, text: input.rest().to_owned() })
    }
}

/// The name in the store of the text that has this place, and whose it is.
#[must_use]
pub fn name_and_mark(place: Occupant) -> (String, Mark) {
    (paths::of_block(BlockKind::Text, place.index), Mark { block: place.tenancy, key: 0 })
}

/// Publishes a policy whose blocks are there. `text` is a document with just this policy.
pub fn publish(store: &mut dyn Store, places: &ByKind<Option<Occupant>>, text: &str) {
    let Some(place) = *places.get(BlockKind::Text) else { return };
    let (name, mark) = name_and_mark(place);
    let bytes = PolicyText { places: *places, text: text.as_bytes().to_owned() }.encode(mark);
    // Other bytes are replaced; another worker writes the same.
    if store.get(&name).is_none_or(|(known, _)| known != bytes) {
        store.set(&name, &bytes);
    }
}

/// The policy whose text has this place, as the request seat has published it, and where its blocks are; `None` if it is not there.
pub fn fetch(store: &mut dyn Store, place: Occupant) -> Option<(Policy, ByKind<Option<Occupant>>)> {
    let (name, mark) = name_and_mark(place);
    let (bytes, _) = store.get(&name)?;
    let PolicyText { places, text } = PolicyText::decode(&bytes, mark)?;
    let policy = config::parse_struct_json(&text).ok()?.policies.pop()?;
    Some((policy, places))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_text_longer_than_other_fields_can_be_is_kept_whole() {
        let places = ByKind::new(|kind| (kind != BlockKind::Retry).then_some(Occupant { index: 3, tenancy: 4 }));
        let text = PolicyText { places, text: vec![b'x'; 100_000] };
        assert_eq!(PolicyText::decode(&text.encode(Mark { block: 7, key: 0 }), Mark { block: 7, key: 0 }), Some(text));
    }
}
