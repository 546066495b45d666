-- Functions that are plain SQL over the tables and the helpers in Rust. Callers use their own rights. The names in their
-- bodies are bound here, once, so that nothing of a caller's path takes the place of what is meant.

CREATE FUNCTION tandem.item_of(i tandem.items) RETURNS tandem.item
LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
    SELECT ROW(i.id, i.version, i."timestamp", i.state, CASE WHEN i.payload_blob IS NOT NULL THEN 'binary' WHEN i.payload IS NOT NULL THEN 'json' END,
        i.payload, i.payload_blob, encode(i.payload_hash, 'hex'),
        encode(tandem.digest(i.version, i.id, i.state, i.payload IS NOT NULL, i.payload_hash), 'hex'),
        i.audit)::tandem.item;
END;
COMMENT ON FUNCTION tandem.item_of IS 'a row of items as its reader sees it';

CREATE FUNCTION tandem.get(id text) RETURNS SETOF tandem.item
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1 BEGIN ATOMIC
    SELECT (tandem.item_of(i)).* FROM tandem.items i WHERE i.id = tandem.check_id($1);
END;
COMMENT ON FUNCTION tandem.get IS 'the item under an id, no row if there is none';

CREATE FUNCTION tandem.get_many(ids text[]) RETURNS SETOF tandem.item
LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
    SELECT (tandem.item_of(i)).*
    FROM unnest(ids) WITH ORDINALITY AS asked (id, place)
    LEFT JOIN tandem.items i ON i.id = tandem.check_id(asked.id)
    ORDER BY asked.place;
END;
COMMENT ON FUNCTION tandem.get_many IS 'the items under ids, in their order; all NULL where there is none';

CREATE FUNCTION tandem.exists(id text) RETURNS boolean
LANGUAGE sql STABLE STRICT PARALLEL SAFE BEGIN ATOMIC
    SELECT EXISTS (SELECT FROM tandem.items i WHERE i.id = tandem.check_id($1));
END;
COMMENT ON FUNCTION tandem.exists IS 'whether an item lives under the id';

CREATE FUNCTION tandem.exists_many(ids text[]) RETURNS boolean[]
LANGUAGE sql STABLE STRICT PARALLEL SAFE BEGIN ATOMIC
    SELECT coalesce(array_agg(i.id IS NOT NULL ORDER BY asked.place), '{}')
    FROM unnest(ids) WITH ORDINALITY AS asked (id, place)
    LEFT JOIN tandem.items i ON i.id = tandem.check_id(asked.id);
END;
COMMENT ON FUNCTION tandem.exists_many IS 'for each id whether an item lives under it';

-- Bounds are comparisons that an index answers whatever the arguments. A check stands once more by itself, where it
-- is made even if there is no row to compare.
CREATE FUNCTION tandem.scan(prefix text, after text DEFAULT NULL, lim bigint DEFAULT NULL) RETURNS SETOF tandem.item
LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
    SELECT (tandem.item_of(i)).* FROM tandem.items i
    WHERE tandem.check_prefix(prefix) IS NOT NULL AND i.id >= tandem.check_prefix(prefix)
      AND i.id < tandem.range_end(prefix) AND i.id > coalesce(after, '')
    ORDER BY i.id LIMIT tandem.page_limit(lim);
END;
COMMENT ON FUNCTION tandem.scan IS 'a page of items below a prefix, in byte order of their ids';

CREATE FUNCTION tandem.count(prefix text DEFAULT '') RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
    SELECT count(*) FROM tandem.items i
    WHERE tandem.check_prefix(prefix) IS NOT NULL AND i.id >= tandem.check_prefix(prefix)
      AND i.id < tandem.range_end(prefix);
END;
COMMENT ON FUNCTION tandem.count IS 'number of items below a prefix';

-- A state is a range of the index on (state, id). Said as an equality, the planner may as well read ids in order and
-- pass over those of other states, which is the whole table where a state is rare.
CREATE FUNCTION tandem.list_state(state text, after text DEFAULT NULL, lim bigint DEFAULT NULL) RETURNS SETOF text
LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
    SELECT i.id FROM tandem.items i
    WHERE tandem.check_state($1) IS NOT NULL AND (i.state, i.id) > (tandem.check_state($1), coalesce(after, ''))
      AND i.state <= tandem.check_state($1)
    ORDER BY i.state, i.id LIMIT tandem.page_limit(lim);
END;
COMMENT ON FUNCTION tandem.list_state IS 'a page of the ids of a state, in byte order';

