//! The forms of gRPC that clients speak.

use super::outcome::{is_grpc_content_type, is_grpc_web_content_type};

/// How a client speaks gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrpcDialect {
    /// gRPC itself, over HTTP/2.
    Grpc,
    /// gRPC-web.
    Web,
    /// gRPC-web whose bodies are text.
    WebText,
}

impl GrpcDialect {
    /// The one of a request with this content type; `None` if that is not gRPC.
    pub fn of(content_type: &[u8]) -> Option<Self> {
        if is_grpc_content_type(content_type) {
            Some(GrpcDialect::Grpc)
        } else if content_type.starts_with(b"application/grpc-web-text") {
            Some(GrpcDialect::WebText)
        } else {
            is_grpc_web_content_type(content_type).then_some(GrpcDialect::Web)
        }
    }

    /// The content type of an answer in it.
    pub fn content_type(self) -> &'static str {
        match self {
            GrpcDialect::Grpc => "application/grpc",
            GrpcDialect::Web => "application/grpc-web+proto",
            GrpcDialect::WebText => "application/grpc-web-text+proto",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_content_type_tells_how_a_client_speaks() {
        for (content_type, expected) in [
            ("application/grpc", Some(GrpcDialect::Grpc)),
            ("application/grpc+proto", Some(GrpcDialect::Grpc)),
            ("application/grpc-web", Some(GrpcDialect::Web)),
            ("application/grpc-web+thrift", Some(GrpcDialect::Web)),
            ("application/grpc-web-text", Some(GrpcDialect::WebText)),
            ("application/grpc-web-text+proto", Some(GrpcDialect::WebText)),
            ("application/json", None),
            ("application/grpcish", None),
        ] {
            assert_eq!(GrpcDialect::of(content_type.as_bytes()), expected, "{content_type}");
        }
    }
}
