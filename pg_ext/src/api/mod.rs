//! The functions users call, grouped as the rows of docs/surface.md.

mod items;
pub mod links;
pub mod merkle;
