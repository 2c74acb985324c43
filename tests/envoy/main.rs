//! The shipped module in a real Envoy, over sockets. One binary for all of it: its tests mostly wait, so many run at a time.

// A test may stop at the first broken expectation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod added;
mod added_config;
mod agent;
mod alerting;
mod breaker;
mod broken;
mod bypass;
mod chains;
mod changing;
mod checked;
mod client_deadline;
mod client_gone;
mod configuration;
mod cut_streams;
mod dashboard;
#[allow(dead_code, reason = "the tests of `check` read the rest of it")]
#[path = "../../tools/check/tests/common/edited.rs"]
mod edited;
mod ends;
mod fallback;
mod fallback_templates;
mod gateway;
mod gateway_fixture;
mod grpc_web;
mod harness;
mod harness_hosts;
mod header_rules;
mod heartbeat;
mod hostile;
mod in_place;
mod inputs;
mod istio;
mod limits;
mod live;
mod load;
mod long_streams;
mod mirror;
mod observing;
mod operator;
mod outcomes;
mod outlier;
mod outlier_detectors;
mod outlier_differential;
mod outlier_operator;
mod outlier_return;
mod outlying;
mod pushback;
mod retries;
mod retry_budget;
mod retry_lists;
mod retry_routes;
mod retrying;
mod rules;
mod seats;
mod series;
mod shape;
mod slow_clients;
mod standalone_config;
mod steering;
mod struct_configuration;
mod throttle_differential;
mod tracing;
mod translated;
mod update_documents;
mod update_hosts;
mod update_leftovers;
mod update_limits;
mod update_load;
mod update_memory;
mod update_names;
mod update_refusals;
mod updates;
mod updating;
