# Tests of the functions in ../../lib, which need no nixpkgs:
#   nix-instantiate --eval --strict --json --store dummy:// nixos-guest-module/tests/plain
import ../check.nix (
  import ./rules.nix
  // import ./expose.nix
  // import ./postgresql.nix
  // import ./storage.nix
  // import ./dns.nix
  // import ./view.nix
  // import ./instance.nix
  // import ./unit-file.nix
  // import ./flake.nix
  // import ./ids.nix
)
