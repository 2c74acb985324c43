//! Regular expressions for what a document writes as a string.
//!
//! They use what every engine has that validators stand on (ECMAScript, RE2, Rust's `regex`): no look-around, no classes with
//! names. Each is anchored at both ends, and reads a text once: no part of it can be read in two ways.

use core::ops::RangeInclusive;

use super::tree::Schema;
use crate::authority;
use crate::config::header::{ENVOYS_PREFIX, OF_THE_CONNECTION, OWN_PREFIX, RESERVED, UNASKED, UNJUDGED};
use crate::config::respond::CONTENT_TYPE;
use crate::config::retry::STANDARD_METHODS;
use crate::config::table::{Names, STATUS, Template, Word};
use crate::glob::Glob;

/// A string that matches `pattern`, and what editors say of one that does not.
pub(super) fn string(pattern: &str, must: &str) -> Schema {
    Schema::of_type("string").and(matching(pattern, must))
}

fn matching(pattern: &str, must: &str) -> Schema {
    Schema::any().with("pattern", pattern).with("patternErrorMessage", format!("must be {must}"))
}

/// Numbers with a unit, the longer units first.
pub(super) fn duration(within: &str) -> Schema {
    let units: String = ["h", "m", "s", "ms", "us", "ns"].map(|unit| format!("([0-9]+(\\.[0-9]+)?{unit})?")).concat();
    // Every unit may be absent, but not all of them.
    let must = format!("a duration {within} such as \"250ms\", \"10s\" or \"1m30s\"");
    string(&format!("^{units}$"), &must).with("minLength", 1u32)
}

/// A whole number with a unit.
pub(super) fn size(within: &str) -> Schema {
    string("^[0-9]+(B|KiB|MiB)$", &format!("a size {within} such as \"64KiB\" or \"1MiB\""))
}

/// The name of a policy.
pub(super) fn name(most: usize) -> Schema {
    string(&format!("^[a-z0-9_-]{{1,{most}}}$"), &format!("1 to {most} characters of a-z, 0-9, _ and -"))
}

/// The keywords of a glob, without the type: at most two stars in a row.
pub(super) fn glob() -> Schema {
    matching(r"^(\*{0,2}[^*])*\*{0,2}$", "a glob with at most two stars in a row")
        .with("minLength", 1u32)
        .with("maxLength", Glob::MAX_LEN)
}

/// What a token is made of. Source: RFC 9110, section 5.6.2.
const TOKEN: &str = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";

/// The name of a header.
pub(super) fn header_name() -> Schema {
    string(&format!("^{TOKEN}$"), "a header name (letters, digits, \"-\")")
}

/// The name of a header in an object of them.
pub(super) fn header_names(names: Names) -> Schema {
    let (refused, message): (&[(&str, &str)], _) = match names {
        Names::Request => return header_name(),
        Names::Judged => (
            &UNJUDGED,
            "says nothing of the service: it belongs to the connection or to Holdfast; grpc-status has a key of its own",
        ),
        Names::Sent => (&RESERVED, "may not be set: it belongs to the body, the connection, gRPC or Holdfast itself"),
        Names::Asked => (
            &UNASKED,
            "may not be set: it belongs to the body, the connection, gRPC, Envoy or Holdfast itself; host has a key of its own",
        ),
    };
    let refused = refused.iter().map(|(name, _)| *name).chain(OF_THE_CONNECTION);
    let listed: Vec<String> = refused.map(any_case).collect();
    let prefixes: &[&str] = if names == Names::Asked { &[OWN_PREFIX, ENVOYS_PREFIX] } else { &[OWN_PREFIX] };
    let prefixes: Vec<String> = prefixes.iter().map(|prefix| any_case(prefix)).collect();
    let reserved = Schema::any().with("pattern", format!("^(({})$|{})", listed.join("|"), prefixes.join("|")));
    // None of them is empty.
    let never = Schema::any().with("pattern", "^$").with("patternErrorMessage", message);
    header_name().and(Schema::when(reserved, never))
}

/// The value of a header: printable ASCII, no space at its ends; a template.
pub(super) fn header_value(template: Schema) -> Schema {
    string("^([!-~]([ -~]*[!-~])?)?$", "a text of printable ASCII characters, with no space at its ends")
        .with("allOf", vec![template])
}

