-- Capture: whatever way items are written, version, timestamp and hash come out right and the log is complete. All of
-- it is in the library, fires for every row, and also in the part of a replica. Triggers fire in the order of their
-- names: before a row is stored tandem's is the last, after it the first.

CREATE FUNCTION tandem.capture_row() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'tandem_capture_row';
CREATE FUNCTION tandem.capture_change() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'tandem_capture_change';
CREATE FUNCTION tandem.capture_truncate() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'tandem_capture_truncate';
-- To make a trigger of them takes this right, to fire one does not.
REVOKE EXECUTE ON FUNCTION tandem.capture_row(), tandem.capture_change(), tandem.capture_truncate() FROM PUBLIC;

CREATE TRIGGER zz_tandem_row BEFORE INSERT OR UPDATE ON tandem.items
    FOR EACH ROW EXECUTE FUNCTION tandem.capture_row();
CREATE TRIGGER _tandem_capture AFTER INSERT OR UPDATE OR DELETE ON tandem.items
    FOR EACH ROW EXECUTE FUNCTION tandem.capture_change();
ALTER TABLE tandem.items ENABLE ALWAYS TRIGGER zz_tandem_row, ENABLE ALWAYS TRIGGER _tandem_capture;

-- Row triggers of the whole are those of each part, statement triggers are not. TRUNCATE names all tables below the
-- one that it is given, so only those with rows have its trigger.
CREATE FUNCTION tandem.add_triggers(target regclass, has_rows boolean) RETURNS void
LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER zz_tandem_row, ENABLE ALWAYS TRIGGER _tandem_capture', target);
    IF has_rows THEN
        EXECUTE format('CREATE TRIGGER _tandem_truncate BEFORE TRUNCATE ON %s
            FOR EACH STATEMENT EXECUTE FUNCTION tandem.capture_truncate()', target);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER _tandem_truncate', target);
    END IF;
END
$$;
SELECT tandem.add_triggers('tandem.items_default', true);

CREATE FUNCTION tandem.routes() RETURNS TABLE (prefix text, table_name text, items_estimate bigint)
LANGUAGE sql STABLE BEGIN ATOMIC
    SELECT r.prefix, r.table_name, greatest(c.reltuples, 0)::bigint
    FROM tandem.routes r
    LEFT JOIN pg_catalog.pg_class c ON c.relname = r.table_name AND c.relnamespace = 'tandem'::regnamespace
    ORDER BY r.prefix;
END;
COMMENT ON FUNCTION tandem.routes IS 'prefixes with a table of their own; items_estimate counts what is in that table, 0 until it is analysed';
