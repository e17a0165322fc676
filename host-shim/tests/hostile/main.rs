//! What a hostile guest or a damaged disk can put before the log: the fuzz targets' corpus, and damage by the ten thousand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../../fuzz/bodies.rs"]
mod bodies;
mod corpus;
mod mutations;