/// Printable ASCII, no space at its ends.
pub(super) fn text(most: usize) -> Schema {
    let must = format!("a text of at most {most} printable ASCII characters, with no space at its ends");
    string("^([!-~]([ -~]*[!-~])?)?$", &must).with("maxLength", most)
}

/// A host, with a port or without. That the groups of an IPv6 address are right is left to the parser, as for an address.
pub(super) fn authority() -> Schema {
    let name = "([0-9A-Za-z._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+";
    let pattern = format!(r"^({name}|\[[0-9A-Fa-f]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*\])(:{PORT})?$");
    let most = authority::MAX_LEN;
    let must = format!("a host such as \"orders.example.com\" or \"orders:8080\", of at most {most} characters");
    string(&pattern, &must).with("maxLength", most)
}

/// The name of the header whose value has no variables, as a pattern, and what more that has to be.
pub(super) fn fixed_header() -> (String, Schema) {
    let must = "a text with no variables: what the body inserts is escaped for it; write $${ for a literal ${";
    (format!("^{}$", any_case(CONTENT_TYPE)), header_value(matching(&format!(r"^{LITERAL}*\$*$"), must)))
}

/// A method. A standard one in another case is a mistake.
pub(super) fn method() -> Schema {
    let standard: Vec<String> = STANDARD_METHODS.iter().map(|method| any_case(method)).collect();
    let any_case = Schema::any().with("pattern", format!("^({})$", standard.join("|")));
    let must = "an HTTP method such as \"GET\", whose case counts";
    let right = Schema::any().with("enum", STANDARD_METHODS.to_vec()).with("errorMessage", format!("must be {must}"));
    string(&format!("^{TOKEN}$"), must).and(Schema::when(any_case, right)).with("examples", STANDARD_METHODS.to_vec())
}

/// What a request of our own asks for.
pub(super) fn path() -> Schema {
    string("^/[!-~]*$", "a path that begins with \"/\", of visible ASCII characters")
}

/// A port that is not 0.
const PORT: &str = "0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";

/// An address and a port. That the groups of an IPv6 address are right is left to the parser: a pattern that says it is longer
/// than anybody reads.
pub(super) fn host() -> Schema {
    let octet = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
    let pattern = format!(r"^(({octet}\.){{3}}{octet}|\[[0-9A-Fa-f]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(%0+)?\]):{PORT}$");
    string(&pattern, "an address and a port such as \"10.0.0.1:8080\" or \"[2001:db8::1]:8080\"")
}

/// The keywords of a status or a range of them that is written as a string, without the type.
pub(super) fn status() -> Schema {
    let one = three_digits(&STATUS);
    matching(&format!("^{one}(-{one})?$"), "a status like 503 or a range like \"500-599\"")
}

/// Numbers of three digits whose first is in the range: each of our ranges holds whole hundreds.
fn three_digits(range: &RangeInclusive<u32>) -> String {
    format!("[{}-{}][0-9]{{2}}", range.start() / 100, range.end() / 100)
}

/// What is no variable in a template: `$${` is a literal `${`, and a `$` before anything else is itself.
const LITERAL: &str = r"([^$]|\$+[^${]|\$\$+\{)";

/// The keywords of a template, which bind strings only.
pub(super) fn template(limits: &Template) -> Schema {
    let names: Vec<String> = limits.variables.iter().map(variable).collect();
    let variable = format!(r"\$\{{({})\}}", names.join("|"));
    let accepted: Vec<&str> = limits.variables.iter().map(|word| word.name).collect();
    let must = format!("a text with no variables but {}; write $${{ for a literal ${{", accepted.join(", "));
    matching(&format!(r"^({LITERAL}*{variable}){{0,{}}}{LITERAL}*\$*$", limits.most), &must)
}

/// What stands between the braces of a variable.
fn variable(word: &Word) -> String {
    let name = word.name.trim_start_matches("${").trim_end_matches('}');
    name.replace('.', r"\.").replace("NAME", TOKEN)
}

/// A text in any case.
fn any_case(text: &str) -> String {
    let both = |letter: char| match letter.is_ascii_alphabetic() {
        true => format!("[{}{}]", letter.to_ascii_uppercase(), letter.to_ascii_lowercase()),
        false => letter.to_string(),
    };
    text.chars().map(both).collect()
}
