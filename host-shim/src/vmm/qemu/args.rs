//! QEMU's command line: a pure function of the spec (qemu(1), QEMU 7.2 to 11).

use std::{
    ffi::OsString,
    os::fd::{AsRawFd, RawFd},
    path::Path,
};

use seed_protocol::paths::{ROOT_TAG, SHARE_TAG};

use crate::spec::{KernelFormat, Network, VmAccel, VmSpec};

/// QEMU 7.2's TCG computes wrong flags after `cmpxchg16b`, which Linux 6.12's allocator uses: the guest
/// panics at random while it boots. Without the flag the kernel takes another path. RDRAND saves the wait
/// for entropy.
const TCG_CPU: &str = "qemu64,+rdrand,-cx16";

/// How much memory TCG may keep translated code in; by itself it takes up to a GiB, which counts for the pod's control group
/// beside the guest's memory, and the host ends a machine that has no room for it. A guest of Debian boots no slower so.
const TCG_CODE_MIB: u32 = 128;

/// How often memory can be added. vhost-user daemons take eight regions of memory, and a machine begins with
/// up to four.
const MEMORY_SLOTS: u32 = 4;

/// Commas separate QEMU's options, so a comma in a value is doubled.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

struct Args(Vec<OsString>);

impl Args {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }
    fn pair(&mut self, flag: &str, value: impl Into<OsString>) {
        self.0.push(flag.into());
        self.0.push(value.into());
    }
}

/// Numbers of the open files that it is given, so that it needs no right to open any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers {
    /// The kernel.
    pub kernel: RawFd,
    /// The initial file system, where there is one.
    pub initrd: Option<RawFd>,
    /// [`VmSpec::disks`], in their order.
    pub disks: Vec<RawFd>,
    /// A connection to virtiofsd on the root.
    pub root: RawFd,
    /// To the one on what is shared beside it, where there is any.
    pub share: Option<RawFd>,
    /// To the vsock daemon.
    pub vsock: RawFd,
    /// To swtpm's control channel.
    pub tpm: RawFd,
    /// Its monitor: the other end is ours.
    pub monitor: RawFd,
}

impl Numbers {
    /// One after another from this one on, for a command line that is looked at and not run.
    pub fn counted(spec: &VmSpec, first: RawFd) -> Self {
        let mut count = first..;
        let mut next = || count.next().unwrap_or(RawFd::MAX);
        Self {
            kernel: next(),
            initrd: spec.initrd.as_ref().map(|_| next()),
            disks: spec.disks().map(|_| next()).collect(),
            root: next(),
            share: (!spec.shared.is_empty()).then(&mut next),
            vsock: next(),
            tpm: next(),
            monitor: next(),
        }
    }
}

/// The whole command line but for the program. The console is the standard output.
pub fn args(spec: &VmSpec, machine_id: &str, files: &Numbers) -> Vec<OsString> {
    let mut args = Args(Vec::new());
    machine(&mut args, spec);
    boot(&mut args, spec, machine_id, files);
    devices(&mut args, files);
    disks(&mut args, spec, files);
    share(&mut args, files);
    network(&mut args, spec);
    ports(&mut args, spec);
    connection(&mut args, "monitor", files.monitor);
    args.pair("-mon", "chardev=monitor,mode=control");
    args.0
}

/// A socket that is connected already.
fn connection(args: &mut Args, id: &str, fd: RawFd) {
    args.pair("-chardev", format!("socket,id={id},fd={fd}"));
}

