# What the flake gives to other flakes. `nixpkgs` is the default for instances; mkSeed takes another one.
{ nixpkgs, sops-nix }:
let
  mkSeed = import ./mk-seed.nix { inherit nixpkgs sops-nix; };
in
{
  inherit mkSeed;
  # Of a whole flake, checked: `{ instances; domains; }`, as the platform reads it.
  view = (import ./lib).flake.view;
  mkOutputs = import ./mk-outputs.nix { inherit (nixpkgs) lib; };
  current = import ./pool.nix {
    inherit nixpkgs mkSeed;
  };
}
