# Tests of the modules on a real nixpkgs, by group; each group is a value of its own, so that one run holds one:
#   nix-instantiate --eval --strict --json --store dummy:// nixos-guest-module/tests/eval \
#     --argstr nixpkgs FOLDER --argstr sops-nix FOLDER -A GROUP
{ nixpkgs, sops-nix }:
let
  tools = import ./tools.nix { inherit nixpkgs sops-nix; };
  check = import ../check.nix;
in
builtins.mapAttrs (_: cases: check cases) (
  import ./golden.nix tools
  // import ./refused.nix tools
  // import ./reference.nix tools
  // import ./templates.nix tools
  // import ./system.nix tools
  // import ./hosts.nix tools
)
