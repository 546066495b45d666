-- The log of changes as readers see it. A position is a text that only tandem takes apart (docs/cdc.md).

-- The rows that a position does not cover.
CREATE FUNCTION tandem.changes_after(since text) RETURNS SETOF tandem.changes
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT c.* FROM tandem.changes c WHERE c.xid >= tandem.position_below($1)
    UNION ALL
    SELECT c.* FROM unnest(tandem.position_open($1), tandem.position_done($1)) o (xid, seq)
        JOIN tandem.changes c ON c.xid = o.xid AND c.seq > o.seq;
END;
COMMENT ON FUNCTION tandem.changes_after IS 'rows of the log that a position does not cover, in no order';

-- What a link has still to take: changes of ids that it carries, made by others.
CREATE FUNCTION tandem.untaken(link text) RETURNS SETOF tandem.changes
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT c.* FROM tandem.links l CROSS JOIN LATERAL tandem.changes_after(l.log_position) c
    WHERE l.name = $1 AND l.direction <> 'from_redis' AND c.origin IS DISTINCT FROM l.name
      AND (pg_catalog.starts_with(c.id, l.prefix) OR pg_catalog.starts_with(c.id, 'tandem/'));
END;
COMMENT ON FUNCTION tandem.untaken IS 'rows of the log that a link has still to take';

-- What this side knows of an item: links that carry it to Redis, and what the log still holds for them.
CREATE FUNCTION tandem.item_status(id text) RETURNS tandem.standing
LANGUAGE sql VOLATILE SET jit = off
BEGIN ATOMIC
    SELECT tandem.flush_log();
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
            SELECT bool_or(l.needs_check OR EXISTS (SELECT FROM tandem.untaken(l.name) c WHERE c.id = $1)) AS waits,
                -- A cache may hold a copy or none.
                bool_and(l.mode = 'cache' AND NOT starts_with($1, 'tandem/')) AS is_cached
            FROM tandem.links l
            WHERE l.direction <> 'from_redis' AND (starts_with($1, l.prefix) OR starts_with($1, 'tandem/'))
        ) l
    ) w;
END;
COMMENT ON FUNCTION tandem.item_status IS 'whether an item is here only, on its way to Redis, or on both sides';

-- VOLATILE, so that its snapshot is taken when the log is locked already. Whether the log reaches back is asked of
-- the log as it is now, which an older snapshot does not show. What this transaction has written is not committed.
CREATE FUNCTION tandem.changes_since(since text DEFAULT NULL, lim bigint DEFAULT NULL)
RETURNS TABLE (pos text, id text, op text, version bigint, "timestamp" bigint, state text, type text, payload jsonb,
    payload_blob bytea, hash text, etag text, audit jsonb, origin text)
LANGUAGE sql VOLATILE ROWS 100 SET jit = off SET enable_seqscan = off
BEGIN ATOMIC
    SELECT tandem.position_after(since, c.seen, c.xid, c.seq), c.id,
        CASE c.op WHEN 'p' THEN 'put' ELSE 'remove' END, c.version, c."timestamp",
        i.state, CASE WHEN i.payload_blob IS NOT NULL THEN 'binary' WHEN i.payload IS NOT NULL THEN 'json' END,
        i.payload, i.payload_blob, encode(i.payload_hash, 'hex'),
        encode(tandem.digest(i.version, i.id, i.state, i.payload IS NOT NULL, i.payload_hash), 'hex'),
        i.audit, c.origin
    FROM (
        SELECT c.*, pg_current_snapshot()::text AS seen FROM tandem.changes_after(since) c
        WHERE c.xid IS DISTINCT FROM pg_current_xact_id_if_assigned()::text::bigint
        ORDER BY c.xid, c.seq LIMIT tandem.page_limit(lim)
    ) c
    LEFT JOIN tandem.items i ON i.id = c.id AND NOT i.local
    WHERE (SELECT tandem.check_position(since, pg_current_snapshot()::text))
    ORDER BY c.xid, c.seq;
END;
COMMENT ON FUNCTION tandem.changes_since IS
    'changes after a position, each once and without gaps; pass the last pos as since';

CREATE FUNCTION tandem.log_position() RETURNS text
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT tandem.position_of(pg_catalog.pg_current_snapshot()::text);
END;
COMMENT ON FUNCTION tandem.log_position IS 'the position after which the next change will come';

-- Whether every link has taken the last change of an id. One that takes nothing from here never does.
CREATE FUNCTION tandem.is_taken(id text) RETURNS boolean
LANGUAGE sql STABLE SET jit = off SET enable_seqscan = off
BEGIN ATOMIC
    SELECT NOT EXISTS (SELECT FROM tandem.links l
        WHERE (starts_with($1, l.prefix) OR starts_with($1, 'tandem/'))
          AND (l.needs_check OR l.direction = 'from_redis'
            OR EXISTS (SELECT FROM tandem.changes_after(l.log_position) c WHERE c.id = $1)));
END;
COMMENT ON FUNCTION tandem.is_taken IS 'whether every link has taken the last change of an id';

-- Drops tombstones written before a time (milliseconds) that every link has taken, a batch of them; how many. What no
-- link has taken yet is looked up once, and not once a tombstone.
CREATE FUNCTION tandem.forget_tombstones(before bigint, lim bigint) RETURNS bigint
LANGUAGE sql SET jit = off
BEGIN ATOMIC
    WITH untaken AS MATERIALIZED (
        SELECT DISTINCT c.id FROM tandem.links l CROSS JOIN LATERAL tandem.changes_after(l.log_position) c
        WHERE starts_with(c.id, l.prefix) OR starts_with(c.id, 'tandem/')),
    gone AS (
        DELETE FROM tandem.tombstones t WHERE t.id IN (
            SELECT o.id FROM tandem.tombstones o
            WHERE o."timestamp" < $1 AND NOT EXISTS (SELECT FROM untaken u WHERE u.id = o.id)
              AND NOT EXISTS (SELECT FROM tandem.links l WHERE (l.needs_check OR l.direction = 'from_redis')
                AND (starts_with(o.id, l.prefix) OR starts_with(o.id, 'tandem/')))
            LIMIT $2)
        RETURNING 1)
    SELECT count(*) FROM gone;
