# Tests of ../../lib/ids.nix.
let
  inherit (import ../../lib) ids;
in
{
  "a name has one number for ever" = {
    got = map ids.idOf [
      "app"
      "caddy"
      "postgres"
    ];
    want = [
      390989
      416850
      382551
    ];
  };
  "numbers are outside the ranges that others hand out" = {
    got = builtins.filter (name: ids.idOf name < 300000 || ids.idOf name > 499999) (
      map (number: "user${toString number}") (builtins.genList (number: number) 1000)
    );
    want = [ ];
  };
}
