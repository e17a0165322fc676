# flake.nix
{
  inputs.seed.url = "git+ssh://silo.loom.farm/seed.git";
  inputs.nixpkgs.follows = "seed/nixpkgs";

  outputs =
    { seed, ... }:
    {
      combine.domains."example.com" = {
        register = true;
        default = true;
      };
      seeds.web = seed.lib.mkSeed {
        name = "web";
        module = ./web.nix;
      };
    };
}
