//! Which policies live, and where in the store the state of their blocks is.
//!
//! A policy's *content* is the policy as its document says it. Its *blocks* are what has state of its own: one for each feature, with the
//! scope and the outcomes that it judges by. Contents of one name that agree on a block share its state, whatever else differs. Several
//! contents of a name live at once while an old document drains, or where two listeners name different policies alike.
//!
//! Nothing in the store can be deleted, so no name there holds a hash of content. Blocks have numbered places, by kind. One record, the
//! registry, says which contents live and which places their blocks have. A content's entry is a lease: each VM that has the policy renews
//! it. The place of a block that no content uses any more is given to the next one that is new. A place has a tenancy, which all records
//! there carry ([`Mark`]): what an earlier block left reads as absent, and who has not heard of the change
//! cannot write over what is the later one's.
//!
//! A new block begins with what is true of those before it: [`Standing::before`] says which they are.

use core::time::Duration;

use crate::base::fingerprint;
use crate::base::time::Timestamp;
use crate::store::block::{BlockKind, ByKind, KINDS};
use crate::store::directory::Occupant;
use crate::store::record::{Kind, Mark, Reader, Record, Writer, are_different};
use crate::store::{Store, paths, update};
use holdfast_policy::document::{Mode, Policy};

/// How long a content counts as live without being renewed.
pub const LEASE: Duration = Duration::from_secs(15);

/// How old its last renewal is renewed at.
const RENEW_AFTER: Duration = Duration::from_secs(5);

/// The last requests of a content may come so long after another one has become the newest.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// The most contents that live at once; a policy beyond them has no state and lets everything pass.
pub const MOST_CONTENTS: usize = 4096;

/// The most blocks before a block that are looked at for what is to be taken over.
const MOST_BEFORE: usize = 16;

/// What a policy is, in hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Its name.
    pub name: u64,
    /// All that its document says of it, its name too.
    pub content: u64,
    /// Its blocks, each with the policy's name; none where it has no such feature, or has it off.
    pub blocks: ByKind<Option<u64>>,
}

impl Identity {
    /// That of a policy.
    #[must_use]
    pub fn of(policy: &Policy) -> Self {
        let Policy { name, scope, outcome, breaker, concurrency, throttle, retry, outlier, .. } = policy;
        let stale = policy.stale();
        let content = fingerprint::of_policy(policy);
        let breaker = breaker.as_ref().filter(|block| block.mode != Mode::Off);
        let concurrency = concurrency.as_ref().filter(|block| block.mode != Mode::Off);
        let throttle = throttle.as_ref().filter(|block| block.mode != Mode::Off);
        let retry = retry.as_ref().filter(|block| block.mode != Mode::Off);
        let outlier = outlier.as_ref().filter(|block| block.is_active());
        Identity {
            name: fingerprint::of_text(name.as_bytes()),
            content,
            blocks: ByKind::new(|kind| match kind {
                BlockKind::Text => Some(content),
                BlockKind::Keys => Some(fingerprint::of(&(name, scope))),
                BlockKind::Breaker => breaker.map(|block| fingerprint::of(&(name, scope, outcome, block))),
                BlockKind::Concurrency => concurrency.map(|block| fingerprint::of(&(name, scope, block))),
                BlockKind::Throttle => throttle.map(|block| fingerprint::of(&(name, scope, outcome, block))),
                BlockKind::Retry => retry.map(|block| fingerprint::of(&(name, scope, block))),
                BlockKind::Outlier => outlier.map(|block| fingerprint::of(&(name, scope, outcome, block))),
                BlockKind::Stale => stale.map(|block| fingerprint::of(&(name, scope, outcome, block))),
            }),
        }
    }
}

