//! Takes over who listens on the loopback of a network namespace: a program of type `BPF_PROG_TYPE_SK_LOOKUP`
//! (bpf(2), `Documentation/bpf/prog_sk_lookup.rst`; Linux 5.9) picks one listener for every TCP port of 127.0.0.0/8.
//! It is there as long as the [`Taken`] is held that [`take_loopback`] gives: the kernel keeps it by a descriptor alone,
//! so that a killed process leaves nothing behind.

use std::{
    ffi::{c_int, c_long},
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

/// Commands of `linux/bpf.h`, `enum bpf_cmd`.
const MAP_CREATE: c_int = 0;
const MAP_UPDATE_ELEM: c_int = 2;
const PROG_LOAD: c_int = 5;
const LINK_CREATE: c_int = 28;
const LINK_DETACH: c_int = 34;

/// `BPF_MAP_TYPE_SOCKMAP`, `BPF_PROG_TYPE_SK_LOOKUP`, `BPF_SK_LOOKUP`.
const SOCKMAP: u32 = 15;
const SK_LOOKUP: u32 = 30;
const AT_SK_LOOKUP: u32 = 36;

/// Attributes hold pointers as 64-bit numbers.
const _: () = assert!(size_of::<*const u8>() == 8);

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries: u32,
    flags: u32,
}

#[repr(C)]
struct MapUpdate {
    map: RawFd,
    padding: u32,
    key: *const u32,
    value: *const u64,
    flags: u64,
}

#[repr(C)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    instructions: *const Instruction,
    license: *const libc::c_char,
    log_level: u32,
    log_bytes: u32,
    log: *const u8,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    program: RawFd,
    target: RawFd,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct LinkDetach {
    link: RawFd,
}

/// A loopback that is taken, until this is dropped.
#[derive(Debug)]
pub struct Taken(OwnedFd);

impl Drop for Taken {
    /// Detached by its word (Linux 5.9): a child between its fork and its exec holds a copy of the descriptor for a while,
    /// and connections would still be led to a listener that nobody asks.
    #[allow(unsafe_code, reason = "a system call that no library has a word for")]
    fn drop(&mut self) {
        let detach = LinkDetach {
            link: self.0.as_raw_fd(),
        };
        // SAFETY: the command reads a prefix of `union bpf_attr`, which this is, without pointers. Where it fails, the
        // descriptor's end is left, which follows.
        let _ = unsafe { call(LINK_DETACH, &detach) };
    }
}

/// `struct bpf_insn`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// An instruction of the form `code`, from register `source` to `target`.
const fn step(code: u8, target: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    let registers = if cfg!(target_endian = "little") {
        (source << 4) | target
    } else {
        (target << 4) | source
    };
    Instruction {
        code,
        registers,
        offset,
        immediate,
    }
}

/// Codes: loads of a word and of a byte, a store of a word, moves, additions, jumps, calls (`linux/bpf_common.h`).
const LOAD_WORD: u8 = 0x61;
const LOAD_BYTE: u8 = 0x71;
const STORE_WORD: u8 = 0x62;
const LOAD_NUMBER: u8 = 0x18;
const COPY: u8 = 0xbf;
const SET: u8 = 0xb7;
const ADD: u8 = 0x07;
const JUMP_IF: u8 = 0x15;
const JUMP_UNLESS: u8 = 0x55;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// The number to load is that of a map's descriptor.
const MAP: u8 = 1;

/// Helpers.
const MAP_LOOKUP: i32 = 1;
const SK_RELEASE: i32 = 86;
const SK_ASSIGN: i32 = 124;

/// Places in `struct bpf_sk_lookup`.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_IP4: i16 = 40;

/// How many instructions there are, as the kernel and as we count them.
const COUNT_WORD: u32 = 23;
const COUNT: usize = 23;

/// The program: "to the listener in `map`, what is TCP over IPv4 to an address 127.*; everything else as ever".
const fn program(map: RawFd) -> [Instruction; COUNT] {
    // Jumps go to the last but one: from each so many steps.
    const PASS: i16 = 21;
    [
        step(COPY, 6, 1, 0, 0),
        step(LOAD_WORD, 2, 1, PROTOCOL, 0),
        step(JUMP_UNLESS, 2, 0, PASS - 3, libc::IPPROTO_TCP),
        step(LOAD_WORD, 2, 1, FAMILY, 0),
        step(JUMP_UNLESS, 2, 0, PASS - 5, libc::AF_INET),
        step(LOAD_BYTE, 2, 1, LOCAL_IP4, 0),
        step(JUMP_UNLESS, 2, 0, PASS - 7, 127),
        step(STORE_WORD, 10, 0, -4, 0),
        step(COPY, 2, 10, 0, 0),
        step(ADD, 2, 0, 0, -4),
        step(LOAD_NUMBER, 1, MAP, 0, map),
        step(0, 0, 0, 0, 0),
        step(CALL, 0, 0, 0, MAP_LOOKUP),
        step(JUMP_IF, 0, 0, PASS - 14, 0),
        step(COPY, 7, 0, 0, 0),
        step(COPY, 1, 6, 0, 0),
        step(COPY, 2, 0, 0, 0),
        step(SET, 3, 0, 0, 0),
        step(CALL, 0, 0, 0, SK_ASSIGN),
        step(COPY, 1, 7, 0, 0),
        step(CALL, 0, 0, 0, SK_RELEASE),
        // SK_PASS: to the one that was picked, if one was.
        step(SET, 0, 0, 0, 1),
        step(EXIT, 0, 0, 0, 0),
    ]
}

