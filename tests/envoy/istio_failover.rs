//! Istio's locality failover while hosts are out: what Envoy's own outlier detection would give. One sidecar has two services of the
//! same six hosts, three of its region and three of another. One is steered by the shipped EnvoyFilter, the other has an
//! `outlierDetection` that ejects. Both get the same requests, which are counted at the hosts.

use std::net::SocketAddr;
use std::time::Duration;

use holdfast_tests::{
    Action, Backend, Client, IstioCase, Mesh, MeshOptions, PATIENCE, Records, Traffic, drive_all, eventually,
    has_cluster_retries,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::outlying::{NOTICED, SETTLED, are_told_nothing, counts, ms};

/// Both services, for a proxy in the region of the first three hosts.
const BESIDE: IstioCase = IstioCase {
    name: "failover-beside",
    proxy: "--node sidecar --namespace shop --locality eu/eu-1",
    mesh: None,
    files: &[
        "envoy/istio/sample/failover.yaml",
        "tests/istio/cases/failover-beside.yaml",
        "tests/istio/cases/localities.yaml",
        "envoy/istio/sidecar-failover.yaml",
    ],
    ports: &[8080],
};

/// How many of the hosts are in the proxy's region: these come first.
const LOCAL: usize = 3;

/// A service, seen by its callers.
struct Service {
    client: Client,
    cluster: String,
}

/// What came of requests: how many came to hosts of the other region, in percent, and how many answers were errors or fallbacks.
struct Served {
    remote: f64,
    lost: f64,
}

/// A sidecar before both services, each of which has had good answers.
struct Stage {
    mesh: Mesh,
    hosts: Vec<Backend>,
    steered: Service,
    own: Service,
}

impl Stage {
    /// With the policy that `add` prints, or this one. So many hosts get known.
    async fn new(policy: Option<Value>, known: u64) -> Self {
        let mut hosts = Vec::new();
        for last in 11..17 {
            hosts.push(Backend::start_on(SocketAddr::from(([127, 0, 0, last], 0))).await.unwrap());
        }
        let mesh = Mesh::with(BESIDE, &hosts, MeshOptions { policy, ..MeshOptions::default() }).await;
        let service = |host: &str| Service {
            client: mesh.client.clone().authority(host),
            cluster: mesh.name(&format!("outbound|8080||{host}")),
        };
        let (steered, own) = (service("orders.shop.svc.cluster.local"), service("orders-own.shop.svc.cluster.local"));
        let stage = Self { steered, own, mesh, hosts };
        eventually(PATIENCE, || async {
            for service in [&stage.own, &stage.steered] {
                let records = stage.drive(service, 60).await;
                assert_eq!(records.count(200), 60, "{:?}", records.statuses());
            }
            sleep(NOTICED).await;
            let hosts = stage.metric("hosts").await;
            if hosts == known { Ok(()) } else { Err(format!("{hosts} hosts are known, not {known}")) }
        })
        .await
        .unwrap();
        stage
    }

    async fn metric(&self, name: &str) -> u64 {
        self.mesh.metric_now("orders", &format!("cluster={}", self.steered.cluster), name).await
    }

    async fn drive(&self, service: &Service, requests: usize) -> Records {
        drive_all(std::slice::from_ref(&service.client), 4, requests, "/").await
    }

    fn go_bad(&self, hosts: usize) {
        self.hosts[..hosts].iter().for_each(|host| host.always(Action::status(503)));
    }

    /// So many are out of both services.
    async fn are_out(&self, wanted: u64) {
        let ejections = format!("cluster.{};.outlier_detection.ejections_active", self.own.cluster);
        eventually(PATIENCE, || async {
            self.drive(&self.own, 60).await;
            self.drive(&self.steered, 60).await;
            let own = self.mesh.stats().await.unwrap().get(&ejections).copied().unwrap_or_default();
            let steered = self.metric("hosts_ejected").await;
            if (own, steered) == (wanted, wanted) { Ok(()) } else { Err(format!("{own} and {steered} are out")) }
        })
        .await
        .unwrap();
        sleep(SETTLED).await;
    }

    /// At least so many requests; a sender waits so long before its next one. Envoy's workers hear of the first host that its own
    /// detection ejects at once, and of the next ones within a second (`update_merge_window`).
    async fn serves(&self, service: &Service, requests: u64, pause: Duration) -> Served {
        self.hosts.iter().for_each(Backend::reset_counters);
        let traffic = Traffic::start(std::slice::from_ref(&service.client), 4, pause, "/");
        traffic.goes_on(requests).await.unwrap();
        let records = traffic.stop().await;
        let (counts, all, good) = (counts(&self.hosts), records.0.len(), records.count(200));
        println!("{}: {counts:?}, {} of {all} lost", service.cluster, all - good);
        let percent = |part: f64, all: f64| if all > 0.0 { 100.0 * part / all } else { 0.0 };
        let remote = percent(counts[LOCAL..].iter().sum::<u64>() as f64, counts.iter().sum::<u64>() as f64);
        Served { remote, lost: percent((all - good) as f64, all as f64) }
    }
}

/// The policy without `discover`, as for a service without failover.
fn without_discover(outlier: Value) -> Value {
    json!({"policies": [{
        "name": "orders",
        "match": {"cluster": ["outbound|*|*|orders.shop.svc.cluster.local"]},
        "breaker": {},
        "retry": {},
        "outlier": outlier,
        "fallback": [{"on": ["open"], "respond": {"status": 503}}],
    }]})
}

/// An Envoy of before cannot take what the generator says as it runs; of a fixture it takes the rest.
fn is_older_than_the_generator() -> bool {
    Mesh::is_live() && !has_cluster_retries()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_region_gets_as_much_as_by_envoys_own_detection_while_one_of_three_hosts_is_out() {
    if is_older_than_the_generator() {
        return;
    }
    let stage = Stage::new(None, 6).await;
    stage.go_bad(1);
    stage.are_out(1).await;
    let own = stage.serves(&stage.own, 3000, Duration::ZERO).await;
    let steered = stage.serves(&stage.steered, 3000, Duration::ZERO).await;
    let (shares, lost) = ((steered.remote, own.remote), (steered.lost, own.lost));
    assert!((shares.0 - shares.1).abs() <= 3.0, "{:.1} % beside Envoy's {:.1} %", shares.0, shares.1);
    assert_eq!(lost, (0.0, 0.0));
    are_told_nothing(&stage.hosts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_region_serves_with_no_more_errors_than_by_envoys_own_detection_when_all_local_hosts_fail() {
    if is_older_than_the_generator() {
        return;
    }
    let stage = Stage::new(None, 6).await;
    stage.go_bad(LOCAL);
    let own = stage.serves(&stage.own, 400, ms(10)).await;
    let steered = stage.serves(&stage.steered, 400, ms(10)).await;
    assert!(steered.lost <= own.lost, "{:.1} % lost beside Envoy's {:.1} %", steered.lost, own.lost);
    stage.are_out(LOCAL as u64).await;
    let own = stage.serves(&stage.own, 400, ms(10)).await;
    let steered = stage.serves(&stage.steered, 400, ms(10)).await;
    assert_eq!((own.remote, steered.remote), (100.0, 100.0));
    assert_eq!((own.lost, steered.lost), (0.0, 0.0));
    are_told_nothing(&stage.hosts);
}

/// Why `add` has such a policy read its hosts: Holdfast learns hosts of the other region when these serve, and to Envoy all local ones
/// are healthy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_listing_nobody_fails_over() {
    if is_older_than_the_generator() {
        return;
    }
    let stage = Stage::new(Some(without_discover(json!({"max_ejected": 100}))), LOCAL as u64).await;
    stage.go_bad(1);
    stage.are_out(1).await;
    let one = stage.serves(&stage.steered, 400, ms(10)).await;
    assert_eq!((one.remote, one.lost), (0.0, 0.0), "the other local hosts serve all");
    stage.go_bad(LOCAL);
    let all = stage.serves(&stage.steered, 400, ms(10)).await;
    assert_eq!((all.remote, all.lost), (0.0, 100.0), "no host of the other region is asked");
}
