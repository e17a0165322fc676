//! Whether the TPM's device is there, or is about to be: this early in the boot its driver may still be
//! being loaded. A guest without a TPM must not wait.
//!
//! Source: `Documentation/ABI/stable/sysfs-class-tpm`; the ACPI table is called `TPM2`.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// How long a driver may take when the firmware says that there is a TPM. Under emulation loading a
/// module takes seconds.
const DRIVER_LIMIT: Duration = Duration::from_secs(15);

/// The pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What says that the machine has a TPM before its device node is there.
const SIGNS: [&str; 2] = ["/sys/firmware/acpi/tables/TPM2", "/sys/class/tpm/tpm0"];

/// Whether the device is there. Waits for it if the machine has a TPM.
pub(super) fn appears(device: &Path) -> bool {
    appears_within(device, &SIGNS, DRIVER_LIMIT)
}

fn appears_within(device: &Path, signs: &[&str], limit: Duration) -> bool {
    let begin = Instant::now();
    loop {
        if device.exists() {
            return true;
        }
        let expected = signs.iter().any(|sign| Path::new(sign).exists());
        if !expected || begin.elapsed() >= limit {
            return false;
        }
        thread::sleep(LOOK_AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_sign_of_a_tpm_nothing_is_waited_for() {
        // A wait would have no end.
        let nothing = Path::new("/nonexistent");
        assert!(!appears_within(nothing, &["/nonexistent"], Duration::MAX));
    }

    #[test]
    fn a_device_that_comes_late_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (device, sign) = (dir.path().join("tpmrm0"), dir.path().join("TPM2"));
        std::fs::write(&sign, "").unwrap();
        let signs = [sign.to_str().unwrap()];
        assert!(!appears_within(&device, &signs, LOOK_AGAIN));
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(3 * LOOK_AGAIN);
                std::fs::write(&device, "").unwrap();
            });
            assert!(appears_within(&device, &signs, DRIVER_LIMIT));
        });
    }
}
