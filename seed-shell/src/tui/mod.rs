//! The dashboard: what `ssh host` shows in a terminal.
//!
//! [`input`] makes keys of bytes, [`model`] is what is shown and what keys do to it (no I/O), [`view`] draws a model,
//! [`driver`] feeds it: status, log, keys, the terminal's size. All text that comes from a guest is escaped before it
//! gets into the model, and a cell of the screen holds no control character either.

mod driver;
pub mod input;
pub mod model;
pub mod view;

pub(crate) use driver::run;
