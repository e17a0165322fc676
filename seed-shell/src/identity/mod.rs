//! A repository's identity: an Ed25519 key, written as the IPNS name that belongs to it.
//!
//! [`cid`] makes and reads the name; [`statement`] is what is signed to plant, [`signature`] signs it and checks that; [`keyfile`] reads SSH keys.
//! The private key never leaves its owner: the shell sees a signature, or the connection's own key.

pub mod cid;
pub mod keyfile;
pub mod signature;
pub mod statement;

pub use cid::{Cid, CidError, NamespaceName};
