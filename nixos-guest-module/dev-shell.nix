# What `cargo xtask` needs: the programs that `cargo xtask setup` installs with apt on Debian. nixpkgs has no
# mmdebstrap, which makes the Debian guest of the demo: whoever wants that one brings it.
{ pkgs }:
pkgs.mkShell {
  packages = [
    pkgs.age
    pkgs.cargo
    pkgs.cargo-deny
    pkgs.cargo-fuzz
    pkgs.clippy
    pkgs.cpio
    pkgs.curl
    pkgs.dbus
    pkgs.deadnix
    pkgs.e2fsprogs
    pkgs.jq
    pkgs.nix
    pkgs.nixfmt-rs
    pkgs.openssh
    pkgs.openssl
    pkgs.pkg-config
    pkgs.qemu_kvm
    pkgs.rustc
    pkgs.rustfmt
    pkgs.swtpm
    pkgs.tmux
    pkgs.tpm2-tss
    pkgs.virtiofsd
    pkgs.xz
    pkgs.zstd
  ]
  ++ pkgs.lib.optional (pkgs ? mmdebstrap) pkgs.mmdebstrap;
}
