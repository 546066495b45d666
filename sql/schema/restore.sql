-- What a dump brings goes on to where it belongs, however it is restored.

-- The values of columns that users added, for a dump: it does not carry their columns, as the table is the
-- extension's.
CREATE FUNCTION tandem.more_of(item jsonb) RETURNS jsonb
LANGUAGE sql STABLE BEGIN ATOMIC
    SELECT nullif(item - (SELECT array_agg(a.attname::text) FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = 'tandem.items'::regclass AND a.attnum > 0 AND (a.attgenerated <> '' OR EXISTS (
            SELECT FROM pg_catalog.pg_attribute o WHERE o.attrelid = 'tandem.restored_items'::regclass
                AND o.attname = a.attname))), '{}');
END;
COMMENT ON FUNCTION tandem.more_of IS 'the values that a row of items, as an object, has in columns of yours; for a dump';

-- A row that a dump brings is put into items and stays nowhere else. Also where triggers are off for the session that
-- restores. What was accepted once is not refused for its size.
CREATE FUNCTION tandem.restore_item() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET tandem.content_bytes_max = '16777216'
SET tandem.printed_bytes_max = '67108864' AS $$
DECLARE
    here text;
    known text[];
BEGIN
    IF NEW.more IS NOT NULL THEN
        SELECT string_agg(format('%I', a.attname), ', '), array_agg(a.attname::text) INTO here, known
        FROM pg_attribute a WHERE a.attrelid = 'tandem.items'::regclass AND a.attnum > 0 AND NOT a.attisdropped
            AND a.attgenerated = '' AND NEW.more ? a.attname::text;
        IF NEW.more - coalesce(known, '{}') <> '{}' THEN
            IF NOT EXISTS (SELECT FROM tandem.restored_columns) THEN
                RAISE WARNING 'the dump has values of columns that tandem.items does not have here: %',
                    (SELECT string_agg(k.key, ', ' ORDER BY k.key) FROM jsonb_object_keys(NEW.more - coalesce(known, '{}')) k (key))
                    USING HINT = 'they are kept in tandem.restored_columns; add the columns and SELECT tandem.restore_columns()';
            END IF;
            INSERT INTO tandem.restored_columns (id, more) VALUES (NEW.id, NEW.more - coalesce(known, '{}'))
                ON CONFLICT (id) DO UPDATE SET more = excluded.more;
        END IF;
    END IF;
    IF here IS NULL THEN
        INSERT INTO tandem.items (id, version, "timestamp", payload_hash, payload, payload_blob, audit, state, local,
            access_count, last_accessed)
        VALUES (NEW.id, NEW.version, NEW."timestamp", NEW.payload_hash, NEW.payload, NEW.payload_blob, NEW.audit, NEW.state,
            NEW.local, NEW.access_count, NEW.last_accessed);
    ELSE
        EXECUTE format('INSERT INTO tandem.items (id, version, "timestamp", payload_hash, payload, payload_blob, audit, state,
                local, access_count, last_accessed, %1$s)
            SELECT $1.id, $1.version, $1."timestamp", $1.payload_hash, $1.payload, $1.payload_blob, $1.audit, $1.state,
                $1.local, $1.access_count, $1.last_accessed, %1$s FROM jsonb_populate_record(NULL::tandem.items, $2)',
            here) USING NEW, NEW.more;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION tandem.restore_item IS 'takes a row that a dump brings on to the items';
CREATE TRIGGER tandem_restore BEFORE INSERT ON tandem.restored_items
    FOR EACH ROW EXECUTE FUNCTION tandem.restore_item();
ALTER TABLE tandem.restored_items ENABLE ALWAYS TRIGGER tandem_restore;

-- Where its trigger was off, rows have stayed.
CREATE FUNCTION tandem.restore_items() RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    restored bigint;
BEGIN
    ALTER TABLE tandem.restored_items ENABLE ALWAYS TRIGGER tandem_restore;
    WITH gone AS (DELETE FROM tandem.restored_items RETURNING *),
        again AS (INSERT INTO tandem.restored_items SELECT * FROM gone)
    SELECT count(*) INTO restored FROM gone;
    RETURN restored;
END
$$;
COMMENT ON FUNCTION tandem.restore_items IS
    'takes what a dump brought while triggers were off on to the items; returns how many there were';

CREATE FUNCTION tandem.restore_columns() RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    assignments text;
    known text[];
    restored bigint := 0;
BEGIN
    SELECT string_agg(format('%1$I = m.%1$I', a.attname), ', '), array_agg(a.attname::text) INTO assignments, known
    FROM pg_attribute a WHERE a.attrelid = 'tandem.items'::regclass AND a.attnum > 0 AND NOT a.attisdropped
        AND a.attgenerated = '' AND EXISTS (SELECT FROM tandem.restored_columns r WHERE r.more ? a.attname::text);
    IF assignments IS NOT NULL THEN
        EXECUTE format('UPDATE tandem.items i SET %s FROM tandem.restored_columns r
            CROSS JOIN LATERAL jsonb_populate_record(NULL::tandem.items, r.more) m WHERE i.id = r.id', assignments);
        GET DIAGNOSTICS restored = ROW_COUNT;
        UPDATE tandem.restored_columns r SET more = r.more - known;
        DELETE FROM tandem.restored_columns r WHERE r.more = '{}';
    END IF;
    RETURN restored;
END
$$;
COMMENT ON FUNCTION tandem.restore_columns IS
    'puts what a dump brought for columns that were added since into them; returns for how many items';

-- A row that comes by tandem.route, or out of a dump, makes its route.
CREATE FUNCTION tandem.restore_route() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tandem.make_route(NEW.prefix, NEW.table_name, NEW.number);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION tandem.restore_route IS 'makes the tables of a route that a dump brings';
CREATE TRIGGER tandem_route BEFORE INSERT ON tandem.routes
    FOR EACH ROW EXECUTE FUNCTION tandem.restore_route();
ALTER TABLE tandem.routes ENABLE ALWAYS TRIGGER tandem_route;
