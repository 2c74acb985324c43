//! What a policy document may hold, as tables: one per block, one entry per key.
//!
//! An entry has the key's name, the values that it takes, what holds without it, and its documentation. Names, ranges and
//! defaults stand here and nowhere else. The parser takes them out while it is compiled (the macros `key` and `keys`), so
//! that a key which no table has, or has as another kind, does not compile, and no table is searched at run time. The policy
//! reference is a walk over the same tables, see [`sections`].
//!
//! The module that ships holds no table and no documentation: a [`Text`] keeps its words only with the feature `reference`.

mod breaker;
mod concurrency;
mod fallback;
mod outcome;
mod outlier;
mod policy;
mod retry;
#[cfg(test)]
pub(super) mod tests;
mod throttle;

use core::num::{NonZeroU16, NonZeroU32};
use core::ops::RangeInclusive;
use core::time::Duration;

pub use breaker::{BREAKER, HALF_OPEN};
pub use concurrency::CONCURRENCY;
pub use fallback::{CALL, FALLBACK, RESPOND, ROUTE, STALE};
pub use outcome::{FAILURE, IGNORE, OUTCOME};
pub use outlier::{
    BALANCE, CONSECUTIVE, DISCOVER, FAILURE_RATE, HASH, HEARTBEAT, HEARTBEAT_GRPC, HOST, LATENCY, OUTLIER, PROBE,
    SUCCESS_RATE,
};
pub use policy::{DOCUMENT, MATCH, POLICY, SCOPE};
pub use retry::{BACKOFF, BUDGET, RETRY, RETRY_AFTER};
pub use throttle::THROTTLE;

use super::reader::thousandths;
use super::{duration, size};
use crate::document::{GRPC_STATUS_NAMES, Mode};
use crate::percent::Percent;

/// HTTP statuses that a document may name.
pub const STATUS: RangeInclusive<u32> = 100..=599;
/// gRPC statuses that a document may name by number.
pub const GRPC_STATUS: RangeInclusive<u32> = 0..=GRPC_STATUS_NAMES.len() as u32 - 1;

/// An object of the document.
#[derive(Debug)]
pub struct Block {
    /// Its keys, in the order in which errors and the reference list them.
    pub keys: &'static [Key],
    /// Keys of later versions: refused, but not as unknown.
    pub not_yet: &'static [&'static str],
    /// What the block is for.
    pub about: Text,
    /// A valid document that uses the block.
    pub example: Text,
}

/// A key of a block.
#[derive(Debug)]
pub struct Key {
    /// As it stands in the document.
    pub name: &'static str,
    /// Which values it takes.
    pub kind: Kind,
    /// What holds without it.
    pub default: Absent,
    /// A condition beside the kind's range, such as "at least `open_for`". Empty where there is none.
    pub limit: Text,
    /// What it does.
    pub does: Text,
    /// Why one would change it.
    pub change: Text,
    /// Envoy's own nearest setting, empty where there is none.
    pub envoy: Text,
}

