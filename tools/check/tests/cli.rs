//! The program as a user runs it: files in, text and exit code out.
//!
//! The expected texts are committed beside the documents. `UPDATE_GOLDEN=1 cargo test -p holdfast-check` rewrites them;
//! the diff is then what to review.

// Clippy allows it in test functions only, and not in the helpers that they share.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Runs the program among the fixtures, with `input` as its standard input.
fn run(arguments: &[&str], input: &[u8]) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_holdfast-check"))
        .args(arguments)
        .current_dir(fixtures())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[track_caller]
fn assert_golden(file: &str, actual: &str) {
    let path = fixtures().join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, actual).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap();
    assert!(actual == expected, "{file} should be:\n{expected}\nbut is:\n{actual}");
}

#[test]
fn a_good_document_is_told_in_plain_words() {
    let run = run(&["good.json"], b"");
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert_golden("good.txt", &run.stdout);
}

#[test]
fn a_suspicious_document_is_valid_with_warnings() {
    let run = run(&["suspicious.json"], b"");
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert_golden("suspicious.txt", &run.stdout);
}

/// Other tools take ratios and regular expressions there.
#[test]
fn what_was_most_likely_written_for_another_tool_is_a_warning() {
    let text = br#"{"policies": [{"name": "a", "match": {"cluster": ["^orders-.+$"], "path": ["/api/.*", "/v1/**"]},
        "breaker": {"failure_rate": 0.5}, "retry": {"budget": {"ratio": 0.2}},
        "outlier": {"max_ejected": 1, "failure_rate": {"threshold": 0.85}}}]}"#;
    let run = run(&["-"], text);
    assert_eq!(run.code, Some(0));
    for (at, line) in [
        ("2:21", "policies[0].breaker.failure_rate: is 0.5 of 100 percent: if a ratio of 0.5 is meant, write 50"),
        ("2:64", "policies[0].retry.budget.ratio: is 0.2 of 100 percent: if a ratio of 0.2 is meant, write 20"),
        (
            "3:56",
            "policies[0].outlier.failure_rate.threshold: is 0.85 of 100 percent: if a ratio of 0.85 is meant, write 85",
        ),
        (
            "1:51",
            "policies[0].match.cluster[0]: \"^orders-.+$\" looks like a regular expression: in a glob only * and ** are special",
        ),
        (
            "1:76",
            "policies[0].match.path[0]: \"/api/.*\" looks like a regular expression: in a glob only * and ** are special",
        ),
    ] {
        let expected = format!("standard input:{at}: warning: {line}");
        assert!(run.stdout.lines().any(|found| found == expected), "{expected}: {}", run.stdout);
    }
    assert_eq!(run.stdout.matches("warning: ").count(), 5, "{}", run.stdout);
}

