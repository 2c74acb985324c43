//! Globs: `*` matches within a segment, `**` across segments, `?` nothing special, everything else itself.

use core::hash::{Hash, Hasher};

/// A compiled glob over bytes.
///
/// A segment ends at the separator the field has: `/` in a path, `.` in an authority; other fields are one segment, in
/// which `*` and `**` are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    text: String,
    tokens: Vec<Token>,
    separator: Option<u8>,
    /// How many bytes stand before the first star and after the last one; all of them before where there is none.
    prefix: usize,
    suffix: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// `*`
    Within,
    /// `**`
    Across,
}

impl Hash for Glob {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The tokens follow from these two.
        self.text.hash(state);
        self.separator.hash(state);
    }
}

/// Why a text is no glob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GlobError {
    /// It is empty, so it could only match nothing.
    Empty,
    /// Three or more stars in a row.
    TooManyStars,
    /// Longer than [`Glob::MAX_LEN`] bytes.
    TooLong,
}

impl core::fmt::Display for GlobError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            GlobError::Empty => f.write_str("must not be empty (\"**\" matches everything)"),
            GlobError::TooManyStars => f.write_str("must have at most two stars in a row"),
            GlobError::TooLong => write!(f, "must be at most {} bytes long", Glob::MAX_LEN),
        }
    }
}

impl Glob {
    /// The longest glob accepted, in bytes.
    pub const MAX_LEN: usize = 1024;

    /// Compiles `text`; `separator` is the byte that ends a segment, if the field has segments.
    pub fn new(text: &str, separator: Option<u8>) -> Result<Self, GlobError> {
        if text.is_empty() {
            return Err(GlobError::Empty);
        }
        if text.len() > Self::MAX_LEN {
            return Err(GlobError::TooLong);
        }
        if text.as_bytes().windows(3).any(|three| three == b"***") {
            return Err(GlobError::TooManyStars);
        }
        let mut tokens = Vec::with_capacity(text.len());
        for byte in text.bytes() {
            match (byte, tokens.last()) {
                (b'*', Some(Token::Within)) => {
                    tokens.pop();
                    tokens.push(Token::Across);
                }
                (b'*', _) => tokens.push(Token::Within),
                (byte, _) => tokens.push(Token::Byte(byte)),
            }
        }
        if separator.is_none() {
            for token in &mut tokens {
                if *token == Token::Within {
                    *token = Token::Across;
                }
            }
        }
        let prefix = text.find('*').unwrap_or(text.len());
        let suffix = text.rfind('*').map_or(0, |last| text.len() - last - 1);
        Ok(Glob { text: text.to_owned(), tokens, separator, prefix, suffix })
    }

    /// The glob as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has no star, so that it matches only itself.
    pub fn is_literal(&self) -> bool {
        self.prefix == self.text.len()
    }

