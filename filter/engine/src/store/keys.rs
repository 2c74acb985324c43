//! Keys: what has its own state within a policy, and its text in metrics, headers and logs.
//!
//! Values that come from requests never become names in the store. Each key has a numbered [index](crate::store::directory) there, of which a
//! policy has `max_keys`; a new one takes the place of the one that is worth least, and where all are worth keeping it shares the
//! overflow key. Metric series cannot be given back, so only the first `max_keys` keys in the life of the process have some of their
//! own.

use std::collections::HashMap;

use crate::base::fingerprint;
use crate::base::time::Timestamp;
use crate::store::directory::{DirectoryView, Occupant, Worth};
use crate::store::paths::{self, KeysPaths};
use crate::store::record::{Kind, Mark, Reader, Record, Writer};
use crate::store::{Store, update};
use holdfast_policy::document::{Dimension, Scope};

/// A key of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its place in the store; that with the number `max_keys` is the overflow key's.
    pub occupant: Occupant,
    /// Its metric series.
    pub series: Series,
}

impl Key {
    /// The one key of a policy with an empty scope.
    pub const ALL: Key = Key { occupant: Occupant { index: 0, tenancy: 0 }, series: Series(0) };
}

/// The number of a key's metric series within its policy's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Series(u16);

impl Series {
    /// The series that all keys share that have none of their own.
    pub const OVERFLOW: Series = Series(u16::MAX);

    /// A number for lists: 0 for the overflow series, then from 1 on.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0.wrapping_add(1))
    }
}

/// The text of the one key of a policy with an empty scope.
pub const ALL: &str = "all";

/// The text of the key that later values share.
pub const OVERFLOW: &str = "overflow";

/// The longest text of a value that stands whole in a key's text, in bytes: room for the longest name in the DNS with a port,
/// and so for the names that Istio gives to clusters.
const LONGEST_VALUE: usize = 260;

/// The longest values, joined, that a worker keeps to save making their text again, in bytes.
pub(crate) const LONGEST_JOINED: usize = 512;

/// The text of the key for these values, which are in the order of `scope.by`: `cluster=orders,x-tenant=a`.
///
/// It stands as it is in the log, the access log and the names of metrics, so it holds nothing that any of them would lose or
/// mistake. Visible ASCII characters stand for themselves, but for those that separate something somewhere (`"`, `,`, `;`, `=`,
/// `\`), `%`, `~`, and a dot at a value's end, which Envoy would drop from a label. These and all other bytes are percent-encoded:
/// the value can be read back, and different values have different texts. A text that becomes too long is cut and ends with `~`
/// and a hash of the whole value.
pub fn text(scope: &Scope, values: &[impl AsRef<[u8]>]) -> String {
    if scope.by.is_empty() {
        return ALL.to_owned();
    }
    let mut text = String::with_capacity(32);
    for (dimension, value) in scope.by.iter().zip(values) {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(word(dimension));
        text.push('=');
        push_value(&mut text, value.as_ref());
    }
    text
}

/// What a dimension is called in texts.
fn word(dimension: &Dimension) -> &str {
    match dimension {
        Dimension::Cluster => "cluster",
        Dimension::Route => "route",
        Dimension::Authority => "authority",
        Dimension::Header(name) => name,
    }
}

/// Whether a [text] may be one of a key of this scope: it has the same dimensions.
#[must_use]
pub fn is_of(text: &str, scope: &Scope) -> bool {
    // Values have neither a comma nor an equals sign.
    let words = text.split(',').map(|part| part.split_once('=').map(|(word, _)| word));
    !scope.by.is_empty() && words.eq(scope.by.iter().map(|dimension| Some(word(dimension))))
}

