//! What is said where a part is missing without which no host is left out, or another part chooses hosts before Holdfast does.

use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, PATIENCE, Scene, Seats, drive_all, eventually, with_header,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::outlying::{NOTICED, becomes, metric_now, ms, route, start, steered};

const LINE: &str = "requests do not go to the hosts that are named to them";

/// A policy for the path of this name and all that is below it.
fn policy(name: &str) -> Value {
    let outlier = json!({"consecutive_failures": 5, "base_ejection_time": "300s", "interval": "1s"});
    json!({"name": name, "match": {"path": [format!("/{name}"), format!("/{name}/**")]}, "outlier": outlier})
}

/// Chooses hosts by a cookie.
fn sticky() -> Value {
    let cookie = json!({"name": "session", "path": "/sticky", "ttl": "120s"});
    let state = json!({
        "@type": "type.googleapis.com/envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState",
        "cookie": cookie,
    });
    json!({"name": "envoy.filters.http.stateful_session", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession",
        "session_state": {"name": "envoy.http.stateful_session.cookie", "typed_config": state},
    }})
}

fn aggregate(name: &str, of: &[&str]) -> Cluster {
    Cluster::new(name).without_attempt_seat().raw(json!({
        "type": null, "load_assignment": null, "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {"name": "envoy.clusters.aggregate", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig",
            "clusters": of,
        }},
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_is_steered_no_host_is_called_ejected_and_that_is_said_once() {
    let hosts: [Backend; 3] = start().await;
    let unsteered = hosts.iter().fold(Cluster::new("unsteered"), |cluster, host| cluster.endpoint(host.addr()));
    let names = ["unsteered", "aggregate", "sticky", "steered"];
    let mut options = EnvoyOptions::new()
        .concurrency(2)
        .seats(Seats::Both)
        .cluster(unsteered)
        .cluster(steered("part", &hosts))
        .cluster(aggregate("aggregate", &["part"]))
        .cluster(steered("sticky", &hosts))
        .cluster(steered("steered", &hosts))
        .filter(sticky())
        .route(Scene::aside());
    for name in names {
        options = options.route(route(&format!("/{name}")));
    }
    let policies: Vec<Value> = names.iter().map(|name| policy(name)).collect();
    let scene = Scene::with(options.policy(json!({"policies": policies}))).await;
    let clients = scene.workers(2).await;
    // Sessions with the first host, from before it goes bad.
    let mut session = None;
    for _ in 0..30 {
        let seen = hosts[0].requests();
        let response = clients[0].get("/sticky").await.unwrap();
        if hosts[0].requests() > seen {
            session = response.header("set-cookie").map(|cookie| cookie.split(';').next().unwrap().to_owned());
        }
    }
    let session = session.expect("the first host has had a session");
    for round in 0..2 {
        for name in names {
            drive_all(&clients, 4, 60, format!("/{name}").as_str()).await;
        }
        if round == 0 {
            sleep(NOTICED).await;
        }
    }

    hosts[0].always(Action::status(500));
    let in_session = || with_header(Client::request("/sticky"), "cookie", &session);
    for name in names {
        let wanted = u64::from(name != "steered");
        eventually(PATIENCE, || async {
            for client in &clients {
                match name {
                    "sticky" => drop(client.drive(2, 20, in_session()).await),
                    _ => drop(client.drive(2, 20, format!("/{name}").as_str()).await),
                }
            }
            sleep(ms(50)).await;
            let path = format!("/{name}");
            let found = scene.log().matches(&format!("{name}/cluster={name}: host ")).count();
            let now = metric_now(&scene, &path, "misassembled.override_host").await;
            if now == wanted && found > 0 { Ok(()) } else { Err(format!("{name}: {now}, {found} lines of hosts")) }
        })
        .await
        .unwrap();
    }
    becomes(&scene, "/steered", "hosts_ejected", 1).await;
    for name in &names[..3] {
        becomes(&scene, &format!("/{name}"), "hosts_ejected", 0).await;
        let said = scene.log().matches(&format!("{name}/cluster={name}: {LINE}")).count();
        assert_eq!(said, 1, "{name}");
    }
    assert!(!scene.log().contains(&format!("steered/cluster=steered: {LINE}").replace("steered/", " steered/")));

    // Who is sent nowhere else is steered: the same cluster without sessions.
    eventually(PATIENCE, || async {
        drive_all(&clients, 2, 20, "/sticky").await;
        sleep(ms(100)).await;
        let now = metric_now(&scene, "/sticky", "misassembled.override_host").await;
        if now == 0 { Ok(()) } else { Err("it stays") }
    })
    .await
    .unwrap();
    becomes(&scene, "/sticky", "hosts_ejected", 1).await;
}