/// One content that lives, or has lived a moment ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Content {
    name: u64,
    content: u64,
    /// When it became the newest of its name.
    since: Timestamp,
    /// When it was entered, which may be after newer ones were.
    entered: Timestamp,
    /// Until then it counts as live.
    expires: Timestamp,
    /// The places of its blocks.
    places: ByKind<Option<u16>>,
    /// Which of its blocks were new when it became the newest.
    new: ByKind<bool>,
}

impl Content {
    fn lives(&self, now: Timestamp) -> bool {
        self.expires.remaining(now, LEASE).is_some()
    }

    fn is_due(&self, now: Timestamp) -> bool {
        self.expires.remaining(now, LEASE).unwrap_or_default().saturating_add(RENEW_AFTER) <= LEASE
    }
}

/// A block that has a place, or had it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    /// What it is, hashed.
    block: u64,
    /// Counts the blocks that had the place.
    tenancy: u32,
}

/// The registry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registry {
    /// The tenancy of each place's first block: 0, or later than any before where the registry was lost and began again.
    first: u32,
    /// The contents, the newest first.
    contents: Vec<Content>,
    /// By kind and number.
    places: ByKind<Vec<Block>>,
}

/// A block that was there before another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Predecessor {
    /// Where the keys of its content have their places.
    pub keys: Occupant,
    /// Its own place.
    pub block: Occupant,
}

/// Where a content's state is, and what else there is of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// When the content became the newest of its name.
    pub since: Timestamp,
    /// How many live contents of its name are newer.
    pub rank: usize,
    /// The places of its blocks.
    pub places: ByKind<Option<Occupant>>,
    /// Where a block was new when the content became the newest: those of the same kind and name that were there before, the newest
    /// first.
    pub before: ByKind<Vec<Predecessor>>,
    /// The kinds of block that newer contents of its name have, and whether the newest that has one has the same.
    pub newer: ByKind<Newer>,
}

/// Whether newer contents of a name have a block of some kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Newer {
    /// None has.
    #[default]
    None,
    /// One has the same block.
    Same,
    /// One has another.
    Other,
}

impl Registry {
    /// What there is to be known of a content; `None` if it has no entry.
    #[must_use]
    pub fn standing(&self, identity: &Identity, now: Timestamp) -> Option<Standing> {
        let at = self.position(identity.content)?;
        let own = self.contents.get(at)?;
        let newer = self.contents.get(..at)?;
        let of_name =
            |content: &&Content| content.name == own.name && content.content != own.content && content.lives(now);
        let places = ByKind::new(|kind| self.occupant(own, kind));
        let before = |kind| {
            let mut before: Vec<Predecessor> = Vec::new();
            let was_there = |content: &&Content| content.entered <= own.since;
            for content in self.older_than_block(at, kind, now).iter().filter(of_name).filter(was_there) {
                if let (Some(keys), Some(block)) =
                    (self.occupant(content, BlockKind::Keys), self.occupant(content, kind))
                    && Some(block) != *places.get(kind)
                    && before.len() < MOST_BEFORE
                    && before.iter().all(|known| known.block != block)
                {
                    before.push(Predecessor { keys, block });
                }
            }
            before
        };
        Some(Standing {
            since: own.since,
            rank: newer.iter().filter(of_name).count(),
            before: ByKind::new(before),
            newer: ByKind::new(|kind| {
                let theirs = newer.iter().filter(of_name).find_map(|content| *content.places.get(kind));
                match theirs {
                    None => Newer::None,
                    Some(place) if Some(place) == *own.places.get(kind) => Newer::Same,
                    Some(_) => Newer::Other,
                }
            }),
            places,
        })
    }

    /// The contents that were there before a block of the one at this position was new: none where that is long ago.
    fn older_than_block(&self, at: usize, kind: BlockKind, now: Timestamp) -> &[Content] {
        let from = self.contents.get(at..).unwrap_or_default();
        let Some(own) = from.first() else { return &[] };
        // Another content may have brought it a moment ago, and be gone before it has taken anything over.
        let is_first = |content: &Content| {
            *content.new.get(kind)
                && content.name == own.name
                && content.places.get(kind) == own.places.get(kind)
                && (content.content == own.content || now.apart(content.since) < LEASE)
        };
        let first = from.iter().position(is_first);
        first.and_then(|first| from.get(first.saturating_add(1)..)).unwrap_or_default()
    }

