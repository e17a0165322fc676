# What `cargo xtask` needs: the programs that `cargo xtask setup` installs with apt on Debian.
{ pkgs }:
pkgs.mkShell {
  packages = [
    pkgs.age
    pkgs.cargo
    pkgs.clippy
    pkgs.cpio
    pkgs.dbus
    pkgs.deadnix
    pkgs.e2fsprogs
    pkgs.mmdebstrap
    pkgs.nixfmt
    pkgs.pkg-config
    pkgs.qemu_kvm
    pkgs.rustc
    pkgs.rustfmt
    pkgs.swtpm
    pkgs.tpm2-tss
    pkgs.vhost-device-vsock
    pkgs.virtiofsd
    pkgs.xz
    pkgs.zstd
  ];
}
