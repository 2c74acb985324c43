//! `HttpProtocolOptions`: what the cluster had there, and the attempt seat's filters.

use super::typed;
use crate::facts::{Connections, Keepalive, Names, Protocol, Upstream};
use holdfast_yaml::Yaml;

/// The key and the type of these options.
pub const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// `typed_extension_protocol_options` with the attempt seat. A patch replaces this entry as a whole, so all that the
/// cluster had is in it.
pub fn options(upstream: &Upstream, filters: Vec<Yaml>, retries: Option<Yaml>) -> Yaml {
    Yaml::map().with(OPTIONS, filled(upstream, Some(filters), retries))
}

/// The options themselves, without filters where there are none.
pub fn filled(upstream: &Upstream, filters: Option<Vec<Yaml>>, retries: Option<Yaml>) -> Yaml {
    let mut options = typed(OPTIONS)
        .with_some("common_http_protocol_options", connections(&upstream.connections))
        .with_some("upstream_http_protocol_options", names(upstream.names));
    options = match &upstream.protocol {
        Protocol::Http1 => {
            options.with("explicit_http_config", Yaml::map().with("http_protocol_options", http1(upstream)))
        }
        Protocol::Http2 { max_concurrent_streams, keepalive } => {
            let http2 = Yaml::map()
                .with_some("max_concurrent_streams", *max_concurrent_streams)
                .with_some("connection_keepalive", keepalive.as_ref().map(pings));
            options.with("explicit_http_config", Yaml::map().with("http2_protocol_options", http2))
        }
        Protocol::Client => {
            let both =
                Yaml::map().with("http_protocol_options", http1(upstream)).with("http2_protocol_options", Yaml::map());
            options.with("use_downstream_protocol_config", both)
        }
    };
    options.with_some("http_filters", filters).with_some("retry_policy", retries)
}

fn http1(upstream: &Upstream) -> Yaml {
    if !upstream.header_case {
        return Yaml::map();
    }
    let config = typed("envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig");
    let formatter = Yaml::map().with("name", "preserve_case").with("typed_config", config);
    Yaml::map().with("header_key_format", Yaml::map().with("stateful_formatter", formatter))
}

fn connections(connections: &Connections) -> Option<Yaml> {
    let options = Yaml::map()
        .with_some("idle_timeout", connections.idle_timeout)
        .with_some("max_requests_per_connection", connections.max_requests)
        .with_some("max_connection_duration", connections.max_duration);
    (!options.is_empty()).then_some(options)
}

fn names(names: Names) -> Option<Yaml> {
    let options = Yaml::map()
        .with_some("auto_sni", names.auto_sni.then_some(true))
        .with_some("auto_san_validation", names.auto_san_validation.then_some(true));
    (!options.is_empty()).then_some(options)
}

fn pings(keepalive: &Keepalive) -> Yaml {
    Yaml::map().with_some("interval", keepalive.interval).with_some("timeout", keepalive.timeout)
}