fn push_value(text: &mut String, value: &[u8]) {
    let begin = text.len();
    let mut rest = value.iter();
    while let Some(byte) = rest.next() {
        let is_last = rest.len() == 0;
        let is_plain = matches!(byte, b'!'..=b'~') && !b"\"%,;=\\~".contains(byte) && !(*byte == b'.' && is_last);
        let size = if is_plain { 1 } else { 3 };
        if text.len().saturating_sub(begin).saturating_add(size) > LONGEST_VALUE {
            text.push('~');
            push_hex(text, fingerprint::of_text(value), 16);
            return;
        }
        if is_plain {
            text.push(char::from(*byte));
        } else {
            text.push('%');
            push_hex(text, u64::from(*byte), 2);
        }
    }
}

/// The last `digits` hexadecimal digits of a number.
fn push_hex(text: &mut String, number: u64, digits: u32) {
    for place in (0..digits).rev() {
        let digit = (number >> place.saturating_mul(4) & 0xf) as u32;
        text.extend(char::from_digit(digit, 16).map(|digit| digit.to_ascii_uppercase()));
    }
}

/// The name of one key, as it stands in the store.
struct KeyName(String);

impl Record for KeyName {
    const KIND: Kind = Kind::KeyName;
    fn write(&self, out: &mut Writer) {
        out.bytes(self.0.as_bytes());
    }
    fn read(input: &mut Reader<'_>) -> Option<Self> {
        core::str::from_utf8(input.bytes()?).ok().map(|text| KeyName(text.to_owned()))
    }
}

/// The text of the key that has, or had, this place in the block of keys that has that place.
pub fn read_text(store: &mut dyn Store, block: Occupant, key: Occupant) -> Option<String> {
    let mark = Mark { block: block.tenancy, key: key.tenancy };
    let (bytes, _) = store.get(&KeysPaths::new(block.index).name(key.index))?;
    KeyName::decode(&bytes, mark).map(|KeyName(text)| text)
}

/// The names that have metric series, hashed, in the order in which they got them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct SeriesNames(Vec<u64>);

impl SeriesNames {
    fn find(&self, name: u64) -> Option<Series> {
        let number = self.0.iter().position(|known| *known == name)?;
        u16::try_from(number).ok().map(Series)
    }
}

impl Record for SeriesNames {
    const KIND: Kind = Kind::Series;
    fn size(&self) -> usize {
        self.0.len().saturating_mul(8).saturating_add(2)
    }
    fn write(&self, out: &mut Writer) {
        let len = self.0.len().min(usize::from(u16::MAX));
        out.u16(len as u16);
        self.0.iter().take(len).for_each(|name| out.u64(*name));
    }
    fn read(input: &mut Reader<'_>) -> Option<Self> {
        let len = usize::from(input.u16()?);
        (0..len).map(|_| input.u64()).collect::<Option<_>>().map(SeriesNames)
    }
}

/// The fingerprint of the names of series: they belong to a policy's name, whatever its content.
const ANY_CONTENT: Mark = Mark::NONE;

/// Who has a place, as far as this worker has met it.
#[derive(Debug)]
struct Known {
    tenancy: u32,
    text: String,
    series: Series,
}

/// One worker's copy of a policy's keys.
#[derive(Debug)]
pub struct KeyTable {
    place: Occupant,
    paths: KeysPaths,
    most: u16,
    directory: DirectoryView,
    /// By the values as they came, joined; saves making the text again. What it says of a key that has lost its place is void.
    by_values: HashMap<Vec<u8>, Key>,
    /// Those of the last request: most have the same as the one before.
    last: Option<(Vec<u8>, Key)>,
    /// Where values are joined; kept to reuse its memory.
    joined: Vec<u8>,
    /// By place.
    known: Vec<Option<Known>>,
    series_path: String,
    series: SeriesNames,
    /// The texts of the series by their index, as far as this worker has met their keys.
    series_texts: Vec<String>,
}

