# The module's thinking: functions of plain values that use `builtins` alone, so that they are tested without
# nixpkgs (../tests/plain). The option layer in ../options.nix only carries values here and back.
rec {
  sizes = import ./sizes.nix;
  ports = import ./ports.nix;
  words = import ./words.nix;
  quantity = import ./quantity.nix;
  ids = import ./ids.nix;
  unitFile = import ./unit-file.nix;
  expose = import ./expose.nix { inherit ports words; };
  storage = import ./storage.nix { inherit quantity words; };
  dns = import ./dns.nix { inherit words; };
  flake = import ./flake.nix { inherit dns words; };
  postgresql = import ./postgresql.nix { inherit words; };
  instance = import ./instance.nix {
    inherit
      dns
      expose
      sizes
      storage
      words
      ;
  };
}
