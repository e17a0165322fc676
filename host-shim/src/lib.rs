//! Everything on the host that one Seed instance needs: the containerd shim, which starts and watches
//! one microVM, and the `seed` command line, which drives that same shim without containerd.
//!
//! | module | job |
//! |---|---|
//! | [`config`], [`paths`], [`names`] | the configuration file, every path on the host, validated names |
//! | [`apart`] | work on files whose server may be gone |
//! | [`access`] | who besides root may look at instances |
//! | [`spec`] | OCI bundle, annotations and `boot.json` -> one immutable `VmSpec` |
//! | [`net`] | a pod's network: its namespace, and the wires from its links to the guest's cards |
//! | [`rootfs`] | the mounts of a root file system, in the shim's own mount namespace |
//! | [`writes`] | writes to a root that are kept in memory |
//! | [`share`] | files and folders of the host that the guest sees beside its root |
//! | [`cgroup`] | the control group that a machine's programs run in |
//! | [`vmm`], [`tpm`] | command lines and supervision of QEMU, virtiofsd, swtpm and our vsock device |
//! | [`vsock`] | that device: QEMU's vsock, led to Unix sockets |
//! | [`agent`] | the connection to the guest's agent |
//! | [`usage`] | what an instance uses, in its guest and on the host |
//! | [`sandbox`] | the life of one VM: a pure state machine and the task that drives it |
//! | [`shim`] | what containerd sees: the binary's commands, the Task service, events |
//! | [`logs`] | pulls the journal, keeps it in segments, renders it |
//! | [`management`] | the instance's management socket: status, keys, units |
//! | [`text`], [`data`] | words and figures as messages and tables write them; JSON as commands print it |
//! | [`containerd`] | a containerd small enough for one instance: what `seed run` uses |
//!
//! Start order: paths, root file system, spec, daemons, VMM, beacon, agent. Stop order is the reverse,
//! the VMM first. Nothing here looks inside the guest except through [`agent`].

#![deny(unsafe_code)]

pub mod access;
pub mod agent;
pub mod apart;
pub mod cgroup;
pub mod config;
pub mod containerd;
pub mod data;
mod kept;
mod locks;
pub mod logs;
pub mod management;
pub mod names;
pub mod net;
mod oom;
pub mod paths;
pub mod rootfs;
pub mod sandbox;
pub mod share;
pub mod shim;
mod sockets;
pub mod spec;
pub mod sys;
pub mod text;
pub mod tpm;
pub mod usage;
pub mod vmm;
pub mod vsock;
pub mod writes;