impl KeyTable {
    /// A copy that has read nothing yet, of the block of keys that has this place, for the policy with this name.
    pub fn new(place: Occupant, policy: &str, scope: &Scope) -> Self {
        let most = scope.max_keys.get();
        let paths = KeysPaths::new(place.index);
        KeyTable {
            directory: DirectoryView::new(paths.directory(), Mark { block: place.tenancy, key: 0 }, most),
            place,
            paths,
            most,
            by_values: HashMap::new(),
            last: None,
            joined: Vec::new(),
            known: Vec::new(),
            series_path: paths::series(policy),
            series: SeriesNames::default(),
            series_texts: Vec::new(),
        }
    }

    /// The key that those share for which there is no place.
    #[must_use]
    pub fn overflow_of(scope: &Scope) -> Key {
        Key { occupant: Occupant { index: scope.max_keys.get(), tenancy: 0 }, series: Series::OVERFLOW }
    }

    /// The text of a key, as long as it has its place or a series of its own.
    #[must_use]
    pub fn text(&self, key: Key) -> &str {
        self.known_of(key.occupant).map_or_else(|| self.series_text(key.series), |known| &known.text)
    }

    /// The text of a series.
    #[must_use]
    pub fn series_text(&self, series: Series) -> &str {
        let text = self.series_texts.get(series.index()).filter(|text| !text.is_empty());
        text.map_or(OVERFLOW, String::as_str)
    }

    fn known_of(&self, occupant: Occupant) -> Option<&Known> {
        let known = self.known.get(usize::from(occupant.index))?.as_ref()?;
        (known.tenancy == occupant.tenancy).then_some(known)
    }

    /// Whether the key has a place, as far as this worker knows.
    fn is_current(&self, key: Key) -> bool {
        self.known_of(key.occupant).is_some()
    }

    /// Looks at once who has lost a place: a key of this worker turned out to have.
    pub fn reread(&mut self, store: &mut dyn Store, now: Timestamp) {
        self.directory.reread(store, now);
        self.forget_lost();
    }

    /// The key for these values, given a place if it is new and there is one to be had. `worth` says of an occupant what it is worth; one
    /// with `enough` keeps its place.
    pub fn key(
        &mut self,
        store: &mut dyn Store,
        scope: &Scope,
        values: &[impl AsRef<[u8]>],
        enough: u32,
        now: Timestamp,
        worth: &mut dyn FnMut(&mut dyn Store, Occupant) -> Worth,
    ) -> Key {
        let mut joined = core::mem::take(&mut self.joined);
        joined.clear();
        for value in values.iter().map(AsRef::as_ref) {
            // The length keeps ("a", "bc") and ("ab", "c") apart, whatever bytes a client sends.
            joined.extend_from_slice(&(value.len() as u64).to_le_bytes());
            joined.extend_from_slice(value);
        }
        if self.directory.refresh(store, now) {
            self.forget_lost();
        }
        let key = match &self.last {
            Some((last, key)) if *last == joined && self.is_current(*key) => *key,
            _ => self.look_up(store, scope, values, &joined, enough, now, worth),
        };
        if key.occupant.index < self.most {
            self.directory.use_once(key.occupant);
        }
        // A client does not decide how much of its values is kept.
        if joined.capacity() <= LONGEST_JOINED {
            self.joined = joined;
        }
        key
    }

    #[allow(clippy::too_many_arguments)] // Those of the one caller.
    fn look_up(
        &mut self,
        store: &mut dyn Store,
        scope: &Scope,
        values: &[impl AsRef<[u8]>],
        joined: &[u8],
        enough: u32,
        now: Timestamp,
        worth: &mut dyn FnMut(&mut dyn Store, Occupant) -> Worth,
    ) -> Key {
        let known = self.by_values.get(joined).copied().filter(|key| self.is_current(*key));
        let key = known.or_else(|| self.key_of(store, text(scope, values), enough, now, worth));
        let Some(key) = key else { return KeyTable::overflow_of(scope) };
        // A client does not decide how much of its values is kept.
        if joined.len() <= LONGEST_JOINED {
            if known.is_none() {
                if self.by_values.len() >= 4 * usize::from(self.most) {
                    // Mostly of keys that have lost their places; the others are found again in the directory.
                    self.by_values.clear();
                }
                self.by_values.insert(joined.to_owned(), key);
            }
            self.last = Some((joined.to_owned(), key));
        }
        key
    }

