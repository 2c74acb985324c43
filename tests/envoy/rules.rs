//! The rules of `envoy/observability/`: promtool has nothing to say, and a real Prometheus makes of a real outage what it was.

use std::collections::BTreeSet;
use std::path::PathBuf;

use holdfast_tests::{Sample, promtool};
use serde_json::Value;

use crate::observing::{ALERTING, Counted, Observed, RECORDING, path, text};

/// Where the unit tests for promtool are.
const TESTS: &str = "tests/observability";

fn unit_tests() -> Vec<PathBuf> {
    let files = std::fs::read_dir(path(TESTS)).unwrap().map(|file| file.unwrap().path());
    let tests: Vec<PathBuf> = files.filter(|file| file.to_string_lossy().ends_with(".test.yaml")).collect();
    assert!(tests.len() > 1, "{TESTS} has unit tests");
    tests
}

/// All rules of a file.
fn rules(name: &str) -> Vec<Value> {
    let file: Value = serde_norway::from_str(&text(name)).unwrap();
    let groups = file["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).cloned().collect()
}

fn names(kind: &str, name: &str) -> BTreeSet<String> {
    rules(name).iter().map(|rule| rule[kind].as_str().unwrap().to_owned()).collect()
}

#[test]
fn promtool_has_nothing_to_say_of_the_rules() {
    let args = ["check", "rules", "--lint=all", "--lint-fatal"].map(PathBuf::from);
    for file in [RECORDING, ALERTING] {
        let output = promtool(&[&args[..], &[path(file)]].concat()).unwrap();
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn promtool_has_nothing_to_say_of_the_example() {
    let args = ["check", "config"].map(PathBuf::from).to_vec();
    let output = promtool(&[args, vec![path("envoy/observability/prometheus.yaml")]].concat()).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_unit_tests_of_the_rules_pass() {
    let args = ["test", "rules"].map(PathBuf::from).to_vec();
    let output = promtool(&[args, unit_tests()].concat()).unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(output.status.success(), "{said}");
}

#[test]
fn every_rule_has_a_unit_test() {
    let tests: String = unit_tests().iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    for alert in names("alert", ALERTING) {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{TESTS} has it fire: {alert}");
        assert!(tests.contains(&format!("alertname: {alert},")), "{TESTS} has it not fire: {alert}");
    }
    for record in names("record", RECORDING) {
        // A rate is tested where a share is made of it, and so is whatever else a rule here reads.
        let read = |rule: &Value| rule["expr"].as_str().is_some_and(|expression| expression.contains(&record));
        assert!(tests.contains(&record) || rules(RECORDING).iter().any(read), "{TESTS} looks at {record}");
    }
}

#[test]
fn the_page_lists_every_alert() {
    let page = text("envoy/observability/README.md");
    for rule in rules(ALERTING) {
        let (name, severity) = (rule["alert"].as_str().unwrap(), rule["labels"]["severity"].as_str().unwrap());
        assert!(page.contains(&format!("| `{name}` | {severity} |")), "{name}, which is {severity}");
    }
}

#[test]
fn every_alert_says_how_bad_it_is_and_what_to_do() {
    let runbook = text("docs/runbook.md");
    for rule in rules(ALERTING) {
        let name = rule["alert"].as_str().unwrap();
        let severity = rule["labels"]["severity"].as_str().unwrap_or_default();
        assert!(["critical", "warning", "info"].contains(&severity), "{name} has a severity");
        for annotation in ["summary", "description"] {
            assert!(
                rule["annotations"][annotation].as_str().is_some_and(|text| !text.is_empty()),
                "{name}: {annotation}"
            );
        }
        let section = format!("docs/runbook.md#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook_url"], section, "{name} has a section of the runbook");
        let (_, below) =
            runbook.split_once(&format!("\n### {name}\n")).unwrap_or_else(|| panic!("docs/runbook.md: {name}"));
        let section = below.split("\n##").next().unwrap();
        for part in ["**What it means.**", "**Look at.**", "**Do.**"] {
            assert!(section.contains(part), "docs/runbook.md: {name} has {part}");
        }
    }
}

/// Whether a rule's value is what the traffic makes it. Prometheus extrapolates a rate to the ends of its window, a little
/// further for one counter than for another, so it is not the same to the last digit.
async fn is(observed: &Observed, rule: &str, wanted: f64) {
    observed.becomes(rule, |value| (value - wanted).abs() <= 0.01 * wanted.max(1.0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_recording_rules_say_what_an_outage_was() {
    let observed = Observed::start(vec![text(RECORDING), text(ALERTING)]).await;

    let counted = observed.outage().await;

    let Counted { requests, good, failed, rejected, attempts } = counted;
    let share = |part: u64, whole: u64| part as f64 / whole as f64;
    for (rule, wanted) in [
        ("policy_key:holdfast_service_availability:ratio_rate5m", share(good, good + failed)),
        ("policy_key:holdfast_failure:ratio_rate5m", share(failed, good + failed)),
        ("policy_key:holdfast_slow:ratio_rate5m", 0.0),
        ("policy_key:holdfast_rejected:ratio_rate5m", share(rejected, requests)),
        ("policy_key:holdfast_fallback:ratio_rate5m", share(rejected, requests)),
        ("policy_key:holdfast_retry_amplification:ratio_rate5m", share(attempts, requests - rejected)),
        ("policy_key:holdfast_retries_denied_budget:ratio_rate5m", 0.0),
        ("policy_key:holdfast_hosts_out:ratio", share(1, 3)),
        ("policy_key:holdfast_lost:ratio_rate5m", share(failed, requests)),
        ("policy_key:holdfast_lost:ratio_rate30m", share(failed, requests)),
        ("policy_key:holdfast_lost:ratio_rate1h", share(failed, requests)),
        ("policy_key:holdfast_lost:ratio_rate6h", share(failed, requests)),
        ("policy_key:holdfast_lost:ratio_rate3d", share(failed, requests)),
    ] {
        is(&observed, rule, wanted).await;
    }
    // Both of what the same window saw, in the same moment.
    let mean = "policy:holdfast_response_time_seconds:weighted_rate5m";
    let time =
        |part: &str| format!(r#"rate(envoy_cluster_upstream_rq_time_{part}{{envoy_cluster_name="orders"}}[5m])"#);
    let differs = format!("abs(1000 * sum({mean}) * sum({}) / sum({}) - 1)", time("count"), time("sum"));
    observed.becomes(&differs, |share| share <= 0.01).await;

    // Each time is that between two scrapes.
    let seen = |selector: &'static str| observed.samples(selector);
    let first = |samples: &[(f64, f64)], after: f64, wanted: &dyn Fn(f64) -> bool| {
        samples.iter().find(|(at, value)| *at > after && wanted(*value)).expect("it was scraped").0
    };
    let recovery = seen("instance_policy_key:holdfast_recovery_time:seconds").await;
    let detection = seen("instance_policy_key:holdfast_detection_time:seconds").await;
    let (failures, states) = (seen("holdfast_failure").await, seen("holdfast_breaker_state").await);
    let failing = first(&failures, 0.0, &|count| count > 0.0);
    let opened = first(&states, 0.0, &|state| state != 0.0);
    let closed = first(&states, opened, &|state| state == 0.0);
    assert_eq!((detection.len(), recovery.len()), (1, 1), "one sample for each event: {detection:?}, {recovery:?}");
    // A busy machine may miss scrapes and evaluations, and then the scrape after them is the first that is seen.
    let gaps = states.windows(2).map(|two| two[1].0 - two[0].0);
    let inexact = 1.0 + 2.0 * gaps.fold(1.0, f64::max);
    for ((_, value), wanted) in [(detection[0], opened - failing), (recovery[0], closed - opened)] {
        assert!((value - wanted).abs() <= inexact, "{value} seconds, {wanted} between the scrapes");
    }

    for (rule, fault) in observed.prometheus.rules().await.unwrap() {
        assert_eq!(fault, None, "{rule} can be evaluated over what Envoy has");
    }
    let recorded: BTreeSet<String> = observed
        .prometheus
        .query(r#"group by (__name__) ({__name__=~".+:.+"})"#)
        .await
        .unwrap()
        .into_iter()
        .map(|(labels, _): Sample| labels["__name__"].clone())
        .collect();
    // These have a sample at the time of an event only, or none where nothing is updated.
    let momentary = |name: &str| {
        name.starts_with("instance_policy_key:") || name == "instance_resource:envoy_update_rejected:total"
    };
    let silent: Vec<String> = names("record", RECORDING).difference(&recorded).cloned().collect();
    assert!(silent.iter().all(|name| momentary(name)), "every other rule has a value: {silent:?}");
}
