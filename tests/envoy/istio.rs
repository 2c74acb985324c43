//! What Istio makes of Holdfast's resources, run by the real Envoy and driven: one table of cases, for Istio's generator as it
//! runs (`./build.sh istio`) and for its fixtures.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_tests::{
    Action, Backend, Client, HOSTS, IstioCase, Mesh, MeshOptions, Records, drive_all, envoy_version, eventually,
    has_cluster_retries, with_header,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::outlying::{NOTICED, SETTLED};
use crate::tracing::{spans, tag};

/// The service of most cases.
const ORDERS: &str = "orders.shop.svc.cluster.local";
const OUTBOUND: &str = "outbound|8080||orders.shop.svc.cluster.local";

/// The name that `add` gives its policy.
const POLICY: &str = "orders";

const SIDECAR: &str = "--node sidecar --namespace shop";
const SIDECAR_IN_EU: &str = "--node sidecar --namespace shop --locality eu/eu-1";

/// Three hosts of a service, by the name of its port.
const HTTP_HOSTS: &str = "tests/istio/cases/hosts.yaml";
/// The same with labels and localities.
const WORKLOADS: &str = "tests/istio/cases/workloads.yaml";

const HTTP1: IstioCase = IstioCase {
    name: "sidecar-http1",
    proxy: SIDECAR,
    mesh: None,
    files: &["envoy/istio/sample/http1.yaml", HTTP_HOSTS, "envoy/istio/sidecar-http1.yaml"],
    ports: &[8080],
};

const HTTP2: IstioCase = IstioCase {
    name: "sidecar-http2",
    proxy: SIDECAR,
    mesh: None,
    files: &["envoy/istio/sample/http2.yaml", "tests/istio/cases/hosts-http2.yaml", "envoy/istio/sidecar-http2.yaml"],
    ports: &[8080],
};

const GRPC: IstioCase = IstioCase {
    name: "sidecar-grpc",
    proxy: SIDECAR,
    mesh: None,
    files: &["envoy/istio/sample/grpc.yaml", "tests/istio/cases/hosts-grpc.yaml", "envoy/istio/sidecar-grpc.yaml"],
    ports: &[9090],
};

const SETTINGS: IstioCase = IstioCase {
    name: "sidecar-settings",
    proxy: SIDECAR,
    mesh: None,
    files: &["envoy/istio/sample/settings.yaml", WORKLOADS, "envoy/istio/sidecar-settings.yaml"],
    ports: &[8080],
};

const FAILOVER: IstioCase = IstioCase {
    name: "sidecar-failover",
    proxy: SIDECAR_IN_EU,
    mesh: None,
    files: &["envoy/istio/sample/failover.yaml", WORKLOADS, "envoy/istio/sidecar-failover.yaml"],
    ports: &[8080],
};

const FAILOVER_EXPLICIT: IstioCase = IstioCase {
    name: "sidecar-failover-explicit",
    proxy: SIDECAR_IN_EU,
    mesh: None,
    files: &[
        "tests/istio/cases/failover-explicit-plain.yaml",
        WORKLOADS,
        "tests/istio/cases/failover-explicit-plain.holdfast.yaml",
    ],
    ports: &[8080],
};

const STANDBY: IstioCase = IstioCase {
    name: "sidecar-standby",
    proxy: SIDECAR,
    mesh: None,
    files: &[
        "envoy/istio/sample/standby.yaml",
        "tests/istio/cases/hosts-standby.yaml",
        "envoy/istio/sidecar-standby.yaml",
        "envoy/istio/standby-route.yaml",
    ],
    ports: &[8080],
};

const STANDBY_AFTERWARDS: IstioCase = IstioCase {
    name: "sidecar-standby-afterwards",
    proxy: SIDECAR,
    mesh: None,
    files: &[
        "envoy/istio/sample/standby.yaml",
        "tests/istio/cases/hosts-standby.yaml",
        "envoy/istio/sidecar-standby-afterwards.yaml",
        "envoy/istio/standby-matcher.yaml",
    ],
    ports: &[8080],
};

