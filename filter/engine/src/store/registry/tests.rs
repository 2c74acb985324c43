use super::*;
use crate::store::memory::MemoryStore;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn t(seconds: u64) -> Timestamp {
    Timestamp::from_secs(1_700_000_000 + seconds)
}

/// A content of the name 1 whose blocks are these numbers; 0 stands for none.
fn content(content: u64, breaker: u64, outlier: u64) -> Identity {
    named(1, content, breaker, outlier)
}

fn named(name: u64, content: u64, breaker: u64, outlier: u64) -> Identity {
    let some = |block: u64| Some(block).filter(|block| *block > 0);
    Identity {
        name,
        content,
        blocks: ByKind::new(|kind| match kind {
            BlockKind::Text => Some(content),
            BlockKind::Keys => Some(name),
            BlockKind::Breaker => some(breaker),
            BlockKind::Outlier => some(outlier),
            _ => None,
        }),
    }
}

/// What the workers of a process share.
#[derive(Default)]
struct Process {
    store: MemoryStore,
}

impl Process {
    fn registry(&mut self) -> Registry {
        read(&mut self.store).unwrap()
    }

    fn standing(&mut self, identity: &Identity, now: Timestamp) -> Standing {
        self.registry().standing(identity, now).unwrap()
    }

    /// A worker that has never had the content configures it.
    fn configure(&mut self, identity: &Identity, now: Timestamp) -> Timestamp {
        self.put_back(identity, None, false, now)
    }

    /// A worker configures the content that it had as the newest since `before`.
    fn put_back(&mut self, identity: &Identity, before: Option<Timestamp>, is_used: bool, now: Timestamp) -> Timestamp {
        let used = ByKind::new(|_| is_used.then_some(now.plus(LEASE)));
        let configured = Configured { identity: *identity, before, used };
        configure(&mut self.store, &[configured], &[], now).unwrap();
        self.standing(identity, now).since
    }

    /// A worker configures a content that it has configured before those in `later`.
    fn configure_before(&mut self, identity: &Identity, later: &[&Identity], now: Timestamp) -> Standing {
        let configured = Configured { identity: *identity, before: None, used: ByKind::default() };
        let later: Vec<u64> = later.iter().map(|identity| identity.content).collect();
        configure(&mut self.store, &[configured], &later, now).unwrap();
        self.standing(identity, now)
    }

    fn renew(&mut self, all: &[(Identity, Timestamp)], now: Timestamp) {
        renew(&mut self.store, all, now).unwrap();
    }

    fn place(&mut self, identity: &Identity, kind: BlockKind, now: Timestamp) -> Occupant {
        self.standing(identity, now).places.get(kind).unwrap()
    }

    fn breaker(&mut self, identity: &Identity, now: Timestamp) -> Occupant {
        self.place(identity, BlockKind::Breaker, now)
    }

    fn before(&mut self, identity: &Identity, now: Timestamp) -> Vec<Occupant> {
        let standing = self.standing(identity, now);
        standing.before.get(BlockKind::Breaker).iter().map(|before| before.block).collect()
    }

    fn rank(&mut self, identity: &Identity, now: Timestamp) -> usize {
        self.standing(identity, now).rank
    }

    fn places(&mut self, kind: BlockKind) -> usize {
        self.registry().places.get(kind).len()
    }
}

// Who is the newest

#[test]
fn who_is_alone_is_the_newest_however_long_ago() {
    let (mut process, one) = (Process::default(), content(1, 10, 20));
    let since = process.configure(&one, t(0));
    assert_eq!(process.rank(&one, t(990)), 0);
    let place = process.breaker(&one, t(990));
    assert_eq!(process.configure(&one, t(990)), since, "who comes back to it finds it as it was");
    assert_eq!(process.breaker(&one, t(990)), place);
    assert!(process.before(&one, t(990)).is_empty());
}