/// Which values a key takes. Ranges hold their ends.
#[derive(Debug)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A string such as `"1m30s"`.
    Duration(RangeInclusive<Duration>),
    /// A number of bytes as a string such as `"64KiB"`.
    Size(RangeInclusive<u32>),
    /// A number of percent with up to three decimals, from `min` to 100.
    Percent {
        /// The smallest.
        min: u32,
    },
    /// The same without 0.
    PositivePercent,
    /// A number with up to three decimals.
    Number(RangeInclusive<u32>),
    /// A number without decimals.
    Whole(RangeInclusive<u32>),
    /// One of a few words.
    Word(&'static [Word]),
    /// A string of another form.
    String(Form),
    /// A status such as `503` or `"503"`, or a range of them such as `"500-599"`, within [`STATUS`].
    Status,
    /// A gRPC status by its name or its number.
    GrpcStatus,
    /// A glob, or a list of at least one.
    Globs(Segments),
    /// A list.
    List {
        /// What it holds.
        of: &'static Kind,
        /// Whether it may hold nothing.
        empty: bool,
        /// Whether it may hold nothing twice.
        unique: bool,
        /// How many it may hold.
        most: Option<usize>,
    },
    /// An object of header names.
    Headers {
        /// Which names there may be.
        names: Names,
        /// Which values they have.
        of: &'static Kind,
        /// How many there may be.
        most: usize,
    },
    /// A string that is a template, or any other JSON value, whose strings are templates.
    Body(Body),
    /// An object with keys of its own.
    Object(&'static Block),
    /// Any of several kinds, told apart by their JSON types.
    OneOf(&'static [Kind]),
}

/// Which headers an object may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// Any of a request.
    Request,
    /// Those of a response by which it can be judged.
    Judged,
    /// Those that a response of ours may have.
    Sent,
    /// Those that a request of ours may have beside its own.
    Asked,
}

/// The form of a string.
#[derive(Debug)]
pub enum Form {
    /// `a-z`, `0-9`, `_` and `-`; unique in the document.
    Name {
        /// How many characters it may have.
        most: usize,
    },
    /// A glob.
    Glob(Segments),
    /// The name of a header, in any case. No pseudo header.
    HeaderName,
    /// The value of a header, which is a template: printable ASCII, no space at its ends.
    HeaderValue(Template),
    /// Printable ASCII, no space at its ends.
    Text {
        /// How many characters it may have.
        most: usize,
    },
    /// A host, with a port or without.
    Authority,
    /// An HTTP method in its case.
    Method,
    /// Begins with `/`, visible ASCII.
    Path,
    /// The name of a cluster, not empty.
    Cluster,
    /// An address and a port.
    Host,
}

/// What globs see of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    /// What ends a segment, which `*` does not match.
    pub separator: Option<u8>,
    /// Whether case counts.
    pub case: bool,
}

/// The limits of a body.
#[derive(Debug, Clone, Copy)]
pub struct Body {
    /// The longest, in bytes, before variables are filled in.
    pub bytes: usize,
    /// What its strings may insert. The number is that of all of them together.
    pub template: Template,
}

/// The limits of a template.
#[derive(Debug, Clone, Copy)]
pub struct Template {
    /// The variables that it may use, as they are written.
    pub variables: &'static [Word],
    /// How many of them it may have.
    pub most: usize,
}

/// A word that stands for something.
#[derive(Debug, Clone, Copy)]
pub struct Word {
    /// As it stands in the document.
    pub name: &'static str,
    /// What it stands for.
    pub means: Text,
}

/// What holds where a key is absent.
#[derive(Debug)]
pub enum Absent {
    /// It may not be.
    Required,
    /// Something that no value of the key says, in a few words.
    Means(Text),
    /// The same as this.
    Boolean(bool),
    /// The same as this.
    Duration(Duration),
    /// The same as so many bytes.
    Size(u32),
    /// The same as this.
    Number(f64),
    /// The same as this.
    String(&'static str),
    /// The same as a list of these.
    Strings(&'static [&'static str]),
    /// The same as a list of these ranges.
    Statuses(&'static [RangeInclusive<u16>]),
    /// The same as `{}`: each key of the block has its own default.
    Object,
}

/// A piece of documentation in Markdown.
#[derive(Debug, Clone, Copy)]
pub struct Text {
    #[cfg(any(test, feature = "reference"))]
    text: &'static str,
}

#[cfg(all(target_arch = "wasm32", not(test)))]
const _: () = assert!(size_of::<Text>() == 0, "the module that ships holds no documentation");

impl Text {
    const NONE: Text = Text::new("");

    const fn new(text: &'static str) -> Self {
        #[cfg(not(any(test, feature = "reference")))]
        let _ = text;
        Text {
            #[cfg(any(test, feature = "reference"))]
            text,
        }
    }

    /// The words.
    #[cfg(any(test, feature = "reference"))]
    pub const fn as_str(self) -> &'static str {
        self.text
    }
}

impl Word {
    const fn new(name: &'static str, means: &'static str) -> Self {
        Word { name, means: Text::new(means) }
    }
}

impl Key {
    const fn new(name: &'static str, kind: Kind, default: Absent) -> Self {
        let (limit, does, change, envoy) = (Text::NONE, Text::NONE, Text::NONE, Text::NONE);
        Key { name, kind, default, limit, does, change, envoy }
    }

    /// `mode`, which every feature and detector has.
    const fn mode(default: &'static str, change: &'static str) -> Self {
        Key::new("mode", Kind::Word(&policy::MODES), Absent::Means(Text::new(default)))
            .does("Whether it acts: `enforce`, `shadow` (decides and counts, changes nothing) or `off`.")
            .change(change)
    }

