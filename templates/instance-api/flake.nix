# flake.nix
{
  inputs.seed.url = "git+ssh://silo.loom.farm/seed.git";
  inputs.nixpkgs.follows = "seed/nixpkgs";

  outputs =
    { seed, ... }:
    {
      seeds.api = seed.lib.mkSeed {
        name = "api";
        module = ./api.nix;
      };
    };
}
