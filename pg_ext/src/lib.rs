//! tandem's Postgres extension: items as a table that captures its own changes, the folded fingerprint index over
//! them, and the worker that keeps links to Redis. The rules are those of `tandem_shared`; the SQL is in `sql/`.

mod api;
mod capture;
mod error;
mod fault_point;
mod log;
mod planning;
mod replica;
mod routes;
mod rows;
mod settings;
mod snapshot;
mod store;
mod worker;

// `#[pg_guard]` on functions of the server that pgrx leaves out looks for it here.
use pgrx::pg_sys::ffi;
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
        rows::page_limit,
        rows::digest,
        api::merkle::merkle_root,
        api::dirty::dirty_count,
        "log"
    ]
);
extension_sql_file!(
    "../../sql/schema/log.sql",
    name = "log",
    requires = [
        "tables",
        rows::check_id,
        rows::digest,
        rows::page_limit,
        rows::position_below,
        rows::position_open,
        rows::position_done,
        rows::position_after,
        rows::position_of,
        rows::check_position,
        rows::flush_log
    ]
);
extension_sql_file!(
    "../../sql/schema/triggers.sql",
    name = "triggers",
    requires = ["functions", routes::make_route]
);
extension_sql_file!(
    "../../sql/schema/restore.sql",
    name = "restore",
    requires = ["triggers", routes::make_route]
);
extension_sql_file!(
    "../../sql/schema/ddl.sql",
    name = "ddl",
    requires = ["triggers", "restore", routes::is_routing]
);
extension_sql_file!("../../sql/schema/roles.sql", name = "roles", finalize);

/// Called by Postgres when it loads the library.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::define();
    fault_point::define();
    settings::reserve();
    log::register();
    worker::register();
}
