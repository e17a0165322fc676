//! The only system calls of the agent, and the files of `/proc` and `/sys` that stand for system calls.

pub mod block;
pub mod clock;
pub mod command;
pub mod descriptors;
pub mod file;
pub mod hotplug;
pub mod machine;
pub mod modules;
pub mod mount;
pub mod pci;
pub mod privileges;
pub mod random;
pub mod resolver;
