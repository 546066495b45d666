-- CREATE EXTENSION makes the schema, unless it is there: as in a database that is restored, or where the extension was
-- before. Then it must be ours alone: whoever owns a schema may drop and replace what is in it.
SET LOCAL search_path = pg_catalog, pg_temp;
DO $$
DECLARE
    place pg_namespace;
    stranger name;
BEGIN
    IF getdatabaseencoding() <> 'UTF8' THEN
        RAISE EXCEPTION 'tandem needs a database in UTF8, and the encoding of % is %', current_database(), getdatabaseencoding()
            USING ERRCODE = 'feature_not_supported', HINT = 'make a database with ENCODING ''UTF8'' TEMPLATE template0';
    END IF;
    SELECT * INTO STRICT place FROM pg_namespace n WHERE n.nspname = 'tandem';
    SELECT r.rolname INTO stranger FROM pg_roles r
    WHERE r.oid = place.nspowner AND NOT r.rolsuper AND r.rolname <> current_user;
    IF FOUND THEN
        RAISE EXCEPTION 'schema tandem belongs to %, who could replace what is put into it', stranger
            USING ERRCODE = 'insufficient_privilege', HINT = 'see what it is for; ALTER SCHEMA tandem OWNER TO CURRENT_USER, or drop it';
    END IF;
    IF EXISTS (SELECT FROM aclexplode(place.nspacl) a WHERE a.privilege_type = 'CREATE' AND a.grantee <> place.nspowner) THEN
        RAISE EXCEPTION 'others may create in schema tandem'
            USING ERRCODE = 'insufficient_privilege', HINT = 'REVOKE CREATE ON SCHEMA tandem from those that \dn+ tandem shows';
    END IF;
    IF EXISTS (SELECT FROM pg_depend d WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = place.oid
            AND d.classid <> 'pg_extension'::regclass AND d.deptype = 'n') THEN
        RAISE EXCEPTION 'schema tandem is not empty'
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'see what is in it, move or drop it, and create the extension again';
    END IF;
END
$$;
-- What follows without a schema's name is made in it.
SET LOCAL search_path = tandem, pg_temp;

-- Tables of tandem. Ids are compared by bytes everywhere, hence COLLATE "C".

CREATE TABLE tandem.items (
    id text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL CHECK (version > 0),
    "timestamp" bigint NOT NULL CHECK ("timestamp" >= 0),
    payload_hash bytea NOT NULL CHECK (octet_length(payload_hash) = 32),
    payload jsonb,
    payload_blob bytea,
    audit jsonb CHECK (jsonb_typeof(audit) = 'object'),
    state text COLLATE "C" NOT NULL DEFAULT 'default',
    local boolean NOT NULL DEFAULT false,
    access_count bigint NOT NULL DEFAULT 0,
    last_accessed timestamptz,
    CONSTRAINT items_one_content CHECK ((payload IS NULL) <> (payload_blob IS NULL))
) PARTITION BY RANGE (id);
CREATE INDEX items_state_id ON tandem.items (state, id);
CREATE TABLE tandem.items_default PARTITION OF tandem.items DEFAULT;
COMMENT ON TABLE tandem.items IS 'the items: query and write them with plain SQL; version, timestamp and hash are kept by trigger';
COMMENT ON COLUMN tandem.items.id IS 'what the item is called: 1 to 512 bytes; ordered by bytes';
COMMENT ON COLUMN tandem.items.version IS 'grows by one with each change';
COMMENT ON COLUMN tandem.items."timestamp" IS 'when the revision was written, in milliseconds since 1970';
COMMENT ON COLUMN tandem.items.payload_hash IS 'BLAKE3 of the canonical content';
COMMENT ON COLUMN tandem.items.payload IS 'the content if it is JSON';
COMMENT ON COLUMN tandem.items.payload_blob IS 'the content if it is binary';
COMMENT ON COLUMN tandem.items.audit IS 'who wrote it in which course: batch, trace, home';
COMMENT ON COLUMN tandem.items.state IS 'the tag that its writers gave it';
COMMENT ON COLUMN tandem.items.local IS 'whether it stays in this Postgres and goes to no Redis';
COMMENT ON COLUMN tandem.items.access_count IS 'how often tandem.touch counted an access here';
COMMENT ON COLUMN tandem.items.last_accessed IS 'when tandem.touch counted the last one';
COMMENT ON TABLE tandem.items_default IS 'the items below no routed prefix; read and write them through tandem.items';

