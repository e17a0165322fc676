//! vsock addresses. Port numbers of guest and host are separate spaces: the first two listen in the
//! guest, the last on the host.

/// The context id of the host, `VMADDR_CID_HOST` in `linux/vm_sockets.h`. Only this peer may talk
/// to the agent.
pub const HOST_CID: u32 = 2;

/// The agent's ttrpc server in the guest. The number is Kata's default (`agent.server_addr`), so that
/// an unmodified Kata shim finds it.
pub const AGENT: u32 = 1024;

/// Where a Kata shim expects the agent's log stream in the guest (`agent.log_vport`).
pub const KATA_LOG: u32 = 1025;

/// Where the host listens for beacons, unless the kernel parameter [`BEACON_PARAMETER`] says otherwise.
pub const BEACON: u32 = 1030;

/// The kernel parameter by which the host tells the guest that it listens for beacons, and where:
/// `seed.beacon_port=1030`. Without it the agent sends none.
pub const BEACON_PARAMETER: &str = "seed.beacon_port";
