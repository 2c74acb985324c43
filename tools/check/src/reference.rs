//! The policy reference as Markdown: a walk over the tables by which documents are read.

use std::collections::HashSet;

use holdfast_policy::config::MAX_LISTED;
use holdfast_policy::config::prose::{accepted, default_of, number, range, type_of, words_of};
use holdfast_policy::config::table::{Block, GRPC_STATUS, Key, STATUS, Section, Word, sections};
use holdfast_policy::glob::Glob;

/// Columns after which a line is continued on the next.
const WIDTH: usize = 120;
/// What the path of everything in a policy begins with, which the reference leaves out.
const POLICY: &str = "policies[]";

/// The whole page, ending in a newline.
pub fn reference() -> String {
    let sections = sections();
    let mut page = introduction();
    page.push_str("\n## Contents\n\n");
    for section in &sections {
        let indent = "  ".repeat(depth(section) - 2);
        page.push_str(&format!("{indent}* {}\n", link(section)));
    }
    let mut told = HashSet::new();
    for section in &sections {
        page.push_str(&body(section, &sections, &mut told));
    }
    page
}

fn introduction() -> String {
    let mut page = "# The policy document, key by key\n\n".to_owned();
    let paragraphs = [
        "This page is made from the tables by which the module reads a policy document: names, ranges and defaults cannot \
         differ from what it does. `./build.sh check --reference > docs/policy.md` renews it, and a test fails where it is \
         behind. It is of what works; what a later version brings is not in it.",
        "Paths begin within a policy: `breaker.open_for` is `policies[0].breaker.open_for` in a message about the first one. \
         For each key the table of its block has the type, what holds without the key, and what is accepted. Below it stands \
         what the key does, why one would change it, and Envoy's own nearest setting, where there is one. What the seats are, \
         says [envoy.md](envoy.md); which metrics there are, [observability.md](observability.md). Editors complete and explain \
         keys by the JSON Schema of the same tables: [editor.md](editor.md).",
    ];
    for paragraph in paragraphs {
        page.push_str(&wrapped("", paragraph));
        page.push('\n');
    }
    page.push_str("## How values are written\n\n");
    let status = range(STATUS.start(), STATUS.end());
    let grpc = range(GRPC_STATUS.start(), GRPC_STATUS.end());
    let rules = [
        "A **duration** is a string of numbers with the units `h`, `m`, `s`, `ms`, `us` and `ns`, the longer units first: \
         `\"250ms\"`, `\"1.5s\"`, `\"1m30s\"`."
            .to_owned(),
        "A **percentage** is a number without a sign: `62.5`. Up to three decimals count.".to_owned(),
        "A **number** may have up to three decimals. A **whole number** has none; `5.0` and `1e3` are whole too.".to_owned(),
        format!("A **status** is `503`, `\"503\"` or a range such as `\"500-599\"`, within {status}."),
        format!("A **gRPC status** is a name such as `\"UNAVAILABLE\"` or a number, {grpc}."),
        format!(
            "A **glob** is a string of at most {} bytes in which `*` matches within a segment, `**` across segments, and \
             everything else itself.",
            number(Glob::MAX_LEN)
        ),
        "Ranges include their ends.".to_owned(),
        format!(
            "An unknown key, a key that is there twice and a value out of range are errors. All are reported at once, each with \
             its path, what was found and what is accepted; the first {MAX_LISTED} are listed. `null` does not stand for an \
             absent key."
        ),
    ];
    for rule in rules {
        page.push_str(&wrapped("* ", &rule));
    }
    page
}

/// A section with its heading. `told` has the words that have been explained.
fn body(section: &Section, sections: &[Section], told: &mut HashSet<*const Word>) -> String {
    let mut page = format!("\n{} {}\n\n", "#".repeat(depth(section)), title(section));
    page.push_str(&wrapped("", &about(section)));
    page.push_str(&format!("\n```json\n{}\n```\n\n", section.block.example.as_str()));
    page.push_str("| key | type | without it | accepted |\n|---|---|---|---|\n");
    let keys_of = |block: &'static Block| {
        let section = sections.iter().find(|section| std::ptr::eq(section.block, block));
        section.map(|section| format!("[its keys](#{})", anchor(&title(section)))).unwrap_or_default()
    };
    for key in section.block.keys {
        let (kind, default) = (type_of(&key.kind, false), default_of(&key.default));
        let accepted = cell(&accepted(key, &keys_of));
        page.push_str(&format!("| `{}` | {kind} | {default} | {accepted} |\n", path(section, key)));
    }
    page.push('\n');
    for key in section.block.keys {
        page.push_str(&wrapped("* ", &explained(section, key)));
        for words in words_of(&key.kind) {
            if told.insert(words.as_ptr()) {
                for word in words {
                    page.push_str(&wrapped("  * ", &format!("`{}`: {}", word.name, word.means.as_str())));
                }
            }
        }
    }
    page
}

