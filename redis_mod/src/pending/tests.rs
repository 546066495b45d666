//! What waits for whom, and until when.

use super::*;

fn version(number: u64) -> Version {
    Version::new(number.into()).unwrap()
}

/// A set with links that carry everything both ways, and were compared.
fn with_links(names: &[&str]) -> Pending {
    let mut pending = Pending::default();
    for name in names {
        assert!(pending.attach(name, &Scope::everything(), false), "{name} is new");
        pending.link_mut(name).unwrap().is_compared = true;
    }
    pending
}

fn with_scope(words: [&str; 3]) -> Pending {
    let mut pending = Pending::default();
    pending.attach("pg", &Scope::parse(words[0], words[1], words[2]).unwrap(), false);
    pending.link_mut("pg").unwrap().is_compared = true;
    pending
}

fn ids(pending: &Pending, link: &str, after: u64) -> Vec<(u64, String)> {
    pending.after(link, after).map(|(id, waiting)| (waiting.seq, id.to_owned())).collect()
}

#[test]
fn without_links_nothing_waits() {
    let mut pending = Pending::default();
    assert_eq!(pending.written("a", None, None), None);
    assert_eq!(pending.dropped("a", version(1), Vec::new), None);
    assert_eq!((pending.len(), pending.bytes(), pending.last_seq()), (0, 0, 0));
}

#[test]
fn an_id_waits_once_in_order_of_its_last_write() {
    let mut pending = with_links(&["pg"]);
    assert!(!pending.attach("pg", &Scope::everything(), false), "as it was");
    for id in ["a", "b", "a"] {
        pending.written(id, None, None);
    }
    assert_eq!(ids(&pending, "pg", 0), [(2, "b".into()), (3, "a".into())]);
    assert_eq!(pending.acknowledge("pg", 2, &[], &[]), Some(1));
    assert_eq!(ids(&pending, "pg", 0), [(3, "a".into())]);
    pending.written("a", None, None);
    assert_eq!(pending.acknowledge("pg", 3, &[], &[]), Some(0), "written again after it was pulled");
    assert_eq!(pending.acknowledge("pg", 4, &[], &[]), Some(1));
    assert_eq!((pending.len(), pending.bytes()), (0, 0));
    assert_eq!(pending.acknowledge("other", 4, &[], &[]), None);
}

#[test]
fn a_link_is_told_of_what_it_carries_and_takes() {
    let mut pending = with_scope(["a:", "mirror", "both"]);
    assert!(
        pending.written("a:1", None, None).is_some() && pending.written("tandem/x", None, None).is_some()
    );
    assert_eq!(pending.written("b", None, None), None);
    assert_eq!(pending.dropped("b", version(1), Vec::new), None);
    assert!(pending.is_taken("a:1") && !pending.is_taken("b"));

    let mut pending = with_scope(["", "mirror", "to_redis"]);
    assert_eq!(pending.written("a", None, None), None, "it takes nothing");
    assert!(pending.dropped("a", version(1), || unreachable!()).is_some(), "it brings the copy back");
    let mut pending = with_scope(["", "mirror", "from_redis"]);
    assert!(pending.written("a", None, None).is_some());
    pending.acknowledge("pg", 1, &[], &[]);
    assert_eq!(pending.dropped("a", version(1), || unreachable!()), None, "it brings nothing back");
    let mut pending = with_scope(["", "cache", "both"]);
    assert_eq!(pending.dropped("a", version(1), || unreachable!()), None, "a cache may drop what it likes");
    pending.written("a", None, None);
    assert!(pending.dropped("a", version(2), || vec![1]).is_some(), "but what is not taken is kept");
    assert_eq!(pending.get("a").unwrap().dropped, None);
    assert!(pending.everything_dropped(version(2)).is_some());
}

#[test]
fn the_slowest_link_decides_and_origins_are_told_apart() {
    let mut pending = with_links(&["one"]);
    assert_eq!(pending.written("a", Some("one"), None), None, "the only link knows it");
    pending.attach("two", &Scope::everything(), false);
    pending.written("a", Some("one"), None);
    assert!(!pending.waits("one", "a") && pending.waits("two", "a") && !pending.waits("three", "a"));
    pending.written("a", None, None);
    assert!(pending.waits("one", "a") && pending.waits("two", "a"));
    assert_eq!(pending.acknowledge("one", pending.last_seq(), &[], &[]), Some(0));
    assert!(!pending.waits("one", "a") && pending.waits("two", "a") && !pending.waits("two", "b"));
    assert!(pending.detach("two"));
    assert_eq!((pending.len(), pending.bytes()), (0, 0));
}

