-- Rights: readers read, writers also write items; the log, blocks and links are tandem's own.
-- Roles are the whole cluster's: another database may have made them, or be making them at this moment.
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['tandem_reader', 'tandem_writer'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
    END LOOP;
END
$$;
GRANT USAGE ON SCHEMA tandem TO tandem_reader, tandem_writer;
GRANT SELECT ON tandem.items, tandem.tombstones, tandem.changes, tandem.blocks, tandem.log_state, tandem.fold_state, tandem.conflicts,
    tandem.dead_letters, tandem.routes, tandem.checks, tandem.reports, tandem.check_progress,
    tandem.link_status TO tandem_reader, tandem_writer;
GRANT INSERT, UPDATE, DELETE ON tandem.items, tandem.tombstones TO tandem_writer;
GRANT INSERT ON tandem.conflicts TO tandem_writer;
-- What item_status needs of the links; their addresses hold passwords.
GRANT SELECT (name, prefix, mode, direction, needs_check, log_position) ON tandem.links
    TO tandem_reader, tandem_writer;
-- Who checks dials wherever a URL says: that is for who makes links.
REVOKE EXECUTE ON FUNCTION tandem.reconcile(text, text, boolean, bigint),
    tandem.reconcile_peers(text, text, text, boolean, bigint), tandem.link_nodes(text) FROM PUBLIC;
-- Tables are made and dropped by the extension's owner.
REVOKE EXECUTE ON FUNCTION tandem.route(text, text), tandem.unroute(text), tandem.make_route(text, text, bigint),
    tandem.add_triggers(regclass, boolean), tandem.forget_checks(integer), tandem.fold(bigint), tandem.rotate_log(),
    tandem.rebuild_blocks(), tandem.mend_blocks(text),
    tandem.forget_tombstones(bigint, bigint) FROM PUBLIC;
