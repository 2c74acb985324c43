//! Licences as SPDX expressions.

use spdx::{AdditionItem, Expression, LicenseItem};

use crate::Fault;

/// The canonical form of a package's licence: `MIT/Apache-2.0`, as older packages write it, is `MIT OR Apache-2.0`.
///
/// # Errors
/// When it is no SPDX expression. `package` names it in the error.
///
/// ```
/// use holdfast_sbom::licence::canonical;
///
/// assert_eq!(canonical("itoa", "MIT/Apache-2.0")?, "MIT OR Apache-2.0");
/// assert!(canonical("itoa", "whatever").is_err());
/// # Ok::<(), holdfast_sbom::Fault>(())
/// ```
pub fn canonical(package: &str, licence: &str) -> Result<String, Fault> {
    let fault = |problem: &str| {
        Fault::new(format!(
            "{package}: its licence must be an SPDX expression (\"MIT OR Apache-2.0\"), was {licence:?}{problem}"
        ))
    };
    let canonical = Expression::canonicalize(licence)
        .map_err(|error| fault(&format!(": {}", error.reason)))?
        .unwrap_or_else(|| licence.to_owned());
    match Expression::parse(&canonical) {
        Ok(_) => Ok(canonical),
        Err(error) => Err(fault(&format!(": {}", error.reason))),
    }
}

/// Whether an expression is one licence of SPDX's list, so that it can be named by its identifier.
#[must_use]
pub fn is_one(expression: &str) -> bool {
    spdx::license_id(expression).is_some_and(|id| id.name == expression)
}

/// The texts of SPDX's list for each licence and each exception of an expression, in its order.
///
/// # Errors
/// When `expression` is none, or names what is not in the list. `package` names it in the error.
pub fn texts(package: &str, expression: &str) -> Result<Vec<&'static str>, Fault> {
    let expression = canonical(package, expression)?;
    let parsed = Expression::parse(&expression).map_err(|error| Fault::new(format!("{package}: {}", error.reason)))?;
    let unknown =
        || Fault::new(format!("{package}: {expression:?} must name licences and exceptions of SPDX's list only"));
    let mut texts = Vec::new();
    for requirement in parsed.requirements() {
        let LicenseItem::Spdx { id, .. } = &requirement.req.license else { return Err(unknown()) };
        texts.push(id.text());
        match &requirement.req.addition {
            None => {}
            Some(AdditionItem::Spdx(exception)) => texts.push(exception.text()),
            Some(AdditionItem::Other(_)) => return Err(unknown()),
        }
    }
    Ok(texts)
}