#[test]
fn the_newest_has_the_name_and_those_before_it_are_told_apart_while_they_live() {
    let mut process = Process::default();
    let all = [1, 2, 3].map(|number| content(number, 10, 20 + number));
    let since = [0, 100, 110].map(|at| at as usize).map(|at| at as u64);
    for (one, at) in all.iter().zip(since) {
        process.renew(&[(all[0], t(0))], t(at));
        process.configure(one, t(at));
    }
    process.renew(&[(all[0], t(0))], t(110));
    assert_eq!(all.each_ref().map(|one| process.rank(one, t(110))), [2, 1, 0]);
    assert_eq!(all.each_ref().map(|one| process.rank(one, t(120))), [1, 1, 0], "the second has lapsed");
    // The newest goes, and the first is renewed.
    process.renew(&[(all[0], t(0))], t(124));
    assert_eq!(process.rank(&all[0], t(130)), 0, "who is left has the name again");
}

#[test]
fn contents_of_other_names_are_in_nobodys_way() {
    let mut process = Process::default();
    let (one, other) = (named(1, 1, 10, 20), named(2, 2, 11, 21));
    process.configure(&one, t(0));
    process.configure(&other, t(1));
    assert_eq!([process.rank(&one, t(1)), process.rank(&other, t(1))], [0, 0]);
    assert!(process.before(&other, t(1)).is_empty());
    for kind in [BlockKind::Text, BlockKind::Keys, BlockKind::Breaker, BlockKind::Outlier] {
        assert_ne!(process.place(&one, kind, t(1)), process.place(&other, kind, t(1)), "{kind:?}");
    }
}

#[test]
fn two_that_stay_are_told_apart_for_good_whatever_order_workers_configure_and_renew_them_in() {
    let (one, two) = (content(1, 10, 20), content(2, 11, 20));
    for order in [[one, two], [two, one]] {
        let mut process = Process::default();
        let (first, second) = (process.configure(&one, t(0)), process.configure(&two, t(0)));
        let known = |identity: &Identity| if identity.content == 1 { first } else { second };
        for worker in 1..4 {
            for identity in order {
                process.configure(&identity, t(worker));
            }
        }
        let before = [one, two].map(|identity| process.standing(&identity, t(3)));
        for second in 3..100 {
            for identity in order {
                process.renew(&[(identity, known(&identity))], t(second));
            }
        }
        assert_eq!([process.rank(&one, t(99)), process.rank(&two, t(99))], [1, 0]);
        assert_eq!([one, two].map(|identity| process.standing(&identity, t(99)).places), before.map(|old| old.places));
    }
}

#[test]
fn a_worker_that_follows_changes_nothing() {
    let mut process = Process::default();
    let (one, two) = (content(1, 10, 20), content(2, 11, 20));
    process.configure(&one, t(0));
    process.configure(&two, t(1));
    let (registry, writes) = (process.registry(), process.store.writes());
    for identity in [one, two, one] {
        process.configure(&identity, t(2));
    }
    assert_eq!((process.registry(), process.store.writes()), (registry, writes));
}

#[test]
fn a_configuration_that_was_configured_a_moment_ago_writes_nothing() {
    let (mut process, one) = (Process::default(), content(1, 10, 20));
    let since = process.configure(&one, t(0));
    let (writes, epoch) = (process.store.writes(), process.store.epoch());
    process.put_back(&one, Some(since), true, t(1));
    process.renew(&[(one, since)], t(4));
    assert_eq!(process.store.writes(), writes);
    process.renew(&[(one, since)], t(5));
    assert_eq!(process.store.writes(), writes + 1, "a lease is renewed when it is five seconds old");
    assert_eq!(process.store.epoch(), epoch, "which is no news to anybody");
}

// Which blocks share their places

#[test]
fn blocks_that_are_equal_share_their_places_and_changed_ones_have_others() {
    let mut process = Process::default();
    let (one, two) = (content(1, 10, 20), content(2, 11, 20));
    process.configure(&one, t(0));
    process.configure(&two, t(1));
    let shared = |process: &mut Process, kind| process.place(&one, kind, t(1)) == process.place(&two, kind, t(1));
    assert!(shared(&mut process, BlockKind::Keys) && shared(&mut process, BlockKind::Outlier));
    assert!(!shared(&mut process, BlockKind::Breaker) && !shared(&mut process, BlockKind::Text));
}