const GATEWAY: IstioCase = IstioCase {
    name: "gateway",
    proxy: "--node gateway --namespace shop",
    mesh: None,
    files: &["envoy/istio/sample/gateway.yaml", HTTP_HOSTS, "envoy/istio/gateway.yaml"],
    ports: &[80],
};

const INLINE: IstioCase = IstioCase {
    name: "sidecar-inline",
    proxy: "--node sidecar --namespace shop --labels holdfast=mounted",
    mesh: None,
    files: &["envoy/istio/sample/http1.yaml", HTTP_HOSTS, "envoy/istio/sidecar-inline.yaml"],
    ports: &[8080],
};

const WASM_PLUGIN: IstioCase = IstioCase {
    name: "wasm-plugin-both-seats",
    proxy: SIDECAR,
    mesh: None,
    files: &["envoy/istio/sample/http1.yaml", HTTP_HOSTS, "envoy/istio/wasm-plugin-both-seats.yaml"],
    ports: &[8080],
};

const WASM_PLUGIN_ALONE: IstioCase = IstioCase {
    name: "wasm-plugin",
    proxy: SIDECAR,
    mesh: None,
    files: &["envoy/istio/sample/http1.yaml", HTTP_HOSTS, "envoy/istio/wasm-plugin.yaml"],
    ports: &[8080],
};

const TRAFFIC_EXTENSION: IstioCase = IstioCase {
    name: "traffic-extension",
    proxy: SIDECAR,
    mesh: None,
    files: &["envoy/istio/sample/http1.yaml", HTTP_HOSTS, "envoy/istio/traffic-extension.yaml"],
    ports: &[8080],
};

const NAMESPACE: IstioCase = IstioCase {
    name: "sidecar-namespace",
    proxy: SIDECAR,
    mesh: None,
    files: &["envoy/istio/sample/namespace.yaml", HTTP_HOSTS, "envoy/istio/sidecar-namespace.yaml"],
    ports: &[8080],
};

const ALL_SERVICES: IstioCase = IstioCase {
    name: "sidecar-all-services",
    proxy: SIDECAR,
    mesh: None,
    files: &["envoy/istio/sample/http1.yaml", HTTP_HOSTS, "envoy/istio/sidecar-all-services.yaml"],
    ports: &[8080],
};

/// Two resources of two teams, whose services have one port and so one chain of filters.
const TWO_SERVICES: IstioCase = IstioCase {
    name: "two-services",
    proxy: SIDECAR,
    mesh: None,
    files: &[
        "envoy/istio/sample/http1.yaml",
        HTTP_HOSTS,
        "tests/istio/cases/stock.yaml",
        "envoy/istio/sidecar-http1.yaml",
        "tests/istio/cases/stock.holdfast.yaml",
    ],
    ports: &[8080],
};

const HEADLESS: IstioCase = IstioCase {
    name: "sidecar-headless",
    proxy: SIDECAR,
    mesh: None,
    files: &["envoy/istio/sample/headless.yaml", HTTP_HOSTS, "envoy/istio/sidecar-headless.yaml"],
    ports: &[8080],
};

const RESOLUTION_NONE: IstioCase = IstioCase {
    name: "sidecar-resolution-none",
    proxy: SIDECAR,
    mesh: None,
    files: &["envoy/istio/sample/external-none.yaml", "envoy/istio/sidecar-resolution-none.yaml"],
    ports: &[8080],
};

const TELEMETRY: IstioCase = IstioCase {
    name: "telemetry",
    proxy: SIDECAR,
    mesh: Some("envoy/istio/mesh-config.yaml"),
    files: &[
        "envoy/istio/sample/http1.yaml",
        HTTP_HOSTS,
        "envoy/istio/sidecar-http1.yaml",
        "envoy/istio/telemetry.yaml",
    ],
    ports: &[8080],
};