-- Ids under a prefix that have a table of their own, as tandem.route makes it. The partition of a prefix is a
-- partitioned table itself, "route <number>": its default partition is the table named, and longer prefixes are
-- further partitions.
CREATE TABLE tandem.routes (
    prefix text COLLATE "C" PRIMARY KEY,
    table_name text COLLATE "C" NOT NULL UNIQUE,
    number bigint NOT NULL UNIQUE
);
COMMENT ON TABLE tandem.routes IS 'prefixes of ids that have a table of their own; written by tandem.route and tandem.unroute';

-- Always empty. A dump writes all items under this name, as it does not know the tables of routes, and what a
-- restore puts here goes on to items. `more` has the values of columns that users added to items.
CREATE TABLE tandem.restored_items (LIKE tandem.items, more jsonb);
COMMENT ON TABLE tandem.restored_items IS 'the door by which a dump brings items in; empty';

-- Values that a dump brings for columns that are not there.
CREATE TABLE tandem.restored_columns (id text COLLATE "C" PRIMARY KEY, more jsonb NOT NULL);
COMMENT ON TABLE tandem.restored_columns IS 'values that a dump brought for columns that items does not have';

-- The tables below items that tandem has heard of, and what was done to them that the log does not tell of.
CREATE TABLE tandem.parts (relid oid PRIMARY KEY);
COMMENT ON TABLE tandem.parts IS 'the tables that hold items';
CREATE TABLE tandem.doubts (
    about text NOT NULL,
    reason text NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (about, reason)
);
COMMENT ON TABLE tandem.doubts IS 'what was done to tables of items past the log since the blocks were rebuilt';

CREATE TABLE tandem.tombstones (
    id text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL CHECK (version > 0),
    "timestamp" bigint NOT NULL,
    audit jsonb
);
CREATE INDEX tombstones_timestamp ON tandem.tombstones USING brin ("timestamp") WITH (autosummarize);
COMMENT ON TABLE tandem.tombstones IS 'removed ids, kept so that nothing resurrects them';

-- The log of changes: one row a change, in a few slots that are emptied in rotation instead of vacuumed. A row is
-- known by its transaction and its number in that. Written by the library alone, in this order of columns.
CREATE TABLE tandem.changes (
    xid bigint NOT NULL,
    version bigint NOT NULL,
    "timestamp" bigint NOT NULL,
    logged_at timestamptz NOT NULL,
    seq integer NOT NULL,
    slot smallint NOT NULL,
    -- What the change adds to the fingerprint of all items.
    count smallint NOT NULL,
    op "char" NOT NULL,
    id text COLLATE "C" NOT NULL,
    sum bytea NOT NULL,
    origin text
) PARTITION BY LIST (slot);
CREATE TABLE tandem.changes_0 PARTITION OF tandem.changes FOR VALUES IN (0);
CREATE TABLE tandem.changes_1 PARTITION OF tandem.changes FOR VALUES IN (1);
CREATE TABLE tandem.changes_2 PARTITION OF tandem.changes FOR VALUES IN (2);
CREATE INDEX changes_place ON tandem.changes (xid, seq);
COMMENT ON TABLE tandem.changes IS 'log of changes (op p: put, r: remove); read it with tandem.changes_since';

-- Fingerprints of consecutive ids, folded from the log; the first block begins at the empty text.
CREATE TABLE tandem.blocks (
    first text COLLATE "C" PRIMARY KEY,
    count bigint NOT NULL,
    sum bytea NOT NULL CHECK (octet_length(sum) = 16)
) WITH (fillfactor = 70);
COMMENT ON TABLE tandem.blocks IS 'fingerprints of stretches of consecutive ids, folded from the log';
INSERT INTO tandem.blocks VALUES ('', 0, decode(repeat('00', 16), 'hex'));

-- The slot of the log that is written, and what was emptied out of it: the highest transaction, and how often. Written
-- when a slot is full, as every write of items reads it.
CREATE TABLE tandem.log_state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    slot smallint NOT NULL DEFAULT 0,
    emptied bigint NOT NULL DEFAULT 0,
    times_emptied bigint NOT NULL DEFAULT 0,
    slot_since timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
COMMENT ON TABLE tandem.log_state IS 'the slot of the log that is written, and how far it was emptied';
INSERT INTO tandem.log_state DEFAULT VALUES;

