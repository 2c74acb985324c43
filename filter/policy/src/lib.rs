//! The policy document: what it says, as types that cannot be invalid ([`document`]), and how it is read from JSON
//! ([`config`]).
//!
//! ```
//! let text = br#"{"policies": [{"name": "orders", "breaker": {"failure_rate": 50}}]}"#;
//! let document = holdfast_policy::config::parse(text).unwrap();
//! assert_eq!(document.policies[0].name, "orders");
//!
//! let errors = holdfast_policy::config::parse(br#"{"policies": [{"name": "orders", "breaker": {"failure_rate": 140}}]}"#).unwrap_err();
//! assert_eq!(errors.to_string(), "policies[0].breaker.failure_rate: must be within 0..=100, was 140");
//! ```
#![forbid(unsafe_code)]

pub mod authority;
pub mod config;
pub mod document;
pub mod glob;
pub mod percent;
pub mod seat;