    /// Enters a content that a worker configures now, and that has configured those in `later` after it: as the newest of its name, unless the worker only follows another one, or has itself
    /// configured the newest after it. One that this worker has configured before comes back if nobody has brought it back meanwhile.
    ///
    /// A block that others live with is shared. Where the newest so far has another one of its kind, that one has been at work since:
    /// what is true is to be taken over from there, unless the block was used beside it.
    pub fn configure(&mut self, configured: &Configured, later: &[u64], now: Timestamp) {
        let Configured { identity, before, used } = configured;
        self.revive(identity.name, now);
        let of_name = |content: &Content| content.name == identity.name && content.lives(now);
        let newest = self.contents.iter().find(|other| of_name(other) && other.content != identity.content).copied();
        let is_beside = |kind| newest.is_some_and(|newest| is_beside(*used.get(kind), &newest));
        let beside = ByKind::new(is_beside);
        let Some(at) = self.position(identity.content) else {
            let is_later = |content: &Content| of_name(content) && later.contains(&content.content);
            let after = self.contents.iter().rfind(|content| is_later(content));
            let since = after.map(|after| Timestamp(after.since.0.saturating_sub(1)));
            return self.enter(identity, since.unwrap_or(now), since.is_none(), newest.as_ref(), &beside, now);
        };
        let Some(own) = self.contents.get(at).copied() else { return };
        let newer = self.contents.iter().take(at).find(|other| of_name(other));
        let follows = own.lives(now) && *before != Some(own.since)
            || newest.is_some_and(|newest| later.contains(&newest.content));
        if newer.is_none() || follows {
            if own.is_due(now) {
                self.extend(at, now);
            }
            return;
        }
        // Another time than before, whatever the clock says.
        let since = now.max(own.since.plus(Duration::from_nanos(1)));
        if *beside.get(BlockKind::Text) {
            self.contents.remove(at);
            let new = ByKind::default();
            self.contents.insert(0, Content { since, expires: now.plus(LEASE), new, ..own });
        } else {
            if let Some(own) = self.contents.get_mut(at) {
                // It is one of those before, for as long as it counts as live.
                own.content = fingerprint::of(&(own.content, own.since));
            }
            self.enter(identity, since, true, newest.as_ref(), &beside, now);
        }
    }

    /// Whether a content is to be renewed.
    fn is_due(&self, identity: &Identity, now: Timestamp) -> bool {
        self.position(identity.content).and_then(|at| self.contents.get(at)).is_none_or(|own| own.is_due(now))
    }

    /// Renews a content. One that has no entry any more comes back to where it was: `since` is since when it was the newest.
    pub fn renew(&mut self, identity: &Identity, since: Timestamp, now: Timestamp) {
        self.revive(identity.name, now);
        match self.position(identity.content) {
            Some(at) => self.extend(at, now),
            None => {
                self.enter(identity, since, false, None, &ByKind::default(), now);
                // What has lost its place has nothing to take over.
                if let Some(at) = self.position(identity.content)
                    && let Some(own) = self.contents.get_mut(at)
                {
                    own.new = ByKind::default();
                }
            }
        }
    }

    /// The places of the blocks of all contents, those of the newest content first.
    pub fn all_places(&self) -> impl Iterator<Item = ByKind<Option<Occupant>>> {
        self.contents.iter().map(|content| ByKind::new(|kind| self.occupant(content, kind)))
    }

    fn position(&self, content: u64) -> Option<usize> {
        self.contents.iter().position(|known| known.content == content)
    }

    /// Extends the lease of the content at this position.
    fn extend(&mut self, at: usize, now: Timestamp) {
        if let Some(own) = self.contents.get_mut(at) {
            own.expires = now.plus(LEASE);
        }
    }

