//! Routing: the ids under a prefix in a table of their own, a partition of `items`. The longest prefix wins.
//!
//! The partition of a prefix is a partitioned table, the node: its default partition is the table that was named, and
//! the nodes of longer prefixes are its other partitions. Node and table change their place in one transaction with
//! the rows. Moving is no change of an item: rows go from one table to another while neither is a partition, so that
//! versions, hashes and the log stay as they are, and no trigger and no subscriber hears of it. Nobody else writes,
//! for every table of items is locked.
//!
//! What a table holds is also said by CHECK constraints of its own. Postgres takes them as proof when it makes the
//! table a partition again, and does not read through it; and a route costs what it moves.

use crate::api::arguments::given;
use crate::error::{Outcome, answer};
use crate::planning;
use crate::store;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, quote_identifier, quote_literal};
use std::cell::Cell;
use tandem_shared::error::shown;
use tandem_shared::{Error, Range};

/// Longest name of a table: what Postgres keeps of it.
const NAME_BYTES_MAX: usize = 63;

/// A row of `tandem.routes`.
struct Route {
    prefix: String,
    table: String,
    number: i64,
}

/// A place in the tree of partitions: the partitioned table, and the one with what no longer prefix takes.
struct Place {
    node: String,
    rest: String,
}

fn table(name: &str) -> String {
    format!("tandem.{}", quote_identifier(name))
}

impl Route {
    fn place(&self) -> Place {
        // A blank keeps the names of nodes apart from those that a table may be given.
        Place { node: table(&format!("route {}", self.number)), rest: table(&self.table) }
    }

    /// The constraint that the ids of the route are these alone.
    fn within(&self) -> Outcome<String> {
        let range = Range::of_prefix(&self.prefix)?;
        let end = range.end.map_or_else(String::new, |end| format!(" AND id < {}", quote_literal(end)));
        Ok(format!("CONSTRAINT tandem_within CHECK (id >= {}{end})", quote_literal(range.start)))
    }

    /// The name of the constraint that a table holds none of them.
    fn name_without(&self) -> String {
        format!("\"tandem_without {}\"", self.number)
    }

    fn without(&self) -> Outcome<String> {
        let range = Range::of_prefix(&self.prefix)?;
        let end = range.end.map_or_else(String::new, |end| format!(" OR id >= {}", quote_literal(end)));
        Ok(format!("CONSTRAINT {} CHECK (id < {}{end})", self.name_without(), quote_literal(range.start)))
    }

    fn bounds(&self) -> Outcome<String> {
        let range = Range::of_prefix(&self.prefix)?;
        let end = range.end.map_or_else(|| "MAXVALUE".to_owned(), quote_literal);
        Ok(format!("FOR VALUES FROM ({}) TO ({end})", quote_literal(&range.start)))
    }

    fn is_below(&self, prefix: &str) -> bool {
        self.prefix != prefix && self.prefix.starts_with(prefix)
    }
}

/// The place that the ids of a prefix have without a route of their own.
fn enclosing(routes: &[Route], prefix: &str) -> Place {
    let above = routes.iter().filter(|route| route.prefix != prefix && prefix.starts_with(&route.prefix));
    match above.max_by_key(|route| route.prefix.len()) {
        Some(route) => route.place(),
        None => Place { node: table("items"), rest: table("items_default") },
    }
}

/// The routes that are below a prefix with none between.
fn directly_below<'a>(routes: &'a [Route], prefix: &str) -> Vec<&'a Route> {
    let below = |route: &&Route| route.is_below(prefix);
    let is_direct = |route: &&Route| !routes.iter().filter(below).any(|above| route.is_below(&above.prefix));
    routes.iter().filter(below).filter(is_direct).collect()
}

/// A foreign key to the items holds on to the tables that hold them.
fn refuse_references(client: &mut SpiClient<'_>) -> Outcome<()> {
    let found = client.update(
        "SELECT format('%I of %s', c.conname, c.conrelid::regclass) FROM pg_catalog.pg_constraint c \
         JOIN pg_catalog.pg_partition_tree('tandem.items') t ON t.relid = c.confrelid \
         WHERE c.contype = 'f' AND c.conparentid = 0 ORDER BY 1",
        None,
        &[],
    )?;
    let Some(row) = found.into_iter().next() else { return Ok(()) };
    Err(Error::invalid(
        format!("foreign key {}", row.get::<String>(1)?.unwrap_or_default()),
        "refers to the items, which cannot go to another table then",
        "drop it, change the routes, and add it again",
    )
    .into())
}

