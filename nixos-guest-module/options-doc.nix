# The option reference, made from the options themselves: Markdown of everything below `seed`, for guests and
# for hosts.
{ pkgs }:
let
  inherit (pkgs) lib;
  root = toString ../.;
  evaluate =
    module:
    (import (pkgs.path + "/nixos/lib/eval-config.nix") {
      system = null;
      modules = [
        module
        { nixpkgs.hostPlatform = pkgs.stdenv.hostPlatform.system; }
      ];
    }).options;

  # Declarations by their place in the project, not in the store.
  shorten =
    option:
    option
    // {
      declarations = map (place: lib.removePrefix "/" (lib.removePrefix root (toString place))) (
        option.declarations or [ ]
      );
    };

  reference =
    options:
    (pkgs.nixosOptionsDoc {
      options = { inherit (options) seed; };
      transformOptions = shorten;
    }).optionsCommonMark;
in
pkgs.runCommand "seed-option-reference.md" { } ''
  {
    echo "# Options of an instance"
    echo
    cat ${reference (evaluate ./default.nix)}
    echo
    echo "# Options of a host"
    echo
    cat ${reference (evaluate ./host)}
  } > "$out"
''