CREATE FUNCTION tandem.get_state(state text, after text DEFAULT NULL, lim bigint DEFAULT NULL)
RETURNS SETOF tandem.item
LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
    SELECT (tandem.item_of(i)).* FROM tandem.items i
    WHERE tandem.check_state($1) IS NOT NULL AND (i.state, i.id) > (tandem.check_state($1), coalesce(after, ''))
      AND i.state <= tandem.check_state($1)
    ORDER BY i.state, i.id LIMIT tandem.page_limit(lim);
END;
COMMENT ON FUNCTION tandem.get_state IS 'a page of the items of a state, in byte order of their ids';

CREATE FUNCTION tandem.count_state(state text) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
    SELECT count(*) FROM tandem.items i
    WHERE tandem.check_state($1) IS NOT NULL AND i.state = tandem.check_state($1);
END;
COMMENT ON FUNCTION tandem.count_state IS 'number of items of a state';

CREATE FUNCTION tandem.in_state(id text, state text) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
    SELECT EXISTS (SELECT FROM tandem.items i WHERE tandem.check_id($1) IS NOT NULL
        AND tandem.check_state($2) IS NOT NULL AND i.id = tandem.check_id($1) AND i.state = tandem.check_state($2));
END;
COMMENT ON FUNCTION tandem.in_state IS 'whether the item lives and has the state';

-- What this side knows of an item: links that carry it to Redis, and what the log still holds for them.
CREATE FUNCTION tandem.item_status(id text) RETURNS tandem.standing
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    SELECT ROW($1, w.status, CASE w.status WHEN 'missing' THEN 'none' WHEN 'removed' THEN 'none'
            WHEN 'synced' THEN CASE WHEN w.is_cached THEN 'postgres' ELSE 'both' END ELSE 'postgres' END,
        CASE WHEN w.waits AND w.status IN ('removed', 'pending') THEN 'to_redis' END,
        w.version, w.etag, coalesce(w.access_count, 0), w.last_accessed)::tandem.standing
    FROM (
        SELECT l.waits, l.is_cached, coalesce(i.version, t.version) AS version, i.access_count,
            CASE WHEN i.id IS NOT NULL THEN
                encode(tandem.digest(i.version, i.id, i.state, i.payload IS NOT NULL, i.payload_hash), 'hex') END AS etag,
            (extract(epoch FROM i.last_accessed) * 1000)::bigint AS last_accessed,
            CASE WHEN i.local THEN 'local'
                WHEN i.id IS NULL THEN CASE WHEN t.id IS NULL THEN 'missing' ELSE 'removed' END
                WHEN l.waits IS NULL THEN 'unlinked' WHEN l.waits THEN 'pending' ELSE 'synced' END AS status
        FROM (SELECT tandem.check_id($1) AS id) asked
        LEFT JOIN tandem.items i ON i.id = asked.id
        LEFT JOIN tandem.tombstones t ON t.id = asked.id
        CROSS JOIN (
            SELECT bool_or(l.needs_check OR EXISTS (SELECT FROM tandem.changes c
                WHERE (c.xid, c.seq) > (l.pushed_xid, l.pushed_seq) AND c.id = $1
                  AND c.origin IS DISTINCT FROM l.name)) AS waits,
                -- A cache may hold a copy or none.
                bool_and(l.mode = 'cache' AND NOT starts_with($1, 'tandem/')) AS is_cached
            FROM tandem.links l
            WHERE l.direction <> 'from_redis' AND (starts_with($1, l.prefix) OR starts_with($1, 'tandem/'))
        ) l
    ) w
$$;
COMMENT ON FUNCTION tandem.item_status IS 'whether an item is here only, on its way to Redis, or on both sides';

-- VOLATILE, so that its snapshot is taken when the log is locked already: a slot that is emptied in between would
-- otherwise be a gap that nobody notices.
CREATE FUNCTION tandem.changes_since(since text DEFAULT NULL, lim bigint DEFAULT NULL)
RETURNS TABLE (pos text, id text, op text, version bigint, "timestamp" bigint, state text, type text, payload jsonb,
    payload_blob bytea, hash text, etag text, audit jsonb, origin text)
LANGUAGE sql VOLATILE ROWS 100 SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off AS $$
    SELECT c.xid || '-' || c.seq, c.id, CASE c.op WHEN 'p' THEN 'put' ELSE 'remove' END, c.version, c."timestamp",
        i.state, CASE WHEN i.payload_blob IS NOT NULL THEN 'binary' WHEN i.payload IS NOT NULL THEN 'json' END,
        i.payload, i.payload_blob, encode(i.payload_hash, 'hex'),
        encode(tandem.digest(i.version, i.id, i.state, i.payload IS NOT NULL, i.payload_hash), 'hex'),
        i.audit, c.origin
    FROM (
        SELECT c.* FROM tandem.changes c
        WHERE (c.xid, c.seq) > (tandem.position_xid(since), tandem.position_seq(since))
          AND c.xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
        ORDER BY c.xid, c.seq LIMIT tandem.page_limit(lim)
    ) c
    LEFT JOIN tandem.items i ON i.id = c.id AND NOT i.local
    WHERE (SELECT tandem.check_position(since, s.truncated_xid, s.truncated_seq) FROM tandem.log_state s)
    ORDER BY c.xid, c.seq
