//! What is in a program or a module that cargo has built: a CycloneDX bill of materials ([`bom`]), and the texts of its parts'
//! licences ([`notices`]).
//!
//! The parts are those that the compiler was called for, by cargo's own messages of the build ([`built`]). So a dependency of
//! tests, of a build script or of a macro is not among them, and neither is one that this target or these features leave out.
//! Names, licences and who depends on whom come from `cargo metadata` ([`packages`]), checksums from `Cargo.lock` ([`lock`]).
//!
//! Nothing of the day, of the machine or of chance gets in: equal builds give equal bytes.

pub mod bom;
pub mod built;
mod hash;
pub mod licence;
pub mod lock;
pub mod notices;
pub mod packages;
mod purl;

use std::fmt;

/// Why there is no bill of materials: which input is wrong where, and what is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault(String);

impl Fault {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}
