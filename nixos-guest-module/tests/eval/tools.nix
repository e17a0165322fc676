# What the cases share: the flake as another flake sees it, and questions about an instance.
{ nixpkgs, sops-nix }:
let
  folder = path: if builtins.isString path then /. + path else path;
  tree = folder nixpkgs;
  lib = import (tree + "/lib");

  # Stand-ins for the flake's inputs, made from folders.
  inputs = {
    nixpkgs = {
      outPath = tree;
      inherit lib;
      legacyPackages.x86_64-linux = import tree { system = "x86_64-linux"; };
      legacyPackages.aarch64-linux = import tree { system = "aarch64-linux"; };
    };
    sops-nix.nixosModules.sops = folder sops-nix + "/modules/sops";
  };
  flake = import ../../../flake.nix;
  self = flake.outputs (inputs // { inherit self; });
in
rec {
  inherit lib inputs self;
  seed = self;
  inherit (self.lib) mkSeed mkOutputs view;

  instance =
    module:
    mkSeed {
      name = "test";
      modules = lib.toList module;
    };

  # A machine that is no instance.
  nixosSystem =
    arguments: import (tree + "/nixos/lib/eval-config.nix") ({ system = null; } // arguments);
  # What such a machine has to say of itself.
  hardware = {
    nixpkgs.hostPlatform = "x86_64-linux";
    boot.loader.grub.enable = false;
    fileSystems."/" = {
      device = "/dev/vda";
      fsType = "ext4";
    };
    system.stateVersion = lib.trivial.release;
  };

  drv = derivation: lib.hasSuffix ".drv" derivation.drvPath;
  evaluates = instance: drv instance.toplevel;
  yes = got: {
    inherit got;
    want = true;
  };

  # Whether a text has the words in it. (Patterns may not name store paths.)
  says =
    text: words:
    lib.hasInfix (builtins.unsafeDiscardStringContext words) (builtins.unsafeDiscardStringContext text);

  # What NixOS would refuse to build for.
  failing =
    config: map (check: check.message) (builtins.filter (check: !check.assertion) config.assertions);
  refusals = module: failing (instance module).config;

  enabledServices =
    names: instance: lib.all (name: instance.config.systemd.units ? "${name}.service") names;

  # A flake's outputs, as nix calls them.
  callFlake =
    path:
    let
      user = import path;
      outputs = user.outputs {
        inherit seed;
        inherit (inputs) nixpkgs;
        self = outputs;
      };
    in
    outputs;
}