$$;
COMMENT ON FUNCTION tandem.changes_since IS
    'changes after a position, in commit order without gaps; pass the last pos as since';

CREATE FUNCTION tandem.log_position() RETURNS text
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off AS $$
    SELECT e.xid || '-' || e.seq FROM (
        (SELECT c.xid, c.seq FROM tandem.changes c
         WHERE c.xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint ORDER BY c.xid DESC, c.seq DESC LIMIT 1)
        UNION ALL SELECT s.truncated_xid, s.truncated_seq FROM tandem.log_state s
    ) e ORDER BY e.xid DESC, e.seq DESC LIMIT 1
$$;
COMMENT ON FUNCTION tandem.log_position IS 'the position after which the next change will come';

CREATE FUNCTION tandem.links() RETURNS SETOF tandem.link_state
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp BEGIN ATOMIC
    SELECT l.name, l.mode, l.prefix, l.direction, l.paused, l.state, l.pulled, l.pushed,
        (SELECT count(*) FROM tandem.changes c WHERE (c.xid, c.seq) > (l.pushed_xid, l.pushed_seq)
            AND c.origin IS DISTINCT FROM l.name),
        l.last_error, l.last_error_at, l.check_every, k.finished_at, k.answer, k.reason, k.differences, k.repaired,
        k.ranges, k.bytes
    FROM tandem.links l LEFT JOIN LATERAL (SELECT * FROM tandem.checks c
        WHERE c.link = l.name AND c.finished_at IS NOT NULL ORDER BY c.run DESC LIMIT 1) k ON true
    ORDER BY l.name;
END;
COMMENT ON FUNCTION tandem.links IS 'the links, without their addresses: those hold passwords';

CREATE FUNCTION tandem.status() RETURNS SETOF tandem.fact
LANGUAGE sql STABLE BEGIN ATOMIC
    SELECT v.name, v.value FROM (SELECT count(*), count(*) FILTER (WHERE i.local) FROM tandem.items i) c (items, locals)
        CROSS JOIN LATERAL (VALUES ('items', c.items::text), ('local_items', c.locals::text)) v (name, value)
    UNION ALL SELECT 'root', tandem.merkle_root()
    UNION ALL SELECT 'tombstones', (SELECT count(*)::text FROM tandem.tombstones)
    UNION ALL SELECT 'blocks', (SELECT count(*)::text FROM tandem.blocks)
    UNION ALL SELECT 'pending_folds', tandem.dirty_count()::text
    UNION ALL SELECT 'conflicts', (SELECT count(*)::text FROM tandem.conflicts)
    UNION ALL SELECT 'dead_letters', (SELECT count(*)::text FROM tandem.dead_letters)
    UNION ALL SELECT 'link ' || l.name, l.state || CASE WHEN l.paused THEN ' (paused)' ELSE '' END
        || ', waiting ' || l.waiting || coalesce(', last error: ' || l.last_error, '') FROM tandem.links() l;
END;
COMMENT ON FUNCTION tandem.status IS 'what there is here and how the links do, as names and values';

CREATE FUNCTION tandem.discard_dead_letter(seq bigint) RETURNS boolean LANGUAGE sql BEGIN ATOMIC
    WITH gone AS (DELETE FROM tandem.dead_letters d WHERE d.seq = $1 RETURNING 1) SELECT EXISTS (SELECT FROM gone);
END;
COMMENT ON FUNCTION tandem.discard_dead_letter IS 'gives up a revision that was set aside; true if it was there';

