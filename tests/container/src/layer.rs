//! The folder that lies over a guest's root, and the one in which the mounts are made. It never touches the root.

use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};

/// A folder of our own. Removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Layer(PathBuf);

impl Layer {
    pub(crate) fn make() -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = MADE.fetch_add(1, Ordering::Relaxed);
            let name = format!("seed-container-{}-{number}", process::id());
            let path = env::temp_dir().join(name);
            match fs::create_dir(&path) {
                Ok(()) => {
                    let layer = Self(path);
                    for part in [layer.files(), layer.mounts()] {
                        fs::create_dir(&part)
                            .with_context(|| format!("make {}", part.display()))?;
                    }
                    return Ok(layer);
                }
                // What a killed run with our number left is not ours to reuse.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("make {}", path.display()));
                }
            }
        }
    }

    /// What lies over the root.
    pub(crate) fn files(&self) -> PathBuf {
        self.0.join("files")
    }

    /// Empty outside of the container.
    pub(crate) fn mounts(&self) -> PathBuf {
        self.0.join("mounts")
    }

    pub(crate) fn write(&self, path: &str, text: &[u8]) -> Result<()> {
        let path = self.ready(path)?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    pub(crate) fn link(&self, path: &str, target: &str) -> Result<()> {
        let path = self.ready(path)?;
        symlink(target, &path).with_context(|| format!("link {}", path.display()))
    }

    /// A path in the layer; its folder is there and it is not.
    fn ready(&self, path: &str) -> Result<PathBuf> {
        let path = self.files().join(path.trim_start_matches('/'));
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("replace {}", path.display()))
            }
            _ => Ok(path),
        }
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        // Best effort: what stays is among the temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}
