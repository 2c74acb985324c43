//! The dashboard of `envoy/observability/`: its parts are in order, and a real Prometheus has data for each of its queries.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use holdfast_tests::{Action, PATIENCE, Update, eventually};
use serde_json::{Value, json};

use crate::observing::{ALERTING, Observed, RECORDING, text};

fn dashboard() -> Value {
    serde_json::from_str(&text("envoy/observability/grafana-dashboard.json")).expect("the dashboard is JSON")
}

fn panels(dashboard: &Value) -> Vec<&Value> {
    dashboard["panels"].as_array().unwrap().iter().collect()
}

/// The queries that may find nothing after the traffic of these tests, and why.
const MAY_BE_EMPTY: [(&str, &str); 1] = [(
    "holdfast_ejections_heartbeat",
    "no policy here ejects by a heartbeat, or its outcome would hang on more than requests",
)];

fn text_of<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

#[test]
fn each_panel_has_a_place_of_its_own_and_says_what_it_shows() {
    let dashboard = dashboard();
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels(&dashboard) {
        let title = text_of(panel, "title");
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title} has an id of its own");
        let place = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{title} is on the grid");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(cells.insert((x, y)), "{title} covers no other panel");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(!text_of(panel, "description").is_empty(), "{title} says what it shows");
        let targets = panel["targets"].as_array().unwrap();
        let refs: BTreeSet<&str> = targets.iter().map(|target| text_of(target, "refId")).collect();
        assert_eq!(refs.len(), targets.len(), "{title}: each query has a letter of its own");
        for one in targets.iter().chain([panel]) {
            assert_eq!(one["datasource"], json!({"type": "prometheus", "uid": "${datasource}"}), "{title}");
        }
    }
}

#[test]
fn each_state_of_a_breaker_has_its_word() {
    let dashboard = dashboard();
    let timeline = panels(&dashboard).into_iter().find(|panel| panel["type"] == "state-timeline").unwrap();
    let words = &timeline["fieldConfig"]["defaults"]["mappings"][0]["options"];
    // As docs/observability.md has them.
    let documented = text("docs/observability.md");
    let (_, row) = documented.split_once("| `breaker_state` | gauge: ").unwrap();
    for state in row.split(" |").next().unwrap().split(", ") {
        let (number, word) = state.split_once(' ').unwrap();
        assert_eq!(words[number]["text"], word, "the state {number}");
    }
    assert_eq!(words.as_object().unwrap().len(), 6);
}

/// A query as Grafana sends it, with these policies and the key selected.
fn filled(expression: &str) -> String {
    let filled = [
        ("$__rate_interval", "10s"),
        ("$policy", "orders|shadow"),
        ("$key", "cluster=orders"),
        ("$instance", ".*"),
        ("$cluster", "orders"),
        ("$failure_rate", "50"),
        ("$slow_rate", "100"),
    ]
    .into_iter()
    .fold(expression.to_owned(), |text, (name, value)| text.replace(name, value));
    assert!(!filled.contains('$'), "every variable is known: {filled}");
    filled
}

/// Since when and until when the dashboard shows.
fn span() -> (f64, f64) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    (now - 300.0, now)
}

/// Everything that a query finds in the time shown; not a number is nothing.
async fn found(observed: &Observed, expression: &str) -> usize {
    let all = observed.prometheus.query_range(&filled(expression), span(), 1.0).await;
    let all = all.unwrap_or_else(|error| panic!("{expression}: {error}"));
    all.iter().flat_map(|(_, values)| values).filter(|(_, value)| value.is_finite()).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_the_dashboard_has_data_after_an_outage() {
    let observed = Observed::start(vec![text(RECORDING), text(ALERTING)]).await;
    observed.outage().await;
    observed.all(&Action::status(503));
    for _ in 0..30 {
        observed.scene.client.get("/shadow").await.unwrap();
    }
    // Envoy counts updates that it refuses from the first one on that it was asked for.
    let wrong = json!({"policies": [{"name": "orders", "breaker": {"failure_rate": 140}}]});
    assert!(matches!(observed.scene.update_policy(wrong).await.unwrap(), Update::Rejected(_)));
    observed.becomes("increase(instance_resource:envoy_update_rejected:total[1m])", |value| value > 0.0).await;
    observed.becomes(r#"ALERTS{alertname="HoldfastConfigurationRefused", alertstate="firing"}"#, |_| true).await;
    observed.becomes(r#"holdfast_would_reject_open{policy="shadow"} > 0"#, |_| true).await;
    // A rate needs two scrapes.
    tokio::time::sleep(Duration::from_secs(2)).await;

    let dashboard = dashboard();
    let mut queries: Vec<(String, String)> = Vec::new();
    for panel in panels(&dashboard) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            queries.push((text_of(panel, "title").to_owned(), text_of(target, "expr").to_owned()));
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        queries.push((text_of(annotation, "name").to_owned(), text_of(annotation, "expr").to_owned()));
    }
    assert!(queries.len() > 60, "the dashboard has queries: {}", queries.len());
    for (title, expression) in &queries {
        let empty = MAY_BE_EMPTY.iter().any(|(metric, _)| expression.contains(&format!("{metric}{{")));
        let outcome = eventually(PATIENCE, || async {
            let found = found(&observed, expression).await;
            (found > 0 || empty).then_some(()).ok_or("no data")
        });
        outcome.await.unwrap_or_else(|error| panic!("{title}: {expression}: {error}"));
    }
    for (metric, why) in MAY_BE_EMPTY {
        assert_eq!(found(&observed, metric).await, 0, "{metric} is empty, as is said: {why}");
    }

    // The variables.
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if variable["type"] != "query" {
            continue;
        }
        let query = text_of(&variable["query"], "query");
        let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')).unwrap();
        let (selector, label) = inner.rsplit_once(", ").unwrap();
        let values = observed.prometheus.label_values(&filled(selector), label).await.unwrap();
        let expected: &[&str] = match label {
            "policy" => &["orders", "shadow"],
            "key" => &["cluster=orders"],
            "envoy_cluster_name" => &["orders"],
            "instance" => &[&observed.scene.admin_addr().to_string()],
            other => panic!("{other} is a label of Holdfast's or Envoy's"),
        };
        assert_eq!(values, expected.iter().map(|value| (*value).to_owned()).collect(), "{query}");
    }
}
