//! What Istio makes of Holdfast's resources, run by the real Envoy and driven: one table of cases, for Istio's generator as it
//! runs (`./build.sh istio`) and for its fixtures.

use holdfast_tests::{Action, Backend, Client, IstioCase, Mesh, Records};
use std::net::SocketAddr;

use tokio::time::sleep;

use crate::outlying::{NOTICED, SETTLED};

/// The service of most cases.
const ORDERS: &str = "orders.shop.svc.cluster.local";
const OUTBOUND: &str = "outbound|8080||orders.shop.svc.cluster.local";

/// The name that `add` gives its policy.
const POLICY: &str = "orders";

const SIDECAR: &str = "--node sidecar --namespace shop";

const HTTP1: IstioCase = IstioCase {
    name: "sidecar-http1",
    proxy: SIDECAR,
    files: &["envoy/istio/sample/http1.yaml", "tests/istio/cases/hosts.yaml", "envoy/istio/sidecar-http1.yaml"],
    ports: &[8080],
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_over_http1() {
    let hosts = hosts().await;
    let mesh = Mesh::start(HTTP1, &hosts).await;
    Story::new(&mesh, &hosts).whole().await;
}

/// 127.0.0.11 and the two after it, as the files say.
async fn hosts() -> [Backend; 3] {
    let mut hosts = Vec::new();
    for last in [11, 12, 13] {
        hosts.push(Backend::start_on(SocketAddr::from(([127, 0, 0, last], 0))).await.unwrap());
    }
    hosts.try_into().unwrap()
}

/// What every case shows: retries, ejection, then the breaker with its fallback.
struct Story<'a> {
    mesh: &'a Mesh,
    hosts: &'a [Backend],
    client: Client,
    cluster: String,
}

impl<'a> Story<'a> {
    fn new(mesh: &'a Mesh, hosts: &'a [Backend]) -> Self {
        let client = mesh.client.clone().authority(ORDERS);
        Self { mesh, hosts, client, cluster: OUTBOUND.to_owned() }
    }

    async fn whole(self) {
        self.seats_meet().await;
        self.a_host_is_ejected().await;
        self.the_breaker_opens().await;
    }

    async fn seats_meet(&self) {
        for _ in 0..2 {
            served(&self.client.drive(4, 40, "/meet").await);
            sleep(NOTICED).await;
        }
    }

    async fn a_host_is_ejected(&self) {
        let [bad, rest @ ..] = self.hosts else { panic!("a case has hosts") };
        bad.always(Action::status(503));
        served(&self.client.drive(2, 60, "/ejected").await);
        assert!(bad.requests_to("/ejected") >= 5, "it failed {} times", bad.requests_to("/ejected"));
        sleep(SETTLED).await;
        let before = bad.requests();
        served(&self.client.drive(2, 60, "/without").await);
        assert_eq!(bad.requests(), before, "a host that is out gets nothing");
        assert_eq!(self.metric("hosts_ejected").await, 1);
        assert!(self.metric("retries_recovered").await >= 5);
        for host in rest {
            assert!(host.requests_to("/without") > 0, "the others share");
            assert!(host.seen().iter().all(|seen| seen.header("x-holdfast-hosts").is_none()), "no host is told");
        }
    }

    async fn the_breaker_opens(&self) {
        for host in self.hosts {
            host.always(Action::status(500));
        }
        // More than the good answers that are still in the window.
        let failed = self.client.drive(2, 300, "/failing").await;
        assert!(failed.count(500) >= 10, "{:?}", failed.statuses());
        sleep(SETTLED).await;
        let before: u64 = self.hosts.iter().map(Backend::requests).sum();
        let answer = self.client.get("/open").await.unwrap();
        assert_eq!(answer.status, 503, "{answer:?}");
        assert_eq!(
            answer.header("x-holdfast-fallback").as_deref(),
            Some("static; reason=open; policy=orders"),
            "{answer:?}"
        );
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert_eq!(answer.json()["retry_after"], wait, "the fallback's text is filled in: {answer:?}");
        assert_eq!(
            self.hosts.iter().map(Backend::requests).sum::<u64>(),
            before,
            "an open breaker lets nothing through"
        );
        assert_eq!(self.metric("breaker_opened.failure_rate").await, 1);
    }

    async fn metric(&self, name: &str) -> u64 {
        let key = format!("cluster={}", self.mesh.name(&self.cluster));
        self.mesh.metric_of(POLICY, &key, name).await
    }
}

/// Every request had a good answer.
fn served(records: &Records) {
    let errors: Vec<_> = records.errors().collect();
    assert_eq!(records.count(200), records.0.len(), "{:?} {errors:?}", records.statuses());
}
