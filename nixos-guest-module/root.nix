# The root: the host shares it by virtiofs, and names it on the kernel's command line. Volumes are not here:
# the agent mounts them.
{ lib, ... }:
{
  fileSystems."/" = lib.mkDefault {
    device = "seedroot";
    fsType = "virtiofs";
    noCheck = true;
  };
  # A root= on the command line is mounted read-only by the initrd unless this stands there too
  # (systemd-fstab-generator(8)), and activation writes to it.
  boot.kernelParams = [ "rw" ];
  boot.initrd.availableKernelModules = [
    "erofs"
    "ext4"
    "overlay"
    "tpm_crb"
    "tpm_tis"
    "virtio_blk"
    "virtio_net"
    "virtio_pci"
    "virtiofs"
  ];
  boot.initrd.kernelModules = [
    # The kernel loads nothing by itself for these two: entropy, and the way to the host.
    "virtio_rng"
    "vmw_vsock_virtio_transport"
    # A share is no device that a mount unit could wait for: its drivers are there before it, since udev may be late.
    "virtio_pci"
    "virtiofs"
  ];
  boot.initrd.systemd.services.systemd-modules-load.before = [ "sysroot.mount" ];
  # What volumes may hold; the agent brings the programs for it.
  boot.supportedFilesystems.ext4 = lib.mkDefault true;
}
