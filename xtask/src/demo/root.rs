//! Point 1: the guest's root on the host, as it is before anything runs. What of it runs is added by [`super::start`].

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Demo, screen::megabytes};

/// The toplevel in the root.
pub(super) const TOPLEVEL: &str = "seed-system";

pub(super) fn show(demo: &mut Demo) -> Result<()> {
    let root = demo.lab.guest().to_owned();
    let screen = &mut demo.screen;
    let release = fs::read_to_string(root.join("etc/os-release")).context("read os-release")?;
    let name = field(&release, "PRETTY_NAME").unwrap_or_default();
    screen.text("system", "system", &name, name.contains("trixie"));
    let path = root.display().to_string();
    screen.text("path", "on the host", &path, root.is_dir());

    let boot = root.join(TOPLEVEL).join("boot.json");
    let text = fs::read(&boot).with_context(|| format!("read {}", boot.display()))?;
    let boot: Value = serde_json::from_slice(&text).context("boot.json")?;
    let spec = &boot["org.nixos.bootspec.v1"];
    let label = spec["label"].as_str().unwrap_or_default();
    screen.fact(
        "bootspec",
        "boot.json",
        label,
        spec.clone(),
        spec["toplevel"] == format!("/{TOPLEVEL}"),
    );
    for (key, label) in [("kernel", "kernel"), ("initrd", "initrd")] {
        let inside = spec[key]
            .as_str()
            .with_context(|| format!("boot.json has no {key}"))?;
        sized(demo, &root, key, label, inside)?;
    }
    sized(demo, &root, "agent", "agent", "/usr/bin/seed-agent")?;
    sized(
        demo,
        &root,
        "plugin",
        "age plugin",
        "/usr/bin/age-plugin-tpm",
    )?;
    for (key, unit, target) in [
        ("agent_unit", "seed-agent.service", "sysinit.target"),
        ("app_unit", "app.service", "multi-user.target"),
    ] {
        let wanted = format!("etc/systemd/system/{target}.wants/{unit}");
        let there = root.join(&wanted).symlink_metadata().is_ok();
        let shown = format!("{unit}, started by {target}");
        demo.screen.fact(key, "unit", &shown, json!(unit), there);
    }
    let users = fs::read_to_string(root.join("etc/passwd")).context("read passwd")?;
    let app = users.lines().find(|line| line.starts_with("app:"));
    let id = app.and_then(|line| line.split(':').nth(2));
    let shown = format!("app, uid {}", id.unwrap_or("?"));
    demo.screen
        .fact("user", "user", &shown, json!(id), id.is_some());
    Ok(())
}

/// A file in the root, with its size.
fn sized(demo: &mut Demo, root: &Path, key: &str, label: &str, inside: &str) -> Result<()> {
    let path = host_path(root, inside);
    let length = fs::metadata(&path)
        .with_context(|| format!("look at {}", path.display()))?
        .len();
    let shown = format!("{inside}, {}", megabytes(length));
    let value = json!({ "path": inside, "bytes": length });
    demo.screen.fact(key, label, &shown, value, length > 0);
    Ok(())
}

fn host_path(root: &Path, inside: &str) -> PathBuf {
    root.join(inside.trim_start_matches('/'))
}

/// `NAME="value"` of os-release(5).
fn field(release: &str, name: &str) -> Option<String> {
    let fields = release.lines().filter_map(|line| line.split_once('='));
    let mut values = fields.filter(|(key, _)| *key == name).map(|(_, v)| v);
    Some(values.next()?.trim_matches('"').to_owned())
}

/// The release that a bzImage names in its header (the x86 boot protocol, field `kernel_version`).
pub(super) fn kernel_release(image: &[u8]) -> Option<String> {
    let pointer = image.get(0x20e..0x210)?;
    let at = usize::from(u16::from_le_bytes(pointer.try_into().ok()?)) + 0x200;
    let text: Vec<u8> = image
        .get(at..)?
        .iter()
        .copied()
        .take_while(|&byte| byte > b' ' && byte < 0x7f)
        .collect();
    String::from_utf8(text).ok().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_release_is_in_its_header() {
        let mut image = vec![0u8; 0x400];
        image[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
        image[0x300..0x30d].copy_from_slice(b"6.12.0 (x@y)\0");
        assert_eq!(kernel_release(&image).as_deref(), Some("6.12.0"));
        assert_eq!(kernel_release(&image[..0x20f]), None);
        assert_eq!(kernel_release(&[0; 0x400]), None);
    }

    #[test]
    fn os_release_values_may_be_quoted() {
        let text = "ID=debian\nPRETTY_NAME=\"Debian 13\"\n";
        assert_eq!(field(text, "PRETTY_NAME").as_deref(), Some("Debian 13"));
        assert_eq!(field(text, "ID").as_deref(), Some("debian"));
        assert_eq!(field(text, "NAME"), None);
    }
}
