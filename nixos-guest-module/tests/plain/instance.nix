# Tests of ../../lib/instance.nix. What it makes of whole instances is compared with ../golden, which tests of
# `seed-agent` and `seed-shim` read with their own parsers.
let
  inherit (import ../../lib) instance;
  plain = import ../instances.nix;
  read = file: builtins.fromJSON (builtins.readFile file);
  meta = builtins.mapAttrs (_: instance.meta) plain;
in
{
  "meta of a small instance" = {
    got = meta.small;
    want = read ../golden/small.meta.json;
  };
  "meta of an instance with everything" = {
    got = meta.full;
    want = read ../golden/full.meta.json;
  };
  "the agent's file of a small instance" = {
    got = instance.agentFile plain.small;
    want = read ../golden/small.instance.json;
  };
  "the agent's file of an instance with everything" = {
    got = instance.agentFile plain.full;
    want = read ../golden/full.instance.json;
  };
  "a name that is no host name is refused" = {
    got =
      map
        (
          name:
          builtins.length (
            instance.problems {
              users = [ ];
              groups = [ ];
              instance = plain.small // {
                inherit name;
              };
            }
          )
        )
        [
          "web"
          "web-1"
          "Web"
          "web_1"
          "-web"
          ""
        ];
    want = [
      0
      0
      1
      1
      1
      1
    ];
  };
}
