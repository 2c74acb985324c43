//! A cursor over the JSON tree that reports what does not fit and reads on.

use core::num::{NonZeroU16, NonZeroU32};
use core::ops::RangeInclusive;

use super::error::{Report, Reported};
use super::json::{self, Node};
use super::spelling::nearest;
use super::table::{Entry, Numeric, Share};
use crate::percent::Percent;

/// Characters of a value that are shown in a message.
const SHOWN: usize = 60;

/// A value and where it is.
#[derive(Debug, Clone)]
pub(super) struct Item<'a> {
    pub(super) path: String,
    pub(super) node: &'a Node,
}

/// What an absent object is read as: each of its keys has its default.
static NO_KEYS: Node = Node::Object(Vec::new());

/// An object whose keys have been checked.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    pub(super) path: String,
    entries: &'a [(String, Node)],
    /// That a key of [`Keys::not_yet`] was there.
    pub(super) not_yet: Option<Reported>,
}

/// The keys of an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keys {
    /// Those that can be given.
    pub(super) accepted: &'static [&'static str],
    /// Those of the design that this version refuses.
    pub(super) not_yet: &'static [&'static str],
}

impl<'a> Item<'a> {
    /// Reports that the value is of the wrong type or no word at all for what is `expected`.
    pub(super) fn mismatch(&self, expected: &str, report: &mut Report) -> Reported {
        self.mismatch_meant(expected, "", report)
    }

    /// The same with what was probably meant.
    pub(super) fn mismatch_meant(&self, expected: &str, meant: &str, report: &mut Report) -> Reported {
        report.add(&self.path, format!("must be {expected}, was {}{meant}", described(self.node)))
    }

    /// Reports what is wrong with a value of the right type.
    pub(super) fn bad(&self, must: &str, report: &mut Report) -> Reported {
        report.add(&self.path, format!("{must}, was {}", shown(self.node)))
    }

    /// Reports that the value has the right type and is not among the `accepted`.
    pub(super) fn refused(&self, accepted: &str, report: &mut Report) -> Reported {
        self.bad(&format!("must be {accepted}"), report)
    }

