# The agent of a guest.
{ callPackage }:
callPackage ../nixos-guest-module/rust-package.nix { } {
  pname = "seed-agent";
  mainProgram = "seed-agent";
  description = "The agent inside every Seed guest";
}
