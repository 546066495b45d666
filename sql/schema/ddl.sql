-- What others do to the tables of items without a row being written: capture's triggers are put back where they were
-- off, and what may be missing in the log is noted until the blocks were rebuilt.

CREATE FUNCTION tandem.note_doubt(about text, reason text) RETURNS void
LANGUAGE sql BEGIN ATOMIC
    INSERT INTO tandem.doubts (about, reason) SELECT $1, $2 WHERE $1 IS NOT NULL AND $2 IS NOT NULL ON CONFLICT DO NOTHING;
END;
COMMENT ON FUNCTION tandem.note_doubt IS 'notes that the log may not know of all that the items are';

-- Runs after each statement of anybody that makes or changes tables; all but those on tables of tandem are let go at
-- once.
CREATE FUNCTION tandem.tables_changed() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
    callers text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_event_trigger_ddl_commands() d
            WHERE d.classid = 'pg_class'::regclass AND NOT d.in_extension AND (d.schema_name = 'tandem' OR EXISTS (
                SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                    CROSS JOIN LATERAL pg_partition_tree(c.oid) p
                WHERE n.nspname = 'tandem' AND c.relname = 'items' AND p.relid = d.objid))) THEN
        RETURN;
    END IF;
    -- What this function itself and tandem.route do to the tables is as it should be.
    GET DIAGNOSTICS callers = PG_CONTEXT;
    IF tandem.is_routing() OR callers ~ 'tandem\.tables_changed\(\).*tandem\.tables_changed\(\)' THEN
        RETURN;
    END IF;
    FOR t IN SELECT p.relid::regclass::text AS name, g.name AS trigger, o.tgenabled
            FROM pg_partition_tree('tandem.items') p
            CROSS JOIN (VALUES ('zz_tandem_row'), ('_tandem_capture'), ('_tandem_truncate')) g (name)
            LEFT JOIN pg_trigger o ON o.tgrelid = p.relid AND o.tgname = g.name
            WHERE (p.isleaf OR g.name <> '_tandem_truncate') AND o.tgenabled IS DISTINCT FROM 'A' LOOP
        IF t.tgenabled = 'D' THEN
            RAISE WARNING 'trigger % of % is off: tandem does not hear of what is written', t.trigger, t.name
                USING HINT = 'enable it again, then SELECT tandem.rebuild_blocks() and compare with each link';
            PERFORM tandem.note_doubt(t.name, format('trigger %s was off', t.trigger));
        ELSIF t.tgenabled IS NOT NULL THEN
            -- ENABLE TRIGGER without ALWAYS, as it ends a bulk load.
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', t.name, t.trigger);
        ELSIF t.trigger = '_tandem_truncate' THEN
            PERFORM tandem.add_triggers(t.name::regclass, true);
        ELSE
            PERFORM tandem.note_doubt(t.name, format('trigger %s is missing', t.trigger));
        END IF;
    END LOOP;
    FOR t IN SELECT p.relid::regclass::text AS name FROM pg_partition_tree('tandem.items') p
            WHERE NOT EXISTS (SELECT FROM tandem.parts k WHERE k.relid = p.relid) LOOP
        IF NOT EXISTS (SELECT FROM pg_event_trigger_ddl_commands() d WHERE d.command_tag = 'CREATE TABLE') THEN
            RAISE WARNING 'table % holds items now, and tandem has not heard of those that it had', t.name
                USING HINT = 'SELECT tandem.rebuild_blocks() and compare with each link';
            PERFORM tandem.note_doubt(t.name, 'it was attached to the items');
        END IF;
    END LOOP;
    FOR t IN SELECT k.relid::regclass::text AS name FROM tandem.parts k JOIN pg_class c ON c.oid = k.relid
            WHERE NOT EXISTS (SELECT FROM pg_partition_tree('tandem.items') p WHERE p.relid = k.relid) LOOP
        RAISE WARNING 'the items in table % have left, and tandem has not heard of it', t.name
            USING HINT = 'attach it again, or SELECT tandem.rebuild_blocks() and compare with each link';
        PERFORM tandem.note_doubt(t.name, 'it was detached from the items');
    END LOOP;
    PERFORM tandem.note_parts();
    -- A dump that is restored with triggers disabled enables them when its rows are in.
    IF EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = 'tandem.routes'::regclass AND g.tgname = 'tandem_route'
            AND g.tgenabled NOT IN ('A', 'D')) THEN
        ALTER TABLE tandem.routes ENABLE ALWAYS TRIGGER tandem_route;
        PERFORM tandem.make_route(r.prefix, r.table_name, r.number) FROM tandem.routes r ORDER BY r.number;
    END IF;
    IF EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = 'tandem.restored_items'::regclass AND g.tgname = 'tandem_restore'
            AND g.tgenabled NOT IN ('A', 'D')) THEN
        PERFORM tandem.restore_items();
    END IF;
