# The functions of `pool`, on top of mkSeed and `seed run`:
#
#   current arch
#     .condense name address interface module   an instance with an address of its own
#     .role name { pass ? ; keys ? ; }          a user, for users.users.<name>
#     .channel interface                        a host module: instances reach out through the interface
#
# The interface inside the instance is found by its driver, so the third argument of condense may be any name,
# or null. On the host null means: whichever has the default route.
{ nixpkgs, mkSeed }:
arch:
let
  pkgs = nixpkgs.legacyPackages.${arch} or (import nixpkgs { system = arch; });
  inherit (pkgs) lib;
  bridge = "pool0";
  gateway = "10.0.0.1";
  prefixLength = 24;

  # Addresses for the instance's one card, whatever it is called.
  addressed = address: {
    systemd.network.networks."10-pool" = {
      matchConfig.Driver = "virtio_net";
      address = [ "${address}/${toString prefixLength}" ];
      routes = [ { Gateway = gateway; } ];
      dns = [ gateway ];
      networkConfig.DHCP = "ipv4";
      linkConfig.RequiredForOnline = false;
    };
  };

  # For users with keys; it runs only while somebody is logged in. (Whether anybody has keys cannot be asked
  # here: sshd has a user of its own.)
  logins =
    { lib, ... }:
    {
      services.openssh.enable = lib.mkDefault true;
      services.openssh.startWhenNeeded = lib.mkDefault true;
      seed.expose.ssh.enable = lib.mkDefault true;
      environment.shells = [ pkgs.nushell ];
    };

  # Where the first `pool` had its runner.
  declaredRunner =
    { config, lib, ... }:
    {
      options.microvm.declaredRunner = lib.mkOption {
        type = lib.types.package;
        readOnly = true;
        description = "The program that boots the instance.";
      };
      config.microvm.declaredRunner = config.system.build.seedRunner;
    };
in
{
  condense =
    name: address: _interface: module:
    mkSeed {
      inherit name nixpkgs;
      system = arch;
      modules = [
        (addressed address)
        logins
        declaredRunner
        module
      ];
    };

  role =
    name:
    {
      pass ? null,
      keys ? [ ],
    }:
    {
      shell = pkgs.nushell;
      openssh.authorizedKeys.keys = keys;
    }
    // (if pass != null then { initialPassword = pass; } else { })
    # No pass and no keys: nothing is asked, as the console is the only way in.
    // (if pass == null && keys == [ ] then { initialHashedPassword = ""; } else { })
    // lib.optionalAttrs (name != "root") {
      isNormalUser = true;
      extraGroups = [ "wheel" ];
    };

  channel = interface: {
    networking.bridges.${bridge}.interfaces = [ ];
    networking.interfaces.${bridge}.ipv4.addresses = [
      {
        address = gateway;
        inherit prefixLength;
      }
    ];
    # Without an external interface, whatever leaves the machine is masqueraded.
    networking.nat = {
      enable = true;
      internalInterfaces = [ bridge ];
      externalInterface = interface;
    };
  };
}
