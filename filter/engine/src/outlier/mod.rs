//! Ejection of bad hosts: a host that fails is taken out, and comes back by a probe.
//!
//! State belongs to a key of a policy and a cluster, together a *group*. A group has one cell, the [`table`] of its hosts,
//! in which each ejection is one swap, so that limits hold over all workers; one [`slot`] per worker with what it has
//! counted; and for each host a [`run`] of failures. While all is well nothing of it is read: a success is counted, if a
//! detector asks for that, and the run's signal tells that no host has failed since it was looked at.

pub mod authority;
pub mod balance;
pub mod calls;
pub mod cause;
pub mod discover;
pub mod grpc_health;
pub mod heartbeat;
pub mod hosts;
pub mod interval;
pub mod leader;

pub mod host_events;
pub mod open_runs;
pub mod run;
pub mod significance;
pub mod slot;
pub mod steering;
pub mod subset;
pub mod sweep;
pub mod table;
pub mod times;
pub mod topology;
pub mod trial;
pub mod words;
