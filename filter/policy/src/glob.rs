//! Globs: `*` matches within a segment, `**` across segments, `?` nothing special, everything else itself.

use core::hash::{Hash, Hasher};

/// A compiled glob over bytes.
///
/// A segment ends at the separator the field has: `/` in a path, `.` in an authority; other fields are one segment, in
/// which `*` and `**` are the same. Matching is linear in the text times the stars, without recursion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    text: String,
    tokens: Vec<Token>,
    separator: Option<u8>,
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
        if text.contains("***") {
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
        Ok(Glob { text: text.to_owned(), tokens, separator })
    }

    /// The glob as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has no star, so that it matches only itself.
    pub fn is_literal(&self) -> bool {
        self.tokens.iter().all(|token| matches!(token, Token::Byte(_)))
    }

    /// Whether the whole of `text` matches.
    pub fn matches(&self, text: &[u8]) -> bool {
        // Greedy with backtracking to the last star of each sort: a `*` that runs into its separator gives up to the
        // last `**` before it, which can absorb anything.
        let (mut token, mut at) = (0, 0);
        let mut within: Option<(usize, usize)> = None;
        let mut across: Option<(usize, usize)> = None;
        loop {
            match self.tokens.get(token) {
                Some(Token::Across) => {
                    across = Some((token, at));
                    within = None;
                    token += 1;
                    continue;
                }
                Some(Token::Within) => {
                    within = Some((token, at));
                    token += 1;
                    continue;
                }
                Some(Token::Byte(want)) if text.get(at) == Some(want) => {
                    token += 1;
                    at += 1;
                    continue;
                }
                None if at == text.len() => return true,
                _ => {}
            }
            // Mismatch: lengthen the innermost star that may grow.
            if let Some((star, from)) = within {
                match text.get(from) {
                    Some(byte) if Some(*byte) != self.separator => {
                        within = Some((star, from + 1));
                        token = star + 1;
                        at = from + 1;
                        continue;
                    }
                    _ => within = None,
                }
            }
            match across {
                Some((star, from)) if from < text.len() => {
                    across = Some((star, from + 1));
                    token = star + 1;
                    at = from + 1;
                }
                _ => return false,
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
