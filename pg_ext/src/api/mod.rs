//! The functions users call, grouped as the rows of docs/surface.md.

pub mod arguments;
mod batches;
pub mod dirty;
mod items;
pub mod links;
pub mod merkle;
mod nodes;
mod peers;
mod reconcile;
mod wait;

pgrx::extension_sql_file!(
    "../../../sql/schema/comments.sql",
    name = "comments",
    requires = [
        items::put_jsonb,
        items::put_binary,
        items::merge,
        items::delete,
        items::set_state,
        items::move_state,
        items::apply,
        items::touch,
        batches::put_many,
        batches::put_many_jsonb,
        batches::delete_many,
        batches::batch,
        batches::delete_state,
        batches::delete_prefix,
        merkle::merkle_root,
        merkle::merkle_hash,
        merkle::merkle_node,
        merkle::merkle_children,
        merkle::merkle_leaves,
        merkle::verify,
        dirty::dirty,
        dirty::dirty_count,
        dirty::dirty_prefixes,
        dirty::clean_branches,
        dirty::is_clean,
        wait::wait_synced,
        items::merge_jsonb,
        links::link,
        links::unlink,
        links::pause_link,
        links::resume_link,
        links::retry_dead_letters,
        nodes::link_nodes,
        reconcile::reconcile,
        reconcile::reconcile_peers,
        peers::peer_has_key,
        peers::peer_fingerprints,
        peers::peer_splits,
        peers::peer_lists,
        peers::peer_fetch,
        peers::peer_join,
        peers::peer_waiting,
        routes::route,
        routes::unroute,
        routes::make_route,
        routes::is_routing,
        rows::check_id,
        rows::check_prefix,
        rows::check_state,
        rows::range_end,
        rows::page_limit,
        rows::now_ms,
        rows::digest,
        fold::fold,
        fold::rebuild_blocks,
        fold::mend_blocks,
        rotate::rotate_log
    ]
);
