//! `Cache-Control`: what an answer allows a shared cache. Source: RFC 9111, section 5.2; RFC 5861, section 4.
//!
//! Crates that read it take what they can and pass over the rest. Here what is wrong, or there twice, is no answer that may be kept:
//! nobody can say which of two lifetimes its host means.

/// The directives that matter for keeping an answer and serving it later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheControl {
    /// `no-store`.
    pub no_store: bool,
    /// `private`, with names of fields or without.
    pub private: bool,
    /// `no-cache`, with names of fields or without.
    pub no_cache: bool,
    /// `must-revalidate`.
    pub must_revalidate: bool,
    /// `proxy-revalidate`.
    pub proxy_revalidate: bool,
    /// `public`.
    pub public: bool,
    /// `max-age`, in seconds.
    pub max_age: Option<u32>,
    /// `s-maxage`, in seconds.
    pub s_maxage: Option<u32>,
    /// `stale-if-error`, in seconds.
    pub stale_if_error: Option<u32>,
}

/// The longest that is counted, in seconds. Source: RFC 9111, section 1.2.2.
pub const LONGEST: u32 = 1 << 31;

impl CacheControl {
    /// Reads a value; `None` where it is malformed, or says something twice.
    ///
    /// ```
    /// use holdfast_engine::fallback::CacheControl;
    ///
    /// let read = CacheControl::read(b"public, max-age=60, stale-if-error=\"300\"").unwrap_or_default();
    /// assert!(read.public && read.max_age == Some(60) && read.stale_if_error == Some(300));
    /// assert_eq!(CacheControl::read(b"max-age=-1"), None);
    /// ```
    pub fn read(value: &[u8]) -> Option<Self> {
        let mut found = CacheControl::default();
        let mut rest = value.trim_ascii();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix(b",") {
                rest = after.trim_ascii_start();
                continue;
            }
            let (name, after) = token(rest)?;
            let (argument, after) = match after.strip_prefix(b"=") {
                Some(after) => argument(after).map(|(argument, after)| (Some(argument), after))?,
                None => (None, after),
            };
            found.add(name, argument)?;
            rest = after.trim_ascii_start();
            if !rest.is_empty() && !rest.starts_with(b",") {
                return None;
            }
        }
        Some(found)
    }

    /// Takes a directive up; `None` where it makes no sense, or was there before.
    fn add(&mut self, name: &[u8], argument: Option<&[u8]>) -> Option<()> {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        let flags = [
            ("no-store", &mut self.no_store),
            ("private", &mut self.private),
            ("no-cache", &mut self.no_cache),
            ("must-revalidate", &mut self.must_revalidate),
            ("proxy-revalidate", &mut self.proxy_revalidate),
            ("public", &mut self.public),
        ];
        for (known, flag) in flags {
            if is(known) {
                return (!core::mem::replace(flag, true)).then_some(());
            }
        }
        let numbers = [
            ("max-age", &mut self.max_age),
            ("s-maxage", &mut self.s_maxage),
            ("stale-if-error", &mut self.stale_if_error),
        ];
        for (known, number) in numbers {
            if is(known) {
                return number.replace(delta_seconds(argument?)?).is_none().then_some(());
            }
        }
        Some(())
    }
}

/// A number of seconds, [`LONGEST`] where it is longer. Source: RFC 9111, section 1.2.2.
pub fn delta_seconds(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = core::str::from_utf8(digits).ok()?.parse().unwrap_or(LONGEST);
    Some(number.min(LONGEST))
}

/// The token that the text begins with, and the rest. Source: RFC 9110, section 5.6.2.
fn token(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|byte| !is_token(*byte)).unwrap_or(text.len());
    text.split_at_checked(end).filter(|(token, _)| !token.is_empty())
}

/// Whether a byte may be part of a token.
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A token, or what is in a quoted string as it was written, and the rest. Source: RFC 9110, section 5.6.4.
fn argument(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else { return token(text) };
    let mut is_escaped = false;
    let end = quoted.iter().position(|byte| {
        let ends = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        ends
    })?;
    let (inside, rest) = quoted.split_at_checked(end)?;
    Some((inside, rest.get(1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn directives_are_read_in_any_case_and_order() {
        let read = CacheControl::read(b" Public ,, MAX-AGE=60,s-maxage=\"7\" ,immutable, stale-if-error=300,").unwrap();
        let expected = CacheControl {
            public: true,
            max_age: Some(60),
            s_maxage: Some(7),
            stale_if_error: Some(300),
            ..CacheControl::default()
        };
        assert_eq!(read, expected);
        assert_eq!(CacheControl::read(b""), Some(CacheControl::default()));
        let strict = CacheControl::read(b"no-store,no-cache,private,must-revalidate,proxy-revalidate").unwrap();
        assert!(strict.no_store && strict.no_cache && strict.private);
        assert!(strict.must_revalidate && strict.proxy_revalidate);
    }

    #[test]
    fn an_argument_may_have_commas_and_quotes_in_it() {
        let read = CacheControl::read(br#"private="set-cookie, x-a", ext="a\", no-store", no-cache=x-b"#).unwrap();
        assert!(read.private && read.no_cache && !read.no_store);
    }

    #[test]
    fn what_is_malformed_or_there_twice_is_nothing() {
        let wrong: [&[u8]; 14] = [
            b"max-age",
            b"max-age=",
            b"max-age=-1",
            b"max-age=1.5",
            b"max-age=60s",
            b"max-age=60, max-age=60",
            b"no-store, no-store",
            b"max-age=\"60",
            b"max-age = 60",
            b"public max-age=60",
            b"public; max-age=60",
            b"=60",
            b"s-maxage=\xff",
            b"\"public\"",
        ];
        for value in wrong {
            assert_eq!(CacheControl::read(value), None, "{}", value.escape_ascii());
        }
    }

    #[test]
    fn a_number_that_is_too_long_is_the_longest() {
        for digits in [&b"2147483648"[..], b"4294967296", &[b'9'; 400]] {
            assert_eq!(delta_seconds(digits), Some(LONGEST));
        }
        assert_eq!(delta_seconds(b"2147483647"), Some(LONGEST - 1));
    }
}