#[test]
fn what_one_link_brought_is_kept_for_the_other() {
    let mut pending = with_links(&["one", "two"]);
    pending.written("a", Some("one"), None);
    pending.dropped("a", version(7), || vec![7]);
    let waiting = pending.get("a").unwrap();
    assert_eq!((waiting.aside.len(), waiting.dropped), (1, Some(version(7))));
    assert!(pending.waits("two", "a"));
}

#[test]
fn dropped_copies_are_kept_aside_until_acknowledged() {
    let mut pending = with_links(&["pg"]);
    pending.written("a", None, None);
    pending.dropped("a", version(7), || vec![1, 2]);
    pending.dropped("b", version(3), || unreachable!("b was acknowledged"));
    assert_eq!(pending.get("a").unwrap().aside.len(), 1);
    assert_eq!(pending.dropped_version("a"), Some(version(7)));
    pending.written("a", None, None);
    assert_eq!(pending.get("a").unwrap().aside.len(), 1, "both revisions travel");
    pending.everything_dropped(version(9));
    assert_eq!(pending.dropped_version("zzz"), Some(version(9)));
    assert!(pending.has_dropped());
    pending.acknowledge("pg", pending.last_seq(), &[], &[]);
    assert!(!pending.has_dropped());
    assert_eq!((pending.len(), pending.bytes()), (0, 0));
}

#[test]
fn an_expired_copy_waits_only_as_long_as_it_is_not_taken() {
    let mut pending = with_links(&["pg"]);
    pending.dropped("a", version(7), || unreachable!("a was acknowledged"));
    pending.expired("a");
    assert_eq!((pending.len(), pending.bytes(), pending.has_dropped()), (0, 0, false));
    assert!(
        pending.has_taken(pending.link("pg").unwrap(), pending.last_seq(), None),
        "nobody waits for its number"
    );
    pending.written("a", None, None);
    pending.dropped("a", version(8), || vec![1]);
    pending.expired("a");
    let waiting = pending.get("a").unwrap();
    assert_eq!((waiting.aside.len(), waiting.dropped, pending.has_dropped()), (1, None, false));
    pending.expired("a");
    assert_eq!(pending.acknowledge("pg", pending.last_seq(), &[], &[]), Some(1));
}

#[test]
fn a_write_is_taken_when_it_or_a_later_one_is() {
    let mut pending = with_links(&["pg"]);
    let taken = |pending: &Pending, seq| pending.has_taken(pending.link("pg").unwrap(), seq, None);
    let first = pending.written("a", None, None).unwrap();
    assert!(!taken(&pending, first));
    let second = pending.written("a", None, None).unwrap();
    assert!(!taken(&pending, first), "the id was written again; nothing of it was taken");
    pending.dropped("a", version(2), || vec![1]);
    assert!(!taken(&pending, first) && !taken(&pending, second));
    pending.acknowledge("pg", second, &[], &[]);
    assert!(!taken(&pending, first), "that number is not what waits");
    pending.acknowledge("pg", pending.last_seq(), &[], &[]);
    assert!(taken(&pending, first) && taken(&pending, second));
    let third = pending.written("a", None, None).unwrap();
    pending.written("a", Some("pg"), None);
    assert!(taken(&pending, third), "the link itself has gone on");
    pending.link_mut("pg").unwrap().is_compared = false;
    assert!(!taken(&pending, third), "nobody knows what the other side has");
}