-- How far the log is in the blocks, with which secret, and how many blocks did not add up and were mended.
CREATE TABLE tandem.fold_state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    position text NOT NULL DEFAULT '0',
    key_check bytea,
    has_large boolean NOT NULL DEFAULT false,
    -- The sum of all blocks, so that a hash of everything reads no block.
    count bigint NOT NULL DEFAULT 0,
    sum bytea NOT NULL DEFAULT decode(repeat('00', 16), 'hex') CHECK (octet_length(sum) = 16),
    mended bigint NOT NULL DEFAULT 0,
    mended_at timestamptz,
    mended_block text COLLATE "C"
) WITH (fillfactor = 50);
COMMENT ON TABLE tandem.fold_state IS 'how far the log is in the blocks';
INSERT INTO tandem.fold_state DEFAULT VALUES;

-- A process of a link ends when the link's generation is another than it began with.
CREATE SEQUENCE tandem.link_generations;
CREATE TABLE tandem.links (
    name text PRIMARY KEY,
    generation bigint NOT NULL DEFAULT nextval('tandem.link_generations'),
    url text NOT NULL,
    mode text NOT NULL CHECK (mode IN ('mirror', 'cache')),
    prefix text COLLATE "C" NOT NULL,
    direction text NOT NULL CHECK (direction IN ('both', 'to_redis', 'from_redis')),
    paused boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- What of the log Redis has, and the cluster that it belongs to: a restored dump brings positions that mean
    -- nothing in the new cluster.
    log_position text NOT NULL DEFAULT '0',
    system_identifier bigint NOT NULL,
    database oid NOT NULL,
    needs_check boolean NOT NULL DEFAULT true,
    -- The sides are to be compared once more, as after a crash of this server.
    compare_due boolean NOT NULL DEFAULT false,
    state text NOT NULL DEFAULT 'starting',
    -- The start of Redis that all is known of; in a cluster address, start and slots of each master.
    run text,
    pulled bigint NOT NULL DEFAULT 0,
    pushed bigint NOT NULL DEFAULT 0,
    last_error text,
    last_error_at timestamptz,
    check_every interval CHECK (check_every > interval '0'),
    -- What waited in Redis for the link when it was asked last, and since when something has.
    redis_waiting bigint,
    redis_waiting_since timestamptz,
    -- The first item from Redis that cannot be stored at present, and who or what is in its way.
    redis_waits_for text
) WITH (fillfactor = 50);

-- Links that were removed and that Redis does not know to be.
CREATE TABLE tandem.unlinked (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    url text NOT NULL,
    run text,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    tried_at timestamptz,
    last_error text
);
COMMENT ON TABLE tandem.unlinked IS 'links that were removed here and are not detached in Redis yet';

-- How far the entries of each server of Redis, which numbers them anew after each start, were joined for a link: all
-- up to seq but those in open. What is pulled again after a crash is known by it.
CREATE TABLE tandem.joined (
    link text NOT NULL,
    run text NOT NULL,
    seq bigint NOT NULL,
    open bigint[] NOT NULL,
    PRIMARY KEY (link, run)
) WITH (fillfactor = 50);
COMMENT ON TABLE tandem.joined IS 'how far what was written in Redis is joined, for each server of Redis';

COMMENT ON TABLE tandem.links IS 'the links to Redis; tandem.links() shows them without their addresses';

-- Runs of checks. A run has a row of its own, so that nobody waits for who checks inside a longer transaction; the
-- manager keeps the last of each link.
CREATE TABLE tandem.checks (
    run bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    link text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('attach', 'scheduled', 'reconcile')),
    prefix text COLLATE "C" NOT NULL,
    dry_run boolean NOT NULL,
    phase text NOT NULL CHECK (phase IN ('comparing', 'mending', 'done')),
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    answer text CHECK (answer IN ('equal', 'differs', 'incomplete')),
    reason text,
    differences bigint NOT NULL DEFAULT 0,
    repaired bigint NOT NULL DEFAULT 0,
    pending bigint NOT NULL DEFAULT 0,
    -- Of the ids that differ still: those that one side refuses, and those for which nothing could be done.
    refused bigint NOT NULL DEFAULT 0,
    undecided bigint NOT NULL DEFAULT 0,
    ranges bigint NOT NULL DEFAULT 0,
    rounds bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE INDEX checks_link ON tandem.checks (link, run);
COMMENT ON TABLE tandem.checks IS 'the last runs of checks of each link and of other peers, with what they answered and counted';

CREATE TABLE tandem.reports (
    run bigint NOT NULL REFERENCES tandem.checks ON DELETE CASCADE,
    link text NOT NULL,
    started_at timestamptz NOT NULL,
    id text COLLATE "C" NOT NULL,
    differed text NOT NULL,
    done text NOT NULL CHECK (done IN ('pulled', 'pushed', 'nothing', 'refused')),
    reason text
);
CREATE INDEX reports_run ON tandem.reports (run, id);
COMMENT ON TABLE tandem.reports IS 'ids that differed in the last runs of checks, and what was done about each';

