//! Whether the options that hold the attempt seat keep the cluster's version of HTTP.

use super::Assembly;
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
    }
}

fn offers_h2(socket: &At<'_>) -> bool {
    let names = socket.at(&["typed_config", "common_tls_context", "alpn_protocols"]);
    names.is_some_and(|names| names.items().iter().any(|name| name.node.text() == Some("h2")))
}