#[test]
fn a_content_that_has_no_such_block_has_no_place_for_it() {
    let (mut process, one) = (Process::default(), content(1, 0, 20));
    process.configure(&one, t(0));
    let standing = process.standing(&one, t(0));
    assert_eq!(*standing.places.get(BlockKind::Breaker), None);
    assert_eq!(*standing.places.get(BlockKind::Retry), None);
    assert_eq!(process.places(BlockKind::Retry), 0);
}

#[test]
fn a_block_that_is_put_back_while_one_with_it_drains_is_shared() {
    let mut process = Process::default();
    let (one, two, three) = (content(1, 10, 20), content(2, 0, 20), content(3, 10, 21));
    let since = process.configure(&one, t(0));
    let place = process.breaker(&one, t(0));
    for second in 1..600 {
        process.renew(&[(one, since)], t(second));
        if second == 100 {
            process.configure(&two, t(second));
        }
    }
    process.configure(&three, t(600));
    assert_eq!(process.breaker(&three, t(600)), place);
    assert!(process.before(&three, t(600)).is_empty(), "it has what is true already");
}

#[test]
fn a_block_that_is_put_back_long_after_begins_with_what_is_true_of_the_one_between() {
    let mut process = Process::default();
    let (one, two, three) = (content(1, 10, 20), content(2, 11, 20), content(3, 10, 21));
    process.configure(&one, t(0));
    let old = process.breaker(&one, t(0));
    // There is room for all: nothing is forgotten to make it.
    let slim = |number| Identity { blocks: ByKind::new(|kind| (kind == BlockKind::Text).then_some(number)), ..two };
    for number in 50..55 {
        process.configure(&Identity { name: 2, content: number, ..slim(number) }, t(0));
    }
    let since = process.configure(&two, t(10));
    for second in 10..600 {
        process.renew(&[(two, since)], t(second));
    }
    process.configure(&three, t(600));
    let between = process.breaker(&two, t(600));
    assert_ne!(process.breaker(&three, t(600)), old, "what it left ten minutes ago is not true any more");
    assert_eq!(process.before(&three, t(600)), [between]);
}

#[test]
fn a_block_is_shared_with_the_newest_content_that_has_it() {
    let mut process = Process::default();
    let (one, two) = (content(1, 10, 20), content(2, 11, 20));
    let first = process.configure(&one, t(0));
    process.configure(&two, t(1));
    // It comes back without having been used: its breaker has another place than before.
    process.put_back(&one, Some(first), false, t(2));
    let place = process.breaker(&one, t(2));
    let three = content(3, 10, 21);
    process.configure(&three, t(3));
    assert_eq!(process.breaker(&three, t(3)), place);
}

// Who comes back

#[test]
fn a_content_that_is_put_back_is_the_newest_again_however_soon() {
    for later in [0, 1, 10, 130] {
        for is_used in [false, true] {
            let mut process = Process::default();
            let (one, two) = (content(1, 10, 20), content(2, 11, 20));
            let before = process.configure(&one, t(0));
            process.configure(&two, t(later));
            for second in later..=2 * later {
                process.renew(&[(two, t(later))], t(second));
            }
            let now = t(2 * later);
            // Each of three workers.
            let since = [(); 3].map(|()| process.put_back(&one, Some(before), is_used, now));
            assert!(since.iter().all(|time| *time == since[0] && *time > before), "{later} s later: {since:?}");
            assert_eq!([process.rank(&one, now), process.rank(&two, now)], [0, 1], "{later} s later");
        }
    }
}