    /// The value as an object with known keys; all others and duplicates are reported, the rest can still be read.
    pub(super) fn object(&self, keys: &Keys, report: &mut Report) -> Result<Fields<'a>, Reported> {
        let Node::Object(entries) = self.node else {
            let expected = format!("an object with the keys {}", keys.accepted.join(", "));
            return Err(self.mismatch(&expected, report));
        };
        let mut fields = Fields { path: self.path.clone(), entries, not_yet: None };
        for (key, _) in entries.iter().filter(|(key, _)| !keys.accepted.contains(&key.as_str())) {
            if keys.not_yet.contains(&key.as_str()) {
                fields.not_yet = Some(report.add(&key_path(&self.path, key), "not supported yet"));
            } else if report.is_full() {
                report.count();
            } else {
                let accepted = keys.accepted.join(", ");
                let problem = format!("unknown key; accepted here: {accepted}{}", hint(key, keys.accepted));
                report.add(&key_path(&self.path, key), problem);
            }
        }
        fields.report_duplicates(report);
        Ok(fields)
    }

    /// The value as an object with free names.
    pub(super) fn dictionary(&self, expected: &str, report: &mut Report) -> Result<Fields<'a>, Reported> {
        let Node::Object(entries) = self.node else {
            return Err(self.mismatch(expected, report));
        };
        let fields = Fields { path: self.path.clone(), entries, not_yet: None };
        fields.report_duplicates(report);
        Ok(fields)
    }

    /// Reports every duplicate key in the value, however deep.
    pub(super) fn report_duplicates(&self, report: &mut Report) {
        match self.node {
            Node::Object(entries) => {
                let fields = Fields { path: self.path.clone(), entries, not_yet: None };
                fields.report_duplicates(report);
                fields.items().for_each(|(_, item)| item.report_duplicates(report));
            }
            Node::Array(nodes) => self.elements(nodes).for_each(|item| item.report_duplicates(report)),
            _ => {}
        }
    }

    /// The value as a list.
    pub(super) fn list(&self, expected: &str, report: &mut Report) -> Result<Vec<Item<'a>>, Reported> {
        match self.node {
            Node::Array(nodes) => Ok(self.elements(nodes).collect()),
            _ => Err(self.mismatch(expected, report)),
        }
    }

    fn elements(&self, nodes: &'a [Node]) -> impl Iterator<Item = Item<'a>> {
        nodes.iter().enumerate().map(|(index, node)| Item { path: format!("{}[{index}]", self.path), node })
    }

    /// The value as a string.
    pub(super) fn string(&self, expected: &str, report: &mut Report) -> Result<&'a str, Reported> {
        match self.node {
            Node::String(text) => Ok(text),
            _ => Err(self.mismatch(expected, report)),
        }
    }

    /// The value as a quantity that is written as a text with its unit, such as `example`: what `parse` makes of it, if that is in the
    /// range, which messages say by `within`.
    pub(super) fn quantity<T: PartialOrd>(
        &self,
        (range, within): (&RangeInclusive<T>, &str),
        parse: impl Fn(&str) -> Option<T>,
        (what, example): (&str, &str),
        report: &mut Report,
    ) -> Result<T, Reported> {
        let expected = format!("a {what} {within} such as {example}");
        let written = self.string(&expected, report)?;
        match parse(written) {
            Some(quantity) if range.contains(&quantity) => Ok(quantity),
            Some(_) => Err(self.refused(within, report)),
            None => Err(report.add(&self.path, format!("must be {expected}, was {}", quoted(written)))),
        }
    }

    /// The value as a boolean.
    pub(super) fn boolean(&self, report: &mut Report) -> Result<bool, Reported> {
        match self.node {
            Node::Bool(value) => Ok(*value),
            _ => Err(self.mismatch("true or false", report)),
        }
    }

    /// The value as one of a few words, as what stands beside it in `words`.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)], report: &mut Report) -> Result<T, Reported> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let at = self.word_among(&names, report)?;
        words.get(at).map(|(_, value)| *value).ok_or_else(|| self.refused("a known word", report))
    }

    /// The value as one of a few words, as its index in `names`.
    fn word_among(&self, names: &[&str], report: &mut Report) -> Result<usize, Reported> {
        let expected = format!("one of {}", names.join(", "));
        if matches!(self.node, Node::Bool(false)) && names.contains(&"off") {
            let hint = "; YAML may read off without quotes as false, write \"off\"";
            return Err(report.add(&self.path, format!("must be {expected}, was false{hint}")));
        }
        let text = self.string(&expected, report)?;
        names.iter().position(|name| *name == text).ok_or_else(|| self.unknown_word(&expected, text, names, report))
    }

    /// Reports a word that is none of the `known`.
    pub(super) fn unknown_word(&self, expected: &str, text: &str, known: &[&str], report: &mut Report) -> Reported {
        report.add(&self.path, format!("must be {expected}, was {}{}", quoted(text), hint(text, known)))
    }

    /// The value as a whole number. `5.0` and `1e3` are whole: tools that hold all numbers as doubles write them.
    pub(super) fn whole(&self, range: &RangeInclusive<u32>, report: &mut Report) -> Result<u32, Reported> {
        let value = self.bounded("a whole number", range, report)?;
        if value.fract() != 0.0 {
            return Err(self.refused(&whole_number(range), report));
        }
        Ok(value as u32)
    }

    /// The value as a whole number that is not 0.
    pub(super) fn count(&self, range: &RangeInclusive<u32>, report: &mut Report) -> Result<NonZeroU32, Reported> {
        let value = self.whole(range, report)?;
        NonZeroU32::new(value).ok_or_else(|| self.refused("at least 1", report))
    }

    /// The value as a whole number of 16 bits that is not 0.
    pub(super) fn small_count(&self, range: &RangeInclusive<u32>, report: &mut Report) -> Result<NonZeroU16, Reported> {
        let value = self.count(range, report)?;
        NonZeroU16::try_from(value).map_err(|_| self.refused("smaller", report))
    }

    /// The value as a number.
    pub(super) fn number(&self, range: &RangeInclusive<u32>, report: &mut Report) -> Result<f64, Reported> {
        self.bounded("a number", range, report)
    }

    /// The value as a percentage from `min` to 100.
    pub(super) fn percent(&self, min: u32, report: &mut Report) -> Result<Percent, Reported> {
        let value = self.number(&(min..=100), report)?;
        match Percent::from_f64(value) {
            // For a threshold 0 is "off": a small number may not become it by rounding.
            Some(percent) if !percent.is_zero() || value == 0.0 => Ok(percent),
            _ => Err(self.refused("0 or at least 0.001", report)),
        }
    }

    fn bounded(&self, kind: &str, range: &RangeInclusive<u32>, report: &mut Report) -> Result<f64, Reported> {
        let accepted = within(range);
        let value = match self.node {
            Node::Number(number) => number.as_f64(),
            Node::String(text) if report.takes_texts_as_numbers => json::number(text),
            _ => None,
        };
        match value {
            Some(value) if (f64::from(*range.start())..=f64::from(*range.end())).contains(&value) => Ok(value),
            Some(_) => Err(self.refused(&accepted, report)),
            None => Err(self.mismatch(&format!("{kind} {accepted}"), report)),
        }
    }
}

