//! What a block device holds. The answer decides whether a file system may be made, so every doubt
//! counts as data.
//!
//! A device is blank only when no known signature is found *and* every byte that is looked at is zero.
//! Looked at are: all of a small device; of a large one the first and the last MiB, the places where
//! ext2-4 and btrfs keep copies of their superblocks, and samples spread over the whole. So a device
//! whose beginning was wiped is still seen as damaged and not as new.
//!
//! Offsets: `fs/ext4/ext4.h`, `fs/xfs/libxfs/xfs_format.h`, `fs/btrfs/disk-io.h`, `fs/erofs/erofs_fs.h`,
//! `fs/squashfs/squashfs_fs.h`, `include/linux/swap.h` of Linux 6.12, `cryptsetup` and LVM headers,
//! UEFI 2.10 5.3.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
};

use super::{Filesystem, making};

const MIB: u64 = 1024 * 1024;

/// Devices up to this size are read whole.
const WHOLE_BYTES: u64 = 256 * MIB;

/// How many samples are taken from a larger device, and how long each is.
const SAMPLES: u64 = 512;
const SAMPLE_BYTES: u64 = 16 * 1024;

/// How much is read at a time.
const CHUNK_BYTES: usize = 1024 * 1024;

/// What lies on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// Nothing: a file system may be made.
    Blank,
    /// A file system that we mount.
    Filesystem(Filesystem),
    /// Something that we know and do not mount.
    Foreign(&'static str),
    /// What a `mkfs` of ours left that was cut off: it may be made again.
    Unfinished,
    /// Data without a signature that we know, such as a damaged file system.
    Unknown,
}

struct Signature {
    offset: u64,
    bytes: &'static [u8],
    means: Contents,
}

const fn ours(offset: u64, bytes: &'static [u8], kind: Filesystem) -> Signature {
    Signature {
        offset,
        bytes,
        means: Contents::Filesystem(kind),
    }
}

const fn foreign(offset: u64, bytes: &'static [u8], name: &'static str) -> Signature {
    Signature {
        offset,
        bytes,
        means: Contents::Foreign(name),
    }
}

/// The stronger signatures first: a boot sector's mark says least.
const SIGNATURES: [Signature; 18] = [
    foreign(0, b"LUKS\xba\xbe", "LUKS"),
    ours(0, b"XFSB", Filesystem::Xfs),
    ours(65_536 + 64, b"_BHRfS_M", Filesystem::Btrfs),
    ours(1024 + 56, b"\x53\xef", Filesystem::Ext4),
    ours(1024, b"\xe2\xe1\xf5\xe0", Filesystem::Erofs),
    foreign(1024, b"\x10\x20\xf5\xf2", "f2fs"),
    foreign(0, b"hsqs", "squashfs"),
    foreign(32_768 + 1, b"CD001", "ISO 9660"),
    foreign(4096 - 10, b"SWAPSPACE2", "swap space"),
    foreign(512, b"LABELONE", "LVM"),
    foreign(4096, b"\xfc\x4e\x2b\xa9", "RAID member"),
    foreign(0, b"\xfc\x4e\x2b\xa9", "RAID member"),
    foreign(3, b"NTFS    ", "NTFS"),
    foreign(3, b"EXFAT   ", "exFAT"),
    foreign(512, b"EFI PART", "partition table"),
    foreign(4096, b"EFI PART", "partition table"),
    foreign(82, b"FAT32", "FAT"),
    foreign(510, b"\x55\xaa", "partition table"),
];

/// Superblock copies: ext2-4 with blocks of 1, 2 and 4 KiB in the groups that always have one, and the
/// two mirrors of btrfs.
const COPIES: [u64; 14] = [
    8193 * 1024,
    3 * 8192 * 1024 + 1024,
    5 * 8192 * 1024 + 1024,
    16_384 * 2048,
    3 * 16_384 * 2048,
    5 * 16_384 * 2048,
    32_768 * 4096,
    3 * 32_768 * 4096,
    5 * 32_768 * 4096,
    7 * 32_768 * 4096,
    9 * 32_768 * 4096,
    64 * MIB,
    256 * 1024 * MIB,
    25 * 32_768 * 4096,
];

/// Looks at the device or file at `path`. Blocks on I/O.
pub fn probe(path: &Path) -> io::Result<Contents> {
    let mut file = File::open(path)?;
    let size = file.seek(SeekFrom::End(0))?;
    match signature(&file)? {
        Some(Contents::Filesystem(found)) if making::is_unfinished(&file, Some(found))? => {
            Ok(Contents::Unfinished)
        }
        Some(found) => Ok(found),
        None if all_zero(&file, size)? => Ok(Contents::Blank),
        None if making::is_unfinished(&file, None)? => Ok(Contents::Unfinished),
        None => Ok(Contents::Unknown),
    }
}

