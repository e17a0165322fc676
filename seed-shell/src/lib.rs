//! The SSH front door to Seed instances: owners reach what runs for them with the `ssh` that they have.
//!
//! | module | job |
//! |---|---|
//! | [`config`] | the configuration file |
//! | [`registry`] | invites, repositories, their instances and keys: SQLite |
//! | [`authorized_keys`] | the lines of `.authorized_keys`, with every option honoured or refused |
//! | [`identity`] | a key's CID, the namespace made of it, signatures over invites |
//! | [`source`] | where a repository comes from: `silo:`, `github:`, `git+https:` |
//! | [`access`] | who sees what; `[repo/]instance` to one instance |
//! | [`instances`] | the instances themselves, through `seed-shim`'s client library |
//! | [`follow`] | tells those who follow a log that it has grown |
//! | [`commands`] | one file a command |
//! | [`tools`] | what `seed-identity`, `seed-sign` and `seed-plant` do |
//! | [`tui`] | the dashboard |
//! | [`ssh`] | the server: connections, limits, authentication, channels |
//!
//! Nothing here talks to a guest, or is root: it asks management sockets and reads log segments, both of which
//! the shim's configuration gives to a group.

#![forbid(unsafe_code)]

pub mod access;
pub mod authorized_keys;
pub mod commands;
pub mod config;
pub mod follow;
pub mod identity;
pub mod instances;
pub mod registry;
pub mod source;
pub mod ssh;
pub mod tools;
pub mod tui;

use std::{
    io::{self, Write},
    process::ExitCode,
};

/// How a tool ends: its exit status, or one line that says what is wrong.
pub fn run_tool(name: &str, ended: Result<u8, anyhow::Error>) -> ExitCode {
    match ended {
        Ok(status) => status.into(),
        Err(error) => {
            let text = format!("{name}: {}\n", seed_shim::text::chain(error.as_ref()));
            // Nowhere is left to say that this failed.
            let _ = io::stderr().write_all(text.as_bytes());
            ExitCode::FAILURE
        }
    }
}