/// Those that have their tables: rows that a dump brought while triggers were off have none yet.
const ROUTES: &str = "SELECT r.prefix, r.table_name, r.number FROM tandem.routes r \
    WHERE to_regclass(format('tandem.%I', 'route ' || r.number)) IS NOT NULL";

/// Keeps everybody else from the items and returns the routes there are.
fn begin(client: &mut SpiClient<'_>) -> Outcome<Vec<Route>> {
    store::refuse_read_only(c"a change of routes");
    planning::waiting_for_locks(|| {
        client.update("LOCK TABLE tandem.items IN ACCESS EXCLUSIVE MODE", None, &[])
    })?;
    refuse_references(client)?;
    let mut routes = Vec::new();
    for row in client.update(ROUTES, None, &[])? {
        routes.push(Route {
            prefix: row.get::<String>(1)?.unwrap_or_default(),
            table: row.get::<String>(2)?.unwrap_or_default(),
            number: row.get::<i64>(3)?.unwrap_or(0),
        });
    }
    Ok(routes)
}

fn check(client: &mut SpiClient<'_>, prefix: &str, name: &str, routes: &[Route]) -> Outcome<()> {
    if prefix.is_empty() {
        return Err(Error::invalid("prefix", "is empty", "give the beginning of the ids to route").into());
    }
    Range::of_prefix(prefix)?;
    let mut letters = name.bytes();
    let is_name = letters.next().is_some_and(|first| first.is_ascii_lowercase() || first == b'_')
        && letters.all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'_')
        && name.len() <= NAME_BYTES_MAX;
    if !is_name {
        return Err(Error::invalid(
            format!("table name {}", shown(name)),
            "is not usable",
            format!("give 1 to {NAME_BYTES_MAX} of a-z, 0-9 and _, not beginning with a digit"),
        )
        .into());
    }
    if let Some(route) = routes.iter().find(|route| route.prefix == prefix) {
        return Err(Error::invalid(
            format!("prefix {}", shown(prefix)),
            format!("is routed to table {} already", shown(&route.table)),
            "unroute it first",
        )
        .into());
    }
    let taken = client.update(
        "SELECT FROM pg_catalog.pg_type t WHERE t.typnamespace = 'tandem'::regnamespace AND t.typname = $1 \
         UNION ALL \
         SELECT FROM pg_catalog.pg_class c WHERE c.relnamespace = 'tandem'::regnamespace AND c.relname = $1",
        None,
        &[name.into()],
    )?;
    if !taken.is_empty() {
        return Err(Error::invalid(
            format!("table name {}", shown(name)),
            "is taken in schema tandem",
            "give another name",
        )
        .into());
    }
    Ok(())
}

fn run(client: &mut SpiClient<'_>, statement: &str) -> Outcome<u64> {
    Ok(client.update(statement, None, &[])?.len() as u64)
}

/// Moves rows between two tables that are no partitions at this moment. Returns how many.
fn move_rows(client: &mut SpiClient<'_>, from: &str, to: &str, condition: &str) -> Outcome<i64> {
    let columns = client.update(
        "SELECT string_agg(format('%I', a.attname), ', ' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a \
         WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''",
        None,
        &[to.into()],
    )?;
    let columns = columns.first().get_one::<String>()?.unwrap_or_default();
    // Ordinary triggers are silenced by the setting below, these by name.
    let mut loud = Vec::new();
    for row in client.update(
        "SELECT t.tgrelid::regclass::text, format('%I', t.tgname), t.tgenabled = 'A' FROM pg_catalog.pg_trigger t \
         WHERE t.tgrelid IN ($1::regclass, $2::regclass) AND NOT t.tgisinternal AND t.tgenabled IN ('A', 'R')",
        None,
        &[from.into(), to.into()],
    )? {
        let always = if row.get::<bool>(3)? == Some(true) { "ALWAYS" } else { "REPLICA" };
        let text = |place: usize| Outcome::Ok(row.get::<String>(place)?.unwrap_or_default());
        loud.push((text(1)?, text(2)?, always));
    }
    for (table, trigger, _) in &loud {
        run(client, &format!("ALTER TABLE {table} DISABLE TRIGGER {trigger}"))?;
    }
    let statement = format!(
        "WITH moved AS (DELETE FROM ONLY {from} WHERE {condition} RETURNING {columns}), \
         put AS (INSERT INTO {to} ({columns}) SELECT {columns} FROM moved RETURNING 1) SELECT count(*) FROM put"
    );
    let moved = planning::without_triggers(|| client.update(&statement, None, &[]))?;
    let moved = moved.first().get_one::<i64>()?.unwrap_or(0);
    for (table, trigger, always) in &loud {
        run(client, &format!("ALTER TABLE {table} ENABLE {always} TRIGGER {trigger}"))?;
    }
    Ok(moved)
}