fn machine(args: &mut Args, spec: &VmSpec) {
    args.pair("-name", spec.id.as_str());
    args.flag("-nodefaults");
    args.flag("-no-user-config");
    // It starts no programs, gains no rights and changes no limits of its own: seccomp(2) sees to it.
    args.pair(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    args.pair("-display", "none");
    // A reboot ends the VM: the host's files of this start (swtpm, vsock) are for one start only.
    args.flag("-no-reboot");
    args.pair("-machine", "q35,memory-backend=mem");
    let (accel, cpu) = match spec.accel {
        VmAccel::Kvm => ("kvm".to_owned(), "host"),
        VmAccel::Tcg => (format!("tcg,tb-size={TCG_CODE_MIB}"), TCG_CPU),
    };
    args.pair("-accel", accel);
    args.pair("-cpu", cpu);
    args.pair("-smp", processors(spec));
    let mib = spec.memory.get();
    args.pair(
        "-m",
        if spec.memory_grows() {
            let max = spec.max_memory.get();
            format!("{mib}M,slots={MEMORY_SLOTS},maxmem={max}M")
        } else {
            format!("{mib}M")
        },
    );
    // Shared, because vhost-user daemons read and write the guest's memory themselves.
    args.pair(
        "-object",
        format!("memory-backend-memfd,id=mem,size={mib}M,share=on"),
    );
}

/// Room to grow is one processor a socket: Linux takes no other that is added to a package which is there.
fn processors(spec: &VmSpec) -> String {
    let (count, max) = (spec.vcpus.get(), spec.max_vcpus.get());
    if count == max {
        count.to_string()
    } else {
        format!("{count},sockets={max},cores=1,threads=1,maxcpus={max}")
    }
}

fn boot(args: &mut Args, spec: &VmSpec, machine_id: &str, files: &Numbers) {
    if spec.kernel_format == KernelFormat::Elf {
        // With SeaBIOS, an ELF kernel, an initrd and a TPM the guest loses its ACPI tables.
        args.pair("-bios", "qboot.rom");
    }
    // These two it takes by name alone.
    let name = |fd: RawFd| format!("/proc/self/fd/{fd}");
    args.pair("-kernel", name(files.kernel));
    if let Some(initrd) = files.initrd {
        args.pair("-initrd", name(initrd));
    }
    args.pair("-append", spec.cmdline(machine_id));
}

fn devices(args: &mut Args, files: &Numbers) {
    connection(args, "root", files.root);
    files_of_host(args, "root", ROOT_TAG);
    connection(args, "vsock", files.vsock);
    args.pair("-device", "vhost-user-vsock-pci,chardev=vsock");
    connection(args, "tpm", files.tpm);
    args.pair("-tpmdev", "emulator,id=tpm0,chardev=tpm");
    args.pair("-device", "tpm-crb,tpmdev=tpm0");
    args.pair("-device", "virtio-rng-pci");
    // Tells a panic from a reboot.
    args.pair("-device", "pvpanic");
    args.pair("-chardev", "file,id=console,path=/dev/stdout");
    args.pair("-serial", "chardev:console");
}

fn disks(args: &mut Args, spec: &VmSpec, files: &Numbers) {
    for (index, (disk, fd)) in spec.disks().zip(&files.disks).enumerate() {
        let driver = if disk.is_device {
            "host_device"
        } else {
            "file"
        };
        let read_only = if disk.read_only { ",read-only=on" } else { "" };
        // It opens a set of files by the set's number, and takes what is in it. The name is for people.
        let source = escaped(disk.source);
        args.pair("-add-fd", format!("fd={fd},set={index},opaque={source}"));
        args.pair(
            "-blockdev",
            format!(
                "driver=raw,node-name=disk{index},discard=unmap{read_only},\
                 file.driver={driver},file.filename=/dev/fdset/{index}"
            ),
        );
        let serial = disk.serial;
        args.pair(
            "-device",
            format!("virtio-blk-pci,drive=disk{index},serial={serial}"),
        );
    }
}

fn share(args: &mut Args, files: &Numbers) {
    if let Some(fd) = files.share {
        connection(args, "share", fd);
        files_of_host(args, "share", SHARE_TAG);
    }
}

/// A machine that runs on calls virtiofsd for each of its rings before it enables them, and virtiofsd may hear that call too early,
/// when it is for nobody. By the events' index the guest would not call again, ever; without it, it does with its next request.
fn files_of_host(args: &mut Args, chardev: &str, tag: &str) {
    let device = "vhost-user-fs-pci,event_idx=off,queue-size=1024";
    args.pair("-device", format!("{device},chardev={chardev},tag={tag}"));
}

fn network(args: &mut Args, spec: &VmSpec) {
    for (index, nic) in spec.nics.iter().enumerate() {
        let fd = nic.tap.as_raw_fd();
        args.pair("-netdev", format!("tap,id=tap{index},fd={fd}"));
        let mac = &nic.mac;
        args.pair(
            "-device",
            format!("virtio-net-pci,netdev=tap{index},mac={mac},romfile="),
        );
    }
    match spec.network {
        Network::None if !spec.nics.is_empty() => {}
        Network::None => args.pair("-nic", "none"),
        Network::User => {
            let mut user = "user,id=net0".to_owned();
            for forward in &spec.forwards {
                user.push(',');
                user.push_str(&forward.hostfwd());
            }
            args.pair("-netdev", user);
            args.pair("-device", "virtio-net-pci,netdev=net0,romfile=");
        }
    }
}

/// Ports for what comes later: q35 takes nothing new on its first bus (docs/pcie.txt). All are functions of one slot, the
/// last before the chipset's own, so that they take no address from what is there from the start. Nothing of the scarce
/// space of I/O ports is kept for them: virtio devices want none.
fn ports(args: &mut Args, spec: &VmSpec) {
    for port in 0..spec.disk_ports {
        let chassis = port + 1;
        args.pair(
            "-device",
            format!(
                "pcie-root-port,id=port{port},chassis={chassis},addr=1e.{port},multifunction=on,io-reserve=0"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::MAX_DISK_PORTS,
        spec::tests::{pod, sample},
    };

    fn line(spec: &VmSpec) -> String {
        let args = args(spec, &"0".repeat(32), &Numbers::counted(spec, 10));
        let mut line = args
            .iter()
            .map(|a| a.to_str().unwrap())
            .collect::<Vec<_>>()
            .join("\n");
        for (index, nic) in spec.nics.iter().enumerate() {
            let number = nic.tap.as_raw_fd();
            line = line.replace(
                &format!("id=tap{index},fd={number}\n"),
                &format!("id=tap{index},fd=<tap of {}>\n", nic.name),
            );
        }
        line
    }

    #[test]
    fn the_command_line_of_a_small_instance_is_this() {
        let golden = include_str!("../../../tests/testdata/qemu-xs.args");
        assert_eq!(line(&sample()), golden.trim_end());
    }

    #[test]
    fn the_command_line_of_a_pods_instance_is_this() {
        let golden = include_str!("../../../tests/testdata/qemu-pod.args");
        assert_eq!(line(&pod()), golden.trim_end());
    }

    #[test]
    fn an_elf_kernel_gets_qboot_and_kvm_the_hosts_processor() {
        let mut spec = sample();
        spec.kernel_format = KernelFormat::Elf;
        spec.accel = VmAccel::Kvm;
        let line = line(&spec);
        assert!(line.contains("-bios\nqboot.rom"), "{line}");
        assert!(
            line.contains("-cpu\nhost") && line.contains("-accel\nkvm"),
            "{line}"
        );
    }

    #[test]
    fn room_to_grow_is_sockets_and_slots() {
        let mut spec = sample();
        spec.max_vcpus = 4.try_into().unwrap();
        spec.max_memory = 1024.try_into().unwrap();
        let line = line(&spec);
        for pair in [
            "-smp\n1,sockets=4,cores=1,threads=1,maxcpus=4\n",
            "-m\n512M,slots=4,maxmem=1024M\n",
            "size=512M,share=on\n",
        ] {
            assert!(line.contains(pair), "{line}");
        }
    }

    #[test]
    fn ports_for_disks_are_functions_of_one_slot() {
        let mut spec = sample();
        assert!(!line(&spec).contains("pcie-root-port"));
        spec.disk_ports = MAX_DISK_PORTS;
        let line = line(&spec);
        for wanted in [
            "pcie-root-port,id=port0,chassis=1,addr=1e.0,multifunction=on,",
            "pcie-root-port,id=port7,chassis=8,addr=1e.7,multifunction=on,",
        ] {
            assert!(line.contains(wanted), "{line}");
        }
    }

    #[test]
    fn published_ports_lead_into_the_users_network() {
        let mut spec = sample();
        spec.network = Network::User;
        spec.forwards = vec!["8080:80".parse().unwrap(), "5353:53/udp".parse().unwrap()];
        let line = line(&spec);
        let wanted = "user,id=net0,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=udp:127.0.0.1:5353-:53\n";
        assert!(line.contains(wanted), "{line}");
    }

    #[test]
    fn a_comma_in_a_path_does_not_become_an_option() {
        let mut spec = sample();
        spec.volumes[0].source = "/v/a,readonly=off.img".into();
        spec.volumes[0].read_only = true;
        let line = line(&spec);
        assert!(
            line.contains("fd=12,set=0,opaque=/v/a,,readonly=off.img\n"),
            "{line}"
        );
        assert!(line.contains("read-only=on"), "{line}");
    }
}