#[test]
fn a_content_that_served_until_now_has_its_state_when_it_is_put_back() {
    let mut process = Process::default();
    let (one, two) = (content(1, 10, 20), content(2, 11, 20));
    let before = process.configure(&one, t(0));
    let places = process.standing(&one, t(0)).places;
    process.configure(&two, t(1));
    process.put_back(&one, Some(before), true, t(2));
    let standing = process.standing(&one, t(2));
    assert_eq!((standing.places, standing.rank), (places, 0));
    assert!(standing.before.get(BlockKind::Breaker).is_empty());
}

#[test]
fn a_content_that_did_not_serve_begins_with_what_is_true_of_the_one_between() {
    let mut process = Process::default();
    let (one, two) = (content(1, 10, 20), content(2, 11, 20));
    let before = process.configure(&one, t(0));
    let old = process.standing(&one, t(0)).places;
    process.configure(&two, t(1));
    process.put_back(&one, Some(before), false, t(2));
    let standing = process.standing(&one, t(2));
    let breaker = standing.places.get(BlockKind::Breaker).unwrap();
    let between = process.breaker(&two, t(2));
    assert!(Some(breaker) != *old.get(BlockKind::Breaker) && breaker != between);
    assert_eq!(standing.places.get(BlockKind::Outlier), old.get(BlockKind::Outlier), "the others have kept this one");
    assert_eq!(standing.places.get(BlockKind::Keys), old.get(BlockKind::Keys));
    assert_eq!(process.before(&one, t(2)), [between, old.get(BlockKind::Breaker).unwrap()], "the newest first");
}

#[test]
fn a_pause_of_a_minute_loses_nobodys_entry() {
    let mut process = Process::default();
    let (one, two) = (content(1, 10, 20), content(2, 11, 20));
    let known = [(one, process.configure(&one, t(0))), (two, process.configure(&two, t(1)))];
    let places = [one, two].map(|identity| process.standing(&identity, t(1)).places);
    for order in [[0, 1], [1, 0]] {
        let now = if order == [0, 1] { t(61) } else { t(122) };
        for at in order {
            process.renew(&[known[at]], now);
        }
        assert_eq!([process.rank(&one, now), process.rank(&two, now)], [1, 0]);
        assert_eq!([one, two].map(|identity| process.standing(&identity, now).places), places);
    }
}

/// All workers have an update, pause before anybody has asked for it, and go on.
#[test]
fn a_pause_just_after_an_update_loses_nothing_of_what_was_before_it() {
    let mut process = Process::default();
    let (one, two, three) = (content(1, 10, 20), content(2, 10, 20), content(3, 11, 20));
    process.configure(&one, t(0));
    let place = process.breaker(&one, t(0));
    process.configure(&two, t(61));
    assert_eq!(process.breaker(&two, t(61)), place, "what is the same is found, whatever else needs a place");
    process.configure(&three, t(122));
    assert_eq!(process.before(&three, t(122)), [place], "what has changed begins with what was true");
    assert_ne!(process.breaker(&three, t(122)), place);
}

#[test]
fn who_lost_its_entry_comes_back_to_where_it_was_and_takes_nothing_over() {
    let mut process = Process::default();
    let (one, two, three) = (content(1, 10, 20), content(2, 11, 20), content(3, 12, 20));
    let known = [(one, process.configure(&one, t(0))), (two, process.configure(&two, t(1)))];
    // Both lapse while the worker pauses, and others take their places.
    for number in 10..12 {
        process.configure(&named(2, number, 100 + number, 0), t(60));
    }
    let third = process.configure(&three, t(61));
    assert!(known.iter().any(|(identity, _)| process.registry().standing(identity, t(61)).is_none()), "one lost its");
    process.renew(&known, t(62));
    process.renew(&[(three, third)], t(62));
    assert_eq!([one, two, three].map(|identity| process.rank(&identity, t(62))), [2, 1, 0]);
    let breakers = [one, two, three].map(|identity| process.breaker(&identity, t(62)));
    assert!(are_different(breakers.into_iter()), "{breakers:?}");
    assert!(process.before(&one, t(62)).is_empty() && process.before(&two, t(62)).is_empty());
}