-- Whether every link has taken the last change of an id. One that takes nothing from here never does.
CREATE FUNCTION tandem.is_taken(id text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off AS $$
    SELECT NOT EXISTS (SELECT FROM tandem.links l
        WHERE (starts_with($1, l.prefix) OR starts_with($1, 'tandem/'))
          AND (l.needs_check OR l.direction = 'from_redis' OR EXISTS (SELECT FROM tandem.changes c
            WHERE (c.xid, c.seq) > (l.pushed_xid, l.pushed_seq) AND c.id = $1)))
$$;

-- Drops tombstones written before a time (milliseconds) that every link has taken, a batch of them; how many. What no
-- link has taken yet is looked up once, and not once a tombstone.
CREATE FUNCTION tandem.forget_tombstones(before bigint, lim bigint) RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH untaken AS MATERIALIZED (
        SELECT DISTINCT c.id FROM tandem.links l JOIN tandem.changes c
            ON (c.xid, c.seq) > (l.pushed_xid, l.pushed_seq)
           AND (starts_with(c.id, l.prefix) OR starts_with(c.id, 'tandem/'))),
    gone AS (
        DELETE FROM tandem.tombstones t WHERE t.id IN (
            SELECT o.id FROM tandem.tombstones o
            WHERE o."timestamp" < $1 AND NOT EXISTS (SELECT FROM untaken u WHERE u.id = o.id)
              AND NOT EXISTS (SELECT FROM tandem.links l WHERE (l.needs_check OR l.direction = 'from_redis')
                AND (starts_with(o.id, l.prefix) OR starts_with(o.id, 'tandem/')))
            LIMIT $2)
        RETURNING 1)
    SELECT count(*) FROM gone
$$;

-- Forgets all but the last runs of checks of each link and of all other peers together, and those of links that are gone.
CREATE FUNCTION tandem.forget_checks(kept integer) RETURNS void LANGUAGE sql BEGIN ATOMIC
    DELETE FROM tandem.checks c WHERE c.run IN (
        SELECT o.run FROM (SELECT a.run, a.link, p.is_peer,
                row_number() OVER (PARTITION BY CASE WHEN NOT p.is_peer THEN a.link END ORDER BY a.run DESC) AS age
            FROM tandem.checks a CROSS JOIN LATERAL (SELECT a.link ~ '://| <> ' AS is_peer) p) o
        WHERE o.age > kept OR NOT (o.is_peer OR EXISTS (SELECT FROM tandem.links l WHERE l.name = o.link)));
END;
COMMENT ON FUNCTION tandem.forget_checks IS 'forgets all but the last checks of each link; the manager calls it';

-- Moves the log on to the next slot when the present one has grown or aged, and empties the one after that, if every
-- reader is past it. The slot before the present one stays: it is what changes_since looks back on. Emptying is not
-- seen by snapshots as deleting is, so it waits until every snapshot sees that positions in the slot are refused.
CREATE FUNCTION tandem.rotate_log() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    state tandem.log_state;
    candidate smallint;
    unread text;
    past boolean;
    used boolean;
BEGIN
    SELECT * INTO state FROM tandem.log_state;
    candidate := (state.slot + 1) % 3;
    unread := format($q$SELECT NOT EXISTS (SELECT FROM tandem.changes_%s c
        WHERE (c.xid, c.seq) > (SELECT s.folded_xid, s.folded_seq FROM tandem.log_state s)
           OR EXISTS (SELECT FROM tandem.links l WHERE (c.xid, c.seq) > (l.pushed_xid, l.pushed_seq)
                      AND l.direction <> 'from_redis'))$q$, candidate);
    EXECUTE format('SELECT EXISTS (SELECT FROM tandem.changes_%s)', candidate) INTO used;
    IF used AND state.drained_slot IS DISTINCT FROM candidate THEN
        EXECUTE unread INTO past;
        IF past THEN
            EXECUTE format($q$UPDATE tandem.log_state s SET drained_slot = $1, drained_at = clock_timestamp(),
                drained_xid = pg_current_xact_id(), (truncated_xid, truncated_seq) =
                (SELECT p.xid, p.seq FROM (SELECT c.xid, c.seq FROM tandem.changes_%s c
                    UNION ALL SELECT s.truncated_xid, s.truncated_seq) p ORDER BY 1 DESC, 2 DESC LIMIT 1)$q$, candidate)
                USING candidate;
        END IF;
    ELSIF used AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a
            WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
              AND (a.xact_start < state.drained_at OR age(a.backend_xmin) >= age(state.drained_xid::xid))) THEN
        BEGIN
            EXECUTE format('LOCK TABLE tandem.changes_%s IN ACCESS EXCLUSIVE MODE NOWAIT', candidate);
            -- Who inserted while we looked has committed by now, and is seen by this fresh snapshot.
            EXECUTE unread INTO past;
            EXECUTE format($q$SELECT $1 AND NOT EXISTS (SELECT FROM tandem.changes_%s c
                WHERE (c.xid, c.seq) > ($2, $3))$q$, candidate)
                INTO past USING past, state.truncated_xid, state.truncated_seq;
            IF past THEN
                EXECUTE format('TRUNCATE tandem.changes_%s', candidate);
            END IF;
            UPDATE tandem.log_state SET drained_slot = NULL;
        EXCEPTION WHEN lock_not_available THEN
            NULL;
        END;
    ELSIF NOT used AND (state.slot_since < now() - interval '10 minutes'
            OR pg_relation_size(format('tandem.changes_%s', state.slot)::regclass) > 16 * 1024 * 1024) THEN
        UPDATE tandem.log_state SET slot = candidate, slot_since = now();
    END IF;
END
$$;
