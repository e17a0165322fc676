//! Records as text: [`human`] for people, [`json`] as `journalctl -o json` writes it. Pure functions; who
//! prints them is elsewhere.

pub mod human;
pub mod json;

pub use human::Human;
