//! Facts of a request, fetched from the host once and only when a policy needs them.

use std::borrow::Cow;
use std::cell::OnceCell;

use crate::host::{Headers, Host};
use crate::http::grpc::GrpcDialect;
use crate::http::headers;
use crate::http::request::Field;

/// The facts of one request, while its headers can be read.
pub struct Facts<'h> {
    host: &'h dyn Host,
    cluster: OnceCell<Option<Vec<u8>>>,
    route: OnceCell<Option<Vec<u8>>>,
    authority: OnceCell<Option<Vec<u8>>>,
    path: OnceCell<Option<Vec<u8>>>,
    method: OnceCell<Option<Vec<u8>>>,
    /// All headers as the host lays them out, where more than one is wanted: one call costs less than two.
    headers: OnceCell<Vec<u8>>,
}

impl<'h> Facts<'h> {
    /// Nothing is fetched yet.
    pub fn new(host: &'h dyn Host) -> Self {
        Facts {
            host,
            cluster: OnceCell::new(),
            route: OnceCell::new(),
            authority: OnceCell::new(),
            path: OnceCell::new(),
            method: OnceCell::new(),
            headers: OnceCell::new(),
        }
    }

    /// The same request on its way to another cluster.
    pub fn on_the_way_to(self, cluster: &str) -> Self {
        Facts { cluster: OnceCell::from(Some(cluster.as_bytes().to_owned())), ..self }
    }

    /// Fetches all headers at once; to be called before more than one of them is asked for.
    pub fn read_headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        headers::read(self.serialized_headers())
    }

    /// The same as the host lays them out.
    pub fn serialized_headers(&self) -> &[u8] {
        self.headers.get_or_init(|| self.host.headers(Headers::Request))
    }

    /// Whether it is known that the request has no such header.
    pub fn lacks_header(&self, name: &str) -> bool {
        self.headers.get().is_some_and(|headers| !headers.is_empty() && find(headers, name).is_none())
    }

    /// How the client speaks gRPC; `None` if it does not.
    pub fn grpc(&self) -> Option<GrpcDialect> {
        GrpcDialect::of(&self.get(Field::Header("content-type"))?)
    }

    /// A field of the request; `None` if it has none.
    pub fn get(&self, field: Field<'_>) -> Option<Cow<'_, [u8]>> {
        if let (Some(headers), Some(name)) = (self.headers.get(), header_name(field)) {
            return find(headers, name).map(Cow::Borrowed);
        }
        let cell = match field {
            Field::Cluster => &self.cluster,
            Field::Route => &self.route,
            Field::Authority => &self.authority,
            Field::Path => &self.path,
            Field::Method => &self.method,
            Field::Header(name) => return self.host.header(Headers::Request, name).map(Cow::Owned),
        };
        let value = cell.get_or_init(|| match field {
            Field::Cluster => self.host.property("xds\0cluster_name"),
            Field::Route => self.host.property("xds\0route_name"),
            _ => self.host.header(Headers::Request, header_name(field)?),
        });
        value.as_deref().map(Cow::Borrowed)
    }
}

/// The header that a field is, if it is one; by its own name in HTTP/2.
fn header_name(field: Field<'_>) -> Option<&str> {
    match field {
        Field::Authority => Some(":authority"),
        Field::Path => Some(":path"),
        Field::Method => Some(":method"),
        Field::Header(name) => Some(name),
        Field::Cluster | Field::Route => None,
    }
}

/// The first value of a header, as the host gives it for a single one.
fn find<'a>(headers: &'a [u8], name: &str) -> Option<&'a [u8]> {
    headers::read(headers).find(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
}
