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
            -- What is left was made while this statement waited at the primary key for somebody who put and removed
            -- the id: the row counts on from there. tandem's own functions see to it themselves.
            IF NOT tandem.is_own_write() AND EXISTS (
                    SELECT FROM tandem.tombstones t JOIN new_rows n ON n.id = t.id WHERE NOT n.local) THEN
                UPDATE tandem.items i SET version = t.version + 1
                    FROM new_rows n JOIN tandem.tombstones t ON t.id = n.id WHERE i.id = n.id AND NOT n.local;
                DELETE FROM tandem.tombstones t USING new_rows n WHERE t.id = n.id AND NOT n.local;
            END IF;
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
            -- Of two writers who took one version in one millisecond only the content tells that one took the other's place.
            WHERE (o.version, o."timestamp", o.payload_hash, o.state, o.payload IS NULL, o.audit, o.id)
                IS DISTINCT FROM (n.version, n."timestamp", n.payload_hash, n.state, n.payload IS NULL, n.audit, n.id)
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
    EXECUTE format($q$
        WITH logged AS (
            INSERT INTO tandem.changes (slot, xid, id, op, version, "timestamp", old_digest, origin)
            SELECT (SELECT s.slot FROM tandem.log_state s), (SELECT pg_current_xact_id()::text::bigint),
                   o.id, 'r', o.version + 1, (SELECT tandem.now_ms()),
                   tandem.digest(o.version, o.id, o.state, o.payload IS NOT NULL, o.payload_hash), (SELECT tandem.origin())
            FROM ONLY %I.%I o WHERE NOT o.local
            RETURNING id, version, "timestamp"
        )
        INSERT INTO tandem.tombstones AS t (id, version, "timestamp")
        SELECT l.id, l.version, l."timestamp" FROM logged l
        ON CONFLICT (id) DO UPDATE SET version = excluded.version, "timestamp" = excluded."timestamp", audit = NULL
            WHERE t.version < excluded.version $q$, TG_TABLE_SCHEMA, TG_TABLE_NAME);
    RETURN NULL;
END
$$;

-- Logical replication fires no statement triggers, and row triggers only if they are enabled for it. Its rows have version,
-- timestamp and hash from where they were written.
CREATE FUNCTION tandem.capture_replicated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    was bytea;
    is_now bytea;
BEGIN
    IF TG_OP <> 'INSERT' AND NOT OLD.local THEN
        was := tandem.digest(OLD.version, OLD.id, OLD.state, OLD.payload IS NOT NULL, OLD.payload_hash);
    END IF;
    IF TG_OP <> 'DELETE' AND NOT NEW.local THEN
        is_now := tandem.digest(NEW.version, NEW.id, NEW.state, NEW.payload IS NOT NULL, NEW.payload_hash);
    END IF;
    IF was IS NOT NULL AND (is_now IS NULL OR NEW.id <> OLD.id) THEN
        WITH logged AS (
            INSERT INTO tandem.changes (slot, id, op, version, "timestamp", old_digest)
            SELECT s.slot, OLD.id, 'r', OLD.version + 1, tandem.now_ms(), was FROM tandem.log_state s
            RETURNING id, version, "timestamp"
        )
        INSERT INTO tandem.tombstones AS t (id, version, "timestamp")
        SELECT l.id, l.version, l."timestamp" FROM logged l
        ON CONFLICT (id) DO UPDATE SET version = excluded.version, "timestamp" = excluded."timestamp", audit = NULL
            WHERE t.version < excluded.version;
        was := NULL;
    END IF;
    IF is_now IS NOT NULL AND (was IS DISTINCT FROM is_now OR NEW."timestamp" <> OLD."timestamp"
            OR NEW.audit IS DISTINCT FROM OLD.audit) THEN
        INSERT INTO tandem.changes (slot, id, op, version, "timestamp", old_digest, new_digest)
        SELECT s.slot, NEW.id, 'p', NEW.version, NEW."timestamp", was, is_now FROM tandem.log_state s;
        DELETE FROM tandem.tombstones t WHERE t.id = NEW.id;
    END IF;
    RETURN NULL;
END
$$;

-- Row triggers of the whole are those of each part, statement triggers are not: they run for the table that a
-- statement names. TRUNCATE names all tables below the one that it is given, so only those with rows have its trigger.
CREATE FUNCTION tandem.add_triggers(target regclass, has_rows boolean) RETURNS void
LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER tandem_insert AFTER INSERT ON %s
        REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION tandem.capture_insert()', target);
    EXECUTE format('CREATE TRIGGER tandem_update AFTER UPDATE ON %s
        REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION tandem.capture_update()',
        target);
    EXECUTE format('CREATE TRIGGER tandem_delete AFTER DELETE ON %s
        REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION tandem.capture_delete()', target);
    IF has_rows THEN
        EXECUTE format('CREATE TRIGGER tandem_truncate BEFORE TRUNCATE ON %s
            FOR EACH STATEMENT EXECUTE FUNCTION tandem.capture_truncate()', target);
        -- Of the statement triggers logical replication fires this one.
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER tandem_truncate', target);
    END IF;
END
$$;
CREATE TRIGGER tandem_row BEFORE INSERT OR UPDATE ON tandem.items
    FOR EACH ROW EXECUTE FUNCTION tandem.capture_row();
CREATE TRIGGER tandem_replicated AFTER INSERT OR UPDATE OR DELETE ON tandem.items
    FOR EACH ROW EXECUTE FUNCTION tandem.capture_replicated();
ALTER TABLE tandem.items ENABLE REPLICA TRIGGER tandem_replicated;
SELECT tandem.add_triggers('tandem.items', false), tandem.add_triggers('tandem.items_default', true);

CREATE FUNCTION tandem.restore_items() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO tandem.items (id, version, "timestamp", payload_hash, payload, payload_blob, audit, state, local,
        access_count, last_accessed)
    SELECT id, version, "timestamp", payload_hash, payload, payload_blob, audit, state, local, access_count, last_accessed
    FROM new_rows;
    DELETE FROM tandem.restored_items;
    RETURN NULL;
END
$$;
CREATE TRIGGER tandem_restore AFTER INSERT ON tandem.restored_items
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION tandem.restore_items();

-- A row that comes by tandem.route, or out of a dump, makes its route.
CREATE FUNCTION tandem.restore_route() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tandem.make_route(NEW.prefix, NEW.table_name, NEW.number);
    RETURN NEW;
END
$$;
CREATE TRIGGER tandem_route BEFORE INSERT ON tandem.routes
    FOR EACH ROW EXECUTE FUNCTION tandem.restore_route();

CREATE FUNCTION tandem.routes() RETURNS TABLE (prefix text, table_name text, items_estimate bigint)
LANGUAGE sql STABLE BEGIN ATOMIC
    SELECT r.prefix, r.table_name, greatest(c.reltuples, 0)::bigint
    FROM tandem.routes r
    LEFT JOIN pg_catalog.pg_class c ON c.relname = r.table_name AND c.relnamespace = 'tandem'::regnamespace
    ORDER BY r.prefix;
END;
COMMENT ON FUNCTION tandem.routes IS 'prefixes with a table of their own; items_estimate counts what is in that table, 0 until it is analysed';
COMMENT ON FUNCTION tandem.restore_items IS 'takes what a dump brings on to the items';
COMMENT ON FUNCTION tandem.restore_route IS 'makes the tables of a route that a dump brings';
