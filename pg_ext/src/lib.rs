//! tandem's Postgres extension: items as a table that captures its own changes, the folded fingerprint index over
//! them, and the worker that keeps links to Redis. The rules are those of `tandem_shared`; the SQL is in `sql/`.

mod api;
mod capture;
mod error;
mod fault_point;
mod fold;
mod owner;
mod planning;
mod replica;
mod routes;
mod rows;
mod settings;
mod snapshot;
mod store;
mod worker;

use pgrx::prelude::*;

pgrx::pg_module_magic!();

extension_sql_file!("../../sql/schema/tables.sql", name = "tables", bootstrap);
extension_sql_file!(
    "../../sql/schema/functions.sql",
    name = "functions",
    requires = [
        "tables",
        rows::check_id,
        rows::check_prefix,
        rows::range_end,
        rows::check_state,
        rows::position_xid,
        rows::position_seq,
        rows::check_position,
        rows::page_limit,
        rows::digest,
        rows::origin,
        api::merkle::merkle_root,
        api::dirty::dirty_count
    ]
);
extension_sql_file!(
    "../../sql/schema/triggers.sql",
    name = "triggers",
    requires = ["functions", rows::removed_version, routes::make_route]
);
extension_sql_file!("../../sql/schema/roles.sql", name = "roles", finalize);

/// Called by Postgres when it loads the library.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::define();
    fault_point::define();
    worker::register();
}