END
$$;
COMMENT ON FUNCTION tandem.tables_changed IS 'sees to what others do to the tables of items';

CREATE FUNCTION tandem.table_rewritten() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- 4: a column gets other values.
    IF pg_event_trigger_table_rewrite_reason() & 4 <> 0 AND EXISTS (
            SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                CROSS JOIN LATERAL pg_partition_tree(c.oid) p
            WHERE n.nspname = 'tandem' AND c.relname = 'items' AND p.relid = pg_event_trigger_table_rewrite_oid()) THEN
        PERFORM tandem.note_doubt(pg_event_trigger_table_rewrite_oid()::regclass::text, 'a column was given another type');
    END IF;
END
$$;
COMMENT ON FUNCTION tandem.table_rewritten IS 'notes that a column of the items has other values';

-- Runs after each DROP TABLE and DROP TRIGGER of anybody; all but those of what holds items are let go at once.
-- Whoever may not even look into the schema has dropped nothing of it.
CREATE FUNCTION tandem.objects_dropped() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
BEGIN
    IF NOT has_schema_privilege('tandem', 'USAGE') OR NOT has_table_privilege('tandem.parts', 'SELECT') THEN
        RETURN;
    END IF;
    FOR t IN SELECT d.address_names[1:2] AS held_by, d.address_names[3] AS name, d.object_type AS kind
            FROM pg_event_trigger_dropped_objects() d
            WHERE d.object_type = 'trigger'
                AND d.address_names[3] IN ('zz_tandem_row', '_tandem_capture', '_tandem_truncate')
                AND EXISTS (SELECT FROM tandem.parts k
                    WHERE k.relid = to_regclass(format('%I.%I', d.address_names[1], d.address_names[2])))
            OR d.object_type = 'table' AND EXISTS (SELECT FROM tandem.parts k WHERE k.relid = d.objid) LOOP
        CONTINUE WHEN tandem.is_routing();
        RAISE WARNING '% has gone, and tandem does not hear of what is written or was removed with it',
            concat_ws(' ', t.kind, t.name, 'of', format('%I.%I', t.held_by[1], t.held_by[2]))
            USING HINT = 'SELECT tandem.verify() says what is missing';
        PERFORM tandem.note_doubt(format('%I.%I', t.held_by[1], t.held_by[2]),
            concat_ws(' ', t.kind, t.name, 'was dropped'));
    END LOOP;
END
$$;
COMMENT ON FUNCTION tandem.objects_dropped IS 'notes that a table of items, or a trigger of capture, was dropped';

-- The tables below items that tandem has heard of.
CREATE FUNCTION tandem.note_parts() RETURNS void
LANGUAGE sql BEGIN ATOMIC
    DELETE FROM tandem.parts k
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_partition_tree('tandem.items') p WHERE p.relid = k.relid);
    INSERT INTO tandem.parts SELECT p.relid FROM pg_catalog.pg_partition_tree('tandem.items') p ON CONFLICT DO NOTHING;
END;
COMMENT ON FUNCTION tandem.note_parts IS 'notes which tables hold items';
SELECT tandem.note_parts();

CREATE FUNCTION tandem.doubtful() RETURNS SETOF text
LANGUAGE sql STABLE BEGIN ATOMIC
    SELECT format('%s: %s at %s; SELECT tandem.rebuild_blocks() and compare with each link', d.about, d.reason, d.noted_at)
    FROM tandem.doubts d
    UNION ALL SELECT format('rows in tandem.restored_items were restored while its trigger was off; '
        'SELECT tandem.restore_items() takes them on to the items') WHERE EXISTS (SELECT FROM tandem.restored_items)
    UNION ALL SELECT format('values of columns that tandem.items does not have are in tandem.restored_columns; '
        'add the columns and SELECT tandem.restore_columns()') WHERE EXISTS (SELECT FROM tandem.restored_columns);
END;
COMMENT ON FUNCTION tandem.doubtful IS 'why the items, or what tandem knows of them, may not be all that there is';

CREATE EVENT TRIGGER tandem_tables_changed ON ddl_command_end WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE')
    EXECUTE FUNCTION tandem.tables_changed();
CREATE EVENT TRIGGER tandem_table_rewritten ON table_rewrite EXECUTE FUNCTION tandem.table_rewritten();
CREATE EVENT TRIGGER tandem_objects_dropped ON sql_drop WHEN TAG IN ('DROP TABLE', 'DROP TRIGGER')
    EXECUTE FUNCTION tandem.objects_dropped();
ALTER EVENT TRIGGER tandem_objects_dropped ENABLE ALWAYS;
ALTER EVENT TRIGGER tandem_tables_changed ENABLE ALWAYS;
ALTER EVENT TRIGGER tandem_table_rewritten ENABLE ALWAYS;
