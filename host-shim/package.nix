# The host's side: the containerd shim and `seed`. The machine that it gives to a guest is QEMU's q35.
{ callPackage }:
callPackage ../nixos-guest-module/rust-package.nix { } {
  pname = "seed-shim";
  mainProgram = "seed";
  platforms = [ "x86_64-linux" ];
  description = "containerd shim and command line for Seed instances";
}
