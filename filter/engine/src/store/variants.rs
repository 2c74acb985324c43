//! Several contents that live under one policy's name: an update while the one before drains, or two listeners whose documents name
//! different policies alike.
//!
//! Their state never mixes, for its names in the store hold the content's hash. Neither may their metrics, which hold the policy's name:
//! the content that was configured last has the name as it is, and those before it are `orders~2`, `orders~3` while they live. So after
//! an update the series go on, with those of the new content.
//!
//! The list of contents is one record. Who is alone in it does nothing for it; where there are several, each worker of each says now and
//! then that it still lives.

use core::time::Duration;

use crate::base::time::Timestamp;
use crate::store::record::{Kind, Reader, Record, Writer, are_different};
use crate::store::{Store, update};

/// How long a content counts as live without being renewed.
pub const LEASE: Duration = Duration::from_secs(15);

/// How old its last renewal is renewed at.
const RENEW_AFTER: Duration = Duration::from_secs(5);

/// The most contents of one name that are told apart; later ones share the last name.
pub const MOST: usize = 16;

/// The fingerprint of the list: it belongs to no content.
const ANY_CONTENT: u64 = 0;

/// One content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// Its fingerprint.
    pub content: u64,
    /// When it became the newest.
    pub since: Timestamp,
    /// Until then it counts as live.
    pub expires: Timestamp,
}

impl Variant {
    fn lives(&self, now: Timestamp) -> bool {
        self.expires.remaining(now, LEASE).is_some()
    }
}

/// The contents, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Variants(pub Vec<Variant>);

impl Variants {
    /// Enters a content that a worker configures now: as the newest, unless the worker only follows another one. `before` is since
    /// when the content was the newest when this worker last configured it: if that still is so, it comes back.
    pub fn configure(&mut self, content: u64, before: Option<Timestamp>, now: Timestamp) {
        let known = self.since(content);
        let is_first = self.0.first().is_some_and(|variant| variant.content == content);
        let lives = self.0.iter().any(|variant| variant.content == content && variant.lives(now));
        if lives && (is_first || before != known) {
            return;
        }
        self.0.retain(|variant| variant.content != content && variant.lives(now));
        // Another time than before, whatever the clock says.
        let since = now.max(known.map_or(now, |since| since.plus(Duration::from_nanos(1))));
        self.0.insert(0, Variant { content, since, expires: now.plus(LEASE) });
        self.0.truncate(MOST);
    }

    /// Since when a content has been the newest, or was.
    #[must_use]
    pub fn since(&self, content: u64) -> Option<Timestamp> {
        self.0.iter().find(|variant| variant.content == content).map(|variant| variant.since)
    }

    /// Renews a content where others live beside it, and leaves out those that do not any more. One that was left out itself comes
    /// back to where it was: `since` is since when it was the newest. Whether this changed anything.
    pub fn renew(&mut self, content: u64, since: Timestamp, now: Timestamp) -> bool {
        let before = self.0.len();
        self.0.retain(|variant| variant.content == content || variant.lives(now));
        let mut has_changed = self.0.len() != before;
        let (is_alone, has_room) = (self.0.iter().all(|variant| variant.content == content), self.0.len() < MOST);
        match self.0.iter_mut().find(|variant| variant.content == content) {
            Some(own) => {
                let left = own.expires.remaining(now, LEASE).unwrap_or_default();
                if !is_alone && left.saturating_add(RENEW_AFTER) <= LEASE {
                    own.expires = now.plus(LEASE);
                    has_changed = true;
                }
            }
            None if has_room => {
                let at = self.0.iter().position(|variant| variant.since < since).unwrap_or(self.0.len());
                self.0.insert(at, Variant { content, since, expires: now.plus(LEASE) });
                has_changed = true;
            }
            None => {}
        }
        has_changed
    }

    /// How many contents are newer.
    #[must_use]
    pub fn rank(&self, content: u64) -> usize {
        self.0.iter().position(|variant| variant.content == content).unwrap_or(self.0.len())
    }
}

impl Record for Variants {
    const KIND: Kind = Kind::Variants;

    /// Each content is there once.
    fn invariants(&self) -> bool {
        self.0.len() <= MOST && are_different(self.0.iter().map(|variant| variant.content))
    }

    fn write(&self, out: &mut Writer) {
        out.u8(self.0.len().min(MOST) as u8);
        for variant in self.0.iter().take(MOST) {
            out.u64(variant.content);
            out.time(variant.since);
            out.time(variant.expires);
        }
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        let len = usize::from(input.u8()?);
        if len > MOST {
            return None;
        }
        let mut variants = Vec::with_capacity(len);
        for _ in 0..len {
            variants.push(Variant { content: input.u64()?, since: input.time()?, expires: input.time()? });
        }
        Some(Variants(variants))
    }
}

/// What one worker knows of the contents beside its own.
#[derive(Debug)]
pub struct VariantView {
    path: String,
    content: u64,
    rank: usize,
    /// Since when the content has been the newest, or was.
    since: Timestamp,
    is_alone: bool,
    epoch: Option<u64>,
}

impl VariantView {
    /// Nothing yet; `path` is the list's.
    #[must_use]
    pub fn new(path: String, content: u64) -> Self {
        VariantView { path, content, rank: 0, since: Timestamp::ZERO, is_alone: false, epoch: None }
    }

