# The host's side: the containerd shim and `seed`.
{ callPackage }:
callPackage ../nixos-guest-module/rust-package.nix { } {
  pname = "seed-shim";
  mainProgram = "seed";
  description = "containerd shim and command line for Seed instances";
}