/// Says of a table that it holds nothing of a route, which is known to be so: what it held is moved, nobody can have
/// written since, and to read through the table would tell nothing new.
fn say_without(client: &mut SpiClient<'_>, table: &str, route: &Route) -> Outcome<()> {
    run(client, &format!("ALTER TABLE {table} ADD {} NOT VALID", route.without()?))?;
    client.update(
        "UPDATE pg_catalog.pg_constraint SET convalidated = true \
         WHERE conrelid = $1::regclass AND format('%I', conname) = $2",
        None,
        &[table.into(), route.name_without().into()],
    )?;
    let oid =
        client.update("SELECT $1::regclass::oid", None, &[table.into()])?.first().get_one::<pg_sys::Oid>()?;
    // SAFETY: the server's own way to have a table's description read again.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(oid.unwrap_or(pg_sys::InvalidOid)) };
    Ok(())
}

fn unsay_without(client: &mut SpiClient<'_>, table: &str, route: &Route) -> Outcome<()> {
    run(client, &format!("ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {}", route.name_without())).map(drop)
}

/// Makes the table with what no longer prefix takes the default partition of its node, with all of capture.
fn attach_rest(client: &mut SpiClient<'_>, place: &Place) -> Outcome<()> {
    run(client, &format!("ALTER TABLE {} ATTACH PARTITION {} DEFAULT", place.node, place.rest))?;
    let triggers = "ENABLE ALWAYS TRIGGER _tandem_capture, ENABLE ALWAYS TRIGGER zz_tandem_row";
    run(client, &format!("ALTER TABLE {} {triggers}", place.rest)).map(drop)
}

fn detach_rest(client: &mut SpiClient<'_>, place: &Place) -> Outcome<()> {
    run(client, &format!("ALTER TABLE {} DETACH PARTITION {}", place.node, place.rest)).map(drop)
}

/// Puts the nodes of routes below another one.
fn rehang(client: &mut SpiClient<'_>, routes: &[&Route], from: &str, to: &str) -> Outcome<()> {
    for route in routes {
        let node = route.place().node;
        run(client, &format!("ALTER TABLE {from} DETACH PARTITION {node}"))?;
        run(client, &format!("ALTER TABLE {to} ATTACH PARTITION {node} {}", route.bounds()?))?;
    }
    Ok(())
}

thread_local! {
    static ROUTING: Cell<bool> = const { Cell::new(false) };
}

/// Whether tandem itself is changing the tables at this moment.
#[pg_extern(volatile, parallel_unsafe)]
fn is_routing() -> bool {
    ROUTING.get()
}

/// Changes routes; what is done to the tables meanwhile is tandem's own doing.
fn routing<T>(work: impl FnOnce(&mut SpiClient<'_>) -> Outcome<T>) -> Outcome<T> {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            ROUTING.set(self.0);
        }
    }
    let before = Before(ROUTING.replace(true));
    let done = Spi::connect_mut(|client| {
        let done = work(client)?;
        client.update("SELECT tandem.note_parts()", None, &[])?;
        Ok(done)
    });
    drop(before);
    done
}

/// Routes the ids under a prefix to a new table. Returns how many items moved there. Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn route(prefix: Option<&str>, table_name: Option<&str>) -> i64 {
    answer(routing(|client| {
        let (prefix, table_name) = (given("prefix", prefix)?, given("table_name", table_name)?);
        let routes = begin(client)?;
        let number = routes.iter().map(|route| route.number).max().unwrap_or(0) + 1;
        let moved = make(client, prefix, table_name, number, &routes)?;
        client.update(
            "INSERT INTO tandem.routes (prefix, table_name, number) VALUES ($1, $2, $3)",
            None,
            &[prefix.into(), table_name.into(), number.into()],
        )?;
        Ok(moved)
    }))
}

/// Makes the tables of a row of `tandem.routes`, unless they are there. Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn make_route(prefix: Option<&str>, table_name: Option<&str>, number: Option<i64>) {
    answer(routing(|client| -> Outcome<()> {
        let (prefix, table_name) = (given("prefix", prefix)?, given("table_name", table_name)?);
        let number = given("number", number)?;
        let routes = begin(client)?;
        let place = Route { prefix: prefix.to_owned(), table: table_name.to_owned(), number }.place();
        let there = client.update(
            "SELECT to_regclass($1) IS NOT NULL AND to_regclass($2) IS NOT NULL",
            None,
            &[place.node.into(), place.rest.into()],
        )?;
        if there.first().get_one::<bool>()? != Some(true) {
            make(client, prefix, table_name, number, &routes)?;
        }
        Ok(())
    }));
}

