# /etc/seed/instance.json: rendered from `seed.meta`, and checked at build time by the agent that reads it.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  seed = import ./lib;
  cfg = config.seed;
  text = builtins.toJSON (seed.instance.agentFile cfg);
  inherit (pkgs.stdenv) buildPlatform hostPlatform;
in
{
  environment.etc."seed/instance.json".source =
    pkgs.runCommand "seed-instance.json"
      {
        inherit text;
        passAsFile = [ "text" ];
        preferLocalBuild = true;
      }
      ''
        cp "$textPath" "$out"
        ${lib.optionalString (buildPlatform.canExecute hostPlatform) ''
          ${lib.getExe cfg.agent.package} --check-config "$out"
        ''}
      '';
}
