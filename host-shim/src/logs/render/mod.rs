//! Records as text: [`human`] for people, [`container`] for the container's stdout and stderr, [`json`] and
//! [`export`] as journalctl writes them. Who prints them is elsewhere.

pub mod container;
pub mod export;
pub mod human;
pub mod json;

pub use container::Container;
pub use human::Human;
pub use json::Json;
