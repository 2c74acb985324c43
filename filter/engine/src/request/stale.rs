//! Good answers: what is kept of them under a request's key, and which is served.

use core::cell::RefMut;

use super::blocks::{Block, borrowed};
use super::facts::Facts;
use super::policy::RequestPolicy;
use crate::base::time::Timestamp;
use crate::event::Event;
use crate::fallback::{AskedFor, Kept, KeptAnswer, ServedAnswer, StaleKey, Unserved};
use crate::http::request::Field;
use crate::metric::Metric;
use crate::store::Store;
use crate::store::keys::Key;

impl RequestPolicy {
    /// What a request asks for, where the last good answer to the same is kept or served.
    pub(super) fn asked_for(&self, key: Key, facts: &Facts<'_>, ended: bool) -> Option<AskedFor> {
        let is_possible = ended && self.policy.stale().is_some() && !self.is_overflow(key);
        // All headers at once: nearly every request that comes here is a GET.
        let headers = is_possible.then(|| facts.serialized_headers())?;
        AskedFor::read(headers, || facts.get(Field::Cluster).unwrap_or_default(), ended)
    }

    /// The last good answer to the same as was asked for under a key, if it may be served.
    pub(super) fn find_answer(
        &self,
        store: &mut dyn Store,
        key: Key,
        asked: Option<&AskedFor>,
        now: Timestamp,
    ) -> Result<ServedAnswer, Unserved> {
        if self.is_overflow(key) {
            return Err(Unserved::Overflow);
        }
        let asked = asked.ok_or(Unserved::Method)?;
        let rules = self.policy.stale().ok_or(Unserved::NothingKept)?;
        let block = self.stale_block();
        let state = block.as_ref().and_then(|block| block.at(key.occupant)).ok_or(Unserved::NothingKept)?;
        state.find(store, rules, asked, now)
    }

    /// Keeps an answer under a key.
    pub(super) fn keep_answer(&self, store: &mut dyn Store, key: Key, answer: &KeptAnswer, now: Timestamp) {
        if let Some(rules) = self.policy.stale()
            && let Some(mut block) = self.stale_block()
            && let Some(state) = block.of(key)
        {
            state.keep(store, rules, answer, now);
        }
    }

    /// Tells what is kept, by key, where that has changed.
    pub(super) fn tell_answers(&self, store: &mut dyn Store) -> Vec<(Key, Vec<Event>)> {
        let Some(mut block) = self.stale_block() else { return Vec::new() };
        let news = block.iter_mut().filter_map(|(key, state)| Some((key, state.news(store)?)));
        news.map(|(key, kept)| (key, gauges(kept))).collect()
    }

    /// Tells that nothing is known of what was kept under keys that have lost their places.
    pub(super) fn tell_answers_lost(&self, lost: &[Key]) -> Vec<(Key, Vec<Event>)> {
        let lost = lost.iter().filter(|_| self.policy.stale().is_some());
        lost.map(|key| (*key, gauges(Kept::default()))).collect()
    }

    /// Has all of it told again.
    pub(super) fn tell_answers_again(&self) {
        if let Some(mut block) = self.stale_block() {
            block.iter_mut().for_each(|(_, state)| state.tell_again());
        }
    }

    fn stale_block(&self) -> Option<RefMut<'_, Block<StaleKey>>> {
        borrowed(self.blocks.as_ref()?.stale.as_ref())
    }
}

/// What is kept, as gauges.
fn gauges(kept: Kept) -> Vec<Event> {
    vec![Event::Gauge(Metric::StaleAnswers, kept.answers), Event::Gauge(Metric::StaleBytes, kept.bytes)]
}
