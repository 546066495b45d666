-- Functions that are plain SQL over the tables and the helpers in Rust. Callers use their own rights.

CREATE FUNCTION tandem.item_of(i tandem.items) RETURNS tandem.item
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT ROW(i.id, i.version, i."timestamp", i.state, CASE WHEN i.payload_blob IS NOT NULL THEN 'binary' WHEN i.payload IS NOT NULL THEN 'json' END,
        i.payload, i.payload_blob, encode(i.payload_hash, 'hex'),
        encode(tandem.digest(i.version, i.id, i.state, i.payload IS NOT NULL, i.payload_hash), 'hex'),
        i.audit)::tandem.item
$$;

CREATE FUNCTION tandem.get(id text) RETURNS SETOF tandem.item
LANGUAGE sql STABLE STRICT PARALLEL SAFE ROWS 1 AS $$
    SELECT (tandem.item_of(i)).* FROM tandem.items i WHERE i.id = tandem.check_id($1)
$$;

CREATE FUNCTION tandem.get_many(ids text[]) RETURNS SETOF tandem.item
LANGUAGE sql STABLE STRICT PARALLEL SAFE AS $$
    SELECT (tandem.item_of(i)).*
    FROM unnest(ids) WITH ORDINALITY AS asked (id, place)
    LEFT JOIN tandem.items i ON i.id = tandem.check_id(asked.id)
    ORDER BY asked.place
$$;

CREATE FUNCTION tandem.exists(id text) RETURNS boolean
LANGUAGE sql STABLE STRICT PARALLEL SAFE AS $$
    SELECT EXISTS (SELECT FROM tandem.items i WHERE i.id = tandem.check_id($1))
$$;

CREATE FUNCTION tandem.exists_many(ids text[]) RETURNS boolean[]
LANGUAGE sql STABLE STRICT PARALLEL SAFE AS $$
    SELECT coalesce(array_agg(i.id IS NOT NULL ORDER BY asked.place), '{}')
    FROM unnest(ids) WITH ORDINALITY AS asked (id, place)
    LEFT JOIN tandem.items i ON i.id = tandem.check_id(asked.id)
$$;

CREATE FUNCTION tandem.scan(prefix text, after text DEFAULT NULL, lim bigint DEFAULT NULL) RETURNS SETOF tandem.item
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT (tandem.item_of(i)).* FROM tandem.items i
    WHERE i.id >= tandem.check_prefix(prefix)
      AND (tandem.prefix_end(prefix) IS NULL OR i.id < tandem.prefix_end(prefix))
      AND (after IS NULL OR i.id > after)
    ORDER BY i.id LIMIT tandem.page_limit(lim)
$$;

CREATE FUNCTION tandem.count(prefix text DEFAULT '') RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT count(*) FROM tandem.items i
    WHERE i.id >= tandem.check_prefix(prefix)
      AND (tandem.prefix_end(prefix) IS NULL OR i.id < tandem.prefix_end(prefix))
$$;

CREATE FUNCTION tandem.dirty_count(prefix text DEFAULT '') RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT count(*) FROM tandem.changes c
    WHERE (c.xid, c.seq) > (SELECT s.folded_xid, s.folded_seq FROM tandem.log_state s)
      AND c.id >= tandem.check_prefix(prefix)
      AND (tandem.prefix_end(prefix) IS NULL OR c.id < tandem.prefix_end(prefix))
$$;
COMMENT ON FUNCTION tandem.dirty_count IS 'changes under a prefix that are not folded into the blocks yet';

