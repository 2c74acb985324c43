//! VirtualServices: through which listeners requests for a service come, and what routes do about retries.

use std::time::Duration;

use super::rule::full;
use crate::documents::Document;
use crate::fields::{Field, Object};
use crate::place::{Place, Report};
use crate::service::Service;

/// An HTTP route of a VirtualService.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// The hosts that it is for, in full.
    pub hosts: Vec<String>,
    /// The ports that it is for; none for all.
    pub ports: Vec<u16>,
    /// Where it goes: hosts in full, and ports where they are said.
    pub destinations: Vec<(String, Option<u16>)>,
    /// Where copies of its requests go, in the same form.
    pub mirrors: Vec<(String, Option<u16>)>,
    /// Its retries.
    pub retries: Retries,
    /// Where it stands.
    pub place: Place,
}

/// What Envoy does about retries by itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Retries {
    /// What Istio does where nobody says anything.
    Default,
    /// Nothing.
    Off,
    /// What a route says.
    Set {
        /// `attempts`
        attempts: u32,
        /// `retryOn`, without statuses.
        on: Option<String>,
        /// Statuses in `retryOn`.
        statuses: Vec<u32>,
        /// `perTryTimeout`
        per_try_timeout: Option<Duration>,
        /// `retryIgnorePreviousHosts`
        ignore_previous: Option<bool>,
        /// `retryRemoteLocalities`
        remote: bool,
        /// `backoff`
        backoff: Option<Duration>,
    },
    /// Not the same for all routes.
    Various,
}

/// Reads a VirtualService's HTTP routes. Nothing of them is made anew, so only what matters here is read.
pub fn read(document: &Document, domain: &str, report: &mut Report) -> Vec<Route> {
    let Some(spec) = document.spec(report) else { return Vec::new() };
    let hosts = spec.get("hosts").map(|field| field.list(report)).unwrap_or_default();
    let hosts: Vec<String> = hosts
        .iter()
        .filter_map(|field| field.text(report))
        .map(|host| full(host, &document.namespace, domain))
        .collect();
    let routes = spec.get("http").map(|field| field.list(report)).unwrap_or_default();
    routes.iter().filter_map(|field| route(field, &hosts, &document.namespace, domain, report)).collect()
}

fn route(field: &Field<'_>, hosts: &[String], namespace: &str, domain: &str, report: &mut Report) -> Option<Route> {
    let object = field.object(report)?;
    let matches = objects(&object, "match", report);
    let ports = matches.iter().filter_map(|one| one.get("port")?.port(report)).collect();
    let mut destinations_of = |key: &'static str| -> Vec<(String, Option<u16>)> {
        let all = objects(&object, key, report);
        let all: Vec<_> =
            all.iter().filter_map(|one| one.get("destination").and_then(|field| field.object(report))).collect();
        all.iter().filter_map(|one| destination(one, namespace, domain, report)).collect()
    };
    let (destinations, mut mirrors) = (destinations_of("route"), destinations_of("mirrors"));
    let mirror = object.get("mirror").and_then(|field| field.object(report));
    mirrors.extend(mirror.and_then(|one| destination(&one, namespace, domain, report)));
    let retries = object.get("retries").map_or(Some(Retries::Default), |field| retries(&field, report))?;
    Some(Route { hosts: hosts.to_vec(), ports, destinations, mirrors, retries, place: field.place.clone() })
}

fn destination(
    object: &Object<'_>,
    namespace: &str,
    domain: &str,
    report: &mut Report,
) -> Option<(String, Option<u16>)> {
    let host = object.required("host", report).and_then(|field| field.text(report))?;
    let port = object.get("port").and_then(|field| field.object(report)?.get("number")?.port(report));
    Some((full(host, namespace, domain), port))
}

fn objects<'a>(object: &Object<'a>, key: &'static str, report: &mut Report) -> Vec<Object<'a>> {
    let items = object.get(key).map(|field| field.list(report)).unwrap_or_default();
    items.iter().filter_map(|field| field.object(report)).collect()
}

/// Reads retries of a route, or the mesh's default.
pub fn retries(field: &Field<'_>, report: &mut Report) -> Option<Retries> {
    let object = field.object(report)?;
    let attempts = object.get("attempts").and_then(|field| field.small(report)).unwrap_or(0);
    let on = object.get("retryOn").and_then(|field| field.text(report)).unwrap_or_default();
    let words = on.split(',').map(str::trim).filter(|word| !word.is_empty());
    let (statuses, mut words): (Vec<&str>, Vec<&str>) = words.partition(|word| word.parse::<u16>().is_ok());
    if !statuses.is_empty() && !words.contains(&"retriable-status-codes") {
        words.push("retriable-status-codes");
    }
    let found = Retries::Set {
        attempts,
        on: (!words.is_empty()).then(|| words.join(",")),
        statuses: statuses.iter().filter_map(|status| status.parse().ok()).collect(),
        per_try_timeout: object.get("perTryTimeout").and_then(|field| field.duration(report)),
        ignore_previous: object.get("retryIgnorePreviousHosts").and_then(|field| field.boolean(report)),
        remote: object.get("retryRemoteLocalities").and_then(|field| field.boolean(report)).unwrap_or(false),
        backoff: object.get("backoff").and_then(|field| field.duration(report)),
    };
    object.finish(report);
    Some(if attempts == 0 { Retries::Off } else { found })
}

/// The listeners by whose ports requests for `port` of a service come: its own, and those from which a route leads to it.
pub fn listeners(routes: &[Route], services: &[Service], service: &Service, port: u16) -> Vec<u16> {
    let mut found = vec![port];
    for route in routes.iter().filter(|route| leads(route, service, port)) {
        let given = route.hosts.iter().filter_map(|host| services.iter().find(|other| other.host == *host));
        let ports: Vec<u16> = if route.ports.is_empty() {
            given.flat_map(|other| other.ports.iter().map(|port| port.number)).collect()
        } else {
            route.ports.clone()
        };
        // A destination without a port keeps the one by which the request came.
        let stays = route.destinations.iter().any(|(host, to)| *host == service.host && to.is_none());
        found.extend(ports.into_iter().filter(|from| !stays || *from == port));
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn leads(route: &Route, service: &Service, port: u16) -> bool {
    route.destinations.iter().any(|(host, to)| *host == service.host && to.is_none_or(|to| to == port))
}

/// The hosts of services that get copies of requests to a port of a service, each with the route that says so.
pub fn mirrors_of<'a>(routes: &'a [Route], service: &Service, port: u16) -> Vec<(&'a str, &'a Route)> {
    let ours = routes.iter().filter(|route| leads(route, service, port));
    ours.flat_map(|route| route.mirrors.iter().map(move |(host, _)| (host.as_str(), route))).collect()
}

/// What the routes to a port of a service do about retries.
pub fn retries_of(routes: &[Route], service: &Service, port: u16, mesh: &Retries) -> Retries {
    let found = routes.iter().filter(|route| leads(route, service, port)).map(|route| &route.retries);
    let mut found = found.map(|retries| if *retries == Retries::Default { mesh } else { retries });
    let Some(first) = found.next() else { return mesh.clone() };
    if found.all(|other| other == first) { first.clone() } else { Retries::Various }
}
