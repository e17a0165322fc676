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

  evaluates = instance: lib.hasSuffix ".drv" instance.toplevel.drvPath;

  # Whether a text has the words in it. (Patterns may not name store paths.)
  says =
    text: words:
    lib.hasInfix (builtins.unsafeDiscardStringContext words) (builtins.unsafeDiscardStringContext text);

  # What NixOS would refuse to build for.
  refusals =
    module:
    map (check: check.message) (
      builtins.filter (check: !check.assertion) (instance module).config.assertions
    );

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
