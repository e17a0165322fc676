# What modules evaluate to is what the plain functions make, and what agent and shim read: ../golden.
{ mkSeed, ... }:
let
  read = file: builtins.fromJSON (builtins.readFile file);
  cases =
    name:
    let
      instance = mkSeed {
        inherit name;
        module = ../modules + "/${name}.nix";
      };
      inherit (instance) config;
    in
    {
      "${name}: seed.meta" = {
        got = instance.meta;
        want = read (../golden + "/${name}.meta.json");
      };
      "${name}: the extension in boot.json" = {
        got = config.boot.bootspec.extensions."farm.loom.seed.v1";
        want = read (../golden + "/${name}.meta.json");
      };
      "${name}: /etc/seed/instance.json" = {
        got = builtins.fromJSON config.environment.etc."seed/instance.json".source.text;
        want = read (../golden + "/${name}.instance.json");
      };
    };
in
{
  golden = cases "small" // cases "full";
}
