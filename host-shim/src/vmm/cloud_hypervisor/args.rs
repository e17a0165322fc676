//! Cloud Hypervisor's command line: a pure function of the spec (its `--help` and `docs/`, version 52).
//!
//! Everything is on the command line, so that the program boots by itself: network cards come as open files, which
//! its API takes only over `SCM_RIGHTS`.

use std::{
    ffi::OsString,
    os::fd::{AsRawFd, BorrowedFd},
    path::Path,
};

use seed_protocol::paths::{ROOT_TAG, SHARE_TAG};

use super::unsupported;
use crate::{
    spec::{MEMORY_STEP_MIB, VmSpec},
    vmm::VmmError,
};

/// Any number from 3 on: its vsock device is its own, behind a Unix socket.
const GUEST_CID: u32 = 3;

/// Its parser takes what is between quotation marks as it is, and has no way to write a quotation mark.
fn quoted(path: &Path) -> Result<String, VmmError> {
    let Some(text) = path.to_str() else {
        return Err(unsupported(format!(
            "takes no path like {path:?}: give it a name in UTF-8"
        )));
    };
    if text.contains('"') {
        let lack = format!("takes no path with a quotation mark in it: rename {text:?}");
        return Err(unsupported(lack));
    }
    if text.contains([',', '[', ']']) {
        return Ok(format!("\"{text}\""));
    }
    Ok(text.to_owned())
}

/// The whole command line but for the program. The console is the standard output; `events` is an open file that
/// its events are written to.
pub fn args(
    spec: &VmSpec,
    machine_id: &str,
    events: BorrowedFd<'_>,
) -> Result<Vec<OsString>, VmmError> {
    let mut args: Vec<OsString> = Vec::new();
    let mut pair = |flag: &str, value: OsString| args.extend([flag.into(), value]);
    let api = quoted(&spec.paths.api_socket())?;
    pair("--api-socket", format!("path={api}").into());
    let events = events.as_raw_fd();
    pair("--event-monitor", format!("fd={events}").into());
    let (boot, max) = (spec.vcpus.get(), spec.max_vcpus.get());
    pair("--cpus", format!("boot={boot},max={max}").into());
    pair("--memory", memory(spec).into());
    pair("--kernel", spec.kernel.clone().into());
    if let Some(initrd) = &spec.initrd {
        pair("--initramfs", initrd.clone().into());
    }
    pair("--cmdline", spec.cmdline(machine_id).into());
    pair("--serial", "tty".into());
    pair("--console", "off".into());
    pair("--rng", "src=/dev/urandom".into());
    // Once each: a flag that may be repeated takes all its values together.
    pair("--fs", filesystem(ROOT_TAG, &spec.paths.virtiofs_socket())?);
    if !spec.shared.is_empty() {
        args.push(filesystem(SHARE_TAG, &spec.paths.share_socket())?);
    }
    let mut pair = |flag: &str, value: OsString| args.extend([flag.into(), value]);
    let vsock = quoted(&spec.paths.vsock_socket())?;
    pair("--vsock", format!("cid={GUEST_CID},socket={vsock}").into());
    let tpm = quoted(&spec.tpm_control())?;
    pair("--tpm", format!("socket={tpm}").into());
    for (index, disk) in spec.disks().enumerate() {
        if index == 0 {
            args.push("--disk".into());
        }
        let (path, serial) = (quoted(disk.source)?, disk.serial);
        let read_only = if disk.read_only { ",readonly=on" } else { "" };
        // What the guest writes must not decide what its next start takes the image for.
        let disk = format!("path={path},image_type=raw,serial={serial}{read_only}");
        args.push(disk.into());
    }
    for (index, nic) in spec.nics.iter().enumerate() {
        if index == 0 {
            args.push("--net".into());
        }
        let (fd, mac) = (nic.tap.as_raw_fd(), &nic.mac);
        args.push(format!("fd=[{fd}],mac={mac}").into());
    }
    // Tells a panic from a reboot.
    args.push("--pvpanic".into());
    // A guest that powers off leaves the program running, which a signal from outside does not.
    args.push("--no-shutdown".into());
    Ok(args)
}

/// Shared, because vhost-user daemons read and write the guest's memory themselves.
fn memory(spec: &VmSpec) -> String {
    let (size, max) = (spec.memory.get(), spec.max_memory.get());
    let mut text = format!("size={size}M,shared=on");
    if spec.memory_grows() {
        let more = (max - size).next_multiple_of(MEMORY_STEP_MIB);
        text.push_str(&format!(",hotplug_method=acpi,hotplug_size={more}M"));
    }
    text
}

fn filesystem(tag: &str, socket: &Path) -> Result<OsString, VmmError> {
    let socket = quoted(socket)?;
    Ok(format!("tag={tag},socket={socket},num_queues=1,queue_size=1024").into())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use super::*;
    use crate::spec::{
        VmAccel,
        tests::{pod, sample},
    };

    fn line(spec: &VmSpec) -> Result<Vec<String>, VmmError> {
        let events = File::open("/dev/null").unwrap();
        let number = events.as_raw_fd();
        let args = args(spec, &"0".repeat(32), events.as_fd())?;
        let plain = |arg: OsString| {
            let arg = arg.into_string().unwrap();
            if arg == format!("fd={number}") {
                "fd=<events>".to_owned()
            } else {
                arg
            }
        };
        Ok(args.into_iter().map(plain).collect())
    }

    fn kvm() -> VmSpec {
        let mut spec = sample();
        spec.accel = VmAccel::Kvm;
        spec
    }

    #[test]
    fn the_command_line_of_a_small_instance_is_this() {
        let golden = include_str!("../../../tests/testdata/cloud-hypervisor-xs.args");
        assert_eq!(line(&kvm()).unwrap().join("\n"), golden.trim_end());
    }

    #[test]
    fn the_command_line_of_a_pods_instance_is_this() {
        let mut spec = pod();
        spec.tpm_socket = Some("/run/tpm/a.sock".into());
        let mut line = line(&spec).unwrap().join("\n");
        for nic in &spec.nics {
            let (number, mac) = (nic.tap.as_raw_fd(), &nic.mac);
            line = line.replace(
                &format!("fd=[{number}],mac={mac}"),
                &format!("fd=[<tap of {}>],mac={mac}", nic.name),
            );
        }
        let golden = include_str!("../../../tests/testdata/cloud-hypervisor-pod.args");
        assert_eq!(line, golden.trim_end());
    }

    #[test]
    fn a_path_that_its_parser_cannot_take_is_refused_by_name() {
        let mut spec = kvm();
        spec.volumes[0].source = "/v/a\",readonly=off,\".img".into();
        let error = line(&spec).unwrap_err().to_string();
        assert!(
            error.starts_with("cloud-hypervisor takes no path with a quotation mark"),
            "{error}"
        );
    }
}