#[test]
fn who_comes_back_into_a_room_that_is_made_for_it_is_as_new_as_it_was() {
    let mut process = Process::default();
    let (lapsed, one, two) = (named(2, 9, 90, 0), content(1, 10, 20), content(2, 11, 20));
    process.configure(&one, t(10));
    process.configure(&lapsed, t(40));
    // It was configured before the one that has lapsed, and after the other.
    process.renew(&[(one, t(10))], t(60));
    process.renew(&[(two, t(30))], t(60));
    assert_eq!([process.rank(&one, t(60)), process.rank(&two, t(60))], [1, 0]);
}

// Which places are used again

#[test]
fn the_place_of_a_lapsed_content_is_used_again_the_longest_lapsed_first_and_has_a_later_tenancy() {
    let mut process = Process::default();
    let all = [1, 2, 3].map(|number| content(number, 10 + number, 20));
    for (one, at) in all.iter().zip([0, 2, 1]) {
        process.configure(one, t(at));
    }
    let old = all.each_ref().map(|one| process.breaker(one, t(2)));
    let next = content(4, 14, 20);
    process.configure(&next, t(10));
    assert!(!old.contains(&process.breaker(&next, t(10))), "all live");
    for (number, lapsed) in [(5, 0), (6, 2), (7, 1)] {
        let next = content(number, 10 + number, 20);
        process.configure(&next, t(18));
        let (place, old) = (process.breaker(&next, t(18)), old[lapsed]);
        assert_eq!((place.index, place.tenancy), (old.index, old.tenancy + 1), "{number}");
    }
}

#[test]
fn the_place_of_a_block_that_others_use_is_not_given_away() {
    let mut process = Process::default();
    let (one, two) = (content(1, 10, 20), content(2, 11, 20));
    process.configure(&one, t(0));
    let hosts = process.place(&one, BlockKind::Outlier, t(0));
    let since = process.configure(&two, t(1));
    process.renew(&[(two, since)], t(10));
    // The first has lapsed.
    let three = content(3, 12, 22);
    process.configure(&three, t(20));
    assert_eq!(process.place(&two, BlockKind::Outlier, t(20)), hosts);
    assert_ne!(process.place(&three, BlockKind::Outlier, t(20)).index, hosts.index);
}

#[test]
fn a_thousand_contents_one_after_the_other_leave_few_places() {
    let mut process = Process::default();
    for number in 1..=1000 {
        process.configure(&content(number, 1000 + number, 0), t(number * 16));
    }
    for kind in BlockKind::ALL {
        assert!(process.places(kind) <= 2, "{kind:?}: {} places", process.places(kind));
    }
    assert!(process.registry().contents.len() <= 2);
}

#[test]
fn ten_within_a_second_leave_ten_places_and_one_that_is_kept_for_those_who_paused() {
    let mut process = Process::default();
    for second in (0..100).map(|time| time * 20) {
        for number in 0..10 {
            let number = 1 + second * 10 + number;
            process.configure(&content(number, number, 0), t(second));
        }
    }
    assert_eq!((process.places(BlockKind::Breaker), process.places(BlockKind::Text)), (11, 11));
}

// What a new block begins with

#[test]
fn a_changed_block_begins_with_those_before_it_that_live_the_newest_first() {
    let mut process = Process::default();
    let all = [1, 2, 3, 4].map(|number| content(number, 10 + number, 20));
    process.configure(&all[0], t(0));
    process.configure(&all[1], t(10));
    process.configure(&named(2, 9, 90, 0), t(11));
    process.configure(&all[2], t(12));
    process.configure(&all[3], t(20));
    let [second, third] = [1, 2].map(|number: usize| process.breaker(&all[number], t(20)));
    assert_eq!(process.before(&all[3], t(20)), [third, second], "the first has lapsed");
    let standing = process.standing(&all[3], t(20));
    assert!(standing.before.get(BlockKind::Outlier).is_empty(), "what is shared has nothing to begin with");
    let keys = process.place(&all[2], BlockKind::Keys, t(20));
    assert!(standing.before.get(BlockKind::Breaker).iter().all(|before| before.keys == keys));
    assert!(process.before(&all[1], t(20)).is_empty());
}