CREATE FUNCTION tandem.links() RETURNS TABLE (name text, mode text, prefix text, direction text, paused boolean,
    state text, pulled bigint, pushed bigint, waiting bigint, last_error text, last_error_at timestamptz,
    last_check_at timestamptz, last_check_answer text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT l.name, l.mode, l.prefix, l.direction, l.paused, l.state, l.pulled, l.pushed,
        (SELECT count(*) FROM tandem.changes c WHERE (c.xid, c.seq) > (l.pushed_xid, l.pushed_seq)
            AND c.origin IS DISTINCT FROM l.name),
        l.last_error, l.last_error_at, l.last_check_at, l.last_check_answer
    FROM tandem.links l ORDER BY l.name
$$;
COMMENT ON FUNCTION tandem.links IS 'the links, without their addresses: those hold passwords';

CREATE FUNCTION tandem.status() RETURNS TABLE (name text, value text)
LANGUAGE sql STABLE AS $$
    SELECT 'items', (SELECT count(*)::text FROM tandem.items)
    UNION ALL SELECT 'root', tandem.merkle_root()
    UNION ALL SELECT 'tombstones', (SELECT count(*)::text FROM tandem.tombstones)
    UNION ALL SELECT 'blocks', (SELECT count(*)::text FROM tandem.blocks)
    UNION ALL SELECT 'pending_folds', tandem.dirty_count()::text
    UNION ALL SELECT 'conflicts', (SELECT count(*)::text FROM tandem.conflicts)
    UNION ALL SELECT 'dead_letters', (SELECT count(*)::text FROM tandem.dead_letters)
    UNION ALL SELECT 'link ' || l.name, l.state || CASE WHEN l.paused THEN ' (paused)' ELSE '' END
        || ', waiting ' || l.waiting || coalesce(', last error: ' || l.last_error, '') FROM tandem.links() l
$$;

-- Moves the log on to the next slot when the present one has grown or aged, and empties slots that every reader is
-- past. Emptying is not seen by snapshots as deleting is, so it waits until no transaction is left that is older
-- than the moment at which the slot was found to be read by all.
CREATE FUNCTION tandem.rotate_log() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    state tandem.log_state;
    candidate smallint;
    past boolean;
    used boolean;
BEGIN
    SELECT * INTO state FROM tandem.log_state;
    FOREACH candidate IN ARRAY ARRAY[0, 1, 2]::smallint[] LOOP
        CONTINUE WHEN candidate = state.slot;
        EXECUTE format('SELECT EXISTS (SELECT FROM tandem.changes_%s)', candidate) INTO used;
        CONTINUE WHEN NOT used;
        EXECUTE format($q$SELECT NOT EXISTS (SELECT FROM tandem.changes_%s c
            WHERE (c.xid, c.seq) > (SELECT s.folded_xid, s.folded_seq FROM tandem.log_state s)
               OR EXISTS (SELECT FROM tandem.links l WHERE (c.xid, c.seq) > (l.pushed_xid, l.pushed_seq)
                          AND l.direction <> 'from_redis'))$q$, candidate) INTO past;
        CONTINUE WHEN NOT past;
        IF state.drained_slot IS DISTINCT FROM candidate THEN
            UPDATE tandem.log_state SET drained_slot = candidate, drained_at = clock_timestamp();
        ELSIF NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a
                WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.xact_start < state.drained_at) THEN
            BEGIN
                EXECUTE format('LOCK TABLE tandem.changes_%s IN ACCESS EXCLUSIVE MODE NOWAIT', candidate);
                -- Who inserted while we looked has committed by now, and is seen by this fresh snapshot.
                EXECUTE format($q$SELECT NOT EXISTS (SELECT FROM tandem.changes_%s c
                    WHERE (c.xid, c.seq) > (SELECT s.folded_xid, s.folded_seq FROM tandem.log_state s)
                       OR EXISTS (SELECT FROM tandem.links l WHERE (c.xid, c.seq) > (l.pushed_xid, l.pushed_seq)
                                  AND l.direction <> 'from_redis'))$q$, candidate) INTO past;
                IF past THEN
                    EXECUTE format('TRUNCATE tandem.changes_%s', candidate);
                END IF;
                UPDATE tandem.log_state SET drained_slot = NULL;
            EXCEPTION WHEN lock_not_available THEN
                NULL;
            END;
        END IF;
        RETURN;
    END LOOP;
    IF state.slot_since < now() - interval '10 minutes'
       OR pg_relation_size(format('tandem.changes_%s', state.slot)::regclass) > 16 * 1024 * 1024 THEN
        EXECUTE format('SELECT EXISTS (SELECT FROM tandem.changes_%s)', (state.slot + 1) % 3) INTO used;
        IF NOT used THEN
            UPDATE tandem.log_state SET slot = (state.slot + 1) % 3, slot_since = now();
        END IF;
    END IF;
END
$$;
