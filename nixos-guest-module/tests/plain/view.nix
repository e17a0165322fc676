# Tests of ../../lib/flake.nix.
let
  inherit (import ../../lib) flake;
  instance = name: names: {
    meta = {
      inherit name;
      dns = { inherit names; };
    };
  };
  accepted = it: (builtins.tryEval (builtins.deepSeq (flake.view it) true)).success;
in
{
  "a flake as the platform reads it has everything filled in" = {
    got = flake.view {
      combine.domains."example.com".default = true;
      seeds.web = instance "web" [
        "example.com"
        "www"
      ];
      packages = throw "nobody asks for it";
    };
    want = {
      domains."example.com" = {
        default = true;
        register = false;
      };
      instances.web = {
        name = "web";
        dns.names = [
          "example.com"
          "www.example.com"
        ];
      };
    };
  };
  "a flake without domains is one" = {
    got = (flake.view { seeds.web = instance "web" [ ]; }).domains;
    want = { };
  };
  "no instances, and one with another name, are told what to do" = {
    got = [
      (flake.problems { })
      (flake.problems { seeds.web = instance "api" [ ]; })
    ];
    want = [
      [
        "the flake has no instances. Declare one: seeds.web = seed.lib.mkSeed { name = \"web\"; module = ./web.nix; };"
      ]
      [
        "seeds.web: the instance calls itself \"api\". Give mkSeed the name that it has in seeds, or rename it there."
      ]
    ];
  };
  "a name outside all domains is refused, also where no domain is declared" = {
    got = map accepted [
      {
        seeds.web = instance "web" [ "www.example.org" ];
        combine.domains."example.com" = { };
      }
      { seeds.web = instance "web" [ "www.example.org" ]; }
      {
        seeds.web = instance "web" [ "www.example.org" ];
        combine.domains."example.org" = { };
      }
    ];
    want = [
      false
      false
      true
    ];
  };
  "names are not compared with domains that are none" = {
    got = flake.problems {
      seeds.web = instance "web" [ "www.example.com" ];
      combine.domains."example.com" = "yes";
    };
    want = [
      "combine.domains.\"example.com\": this is no set of settings. Write { } or { register = true; }."
    ];
  };
}
