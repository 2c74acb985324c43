//! `mode`: whether a policy or a feature acts.

use super::error::{Report, Reported};
use super::reader::Item;
use crate::document::Mode;

pub(super) fn read(item: &Item<'_>, report: &mut Report) -> Result<Mode, Reported> {
    item.word(&[("enforce", Mode::Enforce), ("shadow", Mode::Shadow), ("off", Mode::Off)], report)
}
