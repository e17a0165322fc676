//! A small disk that is full when a case wants it so: a tmpfs.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// It is unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// One of so many bytes (`1m`) at a folder, which is made.
    pub fn mount(path: &Path, size: &str) -> Result<Self> {
        fs::create_dir_all(path)?;
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "small", "-o"])
            .arg(format!("size={size},nr_inodes=200"))
            .arg(path)
            .status()?;
        ensure!(status.success(), "mount: {status}");
        Ok(Self(path.to_owned()))
    }

    /// Leaves no byte.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::create(self.0.join("filler"))?;
        for size in [4096, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
        Ok(())
    }

    /// Takes back what [`SmallDisk::fill`] wrote.
    pub fn make_room(&self) -> Result<()> {
        fs::remove_file(self.0.join("filler")).context("remove the filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Detached: nobody may be hindered by what a failed case left in it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
