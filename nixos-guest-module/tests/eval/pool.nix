# pool's functions, as pool's README uses them.
{
  lib,
  drv,
  hardware,
  inputs,
  nixosSystem,
  says,
  self,
  yes,
  ...
}:
let
  arch = "x86_64-linux";
  pool = self.current arch;
  # Seed's host module is where the README has microvm.nix's.
  readme = import ../reference/pool.nix {
    current = pool;
    sources.microvm.nixosModules.host = self.nixosModules.host;
  };
  nixpkgs = inputs.nixpkgs // {
    lib = lib // {
      inherit nixosSystem;
    };
  };
  flake = self // {
    outputs = self;
  };
  host =
    (
      (readme.host.outputs {
        inherit nixpkgs;
        pool = flake;
        microvm = { };
      }).nixosConfigurations.local.extendModules
      {
        modules = [
          hardware
          { seed.host.enable = true; }
        ];
      }
    ).config;
  runner =
    (readme.machine.outputs {
      self = { };
      pool = flake;
      # What flake-utils makes of one system.
      flake-utils.lib.eachDefaultSystem = make: lib.mapAttrs (_: value: { ${arch} = value; }) (make arch);
    }).packages.${arch}.machine;
  condensed = pool.condense "machine" "10.0.0.2" "enp0s4" readme.root-without-pass;
  user = name: module: removeAttrs module.users.users.${name} [ "shell" ];
in
{
  pool = {
    "the README's machine has a runner" = yes (drv runner);
    "whichever way its role is written" = yes (
      runner.drvPath == condensed.config.microvm.declaredRunner.drvPath
    );
    "its runner gives the instance a link of the host's bridge" = {
      got = map (says runner.text) [
        "master pool0"
        "address add 10.0.0.2/24 dev eth0"
        "--network /run/netns/pool-machine"
      ];
      want = [
        true
        true
        true
      ];
    };
    "and opens root's shell in it" = yes (
      says runner.text "machine -- /run/current-system/sw/bin/nu\n"
    );
    "its address does not depend on the interface's name" = {
      got =
        let
          network = condensed.config.systemd.network.networks."10-pool";
        in
        [
          network.matchConfig.Driver
          network.address
        ];
      want = [
        "virtio_net"
        [ "10.0.0.2/24" ]
      ];
    };
    "root without a password, with one, and a user with keys" = {
      got = [
        (user "root" readme.root-without-pass)
        (user "root" readme.root-with-pass)
        (user "access" readme.user-with-keys)
      ];
      want = [
        {
          initialHashedPassword = "";
          openssh.authorizedKeys.keys = [ ];
        }
        {
          initialPassword = "abcd1234";
          openssh.authorizedKeys.keys = [ ];
        }
        {
          isNormalUser = true;
          extraGroups = [ "wheel" ];
          openssh.authorizedKeys.keys = [
            "ssh-ed25519 AAAAC3NzaCetcetera/etceteraJZMfk3QPfQ foo@bar"
          ];
        }
      ];
    };
    "each of them is an instance without a complaint" = {
      got = map (module: (pool.condense "machine" "10.0.0.2" null module).meta.name) [
        readme.root-without-pass
        readme.root-with-pass
        readme.user-with-keys
      ];
      want = [
        "machine"
        "machine"
        "machine"
      ];
    };
    "the README's host reaches out through the interface that it names, and can run instances" = {
      got = [
        (drv host.system.build.toplevel)
        host.networking.nat.externalInterface
        host.networking.nat.internalInterfaces
        (host.environment.etc ? "seed/shim.toml")
      ];
      want = [
        true
        "wlan0"
        [ "pool0" ]
        true
      ];
    };
    "a host that names none masquerades whatever leaves it" =
      let
        inherit
          (nixosSystem {
            modules = [
              hardware
              (pool.channel null)
            ];
          })
          config
          ;
      in
      {
        got = [
          (drv config.system.build.toplevel)
          config.networking.nat.externalInterface
        ];
        want = [
          true
          null
        ];
      };
  };
}
