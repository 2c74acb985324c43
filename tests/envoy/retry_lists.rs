//! The lists that only a route has: the statuses and response headers after which it retries. A policy that leaves the choice to
//! the one list does not thereby leave it to the other.

use holdfast_tests::{Action, Backend, Cluster, EnvoyOptions, Route, Scene, Seats, with_header};
use serde_json::{Value, json};

use crate::retrying::{ID, NOTICED, request};

/// The header that tells the host what to do.
const ACTION: &str = "x-action";

/// The routes, by the first part of a path: what of their lists they use themselves.
const ROUTES: [(&str, &str); 4] = [
    ("neither", "connect-failure"),
    ("statuses", "retriable-status-codes"),
    ("headers", "retriable-headers"),
    ("both", "retriable-status-codes,retriable-headers"),
];

/// The policies, by the last part of a path.
fn policies() -> Value {
    let policies = [
        ("statuses", json!(["retriable-status-codes"])),
        ("more", json!(["retriable-status-codes", 502, "unavailable"])),
        ("headers", json!(["retriable-headers"])),
        ("both", json!(["retriable-status-codes", "retriable-headers"])),
        ("limited", json!(["retriable-status-codes", "envoy-ratelimited"])),
        ("other", json!([502])),
    ]
    .map(|(name, on)| {
        let budget = json!({"ratio": 100, "min_per_second": 10000});
        let retry = json!({"on": on, "max_retries": 1, "backoff": {"base": "1ms", "max": "1ms"}, "budget": budget});
        json!({"name": name, "match": {"path": [format!("/*/{name}")]}, "retry": retry})
    });
    json!({"policies": policies})
}

const POLICIES: [&str; 6] = ["statuses", "more", "headers", "both", "limited", "other"];

fn action(name: &str) -> Action {
    let (status, more) = name.split_once(' ').unwrap_or((name, ""));
    let own = Action::status(status.parse().unwrap()).body("its own");
    match more {
        "again" => own.header("x-again", "yes"),
        "limited" => own.header("x-envoy-ratelimited", "true"),
        "unavailable" => own.header("grpc-status", "14"),
        _ => own,
    }
}

const ACTIONS: [&str; 8] =
    ["425", "425 again", "404", "404 again", "502", "502 again", "425 limited", "404 unavailable"];

/// Whether the document asks for a retry, of a route that has both lists.
fn is_named(policy: &str, action: &str) -> bool {
    let has = |word: &str| match policy {
        "more" => ["statuses", "502", "unavailable"].contains(&word),
        "both" => ["statuses", "headers"].contains(&word),
        "limited" => ["statuses", "limited"].contains(&word),
        "other" => word == "502",
        policy => policy == word,
    };
    if action.ends_with("limited") {
        return has("limited");
    }
    action.starts_with("425") && has("statuses")
        || action.ends_with("again") && has("headers")
        || action.starts_with("502") && has("502")
        || action.ends_with("unavailable") && has("unavailable")
}

/// Whether the route asks for the retry itself, by the list that the policy does not leave to it: a seat that sees the retry
/// begin cannot tell by which of two lists.
fn is_the_routes_own(route: &str, policy: &str, action: &str) -> bool {
    let statuses = matches!(policy, "statuses" | "more" | "limited" | "both");
    let headers = matches!(policy, "headers" | "both");
    let by_headers = action.ends_with("again") && matches!(route, "headers" | "both");
    let by_status = action == "425" && matches!(route, "statuses" | "both");
    statuses && by_headers || headers && by_status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_leaves_the_choice_to_one_list_of_the_route_does_not_switch_on_the_other() {
    let host = Backend::start().await.unwrap();
    host.script(|request| request.header(ACTION).map_or_else(Action::ok, |name| action(&name)));
    let mut options = EnvoyOptions::new().cluster(Cluster::new("orders").endpoint(host.addr()));
    for (name, on) in ROUTES {
        let policy = json!({
            "retry_on": on, "num_retries": 5, "retriable_status_codes": [425],
            "retriable_headers": [{"name": "x-again", "present_match": true}],
            "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.001s"},
        });
        options = options.route(Route::to(&format!("/{name}/"), "orders").name(name).retry_policy(policy));
    }
    let scene = Scene::with(options.seats(Seats::Both).policy(policies())).await;

    let mut wrong = Vec::new();
    for met in [false, true] {
        if met {
            for policy in POLICIES {
                scene.client.get(&format!("/neither/{policy}")).await.unwrap();
            }
            tokio::time::sleep(NOTICED).await;
        }
        for (route, _) in ROUTES {
            for policy in POLICIES {
                for action in ACTIONS {
                    let id = format!("{route}, {policy}, {action}, met {met}");
                    let sent = with_header(request(&format!("/{route}/{policy}"), &id), ACTION, action);
                    let response = scene.client.send(sent).await.unwrap();
                    let tries = host.seen_with(ID, &id).len();
                    let expected = 1 + usize::from(is_named(policy, action));
                    let is_right = tries == expected || tries == 2 && is_the_routes_own(route, policy, action);
                    if !is_right || response.text() != "its own" {
                        wrong.push(format!(
                            "{id}: {tries} tries, {expected} expected: {} {}",
                            response.status,
                            response.text()
                        ));
                    }
                }
            }
        }
        host.reset_counters();
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
