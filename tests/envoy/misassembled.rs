//! What is said where a part is missing without which no host is left out, or another part chooses hosts before Holdfast does.

use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, PATIENCE, Scene, Seats, drive_all, eventually, with_header,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
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

const NO_SEAT: &str = "no attempt seat sees its attempts";

/// Requests for a path until its gauge of what is missing is so and the log has a line so often.
async fn until(scene: &Scene, clients: &[Client], name: &str, gauge: (&str, u64), line: (&str, usize)) {
    let path = format!("/{name}");
    eventually(PATIENCE, || async {
        drive_all(clients, 2, 20, path.as_str()).await;
        sleep(ms(200)).await;
        let (now, said) = (metric_now(scene, &path, gauge.0).await, scene.log().matches(line.0).count());
        if now == gauge.1 && said >= line.1 { Ok(()) } else { Err(format!("{name}: {now}, said {said} times")) }
    })
    .await
    .unwrap();
    assert_eq!(scene.log().matches(line.0).count(), line.1, "{name}");
}

/// Of a policy with retries, one with hosts, and one that wants no attempt seat.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_an_attempt_seat_is_missing_is_said_once_for_all_workers() {
    let [host] = start().await;
    let retry = json!({"retry": {"max_retries": 1}});
    let outlier = json!({"outlier": {"consecutive_failures": 5}});
    let rows = [("retries", &retry), ("hosts", &outlier), ("seen", &outlier), ("breaker", &json!({"breaker": {}}))];
    let mut options = EnvoyOptions::new().concurrency(2).seats(Seats::Both).route(Scene::aside());
    let mut policies = Vec::new();
    for (name, features) in rows {
        let cluster = Cluster::new(name).endpoint(host.addr());
        let cluster = if name == "seen" { cluster.steered() } else { cluster.without_attempt_seat() };
        options = options.cluster(cluster).route(route(&format!("/{name}")));
        let mut policy = features.clone();
        policy["name"] = json!(name);
        policy["match"] = json!({"path": format!("/{name}")});
        policies.push(policy);
    }
    let scene = Scene::with(options.policy(json!({"policies": policies}))).await;
    let clients = scene.workers(2).await;
    let said = |name: &str| scene.log().matches(&format!(" {name}/cluster={name}: {NO_SEAT}")).count();
    eventually(PATIENCE, || async {
        let mut now = Vec::new();
        for (name, _) in rows {
            let path = format!("/{name}");
            drive_all(&clients, 2, 10, path.as_str()).await;
            now.push((metric_now(&scene, &path, "misassembled.attempt_seat").await, said(name)));
        }
        sleep(ms(200)).await;
        if now == [(1, 1), (1, 1), (0, 0), (0, 0)] { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_the_seats_have_different_vm_ids_is_said_by_both() {
    let hosts: [Backend; 2] = start().await;
    let vm = json!({"typed_config": {"config": {"vm_config": {"vm_id": "another"}}}});
    let options = EnvoyOptions::new().concurrency(2).seats(Seats::Both).raw_seat(vm).route(Scene::aside());
    let options = options.cluster(steered("apart", &hosts)).route(route("/apart"));
    let scene = Scene::with(options.policy(json!({"policies": [policy("apart")]}))).await;
    let clients = scene.workers(2).await;
    let line = format!("apart/cluster=apart: {NO_SEAT}");
    until(&scene, &clients, "apart", ("misassembled.attempt_seat", 1), (&line, 1)).await;
    let line = "attempt seat: the policies of requests are not in the shared data of this seat";
    until(&scene, &clients, "apart", ("misassembled.attempt_seat", 1), (line, 1)).await;
    assert_eq!(drive_all(&clients, 2, 40, "/apart").await.count(200), 40, "what is missing breaks nothing");
}

/// Answers each request on a Unix socket.
async fn serve(socket: UnixListener) {
    while let Ok((mut stream, _)) = socket.accept().await {
        tokio::spawn(async move {
            let (mut seen, mut bytes) = (Vec::new(), [0; 4096]);
            while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                seen.extend_from_slice(&bytes[..count]);
                while let Some(end) = seen.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                    seen.drain(..end + 4);
                    if stream.write_all(b"HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_hosts_have_no_addresses_is_said_and_nothing_is_counted_as_ejected() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("host.sock");
    let serving = tokio::spawn(serve(UnixListener::bind(&path).unwrap()));
    let endpoint = json!({"endpoint": {"address": {"pipe": {"path": path}}}});
    let endpoints = json!({"cluster_name": "socket", "endpoints": [{"lb_endpoints": [endpoint]}]});
    let cluster = Cluster::new("socket").steered().raw(json!({"load_assignment": endpoints}));
    let options = EnvoyOptions::new().concurrency(2).seats(Seats::Both).route(Scene::aside());
    let options = options.cluster(cluster).route(route("/socket"));
    let scene = Scene::with(options.policy(json!({"policies": [policy("socket")]}))).await;
    let clients = scene.workers(2).await;
    let line = "has no IP address and port";
    until(&scene, &clients, "socket", ("misassembled.host_address", 1), (line, 1)).await;
    becomes(&scene, "/socket", "hosts", 0).await;
    becomes(&scene, "/socket", "hosts_ejected", 0).await;
    serving.abort();
}
