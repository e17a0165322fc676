# `lib.mkOutputs`: a flake's outputs from its instances, under the names that the platform reads (`seeds`,
# `combine`) and under those that Nix knows (`nixosConfigurations`, `packages`, `checks`). What instances and
# domains say of each other is checked here, where both are known.
{ lib }:
{
  seeds,
  combine ? { },
}:
let
  flake = { inherit combine seeds; };
  checked = builtins.seq ((import ./lib).flake.view flake) seeds;

  # `{ x86_64-linux.web = make web; }`
  bySystem =
    make:
    lib.foldl' lib.recursiveUpdate { } (
      lib.mapAttrsToList (name: instance: { ${instance.system} = make name instance; }) checked
    );
in
{
  seeds = checked;
  inherit combine;
  nixosConfigurations = lib.mapAttrs (_: instance: instance.nixos) checked;
  packages = bySystem (
    name: instance:
    {
      "${name}-toplevel" = instance.toplevel;
      "${name}-image" = instance.image;
    }
    # `nix run .#web` boots it, where the shim runs.
    // lib.optionalAttrs (instance.system == "x86_64-linux") { ${name} = instance.runner; }
  );
  checks = bySystem (name: instance: { ${name} = instance.toplevel; });
}