    /// The key with this [text], given a place as by [`KeyTable::key`].
    pub fn key_of(
        &mut self,
        store: &mut dyn Store,
        text: String,
        enough: u32,
        now: Timestamp,
        worth: &mut dyn FnMut(&mut dyn Store, Occupant) -> Worth,
    ) -> Option<Key> {
        let name = fingerprint::of_text(text.as_bytes());
        if let Some(met) = self.met(name, &text) {
            return Some(met);
        }
        let (occupant, is_new) = self.directory.assign(store, name, enough, now, worth)?;
        self.meet(store, occupant, is_new, name, text)
    }

    /// All keys that have a place now.
    pub fn all(&mut self, store: &mut dyn Store, now: Timestamp) -> Vec<Key> {
        self.reread(store, now);
        let entries: Vec<_> = self.directory.known().entries().iter().map(|entry| entry.name).collect();
        let key = |name| {
            let occupant = self.directory.known().find(name)?;
            if let Some(known) = self.known_of(occupant) {
                return Some(Key { occupant, series: known.series });
            }
            let text = read_text(store, self.place, occupant)?;
            self.note(store, occupant, name, text)
        };
        entries.into_iter().filter_map(key).collect()
    }

    /// The key with this text, if this worker has met it and it has its place: its values are other ones, or too long to be kept.
    fn met(&self, name: u64, text: &str) -> Option<Key> {
        let occupant = self.directory.known().find(name)?;
        let known = self.known_of(occupant).filter(|known| known.text == text)?;
        Some(Key { occupant, series: known.series })
    }

    /// Takes note of an occupant that this worker has not met; `None` if it is another one whose text has the same hash.
    fn meet(
        &mut self,
        store: &mut dyn Store,
        occupant: Occupant,
        is_new: bool,
        name: u64,
        text: String,
    ) -> Option<Key> {
        let (path, mark) = (self.paths.name(occupant.index), Mark { block: self.place.tenancy, key: occupant.tenancy });
        let stored = if is_new { None } else { read_text(store, self.place, occupant) };
        let text = match stored {
            Some(stored) if stored != text => return None,
            Some(stored) => stored,
            None => {
                let name = KeyName(text);
                store.set(&path, &name.encode(mark));
                name.0
            }
        };
        self.note(store, occupant, name, text)
    }

    /// Takes note of an occupant with this text.
    fn note(&mut self, store: &mut dyn Store, occupant: Occupant, name: u64, text: String) -> Option<Key> {
        let series = self.series_of(store, name);
        if series != Series::OVERFLOW {
            if self.series_texts.len() <= series.index() {
                self.series_texts.resize(series.index().saturating_add(1), String::new());
            }
            if let Some(series_text) = self.series_texts.get_mut(series.index()) {
                series_text.clone_from(&text);
            }
        }
        let index = usize::from(occupant.index);
        if self.known.len() <= index {
            self.known.resize_with(index.saturating_add(1), || None);
        }
        if let Some(known) = self.known.get_mut(index) {
            *known = Some(Known { tenancy: occupant.tenancy, text, series });
        }
        Some(Key { occupant, series })
    }

    /// The series of a name, made if there may be another one.
    fn series_of(&mut self, store: &mut dyn Store, name: u64) -> Series {
        if let Some(series) = self.series.find(name) {
            return series;
        }
        let most = usize::from(self.most);
        if self.series.0.len() >= most {
            return Series::OVERFLOW;
        }
        let updated = update(store, &self.series_path, ANY_CONTENT, |old: Option<&SeriesNames>| {
            let mut names = old.cloned().unwrap_or_default();
            if let Some(series) = names.find(name) {
                return (series, None);
            }
            if names.0.len() >= most {
                return (Series::OVERFLOW, None);
            }
            names.0.push(name);
            (names.find(name).unwrap_or(Series::OVERFLOW), Some(names))
        });
        let Ok(updated) = updated else { return Series::OVERFLOW };
        self.series = updated.record.unwrap_or_default();
        updated.verdict
    }

