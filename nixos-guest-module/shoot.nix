# `seed-shoot`: runs a command in a short-lived VM beside this one. The command finds the platform's pool
# manager in SEED_SHOOT_URL; where the platform has none it says so.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  seed-shoot = pkgs.writeShellScriptBin "seed-shoot" ''
    if [ $# -eq 0 ]; then
      echo "Usage: seed-shoot [--timeout MILLISECONDS] COMMAND [ARGUMENT...]" >&2
      exit 2
    fi
    if [ -z "''${SEED_SHOOT_URL:-}" ] && [ -r /run/seed/env ]; then
      set -a
      . /run/seed/env
      set +a
    fi
    if [ -z "''${SEED_SHOOT_URL:-}" ]; then
      echo "seed-shoot: this platform has no pool manager: SEED_SHOOT_URL is not set" >&2
      echo "Ask the platform's operator for shoots, or run the command in the instance itself." >&2
      exit 69
    fi
    echo "seed-shoot: the pool manager at $SEED_SHOOT_URL speaks no protocol that this version knows" >&2
    echo "Rebuild the instance with a newer Seed." >&2
    exit 69
  '';
in
{
  config = lib.mkIf config.seed.shoot.enable {
    environment.systemPackages = [ seed-shoot ];
  };
}