fn make(client: &mut SpiClient<'_>, prefix: &str, name: &str, number: i64, routes: &[Route]) -> Outcome<i64> {
    check(client, prefix, name, routes)?;
    let route = Route { prefix: prefix.to_owned(), table: name.to_owned(), number };
    let (above, own, bounds) = (enclosing(routes, prefix), route.place(), route.bounds()?);
    let (node, rest) = (&own.node, &own.rest);
    let below = directly_below(routes, prefix);
    let shape = "LIKE tandem.items INCLUDING ALL EXCLUDING COMMENTS";
    run(client, &format!("CREATE TABLE {node} ({shape}) PARTITION BY RANGE (id)"))?;
    let mut constraints = vec![route.within()?];
    for other in &below {
        constraints.push(other.without()?);
    }
    // The rows come before the indexes, which are made when the table is attached.
    run(client, &format!("CREATE TABLE {rest} ({shape} EXCLUDING INDEXES, {})", constraints.join(", ")))?;
    let range = Range::of_prefix(prefix)?;
    let before_end = range.end.map_or_else(String::new, |end| format!(" AND id < {}", quote_literal(end)));
    let condition = format!("id >= {}{before_end}", quote_literal(range.start));
    detach_rest(client, &above)?;
    let moved = move_rows(client, &above.rest, rest, &condition)?;
    say_without(client, &above.rest, &route)?;
    for other in &below {
        unsay_without(client, &above.rest, other)?;
    }
    rehang(client, &below, &above.node, node)?;
    run(client, &format!("ALTER TABLE {node} ATTACH PARTITION {rest} DEFAULT"))?;
    run(client, &format!("ALTER TABLE {} ATTACH PARTITION {node} {bounds}", above.node))?;
    attach_rest(client, &above)?;
    for (table, has_rows) in [(node, false), (rest, true)] {
        own_as_items(client, table)?;
        client.update(
            "SELECT tandem.add_triggers($1::regclass, $2)",
            None,
            &[table.as_str().into(), has_rows.into()],
        )?;
    }
    Ok(moved)
}

/// Gives a table the owner of `items`, and makes it one of the extension's: a dump then leaves it to the row in
/// `tandem.routes`, and nobody drops it by mistake. Nobody else gets rights on it: the policies of `items` hold for
/// who goes through `items`.
fn own_as_items(client: &mut SpiClient<'_>, table: &str) -> Outcome<()> {
    let owner = client.update(
        "SELECT r.rolname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_roles r ON r.oid = c.relowner \
         WHERE c.oid = 'tandem.items'::regclass",
        None,
        &[],
    )?;
    let owner = owner.first().get_one::<String>()?.unwrap_or_default();
    run(client, &format!("ALTER TABLE {table} OWNER TO {}", quote_identifier(owner)))?;
    run(client, &format!("ALTER EXTENSION tandem ADD TABLE {table}"))?;
    Ok(())
}

/// Moves the items under a routed prefix back to where they would be without, and drops the table. Returns how many
/// moved. Errors: `NOTFOUND`.
#[pg_extern(volatile, parallel_unsafe)]
fn unroute(prefix: Option<&str>) -> i64 {
    answer(routing(|client| {
        let prefix = given("prefix", prefix)?;
        let routes = begin(client)?;
        let Some(route) = routes.iter().find(|route| route.prefix == prefix) else {
            return Err(Error::NotFound { what: format!("route of prefix {}", shown(prefix)) }.into());
        };
        let (above, own) = (enclosing(&routes, prefix), route.place());
        let below = directly_below(&routes, prefix);
        run(client, &format!("ALTER TABLE {} DETACH PARTITION {}", above.node, own.node))?;
        detach_rest(client, &own)?;
        detach_rest(client, &above)?;
        unsay_without(client, &above.rest, route)?;
        let moved = move_rows(client, &own.rest, &above.rest, "true")?;
        for other in &below {
            say_without(client, &above.rest, other)?;
        }
        rehang(client, &below, &own.node, &above.node)?;
        attach_rest(client, &above)?;
        for table in [&own.node, &own.rest] {
            run(client, &format!("ALTER EXTENSION tandem DROP TABLE {table}"))?;
            run(client, &format!("DROP TABLE {table}"))?;
        }
        client.update("DELETE FROM tandem.routes WHERE prefix = $1", None, &[prefix.into()])?;
        Ok(moved)
    }))
}
