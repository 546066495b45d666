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
