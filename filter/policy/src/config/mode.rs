//! `mode`: whether a policy or a feature acts.

use super::error::{Report, Reported};
use super::reader::Fields;
use crate::document::Mode;

const MODES: [(&str, Mode); 3] = [("enforce", Mode::Enforce), ("shadow", Mode::Shadow), ("off", Mode::Off)];

impl Fields<'_> {
    /// What `mode` says, `default` without it.
    pub(super) fn mode(&self, default: Mode, report: &mut Report) -> Result<Mode, Reported> {
        self.or("mode", default, report, |item, report| item.word(&MODES, report))
    }
}