#[test]
fn an_acknowledgement_leaves_what_it_excepts() {
    let mut pending = with_links(&["pg"]);
    for (id, client) in [("a", 1), ("b", 2), ("c", 3)] {
        pending.written(id, None, None);
        pending.is_by(id, Some(client));
    }
    let taken =
        |pending: &Pending, seq, client| pending.has_taken(pending.link("pg").unwrap(), seq, Some(client));
    assert!((1..4).all(|client| !taken(&pending, 3, client)), "nothing is acknowledged");
    assert_eq!(pending.acknowledge("pg", 2, &[1], &[]), Some(1));
    assert!(!taken(&pending, 3, 2), "what comes after that may be anybody's");
    assert!(taken(&pending, 2, 2) && !taken(&pending, 2, 1));
    pending.acknowledge("pg", 3, &[1], &[]);
    assert_eq!(ids(&pending, "pg", 0), [(1, "a".into())]);
    assert!(!pending.link("pg").unwrap().has_after(3), "the session has it");
    assert!(taken(&pending, 3, 2) && !taken(&pending, 3, 1));
    assert!(!pending.has_taken(pending.link("pg").unwrap(), 3, None), "nobody knows whose it is");
    // One that says less again, or the same again, changes nothing.
    assert_eq!(pending.acknowledge("pg", 2, &[1], &[]), Some(0));
    assert_eq!(pending.acknowledge("pg", 3, &[1, 2], &[]), Some(0));
    assert_eq!((pending.link("pg").unwrap().acked, pending.len()), (3, 1));
    // It is written again while somebody is in the way of what was there before.
    pending.written("a", None, None);
    pending.is_by("a", Some(4));
    assert!(taken(&pending, 4, 2), "client 2 has nothing to do with it");
    assert!(!taken(&pending, 4, 4) && !taken(&pending, 3, 1));
    assert_eq!(pending.acknowledge("pg", 3, &[], &[]), Some(0), "that was not this one");
    assert_eq!(pending.acknowledge("pg", 4, &[], &[]), Some(1));
    assert!(taken(&pending, 4, 1) && taken(&pending, 4, 4));
    assert_eq!((pending.len(), pending.bytes()), (0, 0));
}

#[test]
fn what_is_excepted_changes_as_anything_else_that_waits() {
    let mut pending = with_links(&["pg"]);
    for id in ["a", "b", "c"] {
        pending.written(id, None, None);
    }
    pending.acknowledge("pg", 3, &[1, 2, 3], &[]);
    pending.dropped("a", version(7), || vec![1]);
    assert_eq!(ids(&pending, "pg", 3), [(4, "a".into())], "the link is told that it is to come back");
    pending.dropped("b", version(7), || vec![1]);
    pending.expired("b");
    pending.written("c", Some("pg"), None);
    assert_eq!(ids(&pending, "pg", 3), [(4, "a".into()), (5, "b".into())]);
    pending.acknowledge("pg", 5, &[4, 5], &[]);
    let scope = Scope::parse("a", "mirror", "both").unwrap();
    assert!(pending.attach("pg", &scope, false), "it carries something else");
    assert_eq!(ids(&pending, "pg", 0), [(4, "a".into())]);
    pending.check();
    assert_eq!(pending.acknowledge("pg", 5, &[], &[]), Some(1));
    assert_eq!((pending.len(), pending.bytes()), (0, 0));
}

#[test]
fn what_cannot_be_read_is_passed_over_and_stays_owed() {
    let mut pending = with_links(&["pg", "other"]);
    for id in ["a", "b"] {
        pending.written(id, None, None);
        pending.is_by(id, Some(1));
    }
    pending.pass_over("pg", 1);
    pending.check();
    assert_eq!(ids(&pending, "pg", 0), [(2, "b".into())]);
    assert_eq!(ids(&pending, "other", 0).len(), 2, "the other link was not at it yet");
    assert!(pending.waits("pg", "a"));
    pending.acknowledge("pg", 2, &[], &[]);
    let link = pending.link("pg").unwrap();
    assert_eq!((link.len(), link.has_after(0), link.open_up_to(2)), (1, false, vec![1]));
    assert!(pending.has_taken(link, 2, Some(2)) && !pending.has_taken(link, 2, Some(1)));
    assert_eq!(link.passed_over().collect::<Vec<_>>(), [("a", 1)]);
    pending.acknowledge("other", 2, &[], &[]);
    // Redis deletes it at last.
    pending.dropped("a", version(1), || vec![1]);
    pending.expired("a");
    pending.check();
    assert_eq!(ids(&pending, "pg", 2), [(3, "a".into())]);
    assert_eq!(pending.get("a").unwrap().aside.len(), 1);
    assert!(pending.detach("other"));
    pending.pass_over("pg", 3);
    assert!(pending.detach("pg"));
    assert_eq!((pending.len(), pending.bytes()), (0, 0));
}

/// Else Redis keeps what the link has brought, and Postgres has what was aside.
#[test]
fn a_copy_that_was_dropped_untaken_is_brought_back_whatever_comes_meanwhile() {
    let mut pending = with_links(&["pg"]);
    pending.written("a", None, None);
    pending.dropped("a", version(7), || vec![1]);
    pending.written("a", Some("pg"), None);
    assert_eq!(pending.get("a").unwrap().dropped, Some(version(7)));
    assert_eq!(ids(&pending, "pg", 0), [(3, "a".into())]);
    pending.written("a", None, None);
    assert_eq!(pending.get("a").unwrap().dropped, None, "a client goes on from there");
    pending.acknowledge("pg", 4, &[], &[]);
    pending.dropped("a", version(8), || unreachable!("it was taken"));
    pending.written("a", Some("pg"), None);
    assert_eq!((pending.len(), pending.has_dropped()), (0, false), "it is back");
}