fn explained(section: &Section, key: &Key) -> String {
    let mut text = format!("**`{}`** {}", path(section, key), key.does.as_str());
    if !key.change.as_str().is_empty() {
        text.push_str(&format!(" *Why change it:* {}", key.change.as_str()));
    }
    if !key.envoy.as_str().is_empty() {
        text.push_str(&format!(" *In Envoy:* {}", key.envoy.as_str()));
    }
    text
}

/// 2 for what a policy has, 3 for what that has.
fn depth(section: &Section) -> usize {
    section.paths.first().map_or(2, |path| 2 + usize::from(path.matches('.').count() > 1))
}

fn title(section: &Section) -> String {
    match section.paths.first().map(String::as_str) {
        None | Some("") => "The document".to_owned(),
        Some(POLICY) => "A policy".to_owned(),
        Some(path) => format!("`{}`", within_policy(path)),
    }
}

/// What the block is for, and where else it stands.
fn about(section: &Section) -> String {
    let mut text = section.block.about.as_str().to_owned();
    let others: Vec<String> = section.paths.iter().skip(1).map(|path| format!("`{}`", within_policy(path))).collect();
    if !others.is_empty() {
        text.push_str(&format!(" The same keys stand in {}.", others.join(" and ")));
    }
    text
}

fn link(section: &Section) -> String {
    let title = title(section);
    format!("[{title}](#{})", anchor(&title))
}

/// The anchor that a heading gets. Source: GitHub, "Section links".
fn anchor(title: &str) -> String {
    let kept = title.chars().filter(|char| char.is_alphanumeric() || matches!(char, ' ' | '-' | '_'));
    kept.map(|char| if char == ' ' { '-' } else { char.to_ascii_lowercase() }).collect()
}

/// The path of a key within a policy, or within the document outside of one.
fn path(section: &Section, key: &Key) -> String {
    match within_policy(section.paths.first().map_or("", String::as_str)) {
        "" => key.name.to_owned(),
        parent => format!("{parent}.{}", key.name),
    }
}

fn within_policy(path: &str) -> &str {
    let path = path.strip_prefix(POLICY).unwrap_or(path);
    path.strip_prefix('.').unwrap_or(path)
}

/// A text that does not end a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// `text` behind `bullet`, continued on more lines where it is long; ends in a newline.
fn wrapped(bullet: &str, text: &str) -> String {
    let (mut out, mut line) = (String::new(), bullet.to_owned());
    let mut starts = true;
    for word in words(text) {
        if !starts && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            (line, starts) = (" ".repeat(bullet.len()), true);
        }
        if !starts {
            line.push(' ');
        }
        line.push_str(word);
        starts = false;
    }
    out + &line + "\n"
}

/// What a line may be broken between. Code is one word: what stands at the beginning of a line could be taken for a list.
fn words(text: &str) -> Vec<&str> {
    let (mut words, mut start, mut in_code) = (Vec::new(), 0, false);
    for (at, char) in text.char_indices() {
        in_code ^= char == '`';
        if char == ' ' && !in_code {
            words.push(text.get(start..at).unwrap_or_default());
            start = at + 1;
        }
    }
    words.push(text.get(start..).unwrap_or_default());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_continued_below_their_beginning_and_code_stays_whole() {
        let text = format!("{} `n - 1` is {}", "a".repeat(WIDTH - 8), "b".repeat(WIDTH - 12));
        let (a, b) = ("a".repeat(WIDTH - 8), "b".repeat(WIDTH - 12));
        assert_eq!(wrapped("* ", &text), format!("* {a}\n  `n - 1` is\n  {b}\n"));
    }

    #[test]
    fn headings_have_the_anchors_of_the_place_where_they_are_read() {
        assert_eq!(anchor("`fallback[].respond`"), "fallbackrespond");
        assert_eq!(anchor("A policy"), "a-policy");
        assert_eq!(anchor("`a.b_c`, `d`"), "ab_c-d");
    }
}