impl<'a> Fields<'a> {
    /// The value of a key; the first one if it is there twice.
    pub(super) fn get(&self, key: &str) -> Option<Item<'a>> {
        let (_, node) = self.entries.iter().find(|(name, _)| name == key)?;
        Some(Item { path: key_path(&self.path, key), node })
    }

    /// The object of a key; one without keys where it is absent.
    pub(super) fn block(&self, key: &str) -> Item<'a> {
        self.get(key).unwrap_or_else(|| Item { path: key_path(&self.path, key), node: &NO_KEYS })
    }

    /// All entries, in the order written.
    pub(super) fn items(&self) -> impl Iterator<Item = (&'a str, Item<'a>)> {
        self.entries.iter().map(|(key, node)| (key.as_str(), Item { path: key_path(&self.path, key), node }))
    }

    /// What `read` makes of a key's value, `None` without the key.
    pub(super) fn optional<T>(
        &self,
        key: &str,
        report: &mut Report,
        read: impl FnOnce(&Item<'a>, &mut Report) -> Result<T, Reported>,
    ) -> Result<Option<T>, Reported> {
        self.get(key).map(|item| read(&item, report)).transpose()
    }

    /// What `read` makes of a key's value, `default` without the key.
    pub(super) fn or<T>(
        &self,
        key: &str,
        default: T,
        report: &mut Report,
        read: impl FnOnce(&Item<'a>, &mut Report) -> Result<T, Reported>,
    ) -> Result<T, Reported> {
        self.get(key).map_or(Ok(default), |item| read(&item, report))
    }

    /// What `read` makes of a key's value; a missing key is reported with what it should be.
    pub(super) fn required<T>(
        &self,
        key: &str,
        expected: &str,
        report: &mut Report,
        read: impl FnOnce(&Item<'a>, &mut Report) -> Result<T, Reported>,
    ) -> Result<T, Reported> {
        match self.get(key) {
            Some(item) => read(&item, report),
            None => Err(report.add(&key_path(&self.path, key), format!("is missing; must be {expected}"))),
        }
    }

    /// The boolean of a key, or its default.
    pub(super) fn boolean(&self, key: &Entry<(), bool>, report: &mut Report) -> Result<bool, Reported> {
        self.or(key.name, key.default, report, Item::boolean)
    }

    /// The percentage of a key, or its default.
    pub(super) fn percent(&self, key: &Share, report: &mut Report) -> Result<Percent, Reported> {
        self.or(key.name, key.default, report, |item, report| item.percent(key.range, report))
    }

    /// The number of a key in thousandths, or its default.
    pub(super) fn number(&self, key: &Numeric<u32>, report: &mut Report) -> Result<u32, Reported> {
        let read = |item: &Item<'_>, report: &mut Report| Ok(thousandths(item.number(&key.range, report)?));
        self.or(key.name, key.default, report, read)
    }

    /// The whole number of a key, or its default.
    pub(super) fn whole(&self, key: &Numeric<u32>, report: &mut Report) -> Result<u32, Reported> {
        self.or(key.name, key.default, report, |item, report| item.whole(&key.range, report))
    }

    /// The whole number of a key that is not 0, or its default.
    pub(super) fn count(&self, key: &Numeric<NonZeroU32>, report: &mut Report) -> Result<NonZeroU32, Reported> {
        self.or(key.name, key.default, report, |item, report| item.count(&key.range, report))
    }

    /// The whole number of 16 bits of a key that is not 0, or its default.
    pub(super) fn small_count(&self, key: &Numeric<NonZeroU16>, report: &mut Report) -> Result<NonZeroU16, Reported> {
        self.or(key.name, key.default, report, |item, report| item.small_count(&key.range, report))
    }

    /// The whole number of a key that must be there.
    pub(super) fn required_whole(&self, key: &Numeric<()>, report: &mut Report) -> Result<u32, Reported> {
        self.required(key.name, &whole_number(&key.range), report, |item, report| item.whole(&key.range, report))
    }

    /// What the word of a key stands for, or its default.
    pub(super) fn word<T: Copy>(
        &self,
        key: &Entry<(), T>,
        words: &[(&str, T)],
        report: &mut Report,
    ) -> Result<T, Reported> {
        self.or(key.name, key.default, report, |item, report| item.word(words, report))
    }

    /// Whether a key is there twice, which has been reported.
    pub(super) fn repeats(&self, key: &str) -> bool {
        self.entries.iter().filter(|(name, _)| name == key).count() > 1
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn report_duplicates(&self, report: &mut Report) {
        // Sorted, because comparing each with each takes too long for a large object.
        let mut keys: Vec<&str> = self.entries.iter().map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        for same in keys.chunk_by(|a, b| a == b) {
            if let [key, _, ..] = same {
                let problem = format!("the key is there {} times; must be there once", same.len());
                report.add(&key_path(&self.path, key), problem);
            }
        }
    }
}

/// A range of numbers as it appears in messages.
pub(super) fn within(range: &RangeInclusive<u32>) -> String {
    format!("within {}..={}", range.start(), range.end())
}

/// A whole number of a range as it appears in messages.
pub(super) fn whole_number(range: &RangeInclusive<u32>) -> String {
    format!("a whole number {}", within(range))
}

/// A number in thousandths.
pub(super) const fn thousandths(factor: f64) -> u32 {
    (factor * 1000.0).round() as u32
}

/// A question that names the known word nearest to a misspelt one, if one is near.
fn hint(word: &str, known: &[&str]) -> String {
    nearest(word, known).map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default()
}

/// `parent.key`, or `parent["key"]` where the key is no plain word.
pub(super) fn key_path(parent: &str, key: &str) -> String {
    let plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if plain && (1..=SHOWN).contains(&key.len()) {
        format!("{parent}.{key}")
    } else {
        format!("{parent}[{}]", quoted(key))
    }
}

/// A text in quotes, on one line and not long, whatever it holds.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    let mut chars = text.chars();
    for char in chars.by_ref().take(SHOWN) {
        match char {
            '"' | '\\' => out.extend(['\\', char]),
            char if char.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(char))),
            char => out.push(char),
        }
    }
    if chars.next().is_some() {
        out.push_str("...");
    }
    out.push('"');
    out
}

