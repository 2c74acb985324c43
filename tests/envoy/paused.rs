//! Envoy itself does not run for a while, as in a sidecar that is throttled or on a machine that is migrated: what that says of hosts and
//! services, beside Envoy's own detection.

use std::process::Command;
use std::time::Duration;

use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, PATIENCE, Route, Scene, Seats, drive_all, eventually,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::outlying::{self, ADMIN, NOTICED, are_told_nothing, becomes, listed, metric, ms, told, told_of};

/// Longer than any time-out here, and shorter than it takes for another worker to make the checks.
const PAUSE: Duration = ms(2500);

/// Three clusters of the same hosts, with time-outs after two seconds: one judged by Holdfast, one by Envoy, and one that Holdfast
/// checks by heartbeats.
async fn start(hosts: &[Backend]) -> (Scene, Vec<Client>) {
    let cluster = |name| hosts.iter().fold(Cluster::new(name), |cluster, host| cluster.endpoint(host.addr()));
    let own = cluster("own").without_attempt_seat().raw(json!({"outlier_detection": {
        "consecutive_5xx": 5, "enforcing_success_rate": 0, "base_ejection_time": "300s", "max_ejection_percent": 100,
    }}));
    let to = |path, name| Route::to(path, name).raw(json!({"route": {"timeout": "2s"}}));
    let options = EnvoyOptions::new().concurrency(2).seats(Seats::Both).cluster(Cluster::admin(ADMIN));
    let options = options.cluster(cluster("orders").steered()).cluster(own).cluster(cluster("beats").steered());
    let options = options.route(Scene::aside());
    let options = options.route(to("/orders", "orders")).route(to("/own", "own")).route(to("/beats", "beats"));
    let policy = |name: &str, outlier: Value| {
        json!({
            "name": name, "match": {"cluster": [name]}, "outlier": listed(outlier),
            "breaker": {"min_requests": 10, "failure_rate": 20, "open_for": "300s"},
        })
    };
    let orders = json!({"consecutive_failures": 5, "base_ejection_time": "300s", "interval": "1s"});
    let beats = json!({
        "consecutive_failures": 0, "base_ejection_time": "300s",
        "heartbeat": {"path": "/healthz", "interval": "250ms", "timeout": "1500ms", "unhealthy_after": 1},
    });
    let document = json!({"policies": [policy("orders", orders), policy("beats", beats)]});
    let scene = Scene::with(options.policy(document)).await;
    let clients = scene.workers(2).await;
    for path in ["/orders", "/beats"] {
        for _ in 0..2 {
            drive_all(&clients, 6, 24, path).await;
            sleep(NOTICED).await;
        }
        becomes(&scene, path, "hosts", hosts.len() as u64).await;
    }
    (scene, clients)
}

/// Stops the process, and lets it go on later.
async fn pause(scene: &Scene) {
    let signal = |signal: &str| {
        let status = Command::new("kill").args([signal, &scene.pid().to_string()]).status().unwrap();
        assert!(status.success());
    };
    signal("-STOP");
    sleep(PAUSE).await;
    signal("-CONT");
}

/// Eighty requests a second and path, whatever becomes of them.
async fn load(clients: &[Client], paths: &[&'static str], lasts: Duration, meanwhile: impl Future<Output = ()>) -> u64 {
    let mut loads = JoinSet::new();
    for (client, path) in clients.iter().flat_map(|client| paths.iter().map(move |path| (client.clone(), *path))) {
        loads.spawn(async move { (path, client.steady(80.0 / 2.0, lasts, path).await) });
    }
    meanwhile.await;
    let mut timed_out = 0;
    for (path, records) in loads.join_all().await {
        println!("{path}: {:?}", records.statuses());
        timed_out += if path == "/orders" { records.count(504) as u64 } else { 0 };
    }
    timed_out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_of_envoy_is_nobodys_failure_and_a_host_that_hangs_is_found_afterwards() {
    let hosts = outlying::start::<3>().await;
    let (scene, clients) = start(&hosts).await;
    hosts.iter().for_each(|host| host.always(Action::ok().after(ms(200))));
    // Which of time-outs and answers Envoy sees first when it goes on is chance.
    let mut timed_out = 0;
    for _ in 0..5 {
        let paused = async {
            sleep(ms(1500)).await;
            pause(&scene).await;
        };
        timed_out += load(&clients, &["/orders", "/own"], ms(8000), paused).await;
        if timed_out > 0 {
            break;
        }
    }
    let own = scene.stats().await.unwrap();
    let own = own.get("cluster.own.outlier_detection.ejections_total").copied().unwrap_or_default();
    let excused = metric(&scene, "/orders", "paused.requests").await;
    println!("{timed_out} time-outs, {excused} excused; ejected by Envoy's own detection: {own}");
    assert!(timed_out > 0 && excused >= timed_out, "all are excused: {excused} of {timed_out}");
    for path in ["/orders", "/beats"] {
        assert_eq!(told(&scene, path), [] as [String; 0]);
        assert_eq!(metric(&scene, path, "hosts_ejected").await, 0);
    }
    assert_eq!(scene.transitions("orders"), [] as [String; 0]);
    assert!(metric(&scene, "/beats", "paused.checks").await > 0);
    let said = "this worker did not run for 2.";
    eventually(PATIENCE, || async { scene.log().contains(said) }).await.unwrap();

    // It hangs already when the next pause begins.
    hosts[0].hold();
    let hung = load(&clients[..1], &["/orders"], ms(9000), async {
        sleep(ms(200)).await;
        pause(&scene).await;
    });
    hung.await;
    becomes(&scene, "/orders", "hosts_ejected", 1).await;
    let told = told_of(&scene, "/orders", &hosts[0]);
    assert!(told.iter().any(|line| line.starts_with("ejected for ")), "{told:?}");
    hosts[0].release_all();
    are_told_nothing(&hosts);
}
