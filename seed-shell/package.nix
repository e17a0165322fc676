# The SSH front door, and the owner's tools: seed-identity, seed-sign, seed-plant.
{ callPackage }:
callPackage ../nixos-guest-module/rust-package.nix { } {
  pname = "seed-shell";
  mainProgram = "seed-shell";
  description = "SSH front door to Seed instances";
}