    const fn limit(mut self, text: &'static str) -> Self {
        self.limit = Text::new(text);
        self
    }

    const fn does(mut self, text: &'static str) -> Self {
        self.does = Text::new(text);
        self
    }

    const fn change(mut self, text: &'static str) -> Self {
        self.change = Text::new(text);
        self
    }

    const fn envoy(mut self, text: &'static str) -> Self {
        self.envoy = Text::new(text);
        self
    }
}

impl Kind {
    /// What a value may be: the kinds of [`Kind::OneOf`], or this one.
    pub const fn alternatives(&'static self) -> &'static [Kind] {
        match self {
            Kind::OneOf(kinds) => kinds,
            kind => core::slice::from_ref(kind),
        }
    }
}

impl Absent {
    /// The default as a document would spell it out; `None` where it cannot.
    pub fn spelled(&self) -> Option<String> {
        let quoted = |text: &str| format!("\"{text}\"");
        let list = |items: Vec<String>| format!("[{}]", items.join(", "));
        Some(match self {
            Absent::Required | Absent::Means(_) => return None,
            Absent::Boolean(value) => value.to_string(),
            Absent::Duration(value) => quoted(&duration::text(*value)),
            Absent::Size(bytes) => quoted(&size::text(*bytes)),
            Absent::Number(value) => value.to_string(),
            Absent::String(text) => quoted(text),
            Absent::Strings(texts) => list(texts.iter().map(|text| quoted(text)).collect()),
            Absent::Statuses(ranges) => {
                list(ranges.iter().map(|range| quoted(&format!("{}-{}", range.start(), range.end()))).collect())
            }
            Absent::Object => "{}".to_owned(),
        })
    }
}

/// A block and the paths at which it stands, such as `policies[].breaker.half_open`.
#[derive(Debug)]
pub struct Section {
    /// The block.
    pub block: &'static Block,
    /// One, or several where keys share the block. That of the document itself is empty.
    pub paths: Vec<String>,
}

/// Every block of the document, each once, outer ones before those in them.
pub fn sections() -> Vec<Section> {
    let mut sections = Vec::new();
    add_section(&DOCUMENT, String::new(), &mut sections);
    sections
}

fn add_section(block: &'static Block, path: String, sections: &mut Vec<Section>) {
    match sections.iter_mut().find(|section| core::ptr::eq(section.block, block)) {
        Some(section) => section.paths.push(path.clone()),
        None => sections.push(Section { block, paths: vec![path.clone()] }),
    }
    let parent = if path.is_empty() { path } else { path + "." };
    for key in block.keys {
        add_sections_in(&key.kind, &format!("{parent}{}", key.name), sections);
    }
}

fn add_sections_in(kind: &'static Kind, path: &str, sections: &mut Vec<Section>) {
    match kind {
        Kind::Object(block) => add_section(block, path.to_owned(), sections),
        Kind::List { of, .. } => add_sections_in(of, &format!("{path}[]"), sections),
        Kind::OneOf(kinds) => kinds.iter().for_each(|kind| add_sections_in(kind, path, sections)),
        _ => {}
    }
}

/// What the parser needs of an entry, with the default in the type that it works with.
#[derive(Debug)]
pub(super) struct Entry<R, D> {
    pub(super) name: &'static str,
    /// The accepted range, or what else bounds the value.
    pub(super) range: R,
    pub(super) default: D,
}

/// The entry of a duration.
pub(super) type Timed = Entry<RangeInclusive<Duration>, Duration>;
/// The entry of a percentage: its minimum, its default.
pub(super) type Share = Entry<u32, Percent>;
/// The entry of another number.
pub(super) type Numeric<D> = Entry<RangeInclusive<u32>, D>;

/// An entry of a table, taken out while compiling: `key!(BREAKER.duration("open_for"))`. What is between the dot and the
/// parenthesis is one of the functions below, and says what the entry must be.
macro_rules! key {
    ($block:ident.$lookup:ident($name:literal $(, $more:expr)?)) => {
        const { &$block.$lookup($name $(, $more)?).expect(concat!("not in the table as such: ", $name)) }
    };
}
pub(super) use key;

/// The keys of a table, for [`Item::object`](super::reader::Item::object).
macro_rules! keys {
    ($block:ident) => {
        const {
            &$crate::config::reader::Keys {
                accepted: &$crate::config::table::names::<{ $block.keys.len() }>($block.keys),
                not_yet: $block.not_yet,
            }
        }
    };
}
pub(super) use keys;

/// The names of `keys`, all of them where there are `N`.
pub(super) const fn names<const N: usize>(keys: &[Key]) -> [&'static str; N] {
    let mut names = [""; N];
    let (mut slots, mut keys): (&mut [&str], _) = (&mut names, keys);
    while let ([slot, later_slots @ ..], [key, later_keys @ ..]) = (slots, keys) {
        *slot = key.name;
        (slots, keys) = (later_slots, later_keys);
    }
    names
}

impl Block {
    const fn find(&'static self, name: &str) -> Option<&'static Key> {
        let mut keys = self.keys;
        while let [key, later @ ..] = keys {
            if same(key.name, name) {
                return Some(key);
            }
            keys = later;
        }
        None
    }

    /// Only the name, for a key that its reader bounds and defaults by other means.
    pub(super) const fn name(&'static self, name: &str) -> Option<&'static str> {
        match self.find(name) {
            Some(key) => Some(key.name),
            None => None,
        }
    }

    /// The name of a key that is an object.
    pub(super) const fn object(&'static self, name: &str) -> Option<&'static str> {
        match self.find(name) {
            Some(Key { name, kind: Kind::Object(_), .. }) => Some(name),
            _ => None,
        }
    }

    /// The name of an object that a block may have in place of others.
    pub(super) const fn alternative(&'static self, name: &str) -> Option<&'static str> {
        match self.find(name) {
            Some(Key { name, kind: Kind::Object(_), default: Absent::Means(_), .. }) => Some(name),
            _ => None,
        }
    }

    /// The name of a key that must be there.
    pub(super) const fn required(&'static self, name: &str) -> Option<&'static str> {
        match self.find(name) {
            Some(Key { name, default: Absent::Required, .. }) => Some(name),
            _ => None,
        }
    }

    pub(super) const fn boolean(&'static self, name: &str) -> Option<Entry<(), bool>> {
        match self.find(name) {
            Some(Key { name, kind: Kind::Boolean, default: Absent::Boolean(default), .. }) => {
                Some(Entry { name, range: (), default: *default })
            }
            _ => None,
        }
    }

    /// A duration, alone or beside other kinds.
    pub(super) const fn duration(&'static self, name: &str) -> Option<Timed> {
        let Some(Key { name, kind, default: Absent::Duration(default), .. }) = self.find(name) else { return None };
        match duration_range(kind) {
            Some(range) => Some(Entry { name, range, default: *default }),
            None => None,
        }
    }

    /// A duration that means nothing where it is absent.
    pub(super) const fn optional_duration(&'static self, name: &str) -> Option<Entry<RangeInclusive<Duration>, ()>> {
        let Some(Key { name, kind, default: Absent::Means(_), .. }) = self.find(name) else { return None };
        match duration_range(kind) {
            Some(range) => Some(Entry { name, range, default: () }),
            None => None,
        }
    }

    /// A number of bytes.
    pub(super) const fn size(&'static self, name: &str) -> Option<Numeric<u32>> {
        match self.find(name) {
            Some(Key { name, kind: Kind::Size(range), default: Absent::Size(default), .. }) => {
                Some(Entry { name, range: *range.start()..=*range.end(), default: *default })
            }
            _ => None,
        }
    }

    pub(super) const fn percent(&'static self, name: &str) -> Option<Share> {
        let Some(Key { name, kind, default: Absent::Number(default), .. }) = self.find(name) else { return None };
        let min = match kind {
            Kind::Percent { min } => *min,
            Kind::PositivePercent => 0,
            _ => return None,
        };
        match whole(*default) {
            Some(default) => Some(Entry { name, range: min, default: Percent::whole(default) }),
            None => None,
        }
    }

    /// A number with decimals; its default is in thousandths.
    pub(super) const fn number(&'static self, name: &str) -> Option<Numeric<u32>> {
        match self.find(name) {
            Some(Key { name, kind: Kind::Number(range), default: Absent::Number(default), .. }) => {
                Some(Entry { name, range: *range.start()..=*range.end(), default: thousandths(*default) })
            }
            _ => None,
        }
    }

    /// A whole number, alone or beside other kinds.
    pub(super) const fn whole(&'static self, name: &str) -> Option<Numeric<u32>> {
        let Some(Key { name, kind, default: Absent::Number(default), .. }) = self.find(name) else { return None };
        match (whole_range(kind), whole(*default)) {
            (Some(range), Some(default)) => Some(Entry { name, range, default }),
            _ => None,
        }
    }

    /// The range of a whole number, whatever holds without it.
    pub(super) const fn whole_range(&'static self, name: &str) -> Option<Numeric<()>> {
        let Some(Key { name, kind, .. }) = self.find(name) else { return None };
        match whole_range(kind) {
            Some(range) => Some(Entry { name, range, default: () }),
            None => None,
        }
    }

    /// A whole number that is never 0.
    pub(super) const fn count(&'static self, name: &str) -> Option<Numeric<NonZeroU32>> {
        let Some(Entry { name, range, default }) = self.whole(name) else { return None };
        match NonZeroU32::new(default) {
            Some(default) if *range.start() > 0 => Some(Entry { name, range, default }),
            _ => None,
        }
    }

    /// A whole number of 16 bits that is never 0.
    pub(super) const fn small_count(&'static self, name: &str) -> Option<Numeric<NonZeroU16>> {
        let Some(Entry { name, range, default }) = self.count(name) else { return None };
        match NonZeroU16::new(default.get() as u16) {
            Some(default) if *range.end() <= u16::MAX as u32 => Some(Entry { name, range, default }),
            _ => None,
        }
    }

    /// A word of these, which are those of the table, alone or before other kinds.
    pub(super) const fn word<T: Copy>(&'static self, name: &str, words: &[(&'static str, T)]) -> Option<Entry<(), T>> {
        match self.find(name) {
            Some(Key {
                name,
                kind: Kind::Word(known) | Kind::OneOf([Kind::Word(known), ..]),
                default: Absent::String(default),
                ..
            }) if are_named(known, words) => match value_of(words, default) {
                Some(default) => Some(Entry { name, range: (), default }),
                None => None,
            },
            _ => None,
        }
    }

    /// The name of a mode that another one is the default of.
    pub(super) const fn mode(&'static self, name: &str) -> Option<&'static str> {
        match self.find(name) {
            Some(Key { name, kind: Kind::Word(known), default: Absent::Means(_), .. })
                if are_named(known, &Mode::WORDS) =>
            {
                Some(name)
            }
            _ => None,
        }
    }

    /// A string.
    pub(super) const fn string(&'static self, name: &str) -> Option<Entry<(), &'static str>> {
        match self.find(name) {
            Some(Key { name, kind: Kind::String(_), default: Absent::String(default), .. }) => {
                Some(Entry { name, range: (), default })
            }
            _ => None,
        }
    }

    /// A text of bounded length.
    pub(super) const fn text(&'static self, name: &str) -> Option<Entry<usize, &'static str>> {
        match self.find(name) {
            Some(Key { name, kind: Kind::String(Form::Text { most }), default: Absent::String(default), .. }) => {
                Some(Entry { name, range: *most, default })
            }
            _ => None,
        }
    }

    /// A gRPC status whose default is a name.
    pub(super) const fn grpc_status(&'static self, name: &str) -> Option<Entry<(), u8>> {
        match self.find(name) {
            Some(Key { name, kind: Kind::GrpcStatus, default: Absent::String(default), .. }) => {
                match grpc_number(default) {
                    Some(default) => Some(Entry { name, range: (), default }),
                    None => None,
                }
            }
            _ => None,
        }
    }

    /// A list of strings, or of what is written as such.
    pub(super) const fn strings(&'static self, name: &str) -> Option<Entry<(), &'static [&'static str]>> {
        match self.find(name) {
            Some(Key { name, kind: Kind::List { .. }, default: Absent::Strings(default), .. }) => {
                Some(Entry { name, range: (), default })
            }
            _ => None,
        }
    }

    /// A list of statuses.
    pub(super) const fn statuses(&'static self, name: &str) -> Option<Entry<(), &'static [RangeInclusive<u16>]>> {
        match self.find(name) {
            Some(Key {
                name, kind: Kind::List { of: Kind::Status, .. }, default: Absent::Statuses(default), ..
            }) => Some(Entry { name, range: (), default }),
            _ => None,
        }
    }

    /// How long a name may be, or how many a list or an object of headers may hold.
    pub(super) const fn most(&'static self, name: &str) -> Option<usize> {
        match self.find(name) {
            Some(Key { kind: Kind::List { most, .. }, .. }) => *most,
            Some(Key { kind: Kind::Headers { most, .. } | Kind::String(Form::Name { most }), .. }) => Some(*most),
            _ => None,
        }
    }

    pub(super) const fn globs(&'static self, name: &str) -> Option<Entry<Segments, ()>> {
        match self.find(name) {
            Some(Key { name, kind: Kind::Globs(segments), .. }) => Some(Entry { name, range: *segments, default: () }),
            _ => None,
        }
    }

    /// An object of header names and globs, of which there are none without it: which names, how many, and what the globs see.
    pub(super) const fn glob_headers(&'static self, name: &str) -> Option<Entry<(Names, usize, Segments), ()>> {
        match self.find(name) {
            Some(Key { name, kind: Kind::Headers { names, of: Kind::String(Form::Glob(segments)), most }, .. }) => {
                Some(Entry { name, range: (*names, *most, *segments), default: () })
            }
            _ => None,
        }
    }

    /// An object of header names and texts, of which there are none without it: which names, how many, and how long a text may be.
    pub(super) const fn text_headers(&'static self, name: &str) -> Option<Entry<(Names, usize, usize), ()>> {
        match self.find(name) {
            Some(Key {
                name,
                kind: Kind::Headers { names, of: Kind::String(Form::Text { most: longest }), most },
                ..
            }) => Some(Entry { name, range: (*names, *most, *longest), default: () }),
            _ => None,
        }
    }

    pub(super) const fn body(&'static self, name: &str) -> Option<Entry<Body, ()>> {
        match self.find(name) {
            Some(Key { name, kind: Kind::Body(body), .. }) => Some(Entry { name, range: *body, default: () }),
            _ => None,
        }
    }
}

/// The range of the first duration among what a value may be.
const fn duration_range(kind: &'static Kind) -> Option<RangeInclusive<Duration>> {
    let mut kinds = kind.alternatives();
    while let [kind, later @ ..] = kinds {
        if let Kind::Duration(range) = kind {
            return Some(*range.start()..=*range.end());
        }
        kinds = later;
    }
    None
}

/// The range of the first whole number among what a value may be.
const fn whole_range(kind: &'static Kind) -> Option<RangeInclusive<u32>> {
    let mut kinds = kind.alternatives();
    while let [kind, later @ ..] = kinds {
        if let Kind::Whole(range) = kind {
            return Some(*range.start()..=*range.end());
        }
        kinds = later;
    }
    None
}

/// A number that has no decimals.
const fn whole(number: f64) -> Option<u32> {
    let whole = number as u32;
    if whole as f64 == number { Some(whole) } else { None }
}

/// Whether `known` are these words, in their order.
const fn are_named<T: Copy>(known: &[Word], words: &[(&'static str, T)]) -> bool {
    let (mut known, mut words) = (known, words);
    while let ([one, later @ ..], [(other, _), others @ ..]) = (known, words) {
        if !same(one.name, other) {
            return false;
        }
        (known, words) = (later, others);
    }
    known.is_empty() && words.is_empty()
}

/// What stands beside `name` in `words`.
const fn value_of<T: Copy>(words: &[(&'static str, T)], name: &str) -> Option<T> {
    let mut words = words;
    while let [(word, value), later @ ..] = words {
        if same(word, name) {
            return Some(*value);
        }
        words = later;
    }
    None
}

/// The number of the gRPC status of this name.
const fn grpc_number(name: &str) -> Option<u8> {
    let (mut number, mut names) = (0, GRPC_STATUS_NAMES.as_slice());
    while let [known, later @ ..] = names {
        if same(known, name) {
            return Some(number);
        }
        (number, names) = (number + 1, later);
    }
    None
}

/// `==`, which the compiler cannot work out beforehand.
const fn same(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.as_bytes(), other.as_bytes());
    while let ([a, later @ ..], [b, others @ ..]) = (one, other) {
        if *a != *b {
            return false;
        }
        (one, other) = (later, others);
    }
    one.is_empty() && other.is_empty()
}
