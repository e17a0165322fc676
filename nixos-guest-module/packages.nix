# The packages of the flake: programs, the option reference, how large the smallest instance is, and the check of an
# owner's flake.
{ pkgs, mkSeed }:
let
  inherit (pkgs) lib;
  seed-shell = pkgs.callPackage ../seed-shell/package.nix { };
  # `nix run .#seed-plant`: the same package, with another of its programs in front.
  tool =
    mainProgram:
    seed-shell
    // {
      meta = seed-shell.meta // {
        inherit mainProgram;
      };
    };
in
{
  inherit seed-shell;
  seed-agent = pkgs.callPackage ../guest-agent/package.nix { };
  seed-identity = tool "seed-identity";
  seed-plant = tool "seed-plant";
  seed-sign = tool "seed-sign";
  age-plugin-tpm = pkgs.callPackage ../age-tpm/package.nix { };
  closure = import ./closure.nix {
    inherit pkgs;
    instance = mkSeed {
      name = "small";
      inherit (pkgs.stdenv.hostPlatform) system;
      module = { };
    };
  };
  check = import ./flake-check.nix { inherit pkgs; };
  option-reference = import ./options-doc.nix { inherit pkgs; };
}
# The shim knows the machines of one architecture.
// lib.optionalAttrs pkgs.stdenv.hostPlatform.isx86_64 {
  seed-shim = pkgs.callPackage ../host-shim/package.nix { };
}
