//! The request that every load sends.

/// Its path.
pub const PATH: &str = "/api/v1/orders/7/items/42";

/// The header that tells whose it is.
pub const TENANT: &str = "x-tenant";

/// The headers that an ordinary client sends.
pub const HEADERS: [(&str, &str); 5] = [
    ("user-agent", "bench/1.0"),
    ("accept", "application/json"),
    ("accept-encoding", "gzip"),
    ("authorization", "Bearer 0123456789abcdef0123456789abcdef"),
    (TENANT, "tenant-1"),
];