    /// Whether the whole of `text` matches. Takes at most a step for each byte of the text and token of the glob.
    pub fn matches(&self, text: &[u8]) -> bool {
        let glob = self.text.as_bytes();
        if self.is_literal() {
            return glob == text;
        }
        // Most texts differ at an end, and most globs have one star: neither needs more than this.
        let ends =
            glob.split_at_checked(self.prefix).zip(glob.split_at_checked(glob.len().saturating_sub(self.suffix)));
        let Some(((prefix, _), (_, suffix))) = ends else { return false };
        let Some(between) = text.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix)) else { return false };
        match self.tokens.get(self.prefix..self.tokens.len().saturating_sub(self.suffix)) {
            Some([Token::Across]) => return true,
            Some([Token::Within]) => return !between.iter().any(|byte| Some(*byte) == self.separator),
            _ => {}
        }
        // The places in the glob that what was read so far can have led to, all at once: to try one after the other
        // would take quadratic time for a text that a client chooses.
        let (mut live, mut next) = (vec![false; self.tokens.len() + 1], vec![false; self.tokens.len() + 1]);
        self.reach(&mut live, 0);
        for byte in text {
            next.fill(false);
            let mut any = false;
            for (place, token) in self.tokens.iter().enumerate() {
                if live.get(place) != Some(&true) {
                    continue;
                }
                let to = match token {
                    Token::Byte(want) if want == byte => place + 1,
                    Token::Within if Some(*byte) != self.separator => place,
                    Token::Across => place,
                    _ => continue,
                };
                self.reach(&mut next, to);
                any = true;
            }
            if !any {
                return false;
            }
            core::mem::swap(&mut live, &mut next);
        }
        live.last() == Some(&true)
    }

    /// Whether every text that `other` matches is matched by this one as well, as far as their stars tell: a star of `other` is taken
    /// for a letter that only a star of this one's stands for. Both are globs of the same field.
    pub fn covers(&self, other: &Glob) -> bool {
        let mut live = vec![false; self.tokens.len() + 1];
        self.reach(&mut live, 0);
        for letter in &other.tokens {
            let mut next = vec![false; self.tokens.len() + 1];
            for (place, token) in self.tokens.iter().enumerate().filter(|(place, _)| live.get(*place) == Some(&true)) {
                match (token, letter) {
                    (Token::Byte(want), Token::Byte(byte)) if want == byte => self.reach(&mut next, place + 1),
                    (Token::Within, Token::Byte(byte)) if Some(*byte) != self.separator => self.reach(&mut next, place),
                    (Token::Within, Token::Within) | (Token::Across, _) => self.reach(&mut next, place),
                    _ => {}
                }
            }
            live = next;
        }
        live.last() == Some(&true)
    }

    /// Marks a place, and those behind it that stars, which may stand for nothing, lead on to.
    fn reach(&self, live: &mut [bool], mut place: usize) {
        while let Some(mark) = live.get_mut(place) {
            *mark = true;
            match self.tokens.get(place) {
                Some(Token::Within | Token::Across) => place += 1,
                _ => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn path(glob: &str, text: &str) -> bool {
        Glob::new(glob, Some(b'/')).unwrap().matches(text.as_bytes())
    }

    #[test]
    fn one_star_stays_within_a_segment_and_two_cross() {
        assert!(path("/api/*/items", "/api/v1/items"));
        assert!(!path("/api/*/items", "/api/v1/x/items"));
        assert!(path("/api/**", "/api/v1/x/items"));
        assert!(path("/api/**/items", "/api/v1/x/items"));
        assert!(!path("/api/**/items", "/api/v1/x/item"));
        assert!(path("/a*b*c", "/aXbYc"));
        assert!(!path("/a*b*c", "/aXb/Yc"));
        assert!(path("**", ""));
        assert!(path("*", ""));
        assert!(!path("*", "/"));
    }

    #[test]
    fn a_star_that_fails_falls_back_to_an_earlier_double_star() {
        assert!(path("/**/x/*.js", "/a/x/b/x/c.js"));
        assert!(path("**a*b", "/aa/aXb"));
        assert!(!path("**a*b", "/aa/aX/b"));
    }

    /// Every word of these letters that is not longer.
    fn words(letters: &[u8], longest: u32) -> Vec<Vec<u8>> {
        let count = letters.len();
        (0..=longest)
            .flat_map(|len| (0..count.pow(len)).map(move |number| (number, len)))
            .map(|(number, len)| (0..len).map(|at| letters[number / count.pow(at) % count]).collect())
            .collect()
    }

    #[test]
    fn a_glob_that_covers_another_matches_whatever_that_does() {
        let texts = words(b"a/", 5);
        let globs: Vec<Glob> = words(b"a/*", 4)
            .iter()
            .filter_map(|glob| Glob::new(core::str::from_utf8(glob).unwrap(), Some(b'/')).ok())
            .collect();
        let matched: Vec<Vec<bool>> =
            globs.iter().map(|glob| texts.iter().map(|text| glob.matches(text)).collect()).collect();
        for (one, of_one) in globs.iter().zip(&matched) {
            assert!(one.covers(one), "{}", one.as_str());
            for (other, of_other) in globs.iter().zip(&matched) {
                if one.covers(other) {
                    let all = of_other.iter().zip(of_one).all(|(other, one)| *one || !other);
                    assert!(all, "{} does not cover {}", one.as_str(), other.as_str());
                } else if other.is_literal() {
                    assert!(!one.matches(other.as_str().as_bytes()), "{} covers {}", one.as_str(), other.as_str());
                }
            }
        }
        let covers = |one: &str, other: &str| {
            let glob = |text: &str| Glob::new(text, Some(b'/')).unwrap();
            glob(one).covers(&glob(other))
        };
        assert!(covers("/api/**", "/api/v1/*") && covers("**", "/a*b") && covers("/a*", "/ab*c"));
        assert!(!covers("/api/*", "/api/**") && !covers("/api/v1/**", "/api/**") && !covers("/a*", "/b*"));
    }

    /// Against the plain definition, tried out recursively.
    #[test]
    fn it_matches_what_its_definition_says() {
        fn plain(glob: &[u8], text: &[u8]) -> bool {
            match glob {
                [] => text.is_empty(),
                [b'*', b'*', rest @ ..] => (0..=text.len()).any(|at| plain(rest, &text[at..])),
                [b'*', rest @ ..] => {
                    let segment = text.iter().position(|byte| *byte == b'/').unwrap_or(text.len());
                    (0..=segment).any(|at| plain(rest, &text[at..]))
                }
                [byte, rest @ ..] => text.first() == Some(byte) && plain(rest, &text[1..]),
            }
        }
        let texts = words(b"a/b", 5);
        for glob in words(b"a/*", 5) {
            let Ok(compiled) = Glob::new(core::str::from_utf8(&glob).unwrap(), Some(b'/')) else { continue };
            for text in &texts {
                assert_eq!(
                    compiled.matches(text),
                    plain(&glob, text),
                    "{} on {}",
                    compiled.as_str(),
                    text.escape_ascii()
                );
            }
        }
    }

    #[test]
    fn a_long_text_made_to_be_slow_is_not() {
        // By trying one place after the other this would take 3,600,000,000 steps.
        let text = format!("/{}", ".".repeat(60_000));
        assert!(!path("/**.*.js", &text));
        assert!(path("/**.*.js", &format!("{text}js")));
    }

    #[test]
    fn fields_without_segments_treat_both_stars_alike() {
        let glob = Glob::new("outbound|*|orders*", None).unwrap();
        assert!(glob.matches(b"outbound|80||orders.default.svc"));
        assert!(!glob.matches(b"inbound|80||orders"));
    }

    #[test]
    fn impossible_globs_are_refused() {
        assert_eq!(Glob::new("", None), Err(GlobError::Empty));
        assert_eq!(Glob::new("a***b", None), Err(GlobError::TooManyStars));
        assert_eq!(Glob::new(&"a".repeat(2000), None), Err(GlobError::TooLong));
    }
}
