# `lib.mkSeed`: from a module to an instance. The result is data (`meta`), derivations (`toplevel`, `image`,
# `kataImage`, `root`, `runner`), the evaluated system (`config`, `options`, `nixos`), and `extend`.
{ nixpkgs, sops-nix }:
let
  defaultNixpkgs = nixpkgs;

  # A flake has nixosSystem; a plain folder (a channel, a checkout) has the function behind it.
  evaluate =
    source:
    if builtins.isAttrs source && source ? lib.nixosSystem then
      source.lib.nixosSystem
    else
      arguments: import (source + "/nixos/lib/eval-config.nix") ({ system = null; } // arguments);

  mkSeed =
    {
      name,
      module ? null,
      modules ? [ ],
      nixpkgs ? defaultNixpkgs,
      specialArgs ? { },
      system ? "x86_64-linux",
    }@arguments:
    let
      own = if module == null then [ ] else [ module ];
      nixos = evaluate nixpkgs {
        inherit specialArgs;
        modules = [
          sops-nix.nixosModules.sops
          ./default.nix
          (
            { lib, ... }:
            {
              _file = "mkSeed { name = \"${name}\"; }";
              seed.name = lib.mkDefault name;
              nixpkgs.hostPlatform = lib.mkDefault system;
            }
          )
        ]
        ++ own
        ++ modules;
      };
      inherit (nixos) config;
      # Everything that NixOS checks, not only what is ours: it is half of the time that `meta` takes.
      problems = map (check: check.message) (builtins.filter (check: !check.assertion) config.assertions);
    in
    if own == [ ] && modules == [ ] then
      throw "mkSeed: the instance ${name} has no module. Give it one: module = ./${name}.nix;"
    else
      {
        inherit
          config
          name
          nixos
          system
          ;
        inherit (nixos) options;
        # Read without building anything, so what is wrong is said here too.
        meta =
          if problems == [ ] then
            config.seed.meta
          else
            throw "the instance ${name} is not right:\n${
              builtins.concatStringsSep "\n" (map (text: "- ${text}") problems)
            }";
        inherit (config.system.build) toplevel;
        root = config.system.build.seedRoot;
        image = config.system.build.seedImage;
        runner = config.system.build.seedRunner;
        kataImage = (nixos.extendModules { modules = [ ./kata.nix ]; }).config.system.build.kataImage;
        # The same instance with one more module.
        extend = extra: mkSeed (arguments // { modules = modules ++ [ extra ]; });
      };
in
mkSeed
