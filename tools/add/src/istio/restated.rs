//! A cluster made anew. Istio weighs localities by a setting that Envoy refuses beside `override_host`, and a merge cannot take
//! it away. So the cluster is removed, and one of the same name is added: its endpoints, and their priorities, are those that
//! Istio sends for that name. All else that Istio had made of the cluster is stated again.

use std::time::Duration;

use super::cluster::{Cluster, Clusters};
use super::traffic::{Outlier, Pool, RetryBudget, Tls, TlsMode, Traffic};
use crate::envoy::{from_control_plane, typed};
use crate::facts::Protocol;
use crate::service::Service;
use holdfast_yaml::Yaml;

const NO_LIMIT: u32 = u32::MAX;

const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const PLAIN: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";

/// Why a cluster cannot be stated again, if so.
pub fn obstacle(traffic: &Traffic) -> Option<&'static str> {
    if traffic.proxy_protocol.is_some() {
        Some("it has a proxyProtocol")
    } else if traffic.tls.as_ref().is_some_and(|tls| tls.credential.is_some()) {
        Some("its certificates are named by a credentialName")
    } else {
        None
    }
}

/// The cluster without what Envoy refuses. Holdfast's own parts come to it as to any other.
pub fn cluster(clusters: &Clusters, found: &Cluster) -> Yaml {
    let Clusters { service, port, mesh, .. } = clusters;
    let traffic = &found.traffic;
    let ads = from_control_plane();
    let pool = traffic.pool.clone().unwrap_or_default();
    let mut cluster = Yaml::map()
        .with("name", found.name.as_str())
        // Istio ends it so, that metrics find its end.
        .with("alt_stat_name", format!("{};", found.name))
        .with("type", "EDS")
        .with("eds_cluster_config", Yaml::map().with("service_name", found.name.as_str()).with("eds_config", ads))
        .with("connect_timeout", pool.tcp.connect_timeout.unwrap_or(mesh.connect_timeout))
        .with("circuit_breakers", circuit_breakers(&pool, traffic.retry_budget.as_ref()))
        .with_some("upstream_connection_options", keepalive(&pool))
        .with("common_lb_config", panic_threshold(traffic.outlier.as_ref()))
        .with_some("outlier_detection", traffic.outlier.as_ref().map(outlier));
    for (key, value) in transport(service, port.number, mesh.auto_mtls, found) {
        cluster = cluster.with(key, value);
    }
    cluster.with("metadata", metadata(service, &found.subset, traffic.tls.as_ref()))
}

fn circuit_breakers(pool: &Pool, budget: Option<&RetryBudget>) -> Yaml {
    let limit = |found: Option<u32>| found.unwrap_or(NO_LIMIT);
    let budget = budget.map(|budget| {
        let percent = budget.percent.unwrap_or(20.0);
        Yaml::map()
            .with("budget_percent", Yaml::map().with("value", percent).line())
            .with_some("budget_interval", budget.interval)
            .with("min_retry_concurrency", budget.least.unwrap_or(3))
    });
    let threshold = Yaml::map()
        .with("max_connections", limit(pool.tcp.max_connections))
        .with("max_pending_requests", limit(pool.http.max_pending))
        .with("max_requests", limit(pool.http.max_requests))
        .with("max_retries", limit(pool.http.max_retries))
        .with_some("retry_budget", budget);
    Yaml::map().with("thresholds", vec![threshold])
}

fn keepalive(pool: &Pool) -> Option<Yaml> {
    let (probes, time, interval) = pool.tcp.keepalive?;
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs());
    let options = Yaml::map()
        .with_some("keepalive_probes", probes)
        .with_some("keepalive_time", seconds(time))
        .with_some("keepalive_interval", seconds(interval));
    Some(Yaml::map().with("tcp_keepalive", options))
}

fn panic_threshold(outlier: Option<&Outlier>) -> Yaml {
    let percent = outlier.map_or(0, |outlier| outlier.min_health);
    Yaml::map().with("healthy_panic_threshold", Yaml::map().with("value", percent).line())
}

/// Success rates never eject in Istio, and a detector of 0 detects and does not eject.
fn outlier(outlier: &Outlier) -> Yaml {
    let enforced = |number: u32| if number > 0 { 100_u32 } else { 0 };
    let mut out = Yaml::map().with("enforcing_success_rate", 0_u32);
    if let Some(number) = outlier.errors {
        out = out.with("consecutive_5xx", number).with("enforcing_consecutive_5xx", enforced(number));
    }
    if let Some(number) = outlier.gateway {
        out = out
            .with("consecutive_gateway_failure", number)
            .with("enforcing_consecutive_gateway_failure", enforced(number));
    }
    out = out
        .with_some("interval", outlier.interval)
        .with_some("base_ejection_time", outlier.base)
        .with_some("max_ejection_percent", outlier.max_ejected);
    if outlier.split {
        out = out.with("split_external_local_origin_errors", true).with("enforcing_local_origin_success_rate", 0_u32);
        if let Some(number) = outlier.local.filter(|number| *number > 0) {
            out = out
                .with("consecutive_local_origin_failure", number)
                .with("enforcing_consecutive_local_origin_failure", 100_u32);
        }
    }
    out
}