#[test]
fn what_was_refused_is_known_until_it_is_written_again() {
    let mut pending = with_links(&["pg"]);
    let first = pending.written("a", None, None).unwrap();
    pending.written("b", None, None);
    pending.written("c", None, None);
    pending.dropped("a", version(1), || vec![1]);
    pending.written("c", None, None);
    pending.acknowledge("pg", 4, &[], &["a", "c"]);
    let refused = |pending: &Pending| pending.link("pg").unwrap().refused.clone();
    assert_eq!(refused(&pending), BTreeMap::from([("a".into(), first)]), "c was written since");
    assert!(pending.bytes() > 0);
    pending.written("a", None, None);
    assert!(refused(&pending).is_empty());
}

#[test]
fn an_id_that_is_written_and_dropped_again_and_again_keeps_one_copy() {
    let mut pending = with_links(&["pg"]);
    pending.written("a", None, None);
    pending.keep_loser("a", vec![0; 10]);
    let mut sizes = Vec::new();
    for number in 1..5 {
        pending.written("a", None, None);
        pending.dropped("a", version(number), || vec![number as u8; 20]);
        sizes.push(pending.bytes());
    }
    pending.written("a", None, None);
    pending.keep_copy("a", vec![9; 20]);
    let aside: Vec<&[u8]> = pending.get("a").unwrap().aside.iter().map(AsRef::as_ref).collect();
    assert_eq!(aside, [&[9; 20][..], &[0; 10]]);
    assert!(sizes.iter().all(|size| *size == pending.bytes()), "{sizes:?}");
    pending.written("a", Some("pg"), None);
    pending.written("a", None, None);
    pending.dropped("a", version(9), || vec![7; 20]);
    assert_eq!(pending.get("a").unwrap().aside.len(), 3, "a link wrote in between");
}

#[test]
fn a_link_that_carries_something_else_loses_nothing_that_is_aside() {
    let mut pending = with_links(&["pg"]);
    pending.written("a:1", None, None);
    pending.written("b:1", None, None);
    pending.dropped("a:1", version(1), || vec![1]);
    let scope = Scope::parse("a:", "mirror", "both").unwrap();
    assert!(pending.attach("pg", &scope, true));
    assert_eq!(pending.entries().map(|(id, _)| id).collect::<Vec<_>>(), ["a:1"]);
    assert!(pending.waits("pg", "a:1") && pending.bytes() > 0);
    let link = pending.link("pg").unwrap();
    assert!(!link.is_compared && link.owes_tombstone("a:2") && !link.owes_tombstone("b"));
    pending.acknowledge("pg", pending.last_seq(), &[], &[]);
    assert_eq!((pending.len(), pending.bytes()), (0, 0));
}

#[test]
fn replay_keeps_sequence_numbers() {
    let mut pending = with_links(&["pg"]);
    assert_eq!(pending.written("a", None, Some(10)), Some(10));
    assert_eq!(pending.written("b", None, Some(10)), Some(11), "a number is used once");
    assert_eq!(pending.last_seq(), 11);
}

#[test]
fn what_is_restored_waits_for_whom_it_waited() {
    let mut pending = with_links(&["one", "two"]);
    for id in ["a", "b", "c"] {
        pending.written(id, None, None);
    }
    pending.written("d", Some("one"), None);
    pending.acknowledge("one", 2, &[1], &[]);
    pending.pass_over("one", 3);
    pending.acknowledge("one", 3, &[1], &[]);
    let mut again = Pending::default();
    for (name, link) in pending.links() {
        let open = link.open_up_to(link.acked).into_iter().collect();
        again.restore_link(name, Pending::saved_link(link.scope.clone(), link.acked, open));
    }
    for (id, waiting) in pending.entries() {
        again.restore(id, waiting.clone());
    }
    again.restore_seq(pending.last_seq());
    again.check();
    assert_eq!(ids(&again, "two", 0), ids(&pending, "two", 0));
    assert_eq!(ids(&again, "one", 0), [(1, "a".into()), (3, "c".into())], "also what was passed over");
    assert_eq!((again.bytes(), again.last_seq()), (pending.bytes(), pending.last_seq()));
}

