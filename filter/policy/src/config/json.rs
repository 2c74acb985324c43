//! JSON as it was written: key order and duplicate keys are kept, so that both can be judged.
//!
//! Types are checked later and all at once; deserializing into the final types would stop at the first wrong one. The reader
//! is our own and not generic, because `serde_json` through `serde` is 25 kB of a module that everybody downloads. It accepts
//! the same texts, and says the same of all others.

use core::fmt::{self, Write};

use serde_json::Number;

/// So deep may lists and objects be nested, and not deeper.
const MOST_NESTED: u8 = 127;

/// One JSON value. Depth is bounded by the reader's limit, so recursion over it is too.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array(Vec<Node>),
    /// In the order written; a key may be there twice.
    Object(Vec<(String, Node)>),
}

/// Why bytes are no JSON; `line` and `column` count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) cause: &'static str,
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at line {} column {}", self.cause, self.line, self.column)
    }
}

const CONTROL_CHARACTER: &str = "control character (\\u0000-\\u001F) found while parsing a string";
const END_IN_LIST: &str = "EOF while parsing a list";
const END_IN_OBJECT: &str = "EOF while parsing an object";
const END_IN_STRING: &str = "EOF while parsing a string";
const END_IN_VALUE: &str = "EOF while parsing a value";
const EXPECTED_COLON: &str = "expected `:`";
const EXPECTED_VALUE: &str = "expected value";
const INVALID_ESCAPE: &str = "invalid escape";
const INVALID_NUMBER: &str = "invalid number";
const KEY_NO_STRING: &str = "key must be a string";
const LIST_GOES_ON: &str = "expected `,` or `]`";
const LONE_SURROGATE: &str = "lone leading surrogate in hex escape";
const OBJECT_GOES_ON: &str = "expected `,` or `}`";
const OUT_OF_RANGE: &str = "number out of range";
const TRAILING_COMMA: &str = "trailing comma";

impl Node {
    /// Parses exactly one JSON value.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Node, SyntaxError> {
        let mut reader = Reader::new(bytes);
        let node = Node::read(&mut reader)?;
        reader.end()?;
        Ok(node)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Node, SyntaxError> {
        Ok(match reader.value()? {
            Value::Null => Node::Null,
            Value::Bool(value) => Node::Bool(value),
            Value::Number(number) => Node::Number(number),
            Value::String(text) => Node::String(text),
            Value::Array => {
                let mut items = Vec::new();
                while reader.item(items.is_empty())? {
                    items.push(Node::read(reader)?);
                }
                Node::Array(items)
            }
            Value::Object => {
                let mut entries = Vec::new();
                while let Some(key) = reader.key(entries.is_empty())? {
                    entries.push((key, Node::read(reader)?));
                }
                Node::Object(entries)
            }
        })
    }

    /// The value as compact JSON.
    pub(crate) fn to_text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match self {
            Node::Null => out.push_str("null"),
            Node::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Node::Number(number) => out.push_str(&number.to_string()),
            Node::String(text) => write_quoted(out, text),
            Node::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Node::Object(entries) => {
                out.push('{');
                for (index, (key, value)) in entries.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    write_quoted(out, key);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

fn write_quoted(out: &mut String, text: &str) {
    out.push('"');
    write_escaped(out, text);
    out.push('"');
}

/// Appends a text as it stands between the quotes of a JSON string.
pub(crate) fn write_escaped(out: &mut String, text: &str) {
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(char));
            }
            char => out.push(char),
        }
    }
}

/// What stands where a value is due. Of a list or an object only the bracket has been read.
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array,
    Object,
}

