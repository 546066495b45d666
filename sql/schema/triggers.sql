-- Capture: whatever way items are written, version, timestamp and hash come out right and the log is complete.

CREATE FUNCTION tandem.capture_row() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'tandem_capture_row';

-- The statement triggers run with the rights of the extension's owner: a writer of items needs, and has, none on
-- the log, and so cannot forge it. Compiling their statements would cost more than running them. What is the same
-- for every row of a statement is asked for once, as a subquery, and not once a row.
CREATE FUNCTION tandem.capture_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
BEGIN
    INSERT INTO tandem.changes (slot, xid, id, op, version, "timestamp", new_digest, origin)
    SELECT (SELECT s.slot FROM tandem.log_state s), (SELECT pg_current_xact_id()::text::bigint),
           n.id, 'p', n.version, n."timestamp",
           tandem.digest(n.version, n.id, n.state, n.payload IS NOT NULL, n.payload_hash), (SELECT tandem.origin())
    FROM new_rows n WHERE NOT n.local;
    IF FOUND THEN
        IF EXISTS (SELECT FROM tandem.tombstones) THEN
            DELETE FROM tandem.tombstones t USING new_rows n
                WHERE t.id = n.id AND t.version < n.version AND NOT n.local;
        END IF;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION tandem.capture_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    moved boolean;
BEGIN
    WITH logged AS (
        INSERT INTO tandem.changes (slot, xid, id, op, version, "timestamp", old_digest, new_digest, origin)
        SELECT (SELECT s.slot FROM tandem.log_state s), (SELECT pg_current_xact_id()::text::bigint),
               c.id, c.op, c.version, c."timestamp", c.old_digest, c.new_digest, (SELECT tandem.origin())
        FROM (
            SELECT coalesce(n.id, o.id) AS id,
                   CASE WHEN n.id IS NULL THEN 'r' ELSE 'p' END::"char" AS op,
                   coalesce(n.version, o.version + 1) AS version,
                   coalesce(n."timestamp", tandem.now_ms()) AS "timestamp",
                   tandem.digest(o.version, o.id, o.state, o.payload IS NOT NULL, o.payload_hash) AS old_digest,
                   tandem.digest(n.version, n.id, n.state, n.payload IS NOT NULL, n.payload_hash) AS new_digest
            FROM (SELECT * FROM old_rows WHERE NOT local) o
            FULL JOIN (SELECT * FROM new_rows WHERE NOT local) n ON n.id = o.id
            WHERE (o.version, o."timestamp", o.audit, o.id) IS DISTINCT FROM (n.version, n."timestamp", n.audit, n.id)
        ) c
        RETURNING op, old_digest
    )
    SELECT bool_or(op = 'r' OR old_digest IS NULL) INTO moved FROM logged;
    IF moved THEN
        -- An update of the id itself removes one item and puts another; one that shares a local item puts it.
        INSERT INTO tandem.tombstones AS t (id, version, "timestamp")
        SELECT o.id, o.version + 1, (SELECT tandem.now_ms()) FROM old_rows o
        WHERE NOT o.local AND NOT EXISTS (SELECT FROM new_rows n WHERE n.id = o.id AND NOT n.local)
        ON CONFLICT (id) DO UPDATE SET version = excluded.version, "timestamp" = excluded."timestamp", audit = NULL
            WHERE t.version < excluded.version;
        DELETE FROM tandem.tombstones t USING new_rows n
            WHERE t.id = n.id AND t.version < n.version AND NOT n.local;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION tandem.capture_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
BEGIN
    INSERT INTO tandem.changes (slot, xid, id, op, version, "timestamp", old_digest, origin)
    SELECT (SELECT s.slot FROM tandem.log_state s), (SELECT pg_current_xact_id()::text::bigint),
           o.id, 'r', tandem.removed_version(o.id, o.version), (SELECT tandem.now_ms()),
           tandem.digest(o.version, o.id, o.state, o.payload IS NOT NULL, o.payload_hash), (SELECT tandem.origin())
    FROM old_rows o WHERE NOT o.local;
    IF FOUND THEN
        INSERT INTO tandem.tombstones AS t (id, version, "timestamp")
        SELECT o.id, tandem.removed_version(o.id, o.version), (SELECT tandem.now_ms()) FROM old_rows o WHERE NOT o.local
        ON CONFLICT (id) DO UPDATE SET version = excluded.version, "timestamp" = excluded."timestamp", audit = NULL
        WHERE t.version < excluded.version;
    END IF;
    RETURN NULL;
END
$$;

-- TRUNCATE shows no rows to a trigger, so they are taken from the table before it is emptied.
CREATE FUNCTION tandem.capture_truncate() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
BEGIN
    INSERT INTO tandem.changes (slot, xid, id, op, version, "timestamp", old_digest, origin)
    SELECT (SELECT s.slot FROM tandem.log_state s), (SELECT pg_current_xact_id()::text::bigint),
           o.id, 'r', o.version + 1, (SELECT tandem.now_ms()),
           tandem.digest(o.version, o.id, o.state, o.payload IS NOT NULL, o.payload_hash), (SELECT tandem.origin())
    FROM tandem.items o WHERE NOT o.local;
    INSERT INTO tandem.tombstones AS t (id, version, "timestamp")
    SELECT o.id, o.version + 1, (SELECT tandem.now_ms()) FROM tandem.items o WHERE NOT o.local
    ON CONFLICT (id) DO UPDATE SET version = excluded.version, "timestamp" = excluded."timestamp", audit = NULL
        WHERE t.version < excluded.version;
    RETURN NULL;
END
$$;

CREATE TRIGGER tandem_row BEFORE INSERT OR UPDATE ON tandem.items
    FOR EACH ROW EXECUTE FUNCTION tandem.capture_row();
CREATE TRIGGER tandem_insert AFTER INSERT ON tandem.items
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION tandem.capture_insert();
CREATE TRIGGER tandem_update AFTER UPDATE ON tandem.items
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION tandem.capture_update();
CREATE TRIGGER tandem_delete AFTER DELETE ON tandem.items
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION tandem.capture_delete();
CREATE TRIGGER tandem_truncate BEFORE TRUNCATE ON tandem.items
    FOR EACH STATEMENT EXECUTE FUNCTION tandem.capture_truncate();
