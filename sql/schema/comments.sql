-- What \df+ shows of the functions in Rust; docs/surface.md has all of it.
COMMENT ON FUNCTION tandem.put(text, jsonb, bigint, text, text, boolean, text, boolean) IS
    'writes an item whose content is JSON';
COMMENT ON FUNCTION tandem.put_binary IS 'writes an item whose content is any bytes';
COMMENT ON FUNCTION tandem.merge(text, text, bigint, text, text, boolean, text) IS
    'applies a JSON merge patch (RFC 7396); an absent item counts as {}';
COMMENT ON FUNCTION tandem.delete IS 'removes an item and leaves a tombstone; true if it was there';
COMMENT ON FUNCTION tandem.set_state IS 'changes the state of an item and leaves its content';
COMMENT ON FUNCTION tandem.move_state IS 'changes the state of an item that is in a given one';
COMMENT ON FUNCTION tandem.apply IS 'joins an encoded revision: applied, unchanged or stale';
COMMENT ON FUNCTION tandem.touch IS 'counts an access of an item; its revision stays';
COMMENT ON FUNCTION tandem.put_many(text[], text[], text, text, text, boolean) IS
    'writes items, all or none, under one batch id';
COMMENT ON FUNCTION tandem.put_many(jsonb, text) IS
    'writes items given as an array of {"id", "payload", …}, all or none, under one batch id';
COMMENT ON FUNCTION tandem.delete_many IS 'removes items, all or none, under one batch id';
COMMENT ON FUNCTION tandem.batch IS 'puts, merges, deletes and changes of state in order, all or none, under one batch id';
COMMENT ON FUNCTION tandem.delete_state IS 'removes the items of a state in byte order, all unless limited';
COMMENT ON FUNCTION tandem.delete_prefix IS 'removes the items below a prefix in byte order, all unless limited';
COMMENT ON FUNCTION tandem.merkle_root IS 'hash of all items, NULL without any';
COMMENT ON FUNCTION tandem.merkle_hash IS 'hash of a path and everything below it';
COMMENT ON FUNCTION tandem.merkle_node IS 'hash and number of items of a path, and how many changes below it are not folded';
COMMENT ON FUNCTION tandem.merkle_children IS 'a page of the children of a path with their hashes';
COMMENT ON FUNCTION tandem.merkle_leaves IS 'a page of the items of a subtree with their etags';
COMMENT ON FUNCTION tandem.dirty IS 'a page of the ids below a prefix whose last change is not folded into the blocks';
COMMENT ON FUNCTION tandem.dirty_count IS 'number of ids below a prefix whose last change is not folded into the blocks';
COMMENT ON FUNCTION tandem.dirty_prefixes IS 'a page of the children of a path that hold dirty ids';
COMMENT ON FUNCTION tandem.clean_branches IS 'a page of the children of a path that hold no dirty id';
COMMENT ON FUNCTION tandem.is_clean IS 'whether nothing in a subtree is dirty';
COMMENT ON FUNCTION tandem.verify IS 'recounts the blocks against the items and hashes every payload again';
COMMENT ON FUNCTION tandem.fold IS 'adds pending changes of the log to the blocks';
COMMENT ON FUNCTION tandem.rotate_log IS 'goes on to the next slot of the log when the present one is full, and empties what everybody is past';
COMMENT ON FUNCTION tandem.rebuild_blocks IS 'makes the blocks of fingerprints anew from the items, as after a change of the digest secret';
COMMENT ON FUNCTION tandem.mend_blocks IS
    'counts the blocks of fingerprints below a prefix again and mends those that do not add up; how many those were';
COMMENT ON FUNCTION tandem.wait_synced IS
    'number of links that have taken all writes committed before the call; waits for all, at most so many milliseconds, 0 for ever';
COMMENT ON FUNCTION tandem.merge(text, jsonb, bigint, text, text, boolean, text) IS
    'applies a JSON merge patch (RFC 7396); an absent item counts as {}';
COMMENT ON FUNCTION tandem.rebuild_blocks IS 'makes the blocks anew from the items; returns how many items there are';
COMMENT ON FUNCTION tandem.route IS
    'gives the ids below a prefix a table of their own, a partition of items; returns how many items went there';
COMMENT ON FUNCTION tandem.unroute IS 'takes the table of a prefix away again; returns how many items went back';
COMMENT ON FUNCTION tandem.make_route IS 'makes the tables of a row of tandem.routes; for a restored dump';
COMMENT ON FUNCTION tandem.link IS 'links this database with a Redis; returns the name of the link';
COMMENT ON FUNCTION tandem.unlink IS 'ends a link and forgets it; true if it was there';
COMMENT ON FUNCTION tandem.pause_link IS 'stops a link until it is resumed';
COMMENT ON FUNCTION tandem.resume_link IS 'lets a paused link go on, and takes over one that a dump brought';
COMMENT ON FUNCTION tandem.link_nodes IS 'the servers behind a link with their slots, items, root and what waits there';
COMMENT ON FUNCTION tandem.retry_dead_letters IS 'tries again what one side could not take; what succeeds leaves the table';
COMMENT ON FUNCTION tandem.reconcile IS
    'compares this Postgres with the Redis of a link, or with a peer by its URL, and joins what differs both ways';
COMMENT ON FUNCTION tandem.reconcile_peers IS 'compares any two peers and joins what differs both ways';
COMMENT ON FUNCTION tandem.peer_has_key IS 'for a check from another Postgres: whether digests are made with one secret';
COMMENT ON FUNCTION tandem.peer_fingerprints IS 'for a check from another Postgres: count and sum of each range';
COMMENT ON FUNCTION tandem.peer_splits IS 'for a check from another Postgres: ranges cut into pieces';
COMMENT ON FUNCTION tandem.peer_lists IS 'for a check from another Postgres: the items of each range';
COMMENT ON FUNCTION tandem.peer_fetch IS 'for a check from another Postgres: revisions, encoded';
COMMENT ON FUNCTION tandem.peer_join IS 'for a check from another Postgres: joins encoded revisions';
COMMENT ON FUNCTION tandem.peer_waiting IS 'for a check from another Postgres: those of the ids that links have still to take';
COMMENT ON FUNCTION tandem.check_id IS 'the id if it is one, else an error';
COMMENT ON FUNCTION tandem.check_prefix IS 'the prefix if it is one, else an error';
COMMENT ON FUNCTION tandem.check_state IS 'the state if it is one, else an error';
COMMENT ON FUNCTION tandem.range_end IS 'the least text after everything that begins with a prefix';
COMMENT ON FUNCTION tandem.page_limit IS 'the limit of a page, 100 if it is NULL';
COMMENT ON FUNCTION tandem.now_ms IS 'milliseconds since 1970 by the server''s clock';
COMMENT ON FUNCTION tandem.digest IS 'the digest of a live item; its hex is the etag';
COMMENT ON FUNCTION tandem.is_routing IS 'whether tandem itself is changing the tables of items at this moment';