fn transport(service: &Service, port: u16, auto_mtls: bool, found: &Cluster) -> Vec<(&'static str, Yaml)> {
    let http2 = matches!(found.upstream.protocol, Protocol::Http2 { .. });
    let socket = |context: Yaml| Yaml::map().with("name", "envoy.transport_sockets.tls").with("typed_config", context);
    let sni = format!("outbound_.{port}_.{}_.{}", found.subset, service.host);
    match &found.traffic.tls {
        None if service.external || !auto_mtls => Vec::new(),
        None => {
            // Istio's mutual TLS where the other side has it, plain text where it has not.
            let mesh = Yaml::map()
                .with("name", "tlsMode-istio")
                .with("match", Yaml::map().with("tlsMode", "istio").line())
                .with("transport_socket", socket(istio_mutual(service, None, &sni, http2)));
            let plain = Yaml::map().with("name", "tlsMode-disabled").with("match", Yaml::map()).with(
                "transport_socket",
                Yaml::map().with("name", "envoy.transport_sockets.raw_buffer").with("typed_config", typed(PLAIN)),
            );
            vec![("transport_socket_matches", vec![mesh, plain].into())]
        }
        Some(tls) => match tls.mode {
            TlsMode::Disable => Vec::new(),
            TlsMode::IstioMutual => vec![("transport_socket", socket(istio_mutual(service, Some(tls), &sni, http2)))],
            TlsMode::Simple | TlsMode::Mutual => vec![("transport_socket", socket(originated(service, tls, http2)))],
        },
    }
}

fn versions() -> Yaml {
    Yaml::map().with("tls_minimum_protocol_version", "TLSv1_2").with("tls_maximum_protocol_version", "TLSv1_3")
}

/// A secret that the agent beside Envoy has.
fn secret(name: &str, at_once: bool) -> Yaml {
    let grpc = Yaml::map().with("envoy_grpc", Yaml::map().with("cluster_name", "sds-grpc").line());
    let api = Yaml::map()
        .with("api_type", "GRPC")
        .with("transport_api_version", "V3")
        .with("set_node_on_first_message_only", true)
        .with("grpc_services", vec![grpc]);
    let source = Yaml::map()
        .with("api_config_source", api)
        .with_some("initial_fetch_timeout", at_once.then_some(Duration::ZERO))
        .with("resource_api_version", "V3");
    Yaml::map().with("name", name).with("sds_config", source)
}

fn exact(names: &[String]) -> Vec<Yaml> {
    names.iter().map(|name| Yaml::map().with("exact", name.as_str()).line()).collect()
}

fn istio_mutual(service: &Service, tls: Option<&Tls>, sni: &str, http2: bool) -> Yaml {
    let names = tls.map(|tls| tls.names.as_slice()).filter(|names| !names.is_empty()).unwrap_or(&service.names);
    // Istio would name the accounts of the pods that it knows; here it is any account of their namespace.
    let namespace = format!("/ns/{}/sa/", service.namespace);
    let names = if names.is_empty() { vec![Yaml::map().with("contains", namespace).line()] } else { exact(names) };
    let protocols: Vec<Yaml> = if http2 { vec!["istio".into(), "h2".into()] } else { vec!["istio".into()] };
    let validation = Yaml::map()
        .with("default_validation_context", Yaml::map().with("match_subject_alt_names", names))
        .with("validation_context_sds_secret_config", secret("ROOTCA", true));
    let common = Yaml::map()
        .with("tls_params", versions())
        .with("alpn_protocols", Yaml::List(protocols).line())
        .with("tls_certificate_sds_secret_configs", vec![secret("default", true)])
        .with("combined_validation_context", validation);
    let sni = tls.and_then(|tls| tls.sni.as_deref()).unwrap_or(sni);
    typed(TLS).with("sni", sni).with("common_tls_context", common)
}

fn originated(service: &Service, tls: &Tls, http2: bool) -> Yaml {
    let mut common = Yaml::map().with("tls_params", versions());
    if http2 {
        common = common.with("alpn_protocols", Yaml::List(vec!["h2".into()]).line());
    }
    if let (TlsMode::Mutual, Some(certificate), Some(key)) = (tls.mode, &tls.certificate, &tls.key) {
        let name = format!("file-cert:{certificate}~{key}");
        common = common.with("tls_certificate_sds_secret_configs", vec![secret(&name, false)]);
    }
    if tls.unverified {
        common = common.with("validation_context", Yaml::map());
    } else {
        let root = format!("file-root:{}", tls.authorities.as_deref().unwrap_or("system"));
        let mut own = Yaml::map();
        let names = if tls.names.is_empty() { &service.names } else { &tls.names };
        if !names.is_empty() {
            own = own.with("match_subject_alt_names", exact(names));
        }
        let revoked = tls.revoked.as_deref().map(|file| Yaml::map().with("filename", file).line());
        let validation = Yaml::map()
            .with("default_validation_context", own.with_some("crl", revoked))
            .with("validation_context_sds_secret_config", secret(&root, false));
        common = common.with("combined_validation_context", validation);
    }
    typed(TLS).with_some("sni", tls.sni.as_deref()).with("common_tls_context", common)
}

/// What Istio's telemetry reads.
fn metadata(service: &Service, subset: &str, tls: Option<&Tls>) -> Yaml {
    let name = if service.entry { &service.host } else { &service.name };
    let one = Yaml::map()
        .with("host", service.host.as_str())
        .with("name", name.as_str())
        .with("namespace", service.namespace.as_str());
    let originated = tls.is_some_and(|tls| matches!(tls.mode, TlsMode::Simple | TlsMode::Mutual));
    let istio = Yaml::map()
        .with("services", vec![one])
        .with_some("subset", (!subset.is_empty()).then_some(subset))
        .with_some("alpn_override", originated.then_some("false"));
    Yaml::map().with("filter_metadata", Yaml::map().with("istio", istio))
}