    /// Says which keys were used, and forgets those that have lost their places: to be called about once a second. `is_kept` says of
    /// one that was used whether it must stay.
    pub fn upkeep(&mut self, store: &mut dyn Store, now: Timestamp, is_kept: &mut dyn FnMut(Occupant) -> bool) {
        if self.directory.upkeep(store, now, is_kept) {
            self.forget_lost();
        }
    }

    /// Forgets those that have lost their places.
    fn forget_lost(&mut self) {
        for (index, known) in self.known.iter_mut().enumerate() {
            let Ok(index) = u16::try_from(index) else { break };
            let has_place = |known: &Known| self.directory.known().has(Occupant { index, tenancy: known.tenancy });
            *known = known.take().filter(has_place);
        }
    }

    /// Whether this occupant has its place, as far as this worker knows.
    #[must_use]
    pub fn has(&self, occupant: Occupant) -> bool {
        occupant.index >= self.most || self.directory.known().has(occupant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use core::num::NonZeroU16;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn scope(most: u16) -> Scope {
        Scope {
            by: vec![Dimension::Cluster, Dimension::Header("x-tenant".into())],
            max_keys: NonZeroU16::new(most).unwrap(),
        }
    }

    fn of(value: &[u8]) -> String {
        let mut text = String::new();
        push_value(&mut text, value);
        text
    }

    #[test]
    fn values_that_a_stat_name_can_carry_stand_as_they_are() {
        assert_eq!(text(&scope(4), &["orders", "a"]), "cluster=orders,x-tenant=a");
        assert_eq!(text(&scope(4), &["", ""]), "cluster=,x-tenant=");
        for value in
            ["outbound|8080|v1|orders.default.svc.cluster.local", "[::1]:8080", "shop.test:443", "a_b", "{a}/b+c?d&e"]
        {
            assert_eq!(of(value.as_bytes()), value);
        }
    }

    #[test]
    fn what_separates_something_or_is_no_visible_character_is_percent_encoded() {
        assert_eq!(of(b"a b; decision=admitted"), "a%20b%3B%20decision%3Dadmitted");
        assert_eq!(of(b"\xff\xfe\r\n\0\x7f"), "%FF%FE%0D%0A%00%7F");
        assert_eq!(of("caf\u{e9}".as_bytes()), "caf%C3%A9");
        assert_eq!(of(br#"100%,"~\"#), "100%25%2C%22%7E%5C");
        assert_eq!(of(b";.;key=.=x;.;"), "%3B.%3Bkey%3D.%3Dx%3B.%3B");
        assert_eq!([of(b"shop.test."), of(b"."), of(b"a..b.."), of(b".a")], ["shop.test%2E", "%2E", "a..b.%2E", ".a"]);
    }

    #[test]
    fn a_value_can_be_read_back_from_its_text() {
        let decode = |text: &str| {
            let mut bytes = text.bytes();
            core::iter::from_fn(|| match bytes.next()? {
                b'%' => {
                    let digits = [bytes.next()?, bytes.next()?];
                    u8::from_str_radix(core::str::from_utf8(&digits).ok()?, 16).ok()
                }
                byte => Some(byte),
            })
            .collect::<Vec<u8>>()
        };
        for first in 0..=u8::MAX {
            for second in 0..=u8::MAX {
                let value = [first, second];
                assert_eq!(decode(&of(&value)), value);
            }
        }
    }

    #[test]
    fn a_long_value_is_cut_and_stays_distinct() {
        let long = |last: u8| [&[b'x'; 400][..], &[last]].concat();
        let cut = of(&long(b'a'));
        assert_eq!(cut.len(), LONGEST_VALUE + 17);
        assert_eq!(cut.split_once('~').unwrap().0, "x".repeat(LONGEST_VALUE));
        assert_ne!(cut, of(&long(b'b')));
        assert_eq!(of(&[b'x'; LONGEST_VALUE]), "x".repeat(LONGEST_VALUE), "as long as can be");
        assert_eq!(of(&[b'x'; LONGEST_VALUE + 1]).split('~').count(), 2);
        assert_ne!(
            of(&[b'x'; LONGEST_VALUE + 1]),
            of(of(&[b'x'; LONGEST_VALUE + 1]).as_bytes()),
            "nobody can write a hash"
        );
        let encoded = of(&[0xff; 9000]);
        assert!(encoded.starts_with("%FF%FF") && encoded.len() < LONGEST_VALUE + 18, "{encoded}");
        assert!(encoded.split_once('~').unwrap().0.len().is_multiple_of(3), "no escape is cut");
    }

    #[test]
    fn a_text_is_of_the_scopes_that_have_its_dimensions() {
        let of = |by: &[Dimension]| Scope { by: by.to_vec(), max_keys: NonZeroU16::MIN };
        let tenant = || Dimension::Header("x-tenant".into());
        let both = of(&[Dimension::Cluster, tenant()]);
        assert!(is_of(&text(&both, &["a,route=b", "x=y"]), &both), "whatever its values are");
        assert!(is_of(&text(&both, &["", ""]), &both));
        for other in [of(&[]), of(&[Dimension::Cluster]), of(&[tenant(), Dimension::Cluster]), of(&[Dimension::Route])]
        {
            assert!(!is_of(&text(&both, &["a", "b"]), &other), "{other:?}");
            assert!(!is_of(ALL, &other) && !is_of(OVERFLOW, &other) && !is_of("", &other), "{other:?}");
        }
    }

    fn anything(_: &mut dyn Store, _: Occupant) -> Worth {
        Worth::Little(0)
    }

    #[test]
    fn all_workers_find_the_same_place_for_the_same_values() {
        let (mut store, scope, now) = (MemoryStore::default(), scope(4), Timestamp::from_secs(1_700_000_000));
        let mut tables = [(); 2].map(|()| KeyTable::new(Occupant { index: 0, tenancy: 7 }, "p", &scope));
        let mut key = |worker: usize, tenant: &str| {
            tables[worker].key(&mut store, &scope, &["orders", tenant], 20, now, &mut anything)
        };
        let (a, b) = (key(0, "a"), key(1, "b"));
        assert_ne!(a.occupant, b.occupant);
        assert_ne!(a.series, b.series);
        assert_eq!([key(1, "a"), key(0, "b")], [a, b]);
        assert_eq!(tables[0].text(b), "cluster=orders,x-tenant=b");
    }

    #[test]
    fn a_key_is_known_by_its_text_and_not_by_its_hash_alone() {
        let (mut store, scope, now) = (MemoryStore::default(), scope(4), Timestamp::from_secs(1_700_000_000));
        let mut table = KeyTable::new(Occupant { index: 0, tenancy: 7 }, "p", &scope);
        let a = table.key(&mut store, &scope, &["orders", "a"], 20, now, &mut anything);
        // As if the text of another key had the same hash.
        store.set(
            &KeysPaths::new(0).name(0),
            &KeyName("cluster=orders,x-tenant=b".to_owned()).encode(Mark { block: 7, key: 0 }),
        );
        let mut other = KeyTable::new(Occupant { index: 0, tenancy: 7 }, "p", &scope);
        let key = other.key(&mut store, &scope, &["orders", "a"], 20, now, &mut anything);
        assert_eq!((key, a.occupant.index), (KeyTable::overflow_of(&scope), 0));
    }
}
