//! `INFO tandem`.
#![allow(deprecated, reason = "the builder that replaces these calls collects everything in maps first")]

use crate::engine;
use crate::reading::Reading;
use redis_module::InfoContext;

/// Adds the section.
pub fn info(context: &InfoContext, _for_crash_report: bool) {
    let _ = engine::with(|engine| {
        context.add_info_section(Some("stats"));
        context.add_info_field_str("version", env!("CARGO_PKG_VERSION"));
        context.add_info_field_str("run", &engine.run);
        context.add_info_field_long_long("content_bytes_max", engine.bounds.content_bytes as i64);
        context.add_info_field_long_long("printed_bytes_max", engine.bounds.printed_bytes as i64);
        context.add_info_field_long_long("pending_bytes_max", engine.pending_bytes_max as i64);
        context.add_info_field_long_long("refused_writes", engine.refused_writes as i64);
        context.add_info_field_long_long("panics", engine.panics as i64);
        context.add_info_field_long_long("failed_effects", engine.failed_effects as i64);
        context.add_info_field_long_long("evicted_items", engine.evictions.items as i64);
        context.add_info_field_long_long("evicted_unread_items", engine.evictions.unread as i64);
        context.add_info_field_long_long("evicted_reads", engine.evictions.reads as i64);
        context.add_info_field_long_long("fetches_asked", engine.fetches.asked as i64);
        context.add_info_field_long_long("fetches_found", engine.fetches.found as i64);
        context.add_info_field_long_long("fetches_absent", engine.fetches.absent as i64);
        context.add_info_field_long_long("fetches_denied", engine.fetches.denied as i64);
        context.add_info_field_long_long("fetches_late", engine.fetches.late as i64);
        context.add_info_field_long_long("cdc_maxlen", engine.cdc_length_max as i64);
        context.add_info_field_long_long("cdc_lost", engine.cdc_lost as i64);
        let mut numbers: Vec<_> = engine.databases.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            let Some(database) = engine.databases.get(&number) else { continue };
            let root = database.compared().root().node_hash().unwrap_or_default();
            let line = format!(
                "items={},local_items={},states={},tombstones={},ghosts={},ghost_bytes={},withheld={},\
                 links={},pending={},pending_bytes={},index_bytes={},fetching={},filter_bytes={},root={root}",
                database.index.len(),
                database.locals.len(),
                database.index.states().count(),
                database.tombstones.len(),
                database.ghosts.len(),
                database.ghosts.bytes(),
                database.withheld.len(),
                database.pending.links().count(),
                database.pending.len(),
                database.pending.bytes(),
                database.index.memory_bytes() + database.locals.memory_bytes(),
                database.readings.values().map(Reading::wanted).sum::<usize>(),
                database.readings.values().map(|reading| reading.filter().1).sum::<usize>(),
            );
            context.add_info_field_str(&format!("db{number}"), &line);
        }
    });
}
