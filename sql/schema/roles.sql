-- Rights: readers read, writers also write items; the log, blocks, tombstones, conflicts and links are tandem's own.
-- Roles are the whole cluster's: another database may have made them, or be making them at this moment.
DO $$
DECLARE
    role text;
    members text;
BEGIN
    FOREACH role IN ARRAY ARRAY['tandem_reader', 'tandem_writer'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role) THEN
                EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', role);
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
        SELECT pg_catalog.string_agg(m.rolname::text, ', ' ORDER BY m.rolname) INTO members
        FROM pg_catalog.pg_auth_members a JOIN pg_catalog.pg_roles m ON m.oid = a.member
            JOIN pg_catalog.pg_roles r ON r.oid = a.roleid
        WHERE r.rolname = role;
        IF members IS NOT NULL THEN
            RAISE WARNING 'role % was there already, and so its members have its rights in this database too: %', role, members
                USING HINT = 'revoke the role from those that should not';
        END IF;
    END LOOP;
END
$$;
GRANT USAGE ON SCHEMA tandem TO tandem_reader, tandem_writer;
GRANT SELECT ON tandem.items, tandem.tombstones, tandem.changes, tandem.blocks, tandem.log_state, tandem.fold_state, tandem.doubts,
    tandem.routes, tandem.checks, tandem.reports, tandem.check_progress, tandem.link_status
    TO tandem_reader, tandem_writer;
-- A revision that lost or was set aside is content, which the policies of items may hide.
GRANT SELECT (seq, id, version, recorded_at, origin) ON tandem.conflicts TO tandem_reader, tandem_writer;
GRANT SELECT (seq, link, direction, id, reason, recorded_at, attempts, tried_at, retry) ON tandem.dead_letters
    TO tandem_reader, tandem_writer;
-- Whether a restore left anything there.
GRANT SELECT (id) ON tandem.restored_items, tandem.restored_columns TO tandem_reader, tandem_writer;
-- Tables of routes are reached through the items, as those have the policies.
GRANT INSERT, UPDATE, DELETE ON tandem.items TO tandem_writer;
-- What item_status needs of the links; their addresses hold passwords.
GRANT SELECT (name, prefix, mode, direction, needs_check, log_position) ON tandem.links
    TO tandem_reader, tandem_writer;
GRANT SELECT (seq, name, recorded_at, tried_at, last_error) ON tandem.unlinked TO tandem_reader, tandem_writer;
REVOKE EXECUTE ON FUNCTION tandem.change_link() FROM PUBLIC;
-- Who checks dials wherever a URL says: that is for who makes links.
REVOKE EXECUTE ON FUNCTION tandem.reconcile(text, text, boolean, bigint),
    tandem.reconcile_peers(text, text, text, boolean, bigint), tandem.link_nodes(text) FROM PUBLIC;
-- Tables are made and dropped by the extension's owner.
REVOKE EXECUTE ON FUNCTION tandem.restore_items(), tandem.restore_columns(), tandem.note_doubt(text, text), tandem.note_parts(),
    tandem.route(text, text), tandem.unroute(text), tandem.make_route(text, text, bigint),
    tandem.add_triggers(regclass, boolean), tandem.forget_checks(integer), tandem.fold(bigint), tandem.rotate_log(),
    tandem.rebuild_blocks(), tandem.mend_blocks(text),
    tandem.forget_tombstones(bigint, bigint) FROM PUBLIC;

-- Of a function for triggers nobody needs the right to call it but who makes the trigger. And functions in Rust look
-- up the names in their statements on a path of their own. Those that write items, many times a second, set it
-- themselves, together with what they need of the planner. Those that are called for each row have no statements.
DO $$
DECLARE
    f record;
BEGIN
    FOR f IN
        SELECT p.oid::pg_catalog.regprocedure AS name, p.prorettype, l.lanname, p.provolatile, p.proname
        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
        WHERE p.pronamespace = 'tandem'::pg_catalog.regnamespace
    LOOP
        IF f.prorettype IN ('trigger'::pg_catalog.regtype, 'event_trigger'::pg_catalog.regtype) THEN
            EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f.name);
        ELSIF f.lanname = 'c' AND f.provolatile = 'v' AND f.proname NOT IN ('put', 'put_binary', 'merge', 'delete', 'set_state',
                'move_state', 'apply', 'touch', 'put_many', 'delete_many', 'batch', 'delete_state', 'delete_prefix',
                'get_or_put', 'now_ms', 'flush_log') THEN
            EXECUTE pg_catalog.format('ALTER FUNCTION %s SET search_path = pg_catalog, pg_temp', f.name);
        END IF;
    END LOOP;
END
$$;