    /// Enters a content, if there is room: as the newest, or where `since` puts it. Blocks that live are shared, but for those of which
    /// `newest`, the newest content so far, has another one and that were not used `beside` it.
    fn enter(
        &mut self,
        identity: &Identity,
        since: Timestamp,
        is_newest: bool,
        newest: Option<&Content>,
        beside: &ByKind<bool>,
        now: Timestamp,
    ) {
        if self.contents.len() >= MOST_CONTENTS {
            self.contents.retain(|content| content.lives(now));
        }
        if self.contents.len() >= MOST_CONTENTS {
            return;
        }
        let (mut places, mut new) = (ByKind::default(), ByKind::default());
        for kind in BlockKind::ALL {
            if let Some(block) = identity.blocks.get(kind) {
                let has_one = |newest: &&Content| newest.places.get(kind).is_some() && !*beside.get(kind);
                let number = match newest.filter(|_| kind.is_taken_over()).filter(has_one) {
                    Some(newest) => self.has(newest, kind, *block),
                    None => self.shared(identity.name, kind, *block, now),
                };
                let is_new = number.is_none();
                let number = number.or_else(|| self.place(kind, *block, now));
                (*places.get_mut(kind), *new.get_mut(kind)) = (number, is_new && number.is_some());
            }
        }
        let (Identity { name, content, .. }, expires) = (*identity, now.plus(LEASE));
        // One that comes late was not there when newer ones began.
        let entered = if is_newest { now } else { now.plus(Duration::from_nanos(1)) };
        let content = Content { name, content, since, entered, expires, places, new };
        // Only now: some may have made room.
        let at = self.contents.iter().position(|other| is_newest || other.since < since);
        self.contents.insert(at.unwrap_or(self.contents.len()), content);
    }

    /// The contents of a name that live, the newest first. Where none does, all may have paused: the newest lives until one is
    /// entered or renewed.
    #[must_use]
    pub fn live(&self, name: u64, now: Timestamp) -> Vec<u64> {
        let of_name = || self.contents.iter().filter(|content| content.name == name);
        let live: Vec<u64> = of_name().filter(|content| content.lives(now)).map(|content| content.content).collect();
        if live.is_empty() { of_name().map(|content| content.content).take(1).collect() } else { live }
    }

    /// Where no content of a name lives, the newest lives again: so that nothing else has its places before it is renewed, and who
    /// comes now finds what it knew.
    fn revive(&mut self, name: u64, now: Timestamp) {
        let mut of_name = self.contents.iter_mut().filter(|content| content.name == name);
        if let Some(newest) = of_name.next()
            && !newest.lives(now)
            && !of_name.any(|content| content.lives(now))
        {
            newest.expires = now.plus(LEASE);
        }
    }

    /// The number of the place where a content has a block, if it has this one.
    fn has(&self, content: &Content, kind: BlockKind, block: u64) -> Option<u16> {
        let number = (*content.places.get(kind))?;
        let place = self.places.get(kind).get(usize::from(number))?;
        (place.block == block).then_some(number)
    }

    /// The number of the place where a block lives, for the newest content that has it.
    fn shared(&self, name: u64, kind: BlockKind, block: u64, now: Timestamp) -> Option<u16> {
        let mut live = self.contents.iter().filter(|content| content.name == name && content.lives(now));
        live.find_map(|content| self.has(content, kind, block))
    }