/// Reads JSON value by value.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    nested: u8,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0, nested: 0 }
    }

    /// That nothing follows.
    pub(crate) fn end(&mut self) -> Result<(), SyntaxError> {
        match self.next_visible() {
            None => Ok(()),
            Some(_) => Err(self.wrong_here("trailing characters")),
        }
    }

    /// Reads a value, or the bracket of one: then come [`Reader::item`] or [`Reader::key`] until there is none.
    #[inline(never)]
    pub(crate) fn value(&mut self) -> Result<Value, SyntaxError> {
        let Some(byte) = self.next_visible() else { return Err(self.wrong_here(END_IN_VALUE)) };
        match byte {
            b'n' => self.word(b"null", Value::Null),
            b't' => self.word(b"true", Value::Bool(true)),
            b'f' => self.word(b"false", Value::Bool(false)),
            b'-' | b'0'..=b'9' => Ok(Value::Number(self.number()?)),
            b'"' => Ok(Value::String(self.string()?)),
            b'[' | b'{' => {
                if self.nested >= MOST_NESTED {
                    return Err(self.wrong_here("recursion limit exceeded"));
                }
                self.nested += 1;
                self.at += 1;
                Ok(if byte == b'[' { Value::Array } else { Value::Object })
            }
            _ => Err(self.wrong_here(EXPECTED_VALUE)),
        }
    }

    /// Whether the list that is being read has another value, the `first` or a further one; it ends where it has none.
    #[inline(never)]
    pub(crate) fn item(&mut self, first: bool) -> Result<bool, SyntaxError> {
        match self.next_visible() {
            Some(b']') => {
                self.close();
                Ok(false)
            }
            Some(_) if first => Ok(true),
            Some(b',') => {
                self.at += 1;
                match self.next_visible() {
                    Some(b']') => Err(self.wrong_here(TRAILING_COMMA)),
                    Some(_) => Ok(true),
                    None => Err(self.wrong_here(END_IN_VALUE)),
                }
            }
            Some(_) => Err(self.wrong_here(LIST_GOES_ON)),
            None => Err(self.wrong_here(END_IN_LIST)),
        }
    }

    /// The next key, the `first` or a further one, of the object that is being read, with its colon; it ends where it has none.
    #[inline(never)]
    pub(crate) fn key(&mut self, first: bool) -> Result<Option<String>, SyntaxError> {
        match self.next_visible() {
            Some(b'}') => {
                self.close();
                return Ok(None);
            }
            Some(b'"') if first => {}
            Some(_) if first => return Err(self.wrong_here(KEY_NO_STRING)),
            Some(b',') => {
                self.at += 1;
                match self.next_visible() {
                    Some(b'"') => {}
                    Some(b'}') => return Err(self.wrong_here(TRAILING_COMMA)),
                    Some(_) => return Err(self.wrong_here(KEY_NO_STRING)),
                    None => return Err(self.wrong_here(END_IN_VALUE)),
                }
            }
            Some(_) => return Err(self.wrong_here(OBJECT_GOES_ON)),
            None => return Err(self.wrong_here(END_IN_OBJECT)),
        }
        let key = self.string()?;
        self.colon()?;
        Ok(Some(key))
    }

    /// Passes over a value, however deep it is. Texts in it are not decoded.
    pub(crate) fn skip(&mut self) -> Result<(), SyntaxError> {
        // The opening brackets of what is not closed yet.
        let mut open = Vec::new();
        loop {
            let Some(byte) = self.next_visible() else { return Err(self.wrong_here(END_IN_VALUE)) };
            let mut first = false;
            match byte {
                b'n' => self.word(b"null", ())?,
                b't' => self.word(b"true", ())?,
                b'f' => self.word(b"false", ())?,
                b'-' | b'0'..=b'9' => self.digits(INVALID_NUMBER).map(drop)?,
                b'"' => self.skip_string()?,
                b'[' | b'{' => {
                    open.push(byte);
                    self.at += 1;
                    first = true;
                }
                _ => return Err(self.wrong_here(EXPECTED_VALUE)),
            }
            let is_list = loop {
                let Some(bracket) = open.last() else { return Ok(()) };
                let is_list = *bracket == b'[';
                match self.next_visible() {
                    Some(b',') if !first => {
                        self.at += 1;
                        break is_list;
                    }
                    Some(b']') if is_list => {}
                    Some(b'}') if !is_list => {}
                    Some(_) if first => break is_list,
                    Some(_) => return Err(self.wrong_here(if is_list { LIST_GOES_ON } else { OBJECT_GOES_ON })),
                    None => return Err(self.wrong_here(if is_list { END_IN_LIST } else { END_IN_OBJECT })),
                }
                self.at += 1;
                open.pop();
                first = false;
            };
            if !is_list {
                match self.next_visible() {
                    Some(b'"') => self.skip_string()?,
                    Some(_) => return Err(self.wrong_here(KEY_NO_STRING)),
                    None => return Err(self.wrong_here(END_IN_OBJECT)),
                }
                self.colon()?;
            }
        }
    }

    fn close(&mut self) {
        self.at += 1;
        self.nested = self.nested.saturating_sub(1);
    }

    fn colon(&mut self) -> Result<(), SyntaxError> {
        match self.next_visible() {
            Some(b':') => {
                self.at += 1;
                Ok(())
            }
            Some(_) => Err(self.wrong_here(EXPECTED_COLON)),
            None => Err(self.wrong_here(END_IN_OBJECT)),
        }
    }

    /// Reads a word of which the first byte is known.
    fn word<T>(&mut self, word: &[u8], value: T) -> Result<T, SyntaxError> {
        for expected in word {
            match self.next() {
                None => return Err(self.wrong(END_IN_VALUE)),
                Some(byte) if byte != *expected => return Err(self.wrong("expected ident")),
                Some(_) => {}
            }
        }
        Ok(value)
    }

    fn number(&mut self) -> Result<Number, SyntaxError> {
        let start = self.at;
        let overflow = self.digits(END_IN_VALUE)?;
        let text = self.bytes.get(start..self.at).and_then(|text| core::str::from_utf8(text).ok()).unwrap_or_default();
        if let Some(at) = overflow
            && text.bytes().take_while(|byte| !matches!(byte, b'e' | b'E')).any(|byte| matches!(byte, b'1'..=b'9'))
        {
            self.at = at;
            return Err(self.wrong(OUT_OF_RANGE));
        }
        // All that can be wrong with it still.
        text.parse().map_err(|_| self.wrong(OUT_OF_RANGE))
    }

    /// Reads a number up to its end; `at_end` is what is wrong when the text ends within. The place of the digit, if there is
    /// one, that makes a positive exponent larger than any that is looked at.
    fn digits(&mut self, at_end: &'static str) -> Result<Option<usize>, SyntaxError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.next() {
            Some(b'0') if matches!(self.peek(), Some(b'0'..=b'9')) => return Err(self.wrong_here(INVALID_NUMBER)),
            Some(b'0') => {}
            Some(b'1'..=b'9') => while self.digit().is_some() {},
            Some(_) => return Err(self.wrong(INVALID_NUMBER)),
            None => return Err(self.wrong(at_end)),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.digit().is_none() {
                return Err(self.wrong_here(if self.peek().is_some() { INVALID_NUMBER } else { at_end }));
            }
            while self.digit().is_some() {}
        }
        let mut overflow = None;
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            let sign = self.peek();
            if let Some(b'+' | b'-') = sign {
                self.at += 1;
            }
            let mut exponent: i32 = match self.next() {
                Some(digit @ b'0'..=b'9') => (digit - b'0').into(),
                Some(_) => return Err(self.wrong(INVALID_NUMBER)),
                None => return Err(self.wrong(at_end)),
            };
            while let Some(digit) = self.digit() {
                let longer = exponent.checked_mul(10).and_then(|tens| tens.checked_add(digit.into()));
                if longer.is_none() && overflow.is_none() && sign != Some(b'-') {
                    overflow = Some(self.at);
                }
                exponent = longer.unwrap_or(i32::MAX);
            }
        }
        Ok(overflow)
    }

    /// The digit that is next, if there is one.
    fn digit(&mut self) -> Option<u8> {
        let digit = self.peek().filter(u8::is_ascii_digit)?;
        self.at += 1;
        Some(digit - b'0')
    }

    /// Reads a string from its opening quote on.
    fn string(&mut self) -> Result<String, SyntaxError> {
        self.at += 1;
        let mut text = Vec::new();
        loop {
            text.extend_from_slice(self.plain());
            match self.next() {
                Some(b'"') => break,
                Some(b'\\') => self.escape(&mut text)?,
                Some(_) => return Err(self.wrong(CONTROL_CHARACTER)),
                None => return Err(self.wrong(END_IN_STRING)),
            }
        }
        String::from_utf8(text).map_err(|error| {
            let mut wrong = self.wrong("invalid unicode code point");
            let behind = error.as_bytes().len() - error.utf8_error().valid_up_to();
            wrong.column = wrong.column.saturating_sub(behind);
            wrong
        })
    }

    /// Passes over a string from its opening quote on.
    fn skip_string(&mut self) -> Result<(), SyntaxError> {
        self.at += 1;
        loop {
            self.plain();
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    match self.next() {
                        Some(b'u') => self.hex().map(drop)?,
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {}
                        Some(_) => return Err(self.wrong(INVALID_ESCAPE)),
                        None => return Err(self.wrong(END_IN_STRING)),
                    }
                }
                Some(_) => return Err(self.wrong(CONTROL_CHARACTER)),
                None => return Err(self.wrong(END_IN_STRING)),
            }
        }
    }

    /// What stands for itself in a string.
    fn plain(&mut self) -> &'a [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let ends = |byte: &u8| matches!(byte, b'"' | b'\\' | ..b' ');
        let plain = rest.get(..rest.iter().position(ends).unwrap_or(rest.len())).unwrap_or_default();
        self.at += plain.len();
        plain
    }

    /// Reads an escape, whose backslash has been read.
    fn escape(&mut self, text: &mut Vec<u8>) -> Result<(), SyntaxError> {
        text.push(match self.next() {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                let mut code = self.hex()?;
                if let 0xdc00..=0xdfff = code {
                    return Err(self.wrong(LONE_SURROGATE));
                }
                if let 0xd800..=0xdbff = code {
                    for expected in [b'\\', b'u'] {
                        match self.next() {
                            Some(byte) if byte == expected => {}
                            Some(_) => return Err(self.wrong("unexpected end of hex escape")),
                            None => return Err(self.wrong(END_IN_STRING)),
                        }
                    }
                    let low = self.hex()?;
                    if !(0xdc00..=0xdfff).contains(&low) {
                        return Err(self.wrong(LONE_SURROGATE));
                    }
                    code = ((code - 0xd800) << 10 | (low - 0xdc00)) + 0x1_0000;
                }
                let char = char::from_u32(code).unwrap_or_default();
                text.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            Some(_) => return Err(self.wrong(INVALID_ESCAPE)),
            None => return Err(self.wrong(END_IN_STRING)),
        });
        Ok(())
    }

    /// Reads four digits.
    fn hex(&mut self) -> Result<u32, SyntaxError> {
        let Some(digits) = self.bytes.get(self.at..).and_then(|rest| rest.get(..4)) else {
            self.at = self.bytes.len();
            return Err(self.wrong(END_IN_STRING));
        };
        self.at += 4;
        let code = digits.iter().try_fold(0, |code, digit| Some(code << 4 | char::from(*digit).to_digit(16)?));
        code.ok_or_else(|| self.wrong(INVALID_ESCAPE))
    }

    /// The next byte that is no space, which stays there.
    fn next_visible(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
        self.peek()
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    /// What is wrong with the byte that is next.
    fn wrong_here(&self, cause: &'static str) -> SyntaxError {
        self.wrong_at(self.bytes.len().min(self.at + 1), cause)
    }

    /// What is wrong with what has just been read.
    fn wrong(&self, cause: &'static str) -> SyntaxError {
        self.wrong_at(self.at, cause)
    }

    #[inline(never)]
    fn wrong_at(&self, at: usize, cause: &'static str) -> SyntaxError {
        let before = self.bytes.get(..at).unwrap_or_default();
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        SyntaxError { cause, line, column }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn values_come_back_as_they_were_written() {
        let text = r#"{"z":1,"a":[true,null,-2,1.5,"é\n"],"z":{}}"#;
        let node = Node::parse(text.as_bytes()).unwrap();
        assert_eq!(node.to_text(), text, "order and duplicate keys are kept");
    }

    #[test]
    fn an_error_has_its_position() {
        let error = Node::parse(b"{\n  \"a\": 1,\n}").unwrap_err();
        assert_eq!((error.line, error.column), (3, 1));
        assert_eq!(error.cause, "trailing comma");
    }

    /// What `serde_json` makes of the same bytes, with keys in their order and with duplicates.
    struct Theirs(Node);

    impl<'de> serde::Deserialize<'de> for Theirs {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(TheirVisitor).map(Theirs)
        }
    }

    impl serde::Serialize for Theirs {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let theirs = |node: &Node| Theirs(node.clone());
            match &self.0 {
                Node::Null => serializer.serialize_unit(),
                Node::Bool(value) => serializer.serialize_bool(*value),
                Node::Number(value) => value.serialize(serializer),
                Node::String(value) => serializer.serialize_str(value),
                Node::Array(items) => serializer.collect_seq(items.iter().map(theirs)),
                Node::Object(entries) => {
                    serializer.collect_map(entries.iter().map(|(key, value)| (key, theirs(value))))
                }
            }
        }
    }

    struct TheirVisitor;

    impl<'de> serde::de::Visitor<'de> for TheirVisitor {
        type Value = Node;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON value")
        }
        fn visit_unit<E>(self) -> Result<Node, E> {
            Ok(Node::Null)
        }
        fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
            Ok(Node::Bool(value))
        }
        fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
            Ok(Node::Number(value.into()))
        }
        fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
            Ok(Node::Number(value.into()))
        }
        fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
            Number::from_f64(value).map(Node::Number).ok_or_else(|| E::custom("number out of range"))
        }
        fn visit_str<E>(self, value: &str) -> Result<Node, E> {
            Ok(Node::String(value.to_owned()))
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
            let mut items = Vec::new();
            while let Some(Theirs(item)) = seq.next_element()? {
                items.push(item);
            }
            Ok(Node::Array(items))
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
            let mut entries = Vec::new();
            while let Some((key, Theirs(value))) = map.next_entry()? {
                entries.push((key, value));
            }
            Ok(Node::Object(entries))
        }
    }

    /// Reads and skips the bytes, here and with `serde_json`: values, texts, causes and positions must be the same.
    fn assert_same(bytes: &[u8]) {
        let shown = String::from_utf8_lossy(bytes);
        match (Node::parse(bytes), serde_json::from_slice::<Theirs>(bytes)) {
            (Ok(ours), Ok(Theirs(theirs))) => {
                assert_eq!(ours, theirs, "{shown}");
                // Equal numbers need not have an equal sign: the texts have.
                assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "{shown}");
                assert_eq!(ours.to_text(), serde_json::to_string(&Theirs(theirs)).unwrap(), "{shown}");
            }
            (ours, theirs) => {
                let (ours, theirs) = (ours.map(drop), theirs.map(drop));
                assert_eq!(ours.map_err(|e| e.to_string()), theirs.map_err(|e| e.to_string()), "{shown}");
            }
        }
        let mut reader = Reader::new(bytes);
        let ours = reader.skip().and_then(|()| reader.end()).map_err(|e| e.to_string());
        let theirs = serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map(drop).map_err(|e| e.to_string());
        assert_eq!(ours, theirs, "skipping {shown}");
    }

    /// Of these, texts are made that are JSON almost.
    const PIECES: &[&[u8]] = &[
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b" ",
        b"\n",
        b"\"",
        b"\"a\"",
        b"\"k\":",
        b"\"\\",
        b"\\u",
        b"\\ud83d\\ude00",
        b"\\ud83d",
        b"\\ude00",
        b"\\u00e9",
        b"\\u0",
        b"\\n",
        b"\\/",
        b"\\x",
        b"\xc3\xa9",
        b"\xff",
        b"\t",
        b"\x7f",
        b"\x01",
        b"null",
        b"true",
        b"false",
        b"nul",
        b"tru",
        b"0",
        b"-",
        b"1",
        b"9",
        b".",
        b"e",
        b"E+",
        b"e-",
        b"1.5",
        b"-0",
        b"308",
        b"309",
        b"2147483647",
        b"2147483648",
        b"99999999999999999999",
        b"18446744073709551616",
        b"0.1",
        b"1e400",
        b"0e99999999999",
    ];

    #[test]
    fn it_reads_and_refuses_what_serde_json_does_in_the_same_words() {
        for bytes in [
            &br#"{"z":1,"a":[true,null,-2,1.5,"\u00e9\n\ud83d\ude00"],"z":{}}"#[..],
            b"1e-400",
            b"-1e400",
            b"1e2147483648",
            b"1e21474836479",
            b"0e21474836479",
            b"-0e21474836479",
            b"1e-21474836479",
            b"1.7976931348623159e308",
            b"18446744073709551615",
            b"-9223372036854775808",
            b"-9223372036854775809",
            b"-0",
            b"123456789012345678901234567890.5e-3",
            b"0.000001",
            b"1e15",
            b"1e16",
            b"1e17",
            b"\"\x7f\\b\\f\\u001f\"",
        ] {
            assert_same(bytes);
        }
        for depth in 126..130 {
            for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":[", "]}]")] {
                assert_same((open.repeat(depth) + "1" + &close.repeat(depth)).as_bytes());
                assert_same(open.repeat(depth).as_bytes());
            }
        }
        let mut random = crate::random::Random::new(7);
        for _ in 0..200_000 {
            let count = random.next() % 12;
            let pieces = (0..count).map(|_| PIECES[(random.next() % PIECES.len() as u64) as usize]);
            let bytes = pieces.collect::<Vec<_>>().concat();
            assert_same(&bytes);
        }
        // What is JSON with one byte put in another's place.
        let whole = br#"{"name" : "a\u00e9\ud83d\ude00\\", "list":[1, -2.5e+3 ,[],{}, null],"o":{"x":true,"y":false}}"#;
        for at in 0..whole.len() {
            for byte in 0..=255 {
                let mut bytes = whole.to_vec();
                bytes[at] = byte;
                assert_same(&bytes);
            }
            assert_same(&whole[..at]);
        }
    }

    #[test]
    fn depth_is_limited() {
        let deep = "[".repeat(100_000);
        assert_eq!(Node::parse(deep.as_bytes()).unwrap_err().cause, "recursion limit exceeded");
    }

    #[test]
    fn what_is_not_one_value_is_refused() {
        for bytes in [&b"{} {}"[..], b"\"\xff\"", b"1e999", b"nul", b"policies: []"] {
            assert!(Node::parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
