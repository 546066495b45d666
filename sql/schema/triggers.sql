-- Capture: whatever way items are written, version, timestamp and hash come out right and the log is complete.

CREATE FUNCTION tandem.capture_row() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    tombstone bigint;
    fresh boolean := TG_OP = 'INSERT';
    given bigint;
BEGIN
    IF NOT fresh THEN
        fresh := OLD.id <> NEW.id;
    END IF;
    IF fresh THEN
        NEW.payload_hash := tandem.row_hash(NEW.id, NEW.state, NEW.payload::text, NEW.payload_blob, NEW.audit::text);
        SELECT t.version INTO tombstone FROM tandem.tombstones t WHERE t.id = NEW.id;
        given := NEW.version;
        IF TG_OP = 'UPDATE' AND NEW.version = OLD.version THEN
            given := NULL;
        END IF;
        NEW.version := tandem.row_version(NEW.id, tombstone, given, true);
        IF TG_OP = 'UPDATE' OR NEW."timestamp" IS NULL THEN
            NEW."timestamp" := tandem.now_ms();
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.payload IS NOT DISTINCT FROM OLD.payload AND NEW.payload_blob IS NOT DISTINCT FROM OLD.payload_blob THEN
        NEW.payload_hash := OLD.payload_hash;
        IF NEW.state IS DISTINCT FROM OLD.state OR NEW.audit IS DISTINCT FROM OLD.audit THEN
            PERFORM tandem.check_row(NEW.state, NEW.audit::text);
        END IF;
    ELSE
        NEW.payload_hash := tandem.row_hash(NEW.id, NEW.state, NEW.payload::text, NEW.payload_blob, NEW.audit::text);
    END IF;
    IF NEW.version IS DISTINCT FROM OLD.version THEN
        given := NEW.version;
    END IF;
    NEW.version := coalesce(
        tandem.row_version(NEW.id, OLD.version, given,
            NEW.payload_hash <> OLD.payload_hash OR NEW.state <> OLD.state
            OR (NEW.payload IS NULL) <> (OLD.payload IS NULL)),
        OLD.version);
    IF NEW.version <> OLD.version AND NEW."timestamp" = OLD."timestamp" THEN
        NEW."timestamp" := tandem.now_ms();
    ELSIF NEW.version = OLD.version THEN
        NEW."timestamp" := OLD."timestamp";
    END IF;
    RETURN NEW;
END
$$;

-- The statement triggers run with the rights of the extension's owner: a writer of items needs, and has, none on
-- the log, and so cannot forge it. Compiling their statements would cost more than running them.
CREATE FUNCTION tandem.capture_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
BEGIN
    INSERT INTO tandem.changes (slot, id, op, version, "timestamp", new_digest, origin)
    SELECT (SELECT s.slot FROM tandem.log_state s), n.id, 'p', n.version, n."timestamp",
           tandem.digest(n.version, n.id, n.state, n.payload IS NOT NULL, n.payload_hash), tandem.origin()
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
        INSERT INTO tandem.changes (slot, id, op, version, "timestamp", old_digest, new_digest, origin)
        SELECT (SELECT s.slot FROM tandem.log_state s), c.id, c.op, c.version, c."timestamp", c.old_digest, c.new_digest, tandem.origin()
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
        SELECT o.id, o.version + 1, tandem.now_ms() FROM old_rows o
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
    INSERT INTO tandem.changes (slot, id, op, version, "timestamp", old_digest, origin)
    SELECT (SELECT s.slot FROM tandem.log_state s), o.id, 'r', tandem.removed_version(o.id, o.version), tandem.now_ms(),
           tandem.digest(o.version, o.id, o.state, o.payload IS NOT NULL, o.payload_hash), tandem.origin()
    FROM old_rows o WHERE NOT o.local;
    IF FOUND THEN
        INSERT INTO tandem.tombstones AS t (id, version, "timestamp")
        SELECT o.id, tandem.removed_version(o.id, o.version), tandem.now_ms() FROM old_rows o WHERE NOT o.local
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
    INSERT INTO tandem.changes (slot, id, op, version, "timestamp", old_digest, origin)
    SELECT (SELECT s.slot FROM tandem.log_state s), o.id, 'r', o.version + 1, tandem.now_ms(),
           tandem.digest(o.version, o.id, o.state, o.payload IS NOT NULL, o.payload_hash), tandem.origin()
    FROM tandem.items o WHERE NOT o.local;
    INSERT INTO tandem.tombstones AS t (id, version, "timestamp")
    SELECT o.id, o.version + 1, tandem.now_ms() FROM tandem.items o WHERE NOT o.local
    ON CONFLICT (id) DO UPDATE SET version = excluded.version, "timestamp" = excluded."timestamp", audit = NULL
        WHERE t.version < excluded.version;
    RETURN NULL;
END
$$;

-- tandem's own functions have decided already.
CREATE TRIGGER tandem_row BEFORE INSERT OR UPDATE ON tandem.items
    FOR EACH ROW WHEN (NOT tandem.is_own_write()) EXECUTE FUNCTION tandem.capture_row();
CREATE TRIGGER tandem_insert AFTER INSERT ON tandem.items
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION tandem.capture_insert();
CREATE TRIGGER tandem_update AFTER UPDATE ON tandem.items
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION tandem.capture_update();
CREATE TRIGGER tandem_delete AFTER DELETE ON tandem.items
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION tandem.capture_delete();
CREATE TRIGGER tandem_truncate BEFORE TRUNCATE ON tandem.items
    FOR EACH STATEMENT EXECUTE FUNCTION tandem.capture_truncate();