const TRACES: IstioCase = IstioCase {
    name: "traces",
    proxy: SIDECAR,
    mesh: Some("envoy/observability/istio-mesh-config.yaml"),
    files: &[
        "envoy/istio/sample/http1.yaml",
        HTTP_HOSTS,
        "tests/istio/cases/collector.yaml",
        "envoy/istio/sidecar-http1.yaml",
        "envoy/observability/istio-telemetry.yaml",
    ],
    ports: &[8080],
};

const INBOUND: IstioCase = IstioCase {
    name: "inbound",
    proxy: "--node sidecar --namespace shop --address 127.0.0.11 --labels app=orders",
    mesh: None,
    files: &["envoy/istio/sample/http1.yaml", "tests/istio/cases/ingress-only.yaml", "envoy/istio/inbound.yaml"],
    ports: &[8080],
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_over_http1() {
    if is_older_than_the_resources() {
        return;
    }
    let hosts = hosts().await;
    let mesh = Mesh::start(HTTP1, &hosts).await;
    let cluster = mesh.cluster(OUTBOUND).await;
    assert_eq!(fallback(&cluster), "LeastRequest", "Istio's own balancing");
    Story::new(&mesh, &hosts).whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_over_http2() {
    if is_older_than_the_resources() {
        return;
    }
    let hosts = hosts().await;
    let mesh = Mesh::start(HTTP2, &hosts).await;
    Story::new(&mesh, &hosts).whole().await;
    assert!(http2_connections(&mesh).await > 0, "the port is still HTTP/2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_over_a_grpc_port() {
    if is_older_than_the_resources() {
        return;
    }
    let hosts = hosts().await;
    let mesh = Mesh::start(GRPC, &hosts).await;
    let client = Client::http2(mesh.listener_of(9090)).authority(ORDERS);
    let cluster = "outbound|9090||orders.shop.svc.cluster.local".to_owned();
    let story = Story { client, cluster, is_grpc: true, ..Story::new(&mesh, &hosts) };
    story.whole().await;
    assert!(http2_connections(&mesh).await > 0, "the port is still HTTP/2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_a_destination_rule_says_stays() {
    if is_older_than_the_resources() {
        return;
    }
    let hosts = hosts().await;
    let mesh = Mesh::start(SETTINGS, &hosts).await;
    for (cluster, balancing) in [
        (OUTBOUND, "RoundRobin"),
        ("outbound|8080|v1|orders.shop.svc.cluster.local", "RoundRobin"),
        ("outbound|8080|v2|orders.shop.svc.cluster.local", "RingHash"),
    ] {
        let cluster = mesh.cluster(cluster).await;
        assert_eq!(fallback(&cluster), balancing, "{cluster}");
        assert_eq!(cluster["connect_timeout"], "2s");
        let limits = &cluster["circuit_breakers"]["thresholds"][0];
        assert_eq!((&limits["max_connections"], &limits["max_requests"]), (&json!(100), &json!(500)), "{limits}");
        let options =
            &cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
        let common = &options["common_http_protocol_options"];
        assert_eq!((&common["idle_timeout"], &common["max_requests_per_connection"]), (&json!("300s"), &json!(1000)));
        assert_eq!(options["explicit_http_config"]["http2_protocol_options"]["max_concurrent_streams"], 50);
    }
    let balancing = &mesh.cluster(OUTBOUND).await["load_balancing_policy"]["policies"][0]["typed_extension_config"];
    let warmup = &balancing["typed_config"]["fallback_policy"]["policies"][0]["typed_extension_config"]["typed_config"];
    let warmup = &warmup["slow_start_config"];
    assert_eq!((&warmup["slow_start_window"], &warmup["min_weight_percent"]["value"]), (&json!("30s"), &json!(20)));
    Story::new(&mesh, &hosts).whole().await;
    assert!(http2_connections(&mesh).await > 0, "h2UpgradePolicy stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failover_by_istios_default_stays() {
    if is_older_than_the_resources() {
        return;
    }
    let hosts = hosts().await;
    let mesh = Mesh::start(FAILOVER, &hosts).await;
    local_hosts_serve(&mesh, &hosts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failover_that_is_written_down_stays() {
    if is_older_than_the_resources() {
        return;
    }
    let hosts = hosts().await;
    let mesh = Mesh::start(FAILOVER_EXPLICIT, &hosts).await;
    let cluster = mesh.cluster(OUTBOUND).await;
    assert_eq!(cluster["common_lb_config"]["locality_weighted_lb_config"], Value::Null, "Envoy would refuse it");
    local_hosts_serve(&mesh, &hosts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_serves_while_the_breaker_is_open() {
    if is_older_than_the_resources() {
        return;
    }
    let [primary, standby, _] = hosts().await;
    let hosts = [primary, standby];
    let mesh = Mesh::start(STANDBY, &hosts).await;
    let story = Story::new(&mesh, &hosts);
    story.is_governed().await;
    let [primary, standby] = &hosts;
    assert_eq!(standby.requests(), 0);
    primary.always(Action::status(503));
    let cluster = mesh.name("outbound|8080||orders-standby.shop.svc.cluster.local");
    let wanted = format!("route; reason=open; policy=orders; cluster={cluster}");
    eventually(Duration::from_secs(60), || async {
        let records = story.client.drive(2, 20, "/").await;
        let by = |response: &holdfast_tests::Response| response.header("x-holdfast-fallback");
        let all = records.responses().all(|response| response.status == 200 && by(response) == Some(wanted.clone()));
        if all { Ok(()) } else { Err(format!("{:?}", records.responses().last().map(by))) }
    })
    .await
    .unwrap();
    assert!(standby.requests() >= 20, "the standby has served them");
    assert_eq!(story.metric("misassembled.route").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_serves_after_the_last_attempt() {
    if is_older_than_the_resources() || envoy_version() < (1, 39) {
        return;
    }
    let [primary, standby, _] = hosts().await;
    let hosts = [primary, standby];
    let mesh = Mesh::start(STANDBY_AFTERWARDS, &hosts).await;
    let story = Story::new(&mesh, &hosts);
    story.is_governed().await;
    let [primary, standby] = &hosts;
    // An attempt seat is known a second after it was met.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    served(&story.client.drive(2, 20, "/").await);
    assert_eq!(standby.requests(), 0);
    primary.always(Action::status(503));
    let cluster = mesh.name("outbound|8080||orders-standby.shop.svc.cluster.local");
    let records = story.client.drive(2, 100, "/").await;
    served(&records);
    let by = |reason: &str| {
        let wanted = format!("route; reason={reason}; policy=orders; cluster={cluster}");
        let says =
            |response: &&holdfast_tests::Response| response.header("x-holdfast-fallback").as_ref() == Some(&wanted);
        records.responses().filter(says).count()
    };
    let (before, after) = (by("open"), by("failure"));
    assert_eq!((before + after, standby.requests()), (100, 100), "no caller sees that the service is down");
    assert!(before > 0 && after >= 10, "{before} while the breaker was open, {after} before");
    assert_eq!(story.metric("misassembled.route").await, 0);
}

/// Two hosts are in the proxy's region, the third is in another: that serves only when these cannot be had.
async fn local_hosts_serve(mesh: &Mesh, hosts: &[Backend; 3]) {
    let story = Story { sharing: 1..2, ..Story::new(mesh, hosts) };
    served(&story.client.drive(4, 60, "/").await);
    let counts: Vec<u64> = hosts.iter().map(Backend::requests).collect();
    assert!(counts[0] > 0 && counts[1] > 0 && counts[2] == 0, "{counts:?}");
    story.whole().await;
    let outliers = &mesh.cluster(OUTBOUND).await["outlier_detection"];
    assert!(outliers.is_object(), "without it Istio makes no priorities");
    // Envoy's own view: two endpoints of priority 0 and one of priority 1.
    let listing = mesh.admin_get("/clusters?format=json").await.unwrap();
    let listing: Value = serde_json::from_str(&listing).unwrap();
    let clusters = listing["cluster_statuses"].as_array().unwrap().iter();
    let mine = clusters.filter(|cluster| cluster["name"] == mesh.name(OUTBOUND).as_str());
    let mut priorities: Vec<u64> = mine
        .flat_map(|cluster| cluster["host_statuses"].as_array().unwrap())
        .map(|host| host["priority"].as_u64().unwrap_or(0))
        .collect();
    priorities.sort_unstable();
    assert_eq!(priorities, [0, 0, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ingress_gateway() {
    if is_older_than_the_resources() {
        return;
    }
    let hosts = hosts().await;
    let mesh = Mesh::start(GATEWAY, &hosts).await;
    let mut story = Story::new(&mesh, &hosts);
    story.client = mesh.client.clone().authority("shop.example");
    story.whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_inline_form() {
    if is_older_than_the_resources() {
        return;
    }
    let hosts = hosts().await;
    let mesh = Mesh::start(INLINE, &hosts).await;
    Story::new(&mesh, &hosts).whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wasm_plugin_beside_the_attempt_seat() {
    if is_older_than_the_resources() {
        return;
    }
    let hosts = hosts().await;
    let mesh = Mesh::start(WASM_PLUGIN, &hosts).await;
    Story::new(&mesh, &hosts).whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wasm_plugin_alone() {
    if is_older_than_the_resources() {
        return;
    }
    let hosts = hosts().await;
    let mesh = Mesh::start(WASM_PLUGIN_ALONE, &hosts).await;
    let story = Story::new(&mesh, &hosts);
    story.is_governed().await;
    story.the_breaker_opens().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_traffic_extension_beside_the_attempt_seat() {
    if is_older_than_the_resources() {
        return;
    }
    let hosts = hosts().await;
    let mesh = Mesh::start(TRAFFIC_EXTENSION, &hosts).await;
    Story::new(&mesh, &hosts).whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_services_of_a_namespace_in_one_resource() {
    if is_older_than_the_resources() {
        return;
    }
    let hosts = hosts().await;
    let mesh = Mesh::start(NAMESPACE, &hosts).await;
    Story::new(&mesh, &hosts).whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_resources_on_one_port_leave_each_other_alone() {
    if is_older_than_the_resources() {
        return;
    }
    let hosts = hosts().await;
    let mesh = Mesh::start(TWO_SERVICES, &hosts).await;
    Story::new(&mesh, &hosts).whole().await;
    assert!(!mesh.log().contains("does not govern"), "no two policies match one request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_services_without_a_patch_of_any_cluster() {
    if is_older_than_the_resources() {
        return;
    }
    let hosts = hosts().await;
    let mesh = Mesh::start(ALL_SERVICES, &hosts).await;
    assert_eq!(mesh.cluster(OUTBOUND).await["load_balancing_policy"], Value::Null, "nothing of a cluster is touched");
    let story = Story { policy: "services", ..Story::new(&mesh, &hosts) };
    story.seats_meet().await;
    hosts[0].always(Action::status(503));
    served(&story.client.drive(1, 30, "/retried").await);
    assert!(story.metric("retries_recovered").await > 0, "the attempt seat has each judged");
    for host in &hosts {
        host.always(Action::status(500));
    }
    let before: u64 = hosts.iter().map(Backend::requests).sum();
    story.client.drive(2, 300, "/failing").await;
    let sent = hosts.iter().map(Backend::requests).sum::<u64>() - before;
    assert!(sent < 300, "the breaker has opened: {sent} of 300 requests came to a host");
    assert_eq!(story.metric("breaker_opened.failure_rate").await, 1);
}

/// Callers choose the host there, so nothing is steered. Where a vanilla Envoy has no original destination to go to, the request seat
/// shows that it governs by what it answers itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_callers_choose_the_host_the_seats_work_and_nothing_is_steered() {
    if is_older_than_the_resources() {
        return;
    }
    for (case, authority, name, cluster) in [
        (HEADLESS, ORDERS, POLICY, OUTBOUND),
        (RESOLUTION_NONE, "partner.example", "partner", "outbound|8080||partner.example"),
    ] {
        let policy = json!({"policies": [{
            "name": name, "match": {"cluster": ["outbound|**"]}, "breaker": {"state": "forced_open"},
        }]});
        let options = MeshOptions { policy: Some(policy), ..MeshOptions::default() };
        let mesh = Mesh::with(case, &[], options).await;
        let made = mesh.cluster(cluster).await;
        assert_eq!((&made["type"], &made["load_balancing_policy"]), (&json!("ORIGINAL_DST"), &Value::Null), "{made}");
        assert!(made.to_string().contains(".attempt"), "the attempt seat is there: {made}");
        let client = mesh.client.clone().authority(authority);
        eventually(Duration::from_secs(60), || async {
            let answer = client.get("/").await.unwrap();
            let is_ours = answer.header("x-holdfast-reject") == Some(format!("open; policy={name}"));
            if is_ours && answer.status == 503 { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_inbound_side_sheds_load_before_its_application() {
    if is_older_than_the_resources() {
        return;
    }
    let hosts = hosts().await;
    let mesh = Mesh::start(INBOUND, &hosts).await;
    let story = Story { cluster: "inbound|8080||".to_owned(), ..Story::new(&mesh, &hosts) };
    story.is_governed().await;
    hosts[0].always(Action::status(503));
    hosts[0].reset_counters();
    story.client.drive(2, 400, "/failing").await;
    let (sent, shed) = (hosts[0].requests(), story.metric("rejected.throttled").await);
    assert_eq!(sent + shed, 400, "each comes to the application or is shed");
    assert!(shed > 100, "{shed} of 400");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_says_what_holdfast_decided() {
    if is_older_than_the_resources() {
        return;
    }
    let hosts = hosts().await;
    let mesh = Mesh::start(TELEMETRY, &hosts).await;
    Story::new(&mesh, &hosts).whole().await;
    let key = format!("policy=orders; key=cluster={}; decision=", mesh.name(OUTBOUND));
    eventually(Duration::from_secs(30), || async {
        let log = mesh.log();
        let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let said = |wanted: &str| {
            lines
                .iter()
                .any(|line| line["holdfast"].as_str().is_some_and(|said| said.starts_with(&format!("{key}{wanted}"))))
        };
        let all = ["admitted", "admitted; attempts=", "admitted; hosts_out=1/3", "fallback; reason=open; kind=static"];
        let missing: Vec<_> = all.iter().filter(|wanted| !said(wanted)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} in {:?}", lines.last())) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_span_says_what_holdfast_decided() {
    if is_older_than_the_resources() {
        return;
    }
    let mut hosts = Vec::from(hosts().await);
    hosts.push(Backend::start().await.unwrap());
    let [first, _, _, collector] = hosts.as_slice() else { panic!("three hosts and a collector") };
    let mesh = Mesh::start(TRACES, &hosts).await;
    let client = mesh.client.clone().authority(ORDERS);
    // Never so often in a row that it is ejected. A tenth of the requests is sampled.
    first.every(2, Action::status(503));
    let wanted = format!("policy=orders; key=cluster={}; decision=admitted; attempts=", mesh.name(OUTBOUND));

    eventually(Duration::from_secs(60), || async {
        client.drive(1, 40, "/").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let tags: BTreeSet<String> = spans(collector).iter().filter_map(|span| tag(span, "holdfast")).collect();
        if tags.iter().any(|tag| tag.starts_with(&wanted)) { Ok(()) } else { Err(format!("{tags:?}")) }
    })
    .await
    .unwrap();
}

// What must not go wrong.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_module_traffic_goes_as_without_holdfast_and_no_client_names_a_host() {
    if is_older_than_the_resources() {
        return;
    }
    for case in [HTTP1, GATEWAY] {
        let hosts = hosts().await;
        let options =
            MeshOptions { module: Some(PathBuf::from("/nonexistent/holdfast.wasm")), ..MeshOptions::default() };
        let mesh = Mesh::with(case, &hosts, options).await;
        let authority = if case.ports == [80] { "shop.example" } else { ORDERS };
        let client = mesh.client.clone().authority(authority);
        served(&client.drive(2, 40, "/").await);
        hosts.iter().for_each(Backend::reset_counters);
        for _ in 0..30 {
            let asks = with_header(Client::request("/named"), HOSTS, hosts[0].addr().to_string());
            assert_eq!(client.send(asks).await.unwrap().status, 200);
        }
        let counts: Vec<u64> = hosts.iter().map(Backend::requests).collect();
        assert!(counts.iter().all(|count| *count > 0), "{}: the client's choice does not count: {counts:?}", case.name);
        assert!(mesh.extension_stats("config_fail").await + mesh.extension_stats("update_rejected").await > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_policy_on_a_fresh_proxy_takes_nothing_down() {
    if is_older_than_the_resources() {
        return;
    }
    let hosts = hosts().await;
    let wrong = json!({"policies": [{"name": "orders", "breaker": {"failure_rate": 140}}]});
    let options = MeshOptions { policy: Some(wrong), ..MeshOptions::default() };
    let mut mesh = Mesh::with(HTTP1, &hosts, options).await;
    let client = mesh.client.clone().authority(ORDERS);
    served(&client.drive(2, 40, "/").await);
    assert!(mesh.log().contains("must be within 0..=100, was 140"), "the log says why");
    mesh.set_policy(&json!({"policies": [{"name": POLICY, "breaker": {}}]})).await;
    Story::new(&mesh, &hosts).is_governed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_updates_under_load_lose_no_request_and_close_no_connection() {
    if is_older_than_the_resources() {
        return;
    }
    let hosts = hosts().await;
    let mut mesh = Mesh::start(HTTP1, &hosts).await;
    let client = mesh.client.clone().authority(ORDERS);
    served(&client.drive(4, 40, "/").await);
    Story::new(&mesh, &hosts).is_governed().await;
    let connections = |stats: &std::collections::BTreeMap<String, u64>, name: &str| -> u64 {
        stats.iter().filter(|(stat, _)| stat.starts_with("http.") && stat.ends_with(name)).map(|(_, count)| count).sum()
    };
    let before = mesh.stats().await.unwrap();
    let load = tokio::spawn({
        let client = client.clone();
        async move { drive_all(&[client], 4, 6000, "/load").await }
    });
    for number in 0..10 {
        let policy = json!({"policies": [{"name": POLICY, "breaker": {"min_requests": 20 + number}, "retry": {}}]});
        mesh.set_policy(&policy).await;
        sleep(Duration::from_millis(100)).await;
    }
    served(&load.await.unwrap());
    let after = mesh.stats().await.unwrap();
    assert_eq!(connections(&after, ".downstream_cx_drain_close"), connections(&before, ".downstream_cx_drain_close"));
    let of = |stats| connections(stats, ".downstream_cx_destroy");
    // The admin's own connections come and go; those of the load stay.
    let admin = |stats: &std::collections::BTreeMap<String, u64>| {
        stats.get("http.admin.downstream_cx_destroy").copied().unwrap_or_default()
    };
    assert_eq!(of(&after) - admin(&after), of(&before) - admin(&before), "no connection was closed");
}

/// The resources need what a cluster says of retries.
fn is_older_than_the_resources() -> bool {
    !has_cluster_retries()
}

/// The policy that balances where no host is named.
fn fallback(cluster: &Value) -> String {
    let steering = &cluster["load_balancing_policy"]["policies"][0]["typed_extension_config"]["typed_config"];
    assert!(steering["@type"].as_str().is_some_and(|kind| kind.ends_with("OverrideHost")), "{cluster}");
    let policy = &steering["fallback_policy"]["policies"][0]["typed_extension_config"]["typed_config"];
    policy["@type"].as_str().and_then(|kind| kind.rsplit('.').next()).unwrap_or_default().to_owned()
}

async fn http2_connections(mesh: &Mesh) -> u64 {
    let stats = mesh.stats().await.unwrap();
    let mine = |stat: &str| stat.starts_with("cluster.outbound") && stat.ends_with("upstream_cx_http2_total");
    stats.iter().filter(|(stat, _)| mine(stat)).map(|(_, count)| count).sum()
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
    /// Which hosts share the requests when the first is out.
    sharing: std::ops::Range<usize>,
    /// Whether the fallback is for gRPC.
    is_grpc: bool,
    policy: &'a str,
}

impl<'a> Story<'a> {
    fn new(mesh: &'a Mesh, hosts: &'a [Backend]) -> Self {
        let client = mesh.client.clone().authority(ORDERS);
        Self {
            mesh,
            hosts,
            client,
            cluster: OUTBOUND.to_owned(),
            sharing: 1..hosts.len(),
            is_grpc: false,
            policy: POLICY,
        }
    }

    async fn whole(self) {
        self.seats_meet().await;
        self.a_host_is_ejected().await;
        self.the_breaker_opens().await;
    }

    /// Waits for the module: until Envoy has it, the default lets requests pass.
    async fn is_governed(&self) {
        eventually(Duration::from_secs(60), || async {
            served(&self.client.drive(2, 10, "/").await);
            if self.metric("requests").await > 0 { Ok(()) } else { Err("nothing is governed yet") }
        })
        .await
        .unwrap();
    }

    async fn seats_meet(&self) {
        self.is_governed().await;
        for _ in 0..2 {
            served(&self.client.drive(4, 40, "/meet").await);
            sleep(NOTICED).await;
        }
    }

    async fn a_host_is_ejected(&self) {
        let (bad, rest) = (&self.hosts[0], &self.hosts[self.sharing.clone()]);
        bad.always(Action::status(503));
        // One at a time: of two hosts Envoy's least_request prefers the one with nothing in flight, which is the one that fails.
        served(&self.client.drive(1, 60, "/ejected").await);
        assert!(bad.requests_to("/ejected") >= 5, "it failed {} times", bad.requests_to("/ejected"));
        sleep(SETTLED).await;
        let before = bad.requests();
        served(&self.client.drive(2, 60, "/without").await);
        assert_eq!(bad.requests(), before, "a host that is out gets nothing");
        assert_eq!(self.metric("hosts_ejected").await, 1);
        // Five failures at least; a request may have two of them, where the predicate finds no other host in its five tries.
        assert!(self.metric("retries_recovered").await >= 3);
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
        if self.is_grpc {
            let answer = self.client.send(Client::grpc_request("/orders.Orders/Get")).await.unwrap();
            assert_eq!((answer.status, answer.grpc_status()), (200, Some(14)), "{answer:?}");
            assert_eq!(self.hosts.iter().map(Backend::requests).sum::<u64>(), before, "nothing is let through");
            return;
        }
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
        self.mesh.metric_of(self.policy, &key, name).await
    }
}

/// Every request had a good answer.
fn served(records: &Records) {
    let errors: Vec<_> = records.errors().collect();
    assert_eq!(records.count(200), records.0.len(), "{:?} {errors:?}", records.statuses());
}