#[test]
fn a_block_that_several_contents_before_had_is_looked_at_once_and_no_more_than_sixteen_are() {
    let mut process = Process::default();
    for number in 1..=20 {
        process.configure(&content(number, 10, 20), t(0));
    }
    let (changed, place) = (content(21, 11, 20), process.breaker(&content(1, 10, 20), t(0)));
    process.configure(&changed, t(0));
    assert_eq!(process.before(&changed, t(0)), [place]);
    for number in 22..=50 {
        process.configure(&content(number, number, 20), t(0));
    }
    let last = process.breaker(&content(49, 49, 20), t(0));
    let before = process.before(&content(50, 50, 20), t(0));
    assert_eq!((before.len(), before[0]), (MOST_BEFORE, last));
}

#[test]
fn a_content_that_comes_right_after_a_changed_block_begins_with_the_same() {
    let mut process = Process::default();
    let (one, two, three) = (content(1, 10, 20), content(2, 11, 20), content(3, 11, 21));
    let first = process.configure(&one, t(0));
    process.configure(&two, t(1));
    // Nobody has had a request under the second.
    process.configure(&three, t(1));
    let (place, before) = (process.breaker(&two, t(1)), process.breaker(&one, t(1)));
    assert_eq!(process.breaker(&three, t(1)), place);
    assert_eq!(process.before(&three, t(1)), [before]);
    // Long after it does not: what the old one does from then on is its own.
    for second in 2..60 {
        process.renew(&[(one, first), (two, t(1))], t(second));
    }
    let four = content(4, 11, 22);
    process.configure(&four, t(60));
    assert_eq!(process.breaker(&four, t(60)), place);
    assert!(process.before(&four, t(60)).is_empty());
}

#[test]
fn of_each_block_it_is_known_whether_newer_contents_have_the_same_another_or_none() {
    let mut process = Process::default();
    let (one, two) = (content(1, 10, 20), content(2, 11, 20));
    process.configure(&one, t(0));
    process.configure(&two, t(1));
    let newer = process.standing(&one, t(1)).newer;
    assert_eq!(*newer.get(BlockKind::Breaker), Newer::Other);
    assert_eq!(*newer.get(BlockKind::Outlier), Newer::Same);
    assert_eq!(*newer.get(BlockKind::Retry), Newer::None);
    assert_eq!(*process.standing(&two, t(1)).newer.get(BlockKind::Breaker), Newer::None);
    process.configure(&content(3, 0, 0), t(2));
    assert_eq!(*process.standing(&one, t(2)).newer.get(BlockKind::Breaker), Newer::Other, "the newest that has one");
    assert_eq!(*process.standing(&one, t(17)).newer.get(BlockKind::Breaker), Newer::None, "none of them lives");
}

// Limits and damage

#[test]
fn a_content_beyond_the_most_has_no_standing_until_there_is_room() {
    let mut registry = Registry::default();
    let slim = |number: u64| {
        let blocks = ByKind::new(|kind| (kind == BlockKind::Text).then_some(number));
        Identity { name: number, content: number, blocks }
    };
    let configured = |number| Configured { identity: slim(number), before: None, used: ByKind::default() };
    for number in 1..=MOST_CONTENTS as u64 {
        registry.configure(&configured(number), &[], t(if number == 77 { 0 } else { 5 }));
    }
    let late = MOST_CONTENTS as u64 + 1;
    registry.configure(&configured(late), &[], t(14));
    assert_eq!(registry.standing(&slim(late), t(14)), None);
    registry.configure(&configured(late), &[], t(16));
    assert!(registry.standing(&slim(late), t(16)).is_some(), "one has lapsed");
    assert!(registry.standing(&slim(77), t(16)).is_none());
    assert_eq!(registry.places.get(BlockKind::Text).len(), MOST_CONTENTS);
    assert_eq!(Registry::decode(&registry.encode(Mark::NONE), Mark::NONE), Some(registry));
}

