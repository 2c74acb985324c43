//! What policies ask of a request.

use holdfast_policy::document::Dimension;

/// Something of a request that the policy's features look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field<'a> {
    /// The upstream cluster's name.
    Cluster,
    /// The route's name.
    Route,
    /// `:authority`.
    Authority,
    /// `:path` with its query.
    Path,
    /// `:method`.
    Method,
    /// The header of this (lower-case) name; its first value.
    Header(&'a str),
}

impl<'a> From<&'a Dimension> for Field<'a> {
    fn from(dimension: &'a Dimension) -> Self {
        match dimension {
            Dimension::Cluster => Field::Cluster,
            Dimension::Route => Field::Route,
            Dimension::Authority => Field::Authority,
            Dimension::Header(name) => Field::Header(name),
        }
    }
}
