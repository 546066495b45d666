//! Command handlers, grouped as the rows of docs/surface.md.

pub mod effect;
pub mod items;
pub mod link;
pub mod merkle;