#[test]
fn a_content_that_is_entered_late_stands_behind_those_that_were_configured_after_it() {
    let (mut process, [one, two, three]) = (Process::default(), [1, 2, 3].map(|number| content(number, number, 20)));
    process.configure(&one, t(0));
    process.configure(&three, t(10));
    let late = process.configure_before(&two, &[&three], t(11));
    assert_eq!([one, two, three].map(|one| process.rank(&one, t(11))), [2, 1, 0]);
    assert!(late.since < t(10), "as if it had been entered in its turn");
    assert_eq!(process.before(&three, t(11)), [process.breaker(&one, t(11))], "what was there before it");
    let again = process.configure_before(&one, &[&three], t(12));
    assert_eq!((again.rank, again.since), (2, t(0)), "nor does one that is there come before them");
    let beside = process.configure_before(&content(4, 40, 20), &[&content(5, 50, 20)], t(13));
    assert_eq!((beside.rank, beside.since), (0, t(13)), "those that nobody has entered count for nothing");
}

#[test]
fn a_block_that_the_newest_has_changed_is_taken_over_from_there_though_an_older_content_has_its_equal() {
    let mut process = Process::default();
    let (one, two, back) = (content(1, 10, 20), content(2, 11, 20), content(3, 10, 20));
    process.configure(&one, t(0));
    process.configure(&two, t(1));
    let places = [one, two].map(|one| process.breaker(&one, t(1)));
    process.configure(&back, t(2));
    let place = process.breaker(&back, t(2));
    assert!(!places.contains(&place), "{places:?}: {place:?}");
    assert_eq!(process.before(&back, t(2)), [places[1], places[0]], "the newest first");
    let outlier = |process: &mut Process, one| process.place(&one, BlockKind::Outlier, t(2));
    assert_eq!(outlier(&mut process, back), outlier(&mut process, one), "what it has not changed is shared");
}

#[test]
fn a_feature_that_was_out_in_between_goes_on_where_it_was() {
    let mut process = Process::default();
    let (one, without, back) = (content(1, 10, 20), content(2, 0, 20), content(3, 10, 20));
    process.configure(&one, t(0));
    process.configure(&without, t(1));
    process.configure(&back, t(2));
    assert_eq!(process.breaker(&back, t(2)), process.breaker(&one, t(2)));
    assert!(process.before(&back, t(2)).is_empty(), "it has nothing to take over");
}

#[test]
fn a_registry_that_cannot_be_read_begins_again_with_later_tenancies() {
    let mut process = Process::default();
    let (one, two) = (content(1, 10, 20), content(2, 11, 20));
    let since = process.configure(&one, t(0));
    process.configure(&two, t(1));
    let old = [one, two].map(|identity| process.standing(&identity, t(1)).places);
    process.store.set(paths::REGISTRY, b"damaged");
    process.renew(&[(one, since)], t(2));
    let places = process.standing(&one, t(2)).places;
    for kind in [BlockKind::Text, BlockKind::Keys, BlockKind::Breaker, BlockKind::Outlier] {
        let is_later =
            |old: &ByKind<Option<Occupant>>| old.get(kind).unwrap().tenancy < places.get(kind).unwrap().tenancy;
        assert!(old.iter().all(is_later), "{kind:?}: {places:?}");
    }
}

#[test]
fn bytes_that_are_cut_or_longer_read_as_no_registry() {
    let mut process = Process::default();
    process.configure(&content(1, 10, 20), t(0));
    process.configure(&named(2, 2, 11, 0), t(1));
    let registry = process.registry();
    let bytes = registry.encode(Mark::NONE);
    assert_eq!(Registry::decode(&bytes, Mark::NONE), Some(registry.clone()));
    assert!(bytes.len() <= registry.size() + 14, "what is reserved is enough");
    for len in 0..bytes.len() {
        assert_eq!(Registry::decode(&bytes[..len], Mark::NONE), None, "cut at {len}");
    }
    assert_eq!(Registry::decode(&[&bytes[..], &[0]].concat(), Mark::NONE), None);
    assert_eq!(Registry::decode(&bytes, Mark { block: 1, key: 0 }), None);
}

