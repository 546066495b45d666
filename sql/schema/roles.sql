-- Rights: readers read, writers also write items; the log, blocks and links are tandem's own.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'tandem_reader') THEN
        CREATE ROLE tandem_reader NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'tandem_writer') THEN
        CREATE ROLE tandem_writer NOLOGIN;
    END IF;
END
$$;
GRANT USAGE ON SCHEMA tandem TO tandem_reader, tandem_writer;
GRANT SELECT ON tandem.items, tandem.tombstones, tandem.changes, tandem.blocks, tandem.log_state, tandem.conflicts,
    tandem.dead_letters TO tandem_reader, tandem_writer;
GRANT INSERT, UPDATE, DELETE ON tandem.items, tandem.tombstones TO tandem_writer;
GRANT INSERT ON tandem.conflicts TO tandem_writer;
-- What item_status needs of the links; their addresses hold passwords.
GRANT SELECT (name, prefix, direction, needs_check, pushed_xid, pushed_seq) ON tandem.links
    TO tandem_reader, tandem_writer;