/// Lets `listener`, a TCP listener of IPv4, have every connection to the loopback of the network namespace `namespace`,
/// whatever its port. Needs `CAP_BPF` or `CAP_SYS_ADMIN`, and `CAP_NET_ADMIN`.
#[allow(unsafe_code, reason = "a system call that no library has a word for")]
pub fn take_loopback(listener: impl AsFd, namespace: impl AsFd) -> io::Result<Taken> {
    let map = MapCreate {
        kind: SOCKMAP,
        key_bytes: 4,
        value_bytes: 8,
        entries: 1,
        flags: 0,
    };
    // SAFETY: the command reads a prefix of `union bpf_attr`, which this is, without pointers.
    let map = unsafe { call(MAP_CREATE, &map) }.and_then(descriptor)?;
    let number = listener.as_fd().as_raw_fd();
    // The one entry of the map.
    let key = 0_u32;
    let value = u64::try_from(number).map_err(io::Error::other)?;
    let update = MapUpdate {
        map: map.as_raw_fd(),
        padding: 0,
        key: &raw const key,
        value: &raw const value,
        flags: 0,
    };
    // SAFETY: the pointers lead to a key of 4 and a value of 8 bytes, as the map was made for, that outlive the call.
    unsafe { call(MAP_UPDATE_ELEM, &update) }?;
    let instructions = program(map.as_raw_fd());
    let load = ProgramLoad {
        kind: SK_LOOKUP,
        count: COUNT_WORD,
        instructions: instructions.as_ptr(),
        license: c"MIT".as_ptr(),
        log_level: 0,
        log_bytes: 0,
        log: ptr::null(),
        kernel_version: 0,
        flags: 0,
        name: *b"seed_loopback\0\0\0",
        interface: 0,
        attach_type: AT_SK_LOOKUP,
    };
    // SAFETY: the pointers lead to `count` instructions and a string that ends with a zero, that outlive the call.
    let program = unsafe { call(PROG_LOAD, &load) }.and_then(descriptor)?;
    let link = LinkCreate {
        program: program.as_raw_fd(),
        target: namespace.as_fd().as_raw_fd(),
        attach_type: AT_SK_LOOKUP,
        flags: 0,
    };
    // SAFETY: the command reads a prefix of `union bpf_attr`, which this is, without pointers.
    unsafe { call(LINK_CREATE, &link) }
        .and_then(descriptor)
        .map(Taken)
}

/// bpf(2).
///
/// # Safety
///
/// `attributes` must be what the command reads, and its pointers must lead to what the command expects there. None of
/// the commands here writes through them.
#[allow(unsafe_code, reason = "a system call that no library has a word for")]
unsafe fn call<T>(command: c_int, attributes: &T) -> io::Result<c_long> {
    let size = size_of::<T>();
    // SAFETY: the kernel reads `size` bytes at the reference, which outlives the call; the rest is the caller's word.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(attributes), size) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(done)
}

#[allow(unsafe_code, reason = "the kernel gives a descriptor as a number")]
fn descriptor(number: c_long) -> io::Result<OwnedFd> {
    let number = RawFd::try_from(number).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened it for the caller, and nobody else knows it. It is closed on exec.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_jump_of_the_program_goes_to_its_end() {
        let steps = program(7);
        let jumps = steps.iter().enumerate();
        let jumps = jumps.filter(|(_, step)| [JUMP_IF, JUMP_UNLESS].contains(&step.code));
        let targets: Vec<_> = jumps
            .map(|(at, step)| at + 1 + usize::try_from(step.offset).unwrap())
            .collect();
        assert_eq!(targets, [COUNT - 2; 4]);
        assert_eq!(usize::try_from(COUNT_WORD).unwrap(), COUNT);
    }

    #[test]
    fn what_is_no_listener_is_refused() {
        let null = std::fs::File::open("/dev/null").unwrap();
        take_loopback(&null, &null).unwrap_err();
    }
}