#[test]
fn a_policy_that_an_earlier_one_hides_is_a_warning() {
    let check = |earlier: &str, later: &str| {
        let policies = [("a", earlier), ("b", later)]
            .map(|(name, matches)| format!(r#"{{"name": "{name}", "match": {{{matches}}}, "breaker": {{}}}}"#));
        run(&["-"], format!(r#"{{"policies": [{}]}}"#, policies.join(",")).as_bytes()).stdout
    };
    let warning = "policies[1]: can never govern a request: policies[0] comes first and matches all that this one does";
    for (earlier, later) in [
        (r#""cluster": "orders*""#, r#""cluster": ["orders-eu", "orders"]"#),
        (r#""path": "/api/**""#, r#""path": "/api/v1/*", "method": "GET""#),
        (r#""authority": ["*.shop.test", "shop.test"]"#, r#""authority": "a.SHOP.test""#),
        (r#""path": "/**", "header": {"x-a": "*"}"#, r#""header": {"x-a": "b", "x-c": "d"}"#),
    ] {
        let told = check(earlier, later);
        assert!(told.contains(warning), "{earlier} then {later}: {told}");
    }
    for (earlier, later) in [
        (r#""cluster": "orders*""#, r#""cluster": ["orders", "billing"]"#),
        (r#""path": "/api/*""#, r#""path": "/api/**""#),
        (r#""cluster": "orders", "method": "GET""#, r#""cluster": "orders""#),
        (r#""cluster": "orders""#, r#""path": "/a""#),
        (r#""header": {"x-a": "b"}"#, r#""header": {"x-a": "*"}"#),
    ] {
        let told = check(earlier, later);
        assert!(!told.contains("can never govern"), "{earlier} then {later}: {told}");
    }
}

#[test]
fn a_slow_rate_without_traffic_to_judge_is_a_warning() {
    let check = |keys: &str| {
        let text = format!(r#"{{"policies": [{{"name": "a", {keys}}}]}}"#);
        run(&["-"], text.as_bytes()).stdout
    };
    let late = check(
        r#""outcome": {"slow_after": "3s"}, "breaker": {"slow_rate": 50}, "retry": {"timeout": "2s", "max_retries": 1}"#,
    );
    let told = "policies[0].outcome.slow_after: 3s is longer than retry.timeout, 2s: no answer is ever slow, and slow_rate \
                judges nothing";
    assert!(late.contains(told), "{late}");
    let limited = |limit: u32| {
        check(&format!(
            r#""outcome": {{"slow_after": "5s"}}, "breaker": {{"slow_rate": 50}}, "concurrency": {{"max_requests": {limit}}}"#
        ))
    };
    // Three slow ones end in 10 seconds for each request in flight, and they are half of all.
    let told = "policies[0].breaker.slow_rate: has too few to judge: of 3 requests in flight (concurrency) at most 18 end in \
                10s when so many are slow, and min_requests is 20";
    assert!(limited(3).contains(told), "{}", limited(3));
    assert!(limited(4).contains("no warnings"), "{}", limited(4));
    let in_time = check(r#""outcome": {"slow_after": "2s"}, "breaker": {"slow_rate": 50}, "retry": {"timeout": "2s"}"#);
    assert!(in_time.contains("no warnings"), "{in_time}");
}

#[test]
fn all_errors_of_a_bad_document_are_told_at_once() {
    let run = run(&["bad.json"], b"");
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert!(run.stderr.lines().count() > 15);
    assert_golden("bad.txt", &run.stderr);
}

#[test]
fn more_errors_than_anyone_reads_are_counted() {
    let policies = vec![r#"{"name": "X"}"#; 60].join(",");
    let run = run(&["-"], format!(r#"{{"policies": [{policies}]}}"#).as_bytes());
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.ends_with("standard input: and 10 more\nstandard input: 60 errors\n"), "{}", run.stderr);
}

#[test]
fn standard_input_is_read_for_a_dash() {
    let run = run(&["-"], br#"{"policies": []}"#);
    assert_eq!(run.code, Some(0));
    assert_eq!(run.stdout, "standard input: valid, no policies, no warnings\nEvery request passes through.\n");
}

#[test]
fn a_document_may_be_yaml() {
    let run = run(&["-"], b"policies:\n- name: a\n  breaker: {failure_rate: 140}\n");
    assert_eq!(run.code, Some(1));
    let expected = "standard input:3:13: policies[0].breaker.failure_rate: must be within 0..=100, was 140\n\
                    standard input: 1 error\n";
    assert_eq!(run.stderr, expected);
}

#[test]
fn what_is_no_json_or_yaml_has_its_place() {
    let first = |text: &[u8]| run(&["-"], text).stderr.lines().next().unwrap().to_owned();
    assert_eq!(first(b"{\"policies\": [\n],}"), "standard input:2:3: document: not valid JSON: trailing comma");
    let later = first("{\"\u{e9}\": 1 2}".as_bytes());
    assert_eq!(later, "standard input:1:9: document: not valid JSON: expected `,` or `}`");
    let yaml = first(b"policies:\n- a: b: c\n");
    assert!(yaml.starts_with("standard input:2:"), "{yaml}");
    assert_eq!(first(b"policies:\n  \xff"), "standard input:2:3: is not UTF-8");
    let nothing = "standard input: has no policy document, and no filter or resource with the module; ";
    assert!(first(b"kind: Deployment\napiVersion: apps/v1\n").starts_with(nothing));
    assert!(first(b"# nothing\n").starts_with(nothing));
}

#[test]
fn the_worst_of_several_files_is_the_exit_code() {
    let run = run(&["good.json", "no-such-file.json", "bad.json"], b"");
    assert_eq!(run.code, Some(2));
    assert!(run.stdout.starts_with("good.json: valid"));
    assert!(run.stderr.starts_with("no-such-file.json: cannot be read: No such file"), "{}", run.stderr);
    assert!(run.stderr.contains("bad.json: "));
}

#[test]
fn no_file_is_a_question_of_usage() {
    let run = run(&[], b"");
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("Usage: holdfast-check <FILE>..."), "{}", run.stderr);
}

/// What people paste first.
#[test]
fn the_policy_in_the_readme_is_valid() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap();
    let policy = readme.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let run = run(&["-"], policy.as_bytes());
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert!(!run.stdout.contains("warning:"), "{}", run.stdout);
}
