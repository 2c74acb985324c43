//! What a heartbeat asks for: an authority that hosts and the proxies before them take, and what the policy adds to it.

use holdfast_tests::{Action, Backend, Envoy, EnvoyOptions, PATIENCE, Route, Scene, Seats, eventually};
use serde_json::{Value, json};

use crate::outlying::{becomes, start, steered};

const CHECK: &str = "/healthz";
const ISTIOS: &str = "outbound|8080||orders.default.svc.cluster.local";
const GATEWAYS: &str = "httproute/default/orders/rule/0";

/// A policy for one cluster whose host is known, so that it is checked without any request.
fn policy(name: &str, cluster: &str, host: &str, heartbeat: Value) -> Value {
    let mut quick = json!({"path": CHECK, "interval": "200ms", "timeout": "1s"});
    json_patch::merge(&mut quick, &heartbeat);
    json!({"name": name, "match": {"cluster": [cluster]}, "outlier": {"hosts": [host], "heartbeat": quick}})
}

/// Serves one authority, as a virtual host does.
fn serve(host: &Backend, authority: &str) {
    let authority = authority.to_owned();
    host.script(move |seen| Action::status(if seen.header("host").as_ref() == Some(&authority) { 200 } else { 400 }));
}

async fn are_checked(hosts: &[&Backend], times: u64) {
    eventually(PATIENCE, || async {
        let checks: Vec<u64> = hosts.iter().map(|host| host.requests_to(CHECK)).collect();
        if checks.iter().all(|checks| *checks >= times) { Ok(()) } else { Err(format!("{checks:?} checks")) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_has_a_valid_authority_and_what_the_policy_adds() {
    let hosts: [Backend; 5] = start().await;
    let [istios, gateways, named, behind, picky] = &hosts;
    // Another proxy, as each of Istio's is, which answers 400 to an authority that is none.
    let sidecar = EnvoyOptions::new().cluster(holdfast_tests::Cluster::new("local").endpoint(behind.addr()));
    let sidecar = Envoy::start(sidecar.route(Route::to("/", "local"))).await.unwrap();
    serve(istios, "orders.default.svc.cluster.local");
    serve(gateways, &gateways.addr().to_string());
    serve(named, "shop.example.com:8443");
    serve(behind, "orders.default.svc.cluster.local");
    serve(picky, "another");

    let meshed = "outbound|8080|v1|orders.default.svc.cluster.local";
    let addr = |host: &Backend| host.addr().to_string();
    let given =
        json!({"host": "shop.example.com:8443", "headers": {"Authorization": "Bearer a.b-c", "user-agent": "us"}});
    let options = EnvoyOptions::new().concurrency(2).seats(Seats::Both).route(Scene::aside());
    let options = options
        .cluster(steered(ISTIOS, &hosts[..1]))
        .cluster(steered(GATEWAYS, &hosts[1..2]))
        .cluster(steered("named", &hosts[2..3]))
        .cluster(holdfast_tests::Cluster::new(meshed).steered().endpoint(sidecar.addr()))
        .cluster(steered("picky", &hosts[4..]))
        .policy(json!({"policies": [
            policy("istios", ISTIOS, &addr(istios), json!({})),
            policy("gateways", GATEWAYS, &addr(gateways), json!({})),
            policy("named", "named", &addr(named), given),
            policy("meshed", meshed, &sidecar.addr().to_string(), json!({})),
            policy("picky", "picky", &addr(picky), json!({})),
        ]}));
    let scene = Scene::with(options).await;

    are_checked(&[istios, gateways, named, behind, picky], 6).await;
    becomes(&scene, "picky", "hosts_ejected", 1).await;
    for (name, cluster) in [("istios", ISTIOS), ("gateways", GATEWAYS), ("named", "named"), ("meshed", meshed)] {
        let key = format!("cluster={cluster}");
        assert_eq!(scene.metric_of(name, &key, "hosts").await, 1, "{name}");
        assert_eq!(scene.metric_of(name, &key, "ejections_detected.heartbeat").await, 0, "{name}");
    }
    let seen = named.last_seen().unwrap();
    assert_eq!(seen.headers.get_all("user-agent").iter().collect::<Vec<_>>(), ["us"]);
    assert_eq!(seen.header("authorization").as_deref(), Some("Bearer a.b-c"));
    assert_eq!(picky.last_seen().unwrap().header("user-agent").as_deref(), Some("holdfast-heartbeat"));
    assert_eq!(picky.last_seen().unwrap().header("host").as_deref(), Some("picky"), "a name that is a host stays");
}
