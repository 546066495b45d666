//! The functions users call, grouped as the rows of docs/surface.md.

mod arguments;
mod batches;
pub mod dirty;
mod items;
pub mod links;
pub mod merkle;
