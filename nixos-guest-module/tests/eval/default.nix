# Tests of the modules on a real nixpkgs, by group: one run evaluates one, so that memory stays small.
#   nix-instantiate --eval --strict --json --store dummy:// nixos-guest-module/tests/eval \
#     --argstr nixpkgs FOLDER --argstr sops-nix FOLDER --attr groups.golden      (or: --attr names)
{ nixpkgs, sops-nix }:
let
  tools = import ./tools.nix { inherit nixpkgs sops-nix; };
  check = import ../check.nix;
  groups = builtins.mapAttrs (_: cases: check cases) (
    import ./golden.nix tools
    // import ./refused.nix tools
    // import ./reference.nix tools
    // import ./templates.nix tools
    // import ./system.nix tools
    // import ./rendered.nix tools
    // import ./kata.nix tools
    // import ./hosts.nix tools
    // import ./pool.nix tools
  );
in
{
  inherit groups;
  names = builtins.attrNames groups;
}
