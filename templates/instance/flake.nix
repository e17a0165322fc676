# flake.nix
{
  inputs.seed.url = "git+ssh://silo.loom.farm/seed.git";
  inputs.nixpkgs.follows = "seed/nixpkgs";

  outputs =
    { seed, ... }:
    {
      seeds.web = seed.lib.mkSeed {
        name = "web";
        module = ./web.nix;
      };
    };
}