    /// The number of a place that is free, given to a block.
    fn place(&mut self, kind: BlockKind, block: u64, now: Timestamp) -> Option<u16> {
        let free = |used: &[bool]| used.iter().position(|is_used| !is_used).and_then(|at| u16::try_from(at).ok());
        let mut found = free(&self.used(kind));
        while found.is_none() && self.forget_one(kind, now) {
            found = free(&self.used(kind));
        }
        let first = self.first;
        let places = self.places.get_mut(kind);
        match found.and_then(|number| Some((number, places.get_mut(usize::from(number))?))) {
            Some((number, place)) => {
                *place = Block { block, tenancy: place.tenancy.wrapping_add(1) };
                Some(number)
            }
            None => {
                let number = u16::try_from(places.len()).ok().filter(|number| *number < NOWHERE);
                places.extend(number.map(|_| Block { block, tenancy: first }));
                number
            }
        }
    }

    /// Which places of a kind some content uses.
    fn used(&self, kind: BlockKind) -> Vec<bool> {
        let mut used = vec![false; self.places.get(kind).len()];
        for number in self.contents.iter().filter_map(|content| *content.places.get(kind)) {
            if let Some(used) = used.get_mut(usize::from(number)) {
                *used = true;
            }
        }
        used
    }

    /// Forgets the content that has not been renewed for longest, of those that have a block of this kind. Whether there was one.
    fn forget_one(&mut self, kind: BlockKind, now: Timestamp) -> bool {
        let lapsed = self.contents.iter().enumerate();
        let lapsed = lapsed.filter(|(_, content)| content.places.get(kind).is_some() && !content.lives(now));
        let oldest = lapsed.min_by_key(|(_, content)| content.expires).map(|(at, _)| at);
        oldest.map(|at| self.contents.remove(at)).is_some()
    }

    fn occupant(&self, content: &Content, kind: BlockKind) -> Option<Occupant> {
        let index = (*content.places.get(kind))?;
        let tenancy = self.places.get(kind).get(usize::from(index))?.tenancy;
        Some(Occupant { index, tenancy })
    }

    /// What begins where there is no registry that can be read.
    fn anew(was_there: bool, now: Timestamp) -> Self {
        // Later than any tenancy that was counted up from 0.
        let seconds = u32::try_from(now.0 / 1_000_000_000).unwrap_or(u32::MAX);
        Registry { first: if was_there { seconds } else { 0 }, ..Registry::default() }
    }
}

/// A number that no place has.
const NOWHERE: u16 = u16::MAX;

impl Record for Registry {
    const KIND: Kind = Kind::Registry;

    /// Each content is there once.
    fn invariants(&self) -> bool {
        are_different(self.contents.iter().map(|content| content.content)) && self.has_all_places()
    }

    fn size(&self) -> usize {
        let places: usize = BlockKind::ALL.iter().map(|kind| self.places.get(*kind).len()).sum();
        6 + 2 * KINDS + self.contents.len() * (40 + 3 * KINDS) + places * 12
    }