#[test]
fn whatever_may_be_edited_of_a_policy_changes_the_block_that_it_belongs_to_and_no_other() {
    let identity = |policy: &str| {
        let text = format!(r#"{{"policies":[{{"name":"p",{policy}}}]}}"#);
        Identity::of(&holdfast_policy::config::parse(text.as_bytes()).unwrap().policies[0])
    };
    let features = r#""breaker":{},"concurrency":{"max_requests":5},"throttle":{},"retry":{},"outlier":{},
        "fallback":[{"on":["open"],"stale":{}}]"#;
    let base = identity(features);
    let all: Vec<_> =
        BlockKind::ALL.into_iter().filter(|kind| ![BlockKind::Text, BlockKind::Keys].contains(kind)).collect();
    let judged = [BlockKind::Breaker, BlockKind::Throttle, BlockKind::Outlier, BlockKind::Stale];
    let with_keys = [&[BlockKind::Keys][..], &all].concat();
    let edits: [(String, &[BlockKind]); 11] = [
        (features.replace(r#""breaker":{}"#, r#""breaker":{"open_for":"9s"}"#), &[BlockKind::Breaker]),
        (features.replace("requests\":5", "requests\":6"), &[BlockKind::Concurrency]),
        (features.replace(r#""throttle":{}"#, r#""throttle":{"aggression":2}"#), &[BlockKind::Throttle]),
        (features.replace(r#""retry":{}"#, r#""retry":{"max_retries":1}"#), &[BlockKind::Retry]),
        (features.replace(r#""outlier":{}"#, r#""outlier":{"interval":"9s"}"#), &[BlockKind::Outlier]),
        (format!(r#"{features},"outcome":{{"slow_after":"1s"}}"#), &judged),
        (format!(r#"{features},"scope":[]"#), &with_keys),
        (format!(r#"{features},"match":{{"cluster":["a"]}}"#), &[]),
        (features.replace(r#""stale":{}"#, r#""stale":{"entries":9}"#), &[BlockKind::Stale]),
        (features.replace(r#"["open"]"#, r#"["failure"]"#), &[]),
        (features.replace(r#""stale":{}}"#, r#""stale":{}},{"on":["open"],"respond":{"status":200}}"#), &[]),
    ];
    for (edited, changed) in edits {
        let edited_identity = identity(&edited);
        assert_ne!(edited_identity.content, base.content);
        for kind in BlockKind::ALL {
            let is_changed = edited_identity.blocks.get(kind) != base.blocks.get(kind);
            assert_eq!(is_changed, kind == BlockKind::Text || changed.contains(&kind), "{kind:?} in {edited}");
        }
    }
    let off = identity(&features.replace(r#","outlier":{}"#, ""));
    assert_eq!(*off.blocks.get(BlockKind::Outlier), None);
    let renamed = Identity::of(
        &holdfast_policy::config::parse(format!(r#"{{"policies":[{{"name":"q",{features}}}]}}"#).as_bytes())
            .unwrap()
            .policies[0],
    );
    assert!(BlockKind::ALL.iter().all(|kind| renamed.blocks.get(*kind) != base.blocks.get(*kind)));
}

#[test]
fn a_registry_in_which_a_content_has_a_place_that_is_not_there_reads_as_none() {
    let mut process = Process::default();
    process.configure(&content(7, 1, 2), t(0));
    let mut registry = process.registry();
    assert_eq!(Registry::decode(&registry.encode(Mark::NONE), Mark::NONE), Some(registry.clone()));
    *registry.contents[0].places.get_mut(BlockKind::Outlier) = Some(2048);
    assert_eq!(Registry::decode(&registry.encode(Mark::NONE), Mark::NONE), None);
}
