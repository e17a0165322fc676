//! Tap devices (`Documentation/networking/tuntap.rst`): network cards whose other end is a file.

use std::{
    ffi::c_void,
    fs::OpenOptions,
    io,
    os::fd::{AsFd, OwnedFd},
    ptr,
};

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};

/// `TUNSETIFF` of `linux/if_tun.h`: `_IOW('T', 202, int)`.
const TUNSETIFF: Opcode = 0x4004_54ca;

/// `IFF_TAP`, `IFF_NO_PI` and `IFF_VNET_HDR`: Ethernet frames behind virtio-net's header, as QEMU wants them.
const FLAGS: u16 = 0x0002 | 0x1000 | 0x4000;

const NAME_BYTES: usize = 16;

/// `struct ifreq` of `linux/if.h`, as far as `TUNSETIFF` reads and writes it.
#[repr(C)]
struct Request {
    name: [u8; NAME_BYTES],
    flags: u16,
    rest: [u8; 22],
}

struct SetInterface<'a>(&'a mut Request);

#[allow(unsafe_code, reason = "an ioctl is unsafe by nature")]
// SAFETY: the opcode is TUNSETIFF's, which reads and writes one `struct ifreq` of 40 bytes at the pointer:
// `Request` has that size and layout, and the exclusive reference outlives the call.
unsafe impl Ioctl for SetInterface<'_> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        TUNSETIFF
    }

    fn as_ptr(&mut self) -> *mut c_void {
        ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<Self::Output> {
        Ok(())
    }
}

/// Makes a tap device in the calling thread's network namespace; its file and its name, for which the kernel
/// puts a number into `pattern`'s `%d`. It is gone when the file is closed for good.
#[allow(unsafe_code, reason = "an ioctl is unsafe by nature")]
pub fn make_tap(pattern: &str) -> io::Result<(OwnedFd, String)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    let mut request = Request {
        name: [0; NAME_BYTES],
        flags: FLAGS,
        rest: [0; 22],
    };
    let length = pattern.len().min(NAME_BYTES - 1);
    request.name[..length].copy_from_slice(&pattern.as_bytes()[..length]);
    // SAFETY: the file is a tun device, whose driver knows this opcode as described above.
    unsafe {
        ioctl(file.as_fd(), SetInterface(&mut request))?;
    }
    let end = request.name.iter().position(|&byte| byte == 0);
    let name = &request.name[..end.unwrap_or(NAME_BYTES)];
    Ok((file.into(), String::from_utf8_lossy(name).into_owned()))
}
