//! The try that may follow the last one, in another cluster.
//!
//! The request seat says with a request where it may go; the attempt seat, which alone sees how each attempt ends, chooses.

use holdfast_policy::document::Reason;

use crate::retry::Eligibility;
use crate::store::record::{Reader, Writer};

/// The most clusters that are kept.
const MOST_OTHERS: usize = 32;

/// The longest cluster's name that is kept; one that is longer is left out.
const LONGEST_NAME: usize = 1024;

/// What may follow the last attempt of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FurtherAttempt {
    /// What an attempt may be followed by, as the method says.
    pub eligibility: Eligibility,
    /// Whether there is an answer that was kept, which serves where a fallback with it stands in front.
    pub has_stale: bool,
    /// The clusters that it may go to.
    pub others: Vec<Vec<u8>>,
    /// The one that it was sent to, once it was.
    pub chosen: Option<Chosen>,
}

/// Where the further attempt was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The cluster.
    pub cluster: Vec<u8>,
    /// Why.
    pub reason: Reason,
    /// Whether it came to the request's own cluster all the same, and was stopped there.
    pub is_astray: bool,
}

impl FurtherAttempt {
    /// One that may go to these clusters, and has not been sent; `None` where there are none.
    pub fn to(others: Vec<Vec<u8>>, eligibility: Eligibility, has_stale: bool) -> Option<Self> {
        let others: Vec<_> = others.into_iter().filter(|name| name.len() <= LONGEST_NAME).take(MOST_OTHERS).collect();
        let is_any = !others.is_empty() && eligibility != Eligibility::Nothing;
        is_any.then_some(FurtherAttempt { eligibility, has_stale, others, chosen: None })
    }

    pub(super) fn size(&self) -> usize {
        let names = self.others.iter().chain(self.chosen.as_ref().map(|chosen| &chosen.cluster));
        names.map(|name| name.len().saturating_add(2)).fold(8, usize::saturating_add)
    }

    pub(super) fn write(&self, out: &mut Writer) {
        out.u8(self.eligibility as u8);
        out.u8(self.has_stale.into());
        out.u8(self.others.len().min(MOST_OTHERS) as u8);
        for name in self.others.iter().take(MOST_OTHERS) {
            out.bytes(name);
        }
        out.u8(self.chosen.is_some().into());
        if let Some(Chosen { cluster, reason, is_astray }) = &self.chosen {
            out.bytes(cluster);
            out.u8(*reason as u8);
            out.u8((*is_astray).into());
        }
    }

    pub(super) fn read(input: &mut Reader<'_>) -> Option<Self> {
        let (eligibility, has_stale) = (Eligibility::from_number(input.u8()?)?, input.flag()?);
        let count = usize::from(input.u8()?);
        if count > MOST_OTHERS {
            return None;
        }
        let mut others = Vec::with_capacity(count);
        for _ in 0..count {
            others.push(input.bytes()?.to_owned());
        }
        let chosen = if input.flag()? {
            let cluster = input.bytes()?.to_owned();
            let reason = *Reason::ALL.get(usize::from(input.u8()?))?;
            Some(Chosen { cluster, reason, is_astray: input.flag()? })
        } else {
            None
        };
        Some(FurtherAttempt { eligibility, has_stale, others, chosen })
    }
}