CREATE VIEW tandem.check_progress AS
    SELECT c.link, c.kind, c.phase, c.ranges, c.differences, c.repaired, c.started_at
    FROM tandem.checks c WHERE c.finished_at IS NULL;
COMMENT ON VIEW tandem.check_progress IS 'checks that the links run at this moment';

CREATE TABLE tandem.conflicts (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    loser bytea NOT NULL,
    origin text
);
COMMENT ON TABLE tandem.conflicts IS 'revisions that lost against another one of the same version, encoded';

CREATE TABLE tandem.dead_letters (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    link text NOT NULL,
    direction text NOT NULL,
    id text NOT NULL,
    revision bytea,
    reason text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 1,
    tried_at timestamptz NOT NULL DEFAULT now(),
    -- The link's session is asked to push the id again.
    retry boolean NOT NULL DEFAULT false
);
-- To Redis goes what the id has at the time, so one letter stands for all; what came from Redis may be several
-- revisions that nobody else has any more.
CREATE UNIQUE INDEX dead_letters_subject ON tandem.dead_letters
    (link, direction, id, (CASE direction WHEN 'from_redis' THEN sha256(revision) ELSE '' END));
CREATE INDEX dead_letters_retry ON tandem.dead_letters (link, seq) WHERE retry;
COMMENT ON TABLE tandem.dead_letters IS 'revisions that one side could not take, set aside with the reason';

-- Of the collations of the table, as the planner sees through a function only where its columns are those.
CREATE TYPE tandem.item AS (
    id text COLLATE "C",
    version bigint,
    "timestamp" bigint,
    state text COLLATE "C",
    type text,
    payload jsonb,
    payload_blob bytea,
    hash text,
    etag text,
    audit jsonb
);

COMMENT ON TYPE tandem.item IS 'an item as get, scan and their kin show it';

CREATE TYPE tandem.link_state AS (
    name text,
    mode text,
    prefix text,
    direction text,
    paused boolean,
    state text,
    pulled bigint,
    pushed bigint,
    waiting bigint,
    last_error text,
    last_error_at timestamptz,
    check_every interval,
    last_check_at timestamptz,
    last_check_answer text,
    last_check_reason text,
    last_check_differences bigint,
    last_check_repaired bigint,
    last_check_ranges bigint,
    last_check_bytes bigint
);
COMMENT ON TYPE tandem.link_state IS 'what tandem.links() tells of a link';

CREATE TYPE tandem.fact AS (name text, value text);
COMMENT ON TYPE tandem.fact IS 'a line of tandem.status()';

CREATE TYPE tandem.standing AS (
    id text,
    status text,
    tiers text,
    direction text,
    version bigint,
    etag text,
    access_count bigint,
    last_accessed bigint
);

COMMENT ON TYPE tandem.standing IS 'what tandem.item_status() tells of an item';

-- Data that a dump carries; log, blocks and positions are made anew by capture when it is restored. The condition is
-- put at the end of a query over the table, which is how the items themselves get into it.
SELECT pg_catalog.pg_extension_config_dump('tandem.restored_items', 'WHERE false UNION ALL SELECT i.id, i.version, '
    'i."timestamp", i.payload_hash, i.payload, i.payload_blob, i.audit, i.state, i.local, i.access_count, i.last_accessed, '
    'CASE WHEN (SELECT count(*) > 11 FROM pg_catalog.pg_attribute a WHERE a.attrelid = ''tandem.items''::regclass '
    'AND a.attnum > 0 AND NOT a.attisdropped) THEN tandem.more_of(to_jsonb(i)) END FROM tandem.items i');
SELECT pg_catalog.pg_extension_config_dump('tandem.restored_columns', '');
SELECT pg_catalog.pg_extension_config_dump('tandem.routes', '');
SELECT pg_catalog.pg_extension_config_dump('tandem.tombstones', '');
SELECT pg_catalog.pg_extension_config_dump('tandem.links', '');
SELECT pg_catalog.pg_extension_config_dump('tandem.link_generations', '');
SELECT pg_catalog.pg_extension_config_dump('tandem.conflicts', '');
SELECT pg_catalog.pg_extension_config_dump('tandem.dead_letters', '');
SELECT pg_catalog.pg_extension_config_dump('tandem.conflicts_seq_seq', '');
SELECT pg_catalog.pg_extension_config_dump('tandem.dead_letters_seq_seq', '');
