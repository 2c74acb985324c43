//! Fields of a document, with their places. What is not asked for is an error in the end, so that nothing is dropped.

use std::cell::RefCell;
use std::time::Duration;

use serde_norway::{Mapping, Value};

use crate::place::{Place, Report};

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Field<'a> {
    /// What stands there.
    pub value: &'a Value,
    /// Where.
    pub place: Place,
}

/// An object, and which of its keys were asked for.
#[derive(Debug)]
pub struct Object<'a> {
    entries: &'a Mapping,
    /// Where the object stands.
    pub place: Place,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Field<'a> {
    fn refuse(&self, accepted: &str, report: &mut Report) {
        report.error(&self.place, format!("must be {accepted}, was {}", shown(self.value)));
    }

    /// The value as an object.
    pub fn object(&self, report: &mut Report) -> Option<Object<'a>> {
        match self.value {
            Value::Mapping(entries) => Some(Object { entries, place: self.place.clone(), asked: RefCell::default() }),
            _ => {
                self.refuse("an object", report);
                None
            }
        }
    }

    /// The value as a list; empty where it is none.
    pub fn list(&self, report: &mut Report) -> Vec<Field<'a>> {
        match self.value {
            Value::Sequence(items) => {
                let field = |(index, value)| Field { value, place: self.place.entry(index) };
                items.iter().enumerate().map(field).collect()
            }
            _ => {
                self.refuse("a list", report);
                Vec::new()
            }
        }
    }

    /// The value as a text that is not empty.
    pub fn text(&self, report: &mut Report) -> Option<&'a str> {
        match self.value {
            Value::String(text) if !text.is_empty() => Some(text),
            _ => {
                self.refuse("a text", report);
                None
            }
        }
    }

    /// The value as a boolean.
    pub fn boolean(&self, report: &mut Report) -> Option<bool> {
        if !self.value.is_bool() {
            self.refuse("true or false", report);
        }
        self.value.as_bool()
    }

    /// The value as a whole number up to `most`. Protobuf's JSON writes large ones as texts.
    pub fn number(&self, most: u64, report: &mut Report) -> Option<u64> {
        let found = match self.value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        let found = found.filter(|number| *number <= most);
        if found.is_none() {
            self.refuse(&format!("a whole number from 0 to {most}"), report);
        }
        found
    }

    /// The value as a number of 32 bits.
    pub fn small(&self, report: &mut Report) -> Option<u32> {
        self.number(u64::from(u32::MAX), report).and_then(|number| u32::try_from(number).ok())
    }

    /// The value as a port.
    pub fn port(&self, report: &mut Report) -> Option<u16> {
        let port = self.number(u64::from(u16::MAX), report).and_then(|number| u16::try_from(number).ok());
        if port == Some(0) {
            self.refuse("a port from 1 to 65535", report);
            return None;
        }
        port
    }

    /// The value as a number with a fraction, not below zero.
    pub fn fraction(&self, report: &mut Report) -> Option<f64> {
        let found = self.value.as_f64().filter(|number| number.is_finite() && *number >= 0.0);
        if found.is_none() {
            self.refuse("a number, not below 0", report);
        }
        found
    }

    /// The value as a duration, such as `1.5s`, `250ms` or `1h30m`.
    pub fn duration(&self, report: &mut Report) -> Option<Duration> {
        let found = self.value.as_str().and_then(duration);
        if found.is_none() {
            self.refuse("a duration such as \"1.5s\", \"250ms\" or \"1h30m\"", report);
        }
        found
    }

    /// The value as one of `words`.
    pub fn word<T: Copy>(&self, words: &[(&str, T)], report: &mut Report) -> Option<T> {
        let found = self.value.as_str().and_then(|text| words.iter().find(|(word, _)| *word == text));
        if found.is_none() {
            let accepted = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
            self.refuse(&format!("one of {accepted}"), report);
        }
        found.map(|(_, meaning)| *meaning)
    }
}

impl<'a> Object<'a> {
    /// The value of `key`; `null` is as good as absent.
    pub fn get(&self, key: &'static str) -> Option<Field<'a>> {
        self.asked.borrow_mut().push(key);
        let value = self.entries.get(key).filter(|value| !value.is_null())?;
        Some(Field { value, place: self.place.field(key) })
    }

    /// The value of a key that has to be there.
    pub fn required(&self, key: &'static str, report: &mut Report) -> Option<Field<'a>> {
        let found = self.get(key);
        if found.is_none() {
            report.error(&self.place.field(key), "is missing");
        }
        found
    }

    /// Keys that are known and of no matter here.
    pub fn known(&self, keys: &[&'static str]) {
        self.asked.borrow_mut().extend(keys);
    }

    /// Every key with its value.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Field<'a>)> {
        let entry = |(key, value): (&'a Value, &'a Value)| {
            let key = key.as_str()?;
            Some((key, Field { value, place: self.place.field(key) }))
        };
        self.entries.iter().filter_map(entry)
    }

    /// What was not asked for is an error: a field that nobody knows may change what was meant.
    pub fn finish(self, report: &mut Report) {
        let asked = self.asked.into_inner();
        for key in self.entries.keys() {
            let name = key.as_str().map_or_else(|| shown(key), str::to_owned);
            if !asked.contains(&name.as_str()) {
                let known = asked.join(", ");
                report.error(&self.place.field(&name), format!("is not known here (known: {known})"));
            }
        }
    }
}

/// A value as it is shown in a message, on one line.
fn shown(value: &Value) -> String {
    const MOST: usize = 60;
    let text = serde_json::to_string(value).unwrap_or_else(|_| "no JSON".to_owned());
    if text.chars().count() <= MOST { text } else { text.chars().take(MOST).chain("...".chars()).collect() }
}

/// Parts such as `1h`, `30m`, `1.5s`, `250ms`, added up.
pub fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 6] = [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|end| *end > 0)?;
        let (number, after) = rest.split_at(end);
        let (unit, seconds) = UNITS.iter().find(|(unit, _)| after.starts_with(unit))?;
        // Whole seconds exactly, whatever their number.
        let part = match number.parse::<u64>() {
            Ok(whole) if *seconds >= 1.0 => Duration::from_secs(whole.checked_mul(*seconds as u64)?),
            _ => Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?,
        };
        sum = sum.checked_add(part)?;
        rest = after.get(unit.len()..)?;
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_istio_reads_them() {
        let millis = |text| duration(text).map(|found| found.as_millis());
        assert_eq!(millis("30s"), Some(30_000));
        assert_eq!(millis("1.5s"), Some(1_500));
        assert_eq!(millis("250ms"), Some(250));
        assert_eq!(millis("1h30m"), Some(5_400_000));
        assert_eq!(millis("2m3s"), Some(123_000));
        for wrong in ["", "5", "s", "-1s", "1 s", "1d", "1s2", ".s", "1e3s"] {
            assert_eq!(millis(wrong), None, "{wrong}");
        }
    }
}
