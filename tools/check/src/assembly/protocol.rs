//! Whether the options that hold the attempt seat keep the cluster's version of HTTP, and whether gRPC goes by it.

use holdfast_policy::document::{HeartbeatCheck, Mode, Policy};

use super::{Assembly, Cluster};
use crate::rules;
use crate::texts::At;

impl<'a> Assembly<'a, '_> {
    /// Looks at the version of HTTP.
    pub(super) fn protocol(&mut self) {
        let mut found: Vec<(At<'a>, &str)> = Vec::new();
        for cluster in self.clusters.iter().filter(|cluster| cluster.seat().is_some()) {
            let first = cluster
                .options
                .as_ref()
                .and_then(|options| options.at(&["explicit_http_config", "http_protocol_options"]));
            let Some(first) = first else { continue };
            let grpc = || cluster.at.list("health_checks").iter().any(|check| check.get("grpc_health_check").is_some());
            if cluster.at.get("http2_protocol_options").is_some() {
                found.push((first, "HTTP/1.1, while the cluster's http2_protocol_options ask for HTTP/2"));
            } else if cluster.at.get("transport_socket").is_some_and(|socket| offers_h2(&socket)) {
                found.push((first, "HTTP/1.1, while the cluster's TLS offers h2"));
            } else if grpc() {
                found.push((first, "HTTP/1.1, while the cluster's health check is gRPC's"));
            }
        }
        for (at, problem) in found {
            self.add(&rules::HTTP2_LOST, &at, problem);
        }
        self.grpc_heartbeats();
    }

    /// Looks for heartbeats that no host can answer.
    fn grpc_heartbeats(&mut self) {
        let mut found: Vec<(At<'a>, String)> = Vec::new();
        for governed in self.governed() {
            let Some(policy) = governed.first(checks_by_grpc) else { continue };
            if let Some((at, which)) = without_http2(governed.cluster) {
                found.push((at, format!("{which}, while the heartbeat of policy {} is gRPC's", policy.name)));
            }
        }
        for (at, problem) in found {
            self.add(&rules::GRPC_HEARTBEAT, &at, problem);
        }
    }
}

fn checks_by_grpc(policy: &Policy) -> bool {
    let heartbeat = policy.active_outlier().and_then(|outlier| outlier.heartbeat.as_ref());
    heartbeat
        .is_some_and(|heartbeat| heartbeat.mode != Mode::Off && matches!(heartbeat.check, HeartbeatCheck::Grpc { .. }))
}

/// Where a cluster is told not to speak HTTP/2 to a request of Holdfast's own, and what it speaks. A request without a client counts
/// as one of HTTP/1.1.
fn without_http2<'a>(cluster: &Cluster<'a>) -> Option<(At<'a>, &'static str)> {
    let option = |path: &[&str]| cluster.options.as_ref().and_then(|options| options.at(path));
    if let Some(first) = option(&["explicit_http_config", "http_protocol_options"]) {
        return Some((first, "HTTP/1.1"));
    }
    if let Some(follows) = option(&["use_downstream_protocol_config"]) {
        return Some((follows, "follows the client, which is HTTP/1.1 without one"));
    }
    let is_said = option(&["explicit_http_config"]).or_else(|| option(&["auto_config"])).is_some();
    let is_said = is_said || cluster.at.get("http2_protocol_options").is_some();
    (!is_said && !cluster.partial).then(|| (cluster.at.clone(), "HTTP/1.1"))
}

fn offers_h2(socket: &At<'_>) -> bool {
    let names = socket.at(&["typed_config", "common_tls_context", "alpn_protocols"]);
    names.is_some_and(|names| names.items().iter().any(|name| name.node.text() == Some("h2")))
}
