# The snippets of pool's README, as they stand there, with the names that they take for granted.
{ current, sources }:
{
  host =
    { inputs = {
        nixpkgs.url = "github:nixos/nixpkgs/nixos-25.11";
        pool = { url = "/pool"; inputs.nixpkgs.follows = "nixpkgs"; };
      };
      outputs = { microvm, pool, nixpkgs, ... }: let
        arch = "x86_64-linux";
      in {
        nixosConfigurations.local = nixpkgs.lib.nixosSystem {
          modules = [
            # machine's primary outbound internet connection.
            ((pool.outputs.current arch).channel "wlan0")
            sources.microvm.nixosModules.host
          ];
          # ... remaining local config.
        };
      };
    };

  machine =
    { inputs = {
        # nixpkgs.url = "github:nixos/nixpkgs/nixos-25.11";
        pool = { url = "/pool"; }; # inputs.nixpkgs.follows = "nixpkgs";
        flake-utils.url = "github:numtide/flake-utils";
      };
      outputs = { self, pool, flake-utils }:
      flake-utils.lib.eachDefaultSystem (arch: let
        current = pool.outputs.current arch;
      in {
        packages.machine = (
          current.condense "machine" "10.0.0.2" "enp0s4" {
            users.users.root = current.role "root" {};
          }).config.microvm.declaredRunner;
      });
    };

  # root only, no-pass:
  root-without-pass = with current;
    { users.users.root = role local "root" {}; };

  # root only, pass:
  root-with-pass = with current;
    { users.users.root = role local "root" { pass = "abcd1234"; }; };

  # normal user only, ssh login
  user-with-keys = with current;
    { users.users.access = role "access" { keys = [
    "ssh-ed25519 AAAAC3NzaCetcetera/etceteraJZMfk3QPfQ foo@bar"
    ]; }; };
}
