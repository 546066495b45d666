//! The commands, grouped as the tables of docs/surface.md.

pub mod batches;
pub mod effect;
pub mod fill;
pub mod items;
pub mod link;
pub mod merkle;
pub mod pages;
pub mod states;
pub mod wait;
