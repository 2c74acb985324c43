//! One page, taken apart by a Markdown reader.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// One page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Its path within the repository, with `/`.
    pub name: String,
    /// Its source, line by line.
    pub lines: Vec<String>,
    /// Its blocks of code.
    pub examples: Vec<Example>,
    /// What its links and pictures point to.
    pub targets: Vec<(usize, String)>,
    /// What a link to a part of it may name.
    pub anchors: Vec<String>,
    /// Its text without code, in pieces.
    pub prose: Vec<(usize, String)>,
    /// Code within its text.
    pub codes: Vec<(usize, String)>,
}

/// A block of code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Where it begins, from 1.
    pub line: usize,
    /// What stands behind the fence; nothing for a block that is only indented.
    pub info: String,
    /// What is in it.
    pub text: String,
}

impl Page {
    /// Takes a page apart.
    #[must_use]
    pub fn read(name: &str, text: &str) -> Self {
        let mut page =
            Page { name: name.to_owned(), lines: text.lines().map(str::to_owned).collect(), ..Page::default() };
        let mut example: Option<Example> = None;
        let mut heading: Option<String> = None;
        for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
            let line = text.get(..range.start).unwrap_or_default().matches('\n').count() + 1;
            match event {
                Event::Start(Tag::CodeBlock(kind)) => {
                    let info = match kind {
                        CodeBlockKind::Fenced(info) => info.into_string(),
                        CodeBlockKind::Indented => String::new(),
                    };
                    example = Some(Example { line, info, text: String::new() });
                }
                Event::End(TagEnd::CodeBlock) => page.examples.extend(example.take()),
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = anchor(&heading.take().unwrap_or_default());
                    page.add_anchor(&anchor);
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.targets.push((line, dest_url.into_string()));
                }
                Event::Text(text) => match &mut example {
                    Some(example) => example.text.push_str(&text),
                    None => {
                        heading.iter_mut().for_each(|heading| heading.push_str(&text));
                        page.prose.push((line, text.into_string()));
                    }
                },
                Event::Code(code) => {
                    heading.iter_mut().for_each(|heading| heading.push_str(&code));
                    page.codes.push((line, code.into_string()));
                }
                _ => {}
            }
        }
        page
    }

    /// A second heading of the same words is numbered.
    fn add_anchor(&mut self, anchor: &str) {
        let mut own = anchor.to_owned();
        let mut number = 0;
        while self.anchors.contains(&own) {
            number += 1;
            own = format!("{anchor}-{number}");
        }
        self.anchors.push(own);
    }
}

/// A heading's anchor, as GitHub makes it: in lower case, spaces as hyphens, no other punctuation.
#[must_use]
pub fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_examples_targets_anchors_and_words() {
        let text = "# The `seat`, twice\n\nSee [it](a.md#b) and `x/y`.\n\n* in a list:\n\n  ```json policy\n  {}\n  ```\n\n\
                    ## Twice\n\n## Twice\n\n| a | b |\n|---|---|\n| ![c](d.svg) | e |\n\n    indented\n";
        let page = Page::read("README.md", text);
        assert_eq!(page.anchors, ["the-seat-twice", "twice", "twice-1"]);
        assert_eq!(page.targets, [(3, "a.md#b".to_owned()), (17, "d.svg".to_owned())]);
        assert_eq!(
            page.examples,
            [
                Example { line: 7, info: "json policy".to_owned(), text: "{}\n".to_owned() },
                Example { line: 19, info: String::new(), text: "indented\n".to_owned() },
            ]
        );
        assert_eq!(page.codes, [(1, "seat".to_owned()), (3, "x/y".to_owned())]);
        assert!(page.prose.contains(&(3, "See ".to_owned())), "{:?}", page.prose);
    }
}