    /// How many live contents are newer.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Enters the content, which is configured now; `before` is what this gave when this worker last configured it.
    pub fn configure(&mut self, store: &mut dyn Store, before: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
        let content = self.content;
        let updated = update(store, &self.path, ANY_CONTENT, |old: Option<&Variants>| {
            let mut variants = old.cloned().unwrap_or_default();
            variants.configure(content, before, now);
            ((), (Some(&variants) != old).then_some(variants))
        });
        let is_beside_others = |variants: &Variants| variants.0.len() > 1;
        if updated.as_ref().is_ok_and(|done| done.written && done.record.as_ref().is_some_and(is_beside_others)) {
            // They look who they are now.
            store.raise_epoch();
        }
        let variants = updated.ok().and_then(|updated| updated.record);
        self.note(variants);
        (self.since > Timestamp::ZERO).then_some(self.since)
    }

    /// Looks whether there are others; to be called about once a second. Whether the rank has changed.
    pub fn renew(&mut self, store: &mut dyn Store, now: Timestamp) -> bool {
        let (content, rank, since) = (self.content, self.rank, self.since);
        let epoch = store.epoch();
        if self.is_alone && epoch.is_some() && epoch == self.epoch {
            return false;
        }
        let updated = update(store, &self.path, ANY_CONTENT, |old: Option<&Variants>| {
            let mut variants = old.cloned().unwrap_or_default();
            let has_changed = variants.renew(content, since, now);
            let is_new = old.is_none_or(|old| old.since(content).is_none());
            (is_new && variants.0.len() > 1, has_changed.then_some(variants))
        });
        self.epoch = epoch;
        if updated.as_ref().is_ok_and(|updated| updated.written && updated.verdict) {
            // Whoever believes to be alone is not.
            store.raise_epoch();
        }
        self.note(updated.ok().and_then(|updated| updated.record));
        self.rank != rank
    }

    fn note(&mut self, variants: Option<Variants>) {
        // Where the list cannot be changed, all stays as it is.
        if let Some(variants) = variants {
            self.rank = variants.rank(self.content);
            self.since = variants.since(self.content).unwrap_or(self.since);
            self.is_alone = variants.0.len() <= 1 && self.rank == 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn t(seconds: u64) -> Timestamp {
        Timestamp::from_secs(1_700_000_000 + seconds)
    }

    fn beside(content: u64) -> VariantView {
        VariantView::new("list".to_owned(), content)
    }

    #[test]
    fn the_newest_has_the_name_and_the_one_before_is_told_within_a_tick() {
        let mut store = MemoryStore::default();
        let (mut old, mut new) = (beside(1), beside(2));
        old.configure(&mut store, None, t(0));
        assert!(!old.renew(&mut store, t(990)), "who is alone is the first, however long ago");
        // Opening the store raises the signal.
        store.raise_epoch();
        new.configure(&mut store, None, t(1000));
        assert_eq!(new.rank(), 0);
        assert!(old.renew(&mut store, t(1001)));
        assert_eq!(old.rank(), 1);
        // The old one drains, and is gone.
        for second in 1002..1600 {
            assert!(!new.renew(&mut store, t(second)) && !old.renew(&mut store, t(second)), "second {second}");
        }
        for second in 1600..1630 {
            assert!(!new.renew(&mut store, t(second)));
        }
        assert!(new.is_alone);
    }

    #[test]
    fn two_that_stay_are_told_apart_for_good_whatever_order_workers_configure_them_in() {
        let mut store = MemoryStore::default();
        let mut workers = [[beside(1), beside(2)], [beside(1), beside(2)], [beside(1), beside(2)]];
        for (number, worker) in workers.iter_mut().enumerate() {
            for own in worker.iter_mut() {
                own.configure(&mut store, None, t(number as u64));
            }
        }
        for second in 3..100 {
            for own in workers.iter_mut().flatten() {
                own.renew(&mut store, t(second));
            }
        }
        for worker in &workers {
            assert_eq!(worker.each_ref().map(VariantView::rank), [1, 0]);
        }
    }

    #[test]
    fn when_the_newest_goes_the_one_before_has_the_name_again() {
        let mut store = MemoryStore::default();
        let (mut one, mut two) = (beside(1), beside(2));
        one.configure(&mut store, None, t(0));
        two.configure(&mut store, None, t(100));
        for second in 100..110 {
            two.renew(&mut store, t(second));
            one.renew(&mut store, t(second));
        }
        assert_eq!([one.rank(), two.rank()], [1, 0]);
        (110..150).for_each(|second| {
            one.renew(&mut store, t(second));
        });
        assert_eq!(one.rank(), 0);
    }

    #[test]
    fn a_content_that_is_put_back_is_the_newest_again_however_soon() {
        for later in [0, 1, 130] {
            let mut store = MemoryStore::default();
            let mut workers = [[beside(1), beside(2)], [beside(1), beside(2)]];
            let first = workers.each_mut().map(|[one, _]| one.configure(&mut store, None, t(0)));
            let _ = workers.each_mut().map(|[_, two]| two.configure(&mut store, None, t(later)));
            for ([one, _], before) in workers.iter_mut().zip(first) {
                one.configure(&mut store, before, t(2 * later));
            }
            for worker in &mut workers {
                let _ = worker.each_mut().map(|own| own.renew(&mut store, t(2 * later + 1)));
                assert_eq!(worker.each_ref().map(VariantView::rank), [0, 1], "{later} s later");
            }
        }
    }
}