/// A value as it appears after "was".
fn shown(node: &Node) -> String {
    match node {
        Node::Null => "null".to_owned(),
        Node::Bool(value) => value.to_string(),
        Node::Number(number) => number.to_string(),
        Node::String(text) => quoted(text),
        Node::Array(nodes) if nodes.is_empty() => "an empty list".to_owned(),
        Node::Array(_) => "a list".to_owned(),
        Node::Object(_) => "an object".to_owned(),
    }
}

/// A value together with its type.
fn described(node: &Node) -> String {
    match node {
        Node::Number(_) => format!("the number {}", shown(node)),
        Node::String(_) => format!("the string {}", shown(node)),
        _ => shown(node),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// The problems found when `read` is given `json` at the path `policies`.
    fn problems<T>(json: &str, read: impl FnOnce(&Item<'_>, &mut Report) -> Result<T, Reported>) -> String {
        let node = Node::parse(json.as_bytes()).unwrap();
        let mut report = Report::default();
        let _ = read(&Item { path: "policies".into(), node: &node }, &mut report);
        report.finish().err().map(|errors| errors.to_string()).unwrap_or_default()
    }

    #[test]
    fn numbers_say_what_they_must_be() {
        let percent = |json| problems(json, |item, report| item.percent(0, report));
        assert_eq!(percent("62.5"), "");
        assert_eq!(percent("140"), "policies: must be within 0..=100, was 140");
        assert_eq!(percent("-1"), "policies: must be within 0..=100, was -1");
        assert_eq!(percent("\"x\""), "policies: must be a number within 0..=100, was the string \"x\"");
        assert_eq!(percent("null"), "policies: must be a number within 0..=100, was null");
        assert_eq!(percent("0.0001"), "policies: must be 0 or at least 0.001, was 0.0001");
        assert_eq!(percent("18446744073709551615"), "policies: must be within 0..=100, was 18446744073709551615");
    }

    #[test]
    fn whole_numbers_may_be_written_as_doubles() {
        let whole = |json| problems(json, |item, report| item.whole(&(1..=4096), report));
        assert_eq!(whole("1e3"), "");
        assert_eq!(whole("5.0"), "");
        assert_eq!(whole("5.5"), "policies: must be a whole number within 1..=4096, was 5.5");
        assert_eq!(whole("0"), "policies: must be within 1..=4096, was 0");
        assert_eq!(whole("true"), "policies: must be a whole number within 1..=4096, was true");
    }

    #[test]
    fn words_are_listed_and_near_misses_named() {
        let word = |json| problems(json, |item, report| item.word(&[("enforce", 1), ("off", 2)], report));
        assert_eq!(word("\"off\""), "");
        assert_eq!(
            word("\"enforced\""),
            "policies: must be one of enforce, off, was \"enforced\"; did you mean \"enforce\"?"
        );
        assert_eq!(word("0"), "policies: must be one of enforce, off, was the number 0");
    }

    #[test]
    fn unknown_unsupported_and_duplicate_keys_are_all_reported() {
        let keys = Keys { accepted: &["window", "state"], not_yet: &["retry"] };
        let object = |json| problems(json, |item, report| item.object(&keys, report).map(drop));
        assert_eq!(
            object(r#"{"windw":1,"retry":{},"state":1,"state":2,"a b":{}}"#),
            "policies.windw: unknown key; accepted here: window, state; did you mean \"window\"?\n\
             policies.retry: not supported yet\n\
             policies[\"a b\"]: unknown key; accepted here: window, state\n\
             policies.state: the key is there 2 times; must be there once"
        );
        assert_eq!(object("[]"), "policies: must be an object with the keys window, state, was an empty list");
    }

    #[test]
    fn values_in_messages_stay_short_and_on_one_line() {
        assert_eq!(quoted("a\n\"b\"\u{1b}"), r#""a\u000a\"b\"\u001b""#);
        assert_eq!(quoted(&"é".repeat(61)), format!("\"{}...\"", "é".repeat(60)));
        assert_eq!(key_path("policies", ""), "policies[\"\"]");
    }
}
