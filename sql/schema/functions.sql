-- Functions that are plain SQL over the tables and the helpers in Rust. Callers use their own rights. The names in
-- their bodies are bound here, once, so that nothing of a caller's path takes the place of what is meant.

-- Of columns and not of a row, as a body that is bound to a row's type would forbid to change the type of a column.
CREATE FUNCTION tandem.item_of(id text, version bigint, "timestamp" bigint, state text, payload jsonb, payload_blob bytea,
    payload_hash bytea, audit jsonb) RETURNS tandem.item
LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
    SELECT ROW($1, $2, $3, $4, CASE WHEN $6 IS NOT NULL THEN 'binary' WHEN $5 IS NOT NULL THEN 'json' END,
        $5, $6, encode($7, 'hex'), encode(tandem.digest($2, $1, $4, $5 IS NOT NULL, $7), 'hex'), $8)::tandem.item;
END;
COMMENT ON FUNCTION tandem.item_of IS 'a row of items as its reader sees it';

CREATE FUNCTION tandem.get(id text) RETURNS SETOF tandem.item
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1 BEGIN ATOMIC
    SELECT (tandem.item_of(i.id, i.version, i."timestamp", i.state, i.payload, i.payload_blob, i.payload_hash, i.audit)).* FROM tandem.items i WHERE i.id = tandem.check_id($1);
END;
COMMENT ON FUNCTION tandem.get IS 'the item under an id, no row if there is none';

CREATE FUNCTION tandem.get_many(ids text[]) RETURNS SETOF tandem.item
LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
    SELECT (tandem.item_of(i.id, i.version, i."timestamp", i.state, i.payload, i.payload_blob, i.payload_hash, i.audit)).*
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
    SELECT (tandem.item_of(i.id, i.version, i."timestamp", i.state, i.payload, i.payload_blob, i.payload_hash, i.audit)).* FROM tandem.items i
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
    SELECT (tandem.item_of(i.id, i.version, i."timestamp", i.state, i.payload, i.payload_blob, i.payload_hash, i.audit)).* FROM tandem.items i
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

CREATE FUNCTION tandem.change_link() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.generation := nextval('tandem.link_generations');
    IF (NEW.url, NEW.mode, NEW.prefix, NEW.direction) IS DISTINCT FROM (OLD.url, OLD.mode, OLD.prefix, OLD.direction) THEN
        -- What it carries now was not compared, or not with this Redis.
        NEW.needs_check := true;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER change_link BEFORE UPDATE OF url, mode, prefix, direction, paused ON tandem.links FOR EACH ROW
    WHEN ((NEW.url, NEW.mode, NEW.prefix, NEW.direction, NEW.paused)
        IS DISTINCT FROM (OLD.url, OLD.mode, OLD.prefix, OLD.direction, OLD.paused))
    EXECUTE FUNCTION tandem.change_link();
COMMENT ON FUNCTION tandem.change_link IS 'gives a link that is changed a new generation';

CREATE FUNCTION tandem.links() RETURNS SETOF tandem.link_state
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp BEGIN ATOMIC
    SELECT l.name, l.mode, l.prefix, l.direction, l.paused, l.state, l.pulled, l.pushed,
        (SELECT count(*) FROM tandem.untaken(l.name)),
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
    UNION ALL SELECT 'mended_blocks', (SELECT f.mended::text FROM tandem.fold_state f)
    UNION ALL SELECT 'pending_folds', tandem.dirty_count()::text
    UNION ALL SELECT 'log_bytes', (SELECT sum(pg_catalog.pg_relation_size(p.relid))::text
        FROM pg_catalog.pg_partition_tree('tandem.changes') p WHERE p.isleaf)
    UNION ALL SELECT 'log_kept_by', tandem.log_kept_by()
    UNION ALL SELECT 'open_writer', tandem.open_writer()
    UNION ALL SELECT 'conflicts', (SELECT count(*)::text FROM tandem.conflicts)
    UNION ALL SELECT 'dead_letters', (SELECT count(*)::text FROM tandem.dead_letters)
    UNION ALL SELECT 'link ' || l.name, l.state || CASE WHEN l.paused THEN ' (paused)' ELSE '' END
        || ', waiting ' || l.waiting || coalesce(', last error: ' || l.last_error, '') FROM tandem.links() l
    UNION ALL SELECT 'link ' || u.name, 'unlinking' || coalesce(', last error: ' || u.last_error, '') FROM tandem.unlinked u;
END;
COMMENT ON FUNCTION tandem.status IS 'what there is here and how the links do, as names and values';

CREATE FUNCTION tandem.discard_dead_letter(seq bigint) RETURNS boolean LANGUAGE sql BEGIN ATOMIC
    WITH gone AS (DELETE FROM tandem.dead_letters d WHERE d.seq = $1 RETURNING 1) SELECT EXISTS (SELECT FROM gone);
END;
COMMENT ON FUNCTION tandem.discard_dead_letter IS 'gives up a revision that was set aside; true if it was there';

-- Forgets all but the last runs of checks of each link and of all other peers together, and those of links that are
-- gone.
CREATE FUNCTION tandem.forget_checks(kept integer) RETURNS void LANGUAGE sql BEGIN ATOMIC
    DELETE FROM tandem.checks c WHERE c.run IN (
        SELECT o.run FROM (SELECT a.run, a.link, p.is_peer,
                row_number() OVER (PARTITION BY CASE WHEN NOT p.is_peer THEN a.link END ORDER BY a.run DESC) AS age
            FROM tandem.checks a CROSS JOIN LATERAL (SELECT a.link ~ '://| <> ' AS is_peer) p) o
        WHERE o.age > kept OR NOT (o.is_peer OR EXISTS (SELECT FROM tandem.links l WHERE l.name = o.link)));
END;
COMMENT ON FUNCTION tandem.forget_checks IS 'forgets all but the last checks of each link; the manager calls it';
