//! Requests, attempts and responses, as policies speak of them.

pub mod attempt;
pub mod client;
pub mod date;
pub mod grpc;
pub mod header_rules;
pub mod headers;
pub mod hop;
pub mod index;
pub mod last_byte;
pub mod markers;
pub mod matching;
pub mod outcome;
pub mod request;
pub mod response;
