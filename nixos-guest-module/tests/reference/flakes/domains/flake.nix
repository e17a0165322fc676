{
  outputs = { seed, ... }: {
    combine.domains = {
      "example.com" = {
        register = true;   # platform registers via NameSilo and sets NS records
        default = true;    # used as default domain for unqualified DNS names
      };
    };

    seeds.web = seed.lib.mkSeed {
      name = "web";
      module = ./web.nix;
    };
  };
}
