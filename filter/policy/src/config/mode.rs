//! `mode`: whether a policy or a feature acts.

use super::error::{Report, Reported};
use super::reader::Fields;
use crate::document::Mode;

impl Fields<'_> {
    /// What the key says, `default` without it.
    pub(super) fn mode(&self, key: &str, default: Mode, report: &mut Report) -> Result<Mode, Reported> {
        self.or(key, default, report, |item, report| item.word(&Mode::WORDS, report))
    }
}