/// Whether the file system on the device is the one with this name, and as far as it says was never mounted.
pub(super) fn is_new(file: &File, filesystem: Filesystem, name: &str) -> io::Result<bool> {
    // s_uuid, sb_uuid, fsid
    let at = match filesystem {
        Filesystem::Ext4 => 1024 + 0x68,
        Filesystem::Xfs => 32,
        Filesystem::Btrfs => 65_536 + 0x20,
        Filesystem::Erofs => return Ok(false),
    };
    let mut uuid = [0; 16];
    file.read_exact_at(&mut uuid, at)?;
    // s_mtime; s_mnt_count
    let unused = filesystem != Filesystem::Ext4
        || (superblock_word(file, 0x2c)? == 0 && superblock_word(file, 0x34)? & 0xffff == 0);
    Ok(unused && hex(&uuid) == digits(name))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A UUID's text without its dashes.
fn digits(name: &str) -> String {
    name.chars().filter(|c| *c != '-').collect()
}

/// Whether a copy of an ext2-4 superblock is there that is not of the file system with this name.
pub(super) fn ext4_copies_of_others(file: &File, name: &str) -> io::Result<bool> {
    /// `s_magic` and `s_uuid` of a superblock.
    const MAGIC_AT: usize = 0x38;
    const UUID_AT: usize = 0x68;
    let mut copy = [0; UUID_AT + 16];
    for at in COPIES {
        match file.read_exact_at(&mut copy, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
            read => read?,
        }
        if copy[MAGIC_AT..].starts_with(b"\x53\xef") && hex(&copy[UUID_AT..]) != digits(name) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `sb_inprogress` of the XFS superblock: `mkfs.xfs` has not come to its end.
pub(super) fn xfs_is_unfinished(file: &File) -> io::Result<bool> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, 126)?;
    Ok(byte == [1])
}

fn signature(file: &File) -> io::Result<Option<Contents>> {
    for Signature {
        offset,
        bytes,
        means,
    } in &SIGNATURES
    {
        let mut found = vec![0; bytes.len()];
        match file.read_exact_at(&mut found, *offset) {
            Ok(()) if found == *bytes => return Ok(Some(*means)),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn all_zero(file: &File, size: u64) -> io::Result<bool> {
    if size <= WHOLE_BYTES {
        return zero_between(file, 0, size);
    }
    let copies = COPIES.iter().filter(|at| **at + SAMPLE_BYTES <= size);
    let stride = size / SAMPLES;
    let samples = copies.copied().chain((0..SAMPLES).map(|n| n * stride));
    if !zero_between(file, 0, MIB)? || !zero_between(file, size - MIB, size)? {
        return Ok(false);
    }
    for at in samples {
        if !zero_between(file, at, (at + SAMPLE_BYTES).min(size))? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn zero_between(file: &File, mut at: u64, end: u64) -> io::Result<bool> {
    let mut buffer = vec![0; CHUNK_BYTES.min(usize::try_from(end - at).unwrap_or(CHUNK_BYTES))];
    while at < end {
        let wanted = usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        let chunk = &mut buffer[..wanted];
        file.read_exact_at(chunk, at)?;
        if chunk.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += wanted as u64;
    }
    Ok(true)
}

/// How large an ext4 file system says that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ext4Size {
    /// All its blocks.
    pub bytes: u64,
    /// One block.
    pub block_bytes: u64,
}

impl Ext4Size {
    /// A device with less than this beyond the file system's end is not worth growing for: a last group
    /// that is too small for its own tables is left out by `mke2fs(8)` and `resize2fs(8)` alike.
    pub const fn slack(self) -> u64 {
        let group = self.block_bytes * self.block_bytes * 8;
        if group < MIB { MIB } else { group / 16 }
    }
}

/// Whether the ext4 superblock on `path` says that `e2fsck -p` would have nothing to do: it was unmounted in good
/// order, has seen no error, and no check is due (`check_if_skip` of e2fsck 1.47). In doubt it is not.
pub fn ext4_is_clean(path: &Path) -> io::Result<bool> {
    /// `s_state`: unmounted, no errors, no orphans.
    const CLEAN: u32 = 1;
    /// `s_feature_incompat`: the journal is to be replayed.
    const NEEDS_RECOVERY: u32 = 0x4;
    /// `s_feature_ro_compat`: the file of orphans has some.
    const ORPHANS_PRESENT: u32 = 0x1_0000;
    let file = File::open(path)?;
    let word = |offset| superblock_word(&file, offset);
    let state = word(0x38)? >> 16;
    // s_mnt_count and s_max_mnt_count, of which -1 and 0 mean that it does not matter
    let mounts = word(0x34)?;
    let (mounts, most) = (mounts & 0xffff, mounts >> 16);
    let mounts_are_few = most == 0 || most >= 0x8000 || mounts < most;
    Ok(state == CLEAN
        && mounts_are_few
        && word(0x60)? & NEEDS_RECOVERY == 0
        && word(0x64)? & ORPHANS_PRESENT == 0
        // s_checkinterval, s_last_orphan, s_error_count
        && word(0x44)? == 0
        && word(0xe8)? == 0
        && word(0x194)? == 0)
}

/// Four bytes of the ext4 superblock.
fn superblock_word(file: &File, offset: u64) -> io::Result<u32> {
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, 1024 + offset)?;
    Ok(u32::from_le_bytes(bytes))
}

/// Reads the size from the ext4 superblock on `path`.
pub fn ext4_size(path: &Path) -> io::Result<Ext4Size> {
    let file = File::open(path)?;
    let word = |offset| superblock_word(&file, offset);
    // s_blocks_count_lo, s_log_block_size, s_feature_incompat (64BIT is 0x80), s_blocks_count_hi
    let wide = word(0x60)? & 0x80 != 0;
    let high = if wide { u64::from(word(0x150)?) } else { 0 };
    let blocks = high << 32 | u64::from(word(0x4)?);
    let shift = word(0x18)?;
    if shift > 6 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let block_bytes = 1024 << shift;
    let bytes = blocks
        .checked_mul(block_bytes)
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(Ext4Size { bytes, block_bytes })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn image(size: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        file
    }

    fn mkfs(file: &tempfile::NamedTempFile) {
        let done = Command::new("/sbin/mkfs.ext4")
            .arg("-qF")
            .arg(file.path())
            .status();
        assert!(done.expect("mkfs.ext4 comes with e2fsprogs").success());
    }

    #[test]
    fn only_what_was_left_in_good_order_needs_no_check() {
        let file = image(64 * MIB);
        mkfs(&file);
        assert!(ext4_is_clean(file.path()).unwrap());
        // Mounted still; an error was seen; a journal to replay; an orphan; a check that is due.
        let changes: [(u64, u8); 6] = [
            (0x3a, 0),
            (0x3a, 3),
            (0x60, 0x4),
            (0xe8, 7),
            (0x194, 1),
            (0x44, 1),
        ];
        for (offset, value) in changes {
            let mut before = [0];
            let at = 1024 + offset;
            file.as_file().read_exact_at(&mut before, at).unwrap();
            let changed = if offset == 0x60 {
                before[0] | value
            } else {
                value
            };
            file.as_file().write_all_at(&[changed], at).unwrap();
            assert!(!ext4_is_clean(file.path()).unwrap(), "{offset:#x}");
            file.as_file().write_all_at(&before, at).unwrap();
        }
        assert!(ext4_is_clean(file.path()).unwrap());
        file.as_file()
            .write_all_at(&[5, 0, 5, 0], 1024 + 0x34)
            .unwrap();
        assert!(!ext4_is_clean(file.path()).unwrap(), "too many mounts");
        assert!(!ext4_is_clean(image(64 * MIB).path()).unwrap());
    }

    #[test]
    fn zeros_are_blank_whatever_their_number() {
        for size in [0, 100, 4096, 3 * MIB, 300 * MIB + 513] {
            assert_eq!(
                probe(image(size).path()).unwrap(),
                Contents::Blank,
                "{size}"
            );
        }
    }

    #[test]
    fn one_byte_anywhere_in_a_small_device_and_at_the_ends_of_a_large_one_is_data() {
        for (size, at) in [
            (64 * MIB, 33 * MIB + 7),
            (600 * MIB, MIB - 1),
            (600 * MIB, 600 * MIB - 1),
        ] {
            let file = image(size);
            file.as_file().write_all_at(b"x", at).unwrap();
            assert_eq!(
                probe(file.path()).unwrap(),
                Contents::Unknown,
                "{size} {at}"
            );
        }
    }

    #[test]
    fn a_file_system_is_known_and_a_wiped_beginning_is_not_taken_for_a_new_device() {
        for size in [16 * MIB, 64 * MIB, 600 * MIB] {
            let file = image(size);
            mkfs(&file);
            let ext4 = Contents::Filesystem(Filesystem::Ext4);
            assert_eq!(probe(file.path()).unwrap(), ext4);
            assert_eq!(ext4_size(file.path()).unwrap().bytes, size);
            file.as_file()
                .write_all_at(&vec![0; 2 * 1024 * 1024], 0)
                .unwrap();
            assert_eq!(probe(file.path()).unwrap(), Contents::Unknown, "{size}");
        }
    }

    #[test]
    fn what_others_use_is_left_to_them() {
        for Signature {
            offset,
            bytes,
            means,
        } in &SIGNATURES
        {
            let file = image(MIB);
            file.as_file().write_all_at(bytes, *offset).unwrap();
            assert_eq!(probe(file.path()).unwrap(), *means);
        }
    }
}