END;
COMMENT ON FUNCTION tandem.forget_tombstones IS 'drops old tombstones that every link has taken';

-- Locks tell of it: whoever writes items, or reads the log, has a lock on the tables until the end of his transaction.
CREATE FUNCTION tandem.lock_holder(tables oid[], modes text[]) RETURNS text
LANGUAGE sql STABLE BEGIN ATOMIC
    SELECT h.who || CASE WHEN count(*) OVER () > 1 THEN format(', and %s more', count(*) OVER () - 1) ELSE '' END
    FROM (SELECT DISTINCT coalesce('process ' || l.pid || ' of ' || coalesce(a.usename::text, '?') || ' in database '
                || coalesce(a.datname::text, '?')
                || coalesce(', in a transaction since ' || date_trunc('second', a.xact_start), ''),
            'prepared transaction ' || quote_literal(p.gid) || ' in database ' || p.database || ' since '
                || date_trunc('second', p.prepared)) AS who, coalesce(a.xact_start, p.prepared) AS since
        FROM pg_catalog.pg_locks l
        LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
        -- A prepared transaction has no process; its lock on its own number tells which one it is.
        LEFT JOIN (pg_catalog.pg_locks x JOIN pg_catalog.pg_prepared_xacts p ON x.transactionid = p.transaction)
            ON l.pid IS NULL AND x.pid IS NULL AND x.virtualtransaction = l.virtualtransaction
        WHERE l.locktype = 'relation' AND l.granted AND l.relation = ANY($1) AND ($2 IS NULL OR l.mode = ANY($2))
            AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
            AND l.pid IS DISTINCT FROM pg_backend_pid() AND coalesce(a.backend_type, '') NOT LIKE 'tandem %') h
    ORDER BY h.since LIMIT 1;
END;
COMMENT ON FUNCTION tandem.lock_holder IS 'who has had a lock in one of the modes, any if NULL, on one of the tables for longest';

CREATE FUNCTION tandem.open_writer() RETURNS text
LANGUAGE sql STABLE BEGIN ATOMIC
    SELECT tandem.lock_holder(ARRAY(SELECT p.relid FROM pg_catalog.pg_partition_tree('tandem.items') p WHERE p.isleaf),
        '{RowExclusiveLock}');
END;
COMMENT ON FUNCTION tandem.open_writer IS
    'the oldest open transaction that writes items: nobody hears of its changes before it ends';

CREATE FUNCTION tandem.log_kept_by() RETURNS text
LANGUAGE sql STABLE BEGIN ATOMIC
    SELECT coalesce(
        tandem.lock_holder(ARRAY(SELECT p.relid FROM pg_catalog.pg_partition_tree('tandem.changes') p WHERE p.isleaf), NULL),
        (SELECT string_agg('link ' || l.name, ', ' ORDER BY l.name) FROM tandem.links l WHERE l.direction <> 'from_redis'
            AND EXISTS (SELECT FROM tandem.changes_after(l.log_position))),
        (SELECT 'the fold' FROM tandem.fold_state f WHERE EXISTS (SELECT FROM tandem.changes_after(f.position))));
END;
COMMENT ON FUNCTION tandem.log_kept_by IS
    'who reads or writes the log in an open transaction, else which links or the fold have not read all of it; NULL for nobody';

CREATE VIEW tandem.link_status AS
    SELECT l.name AS link, d.direction, CASE WHEN l.paused THEN 'paused' ELSE l.state END AS state, w.waiting,
        w.lag_seconds, CASE d.direction WHEN 'from_redis' THEN l.redis_waits_for ELSE tandem.open_writer() END AS waits_for, l.last_error,
        l.last_error_at,
        (SELECT count(*) FROM tandem.dead_letters a WHERE a.link = l.name AND a.direction = d.direction) AS dead_letters,
        (SELECT count(*) FROM tandem.fold_state f CROSS JOIN LATERAL tandem.changes_after(f.position)) AS pending_folds,
        l.check_every, k.finished_at AS last_check_at, k.answer AS last_check_answer, k.reason AS last_check_reason
    FROM tandem.links l
    CROSS JOIN (VALUES ('to_redis'), ('from_redis')) d (direction)
    LEFT JOIN LATERAL (SELECT * FROM tandem.checks c
        WHERE c.link = l.name AND c.finished_at IS NOT NULL ORDER BY c.run DESC LIMIT 1) k ON true
    CROSS JOIN LATERAL (
        SELECT count(*) AS waiting, extract(epoch FROM clock_timestamp() - min(c.logged_at)) AS lag_seconds
        FROM tandem.untaken(l.name) c
        HAVING d.direction = 'to_redis'
        UNION ALL
        SELECT l.redis_waiting, extract(epoch FROM clock_timestamp() - l.redis_waiting_since)
        WHERE d.direction = 'from_redis') w
    WHERE l.direction IN ('both', d.direction)
    UNION ALL
    SELECT u.name, NULL, 'unlinking', NULL, NULL, NULL, u.last_error, u.tried_at, NULL, NULL, NULL, NULL, NULL, NULL
    FROM tandem.unlinked u;
COMMENT ON VIEW tandem.link_status IS 'each direction of each link: state, what waits and for how long, errors, dead letters, last check';