    fn write(&self, out: &mut Writer) {
        out.u32(self.first);
        out.u16(self.contents.len().min(MOST_CONTENTS) as u16);
        for content in self.contents.iter().take(MOST_CONTENTS) {
            out.u64(content.name);
            out.u64(content.content);
            out.time(content.since);
            out.time(content.entered);
            out.time(content.expires);
            for kind in BlockKind::ALL {
                out.u16(content.places.get(kind).unwrap_or(NOWHERE));
                out.u8((*content.new.get(kind)).into());
            }
        }
        for kind in BlockKind::ALL {
            let places = self.places.get(kind);
            out.u16(places.len().min(usize::from(NOWHERE)) as u16);
            for place in places.iter().take(usize::from(NOWHERE)) {
                out.u64(place.block);
                out.u32(place.tenancy);
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        let (first, len) = (input.u32()?, usize::from(input.u16()?));
        if len > MOST_CONTENTS {
            return None;
        }
        let mut contents = Vec::with_capacity(len);
        for _ in 0..len {
            let (name, content, since) = (input.u64()?, input.u64()?, input.time()?);
            let (entered, expires) = (input.time()?, input.time()?);
            let (mut places, mut new) = (ByKind::default(), ByKind::default());
            for kind in BlockKind::ALL {
                *places.get_mut(kind) = Some(input.u16()?).filter(|number| *number != NOWHERE);
                *new.get_mut(kind) = input.flag()?;
            }
            contents.push(Content { name, content, since, entered, expires, places, new });
        }
        let mut places = ByKind::<Vec<Block>>::default();
        for kind in BlockKind::ALL {
            let len = usize::from(input.u16()?);
            for _ in 0..len {
                places.get_mut(kind).push(Block { block: input.u64()?, tenancy: input.u32()? });
            }
        }
        let registry = Registry { first, contents, places };
        // A content without the place that it has would have no state for ever.
        registry.has_all_places().then_some(registry)
    }
}

impl Registry {
    /// Whether all places that contents have are there.
    fn has_all_places(&self) -> bool {
        let is_there = |content: &Content, kind: BlockKind| {
            content.places.get(kind).is_none_or(|number| usize::from(number) < self.places.get(kind).len())
        };
        self.contents.iter().all(|content| BlockKind::ALL.iter().all(|kind| is_there(content, *kind)))
    }
}

/// Changes the registry, and tells the other workers if `is_news` says so of what it was and is. The registry as it now is; `None` where
/// it could not be changed.
fn change(store: &mut dyn Store, now: Timestamp, step: &dyn Fn(&mut Registry)) -> Option<Registry> {
    let was_there = store.get(paths::REGISTRY).is_some();
    let mut is_news = false;
    let updated = update(store, paths::REGISTRY, Mark::NONE, |old: Option<&Registry>| {
        let mut registry = old.cloned().unwrap_or_else(|| Registry::anew(was_there, now));
        step(&mut registry);
        let contents =
            |registry: &Registry| registry.contents.iter().map(|content| content.content).collect::<Vec<_>>();
        is_news = old.is_none_or(|old| contents(old) != contents(&registry));
        ((), (old != Some(&registry)).then_some(registry))
    });
    let updated = updated.ok()?;
    if updated.written && is_news {
        // They look who they are now.
        store.raise_epoch();
    }
    updated.record
}

/// The registry as it is; `None` if there is none.
pub fn read(store: &mut dyn Store) -> Option<Registry> {
    store.get(paths::REGISTRY).and_then(|(bytes, _)| Registry::decode(&bytes, Mark::NONE))
}

/// Whether something that was used then was used beside a content that has become the newest, and not only until then: the last
/// connections of the one before may go on for a moment.
fn is_beside(used: Option<Timestamp>, newest: &Content) -> bool {
    used.is_some_and(|used| used > newest.since.plus(LAST_REQUESTS))
}

/// A content that a worker configures now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Configured {
    /// What it is.
    pub identity: Identity,
    /// What [`Standing::since`] was when this worker last configured it.
    pub before: Option<Timestamp>,
    /// When this worker last had a request with the same block, by kind; that of the [text](BlockKind::Text) is for the whole content.
    pub used: ByKind<Option<Timestamp>>,
}

/// Enters contents that a worker configures now, and that has configured those in `later` after them. See [`Registry::configure`].
pub fn configure(store: &mut dyn Store, contents: &[Configured], later: &[u64], now: Timestamp) -> Option<Registry> {
    change(store, now, &|registry| contents.iter().for_each(|configured| registry.configure(configured, later, now)))
}

/// Renews contents, each with its [`Standing::since`]. See [`Registry::renew`].
pub fn renew(store: &mut dyn Store, contents: &[(Identity, Timestamp)], now: Timestamp) -> Option<Registry> {
    // All of this worker's together: so they fall due together.
    let is_due = |registry: &Registry| contents.iter().any(|(identity, _)| registry.is_due(identity, now));
    if let Some(registry) = read(store).filter(|registry| !is_due(registry)) {
        return Some(registry);
    }
    change(store, now, &|registry| {
        contents.iter().for_each(|(identity, since)| registry.renew(identity, *since, now));
    })
}

#[cfg(test)]
mod tests;