impl Pending {
    /// Queues, counters and entries say the same.
    fn check(&self) {
        let bytes: usize = self.entries.iter().map(|(id, waiting)| waiting.cost(id)).sum();
        assert_eq!(self.bytes, bytes);
        assert_eq!(self.dropped, self.entries.values().filter(|waiting| waiting.dropped.is_some()).count());
        for (id, waiting) in &self.entries {
            let queues = self.links.values().filter(|link| {
                let queued = link.queue.get(&waiting.seq).or_else(|| link.passed_over.get(&waiting.seq));
                queued.is_some_and(|queued| queued.id == *id)
            });
            assert!(waiting.takers > 0 && queues.count() == waiting.takers as usize, "{id}: {waiting:?}");
        }
        for link in self.links.values() {
            let all = || link.queue.iter().chain(&link.passed_over);
            let owed: BTreeMap<u64, u64> = all().map(|(seq, queued)| (queued.since, *seq)).collect();
            assert_eq!((&owed, owed.len()), (&link.owed, link.len()));
            for (seq, queued) in all() {
                assert!(queued.since <= *seq && link.held.is_none());
                assert_eq!(self.entries[&queued.id].seq, *seq);
            }
        }
    }
}

/// Whatever is written, dropped and acknowledged in whatever order: a link has taken a write only when it has
/// acknowledged it or one over it, or has written over it itself.
#[test]
fn no_write_is_taken_too_early() {
    const LINKS: [(&str, [&str; 3]); 4] = [
        ("all", ["", "mirror", "both"]),
        ("some", ["a", "mirror", "both"]),
        ("cache", ["", "cache", "both"]),
        ("down", ["", "mirror", "to_redis"]),
    ];
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    for _ in 0..200 {
        let mut pending = Pending::default();
        let mut open: BTreeMap<&str, Vec<(u64, String)>> = BTreeMap::new();
        for (name, words) in LINKS {
            let scope = Scope::parse(words[0], words[1], words[2]).unwrap();
            pending.attach(name, &scope, false);
            pending.link_mut(name).unwrap().is_compared = true;
        }
        for step in 0..60 {
            let id = ["a1", "a2", "b1", "b2"][next(4) as usize];
            let (name, _) = LINKS[next(4) as usize];
            match next(7) {
                0 | 1 => {
                    let seq = pending.written(id, None, None);
                    for (name, link) in &pending.links {
                        let name = LINKS.iter().find(|(each, _)| *each == &**name).unwrap().0;
                        if takes(&link.scope, id) {
                            open.entry(name).or_default().push((seq.unwrap(), id.to_owned()));
                        }
                    }
                }
                2 if pending.link(name).unwrap().scope.to_redis() => {
                    let is_aside = pending.get(id).is_some_and(|waiting| !waiting.aside.is_empty());
                    pending.written(id, Some(name), None);
                    if !is_aside {
                        open.entry(name).or_default().retain(|(_, each)| each != id);
                    }
                }
                3 => drop(pending.dropped(id, version(step + 1), || vec![0; 10])),
                4 => {
                    pending.dropped(id, version(step + 1), || vec![0; 10]);
                    pending.expired(id);
                }
                5 => {
                    if let Some(seq) = pending.get(id).map(|waiting| waiting.seq) {
                        pending.pass_over(name, seq);
                    }
                }
                _ => {
                    let seq = next(pending.last_seq() + 1);
                    let except: Vec<u64> = (0..next(3)).map(|_| next(seq + 1)).collect();
                    let link = pending.link(name).unwrap();
                    let unread: Vec<u64> = link.passed_over().map(|(_, number)| number).collect();
                    let before: BTreeMap<String, u64> =
                        pending.entries().map(|(id, waiting)| (id.to_owned(), waiting.seq)).collect();
                    pending.acknowledge(name, seq, &except, &[]);
                    let is_left = |number: &u64| except.contains(number) || unread.contains(number);
                    let is_taken =
                        |id: &String| before.get(id).is_none_or(|number| *number <= seq && !is_left(number));
                    open.entry(name).or_default().retain(|(_, id)| !is_taken(id));
                }
            }
            pending.check();
            for (name, writes) in &open {
                for (seq, id) in writes {
                    assert!(
                        !pending.has_taken(pending.link(name).unwrap(), *seq, None),
                        "{name} has not taken {id}"
                    );
                }
            }
        }
        for id in ["a1", "a2", "b1", "b2"] {
            pending.written(id, None, None);
        }
        for (name, _) in LINKS {
            pending.acknowledge(name, pending.last_seq(), &[], &[]);
            assert!(pending.has_taken(pending.link(name).unwrap(), pending.last_seq(), None));
        }
        assert_eq!((pending.len(), pending.bytes()), (0, 0));
    }
}
