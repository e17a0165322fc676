# The functions of `pool`, on top of mkSeed and `seed run`:
#
#   current arch
#     .condense name address interface module   an instance with an address of its own
#     .role name { pass ? ; keys ? ; }          a user, for users.users.<name>; also `role local name { }`
#     .local                                    the machine that a role is for: this one
#     .channel interface                        a host module: instances reach out through the interface
#
# The runner of a condensed instance makes a network namespace with one link, which hangs on the host's bridge and has
# the address; `seed run --network` hands it to the instance. An earlier one of the same name is taken away first. Called
# from a terminal the runner then opens root's shell, as there is no console to log in on.
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
      networkConfig.DHCP = "ipv4";
      linkConfig.RequiredForOnline = false;
    };
    # The agent leaves a link alone.
    environment.etc."resolv.conf".text = "nameserver ${gateway}\n";
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
    name: address:
    {
      config,
      lib,
      utils,
      ...
    }:
    let
      inherit (config.system.build) seedRunner;
      shell = utils.toShellPath config.users.users.root.shell;
      words = lib.mapAttrs (_: lib.escapeShellArg) {
        inherit name;
        namespace = "pool-${name}";
        # The kernel takes 15 characters.
        link = "pool${builtins.substring 0 8 (builtins.hashString "sha256" name)}";
        address = "${address}/${toString prefixLength}";
      };
      inNamespace = "ip -netns ${words.namespace}";
    in
    {
      options.microvm.declaredRunner = lib.mkOption {
        type = lib.types.package;
        readOnly = true;
        description = "The program that boots the instance.";
      };
      config.microvm.declaredRunner = pkgs.writeShellApplication {
        name = "pool-run-${name}";
        runtimeInputs = [
          pkgs.iproute2
          (pkgs.callPackage ../host-shim/package.nix { })
        ];
        text = ''
          names=$(seed ps --quiet)
          if [[ $'\n'$names$'\n' == *$'\n'${words.name}$'\n'* ]]; then
            echo "pool: the instance ${name} is there already. End it first: seed stop ${name}" >&2
            exit 1
          fi
          if ! ip link show dev ${bridge} > /dev/null 2>&1; then
            echo "pool: this machine has no bridge ${bridge}. Import (current arch).channel in its configuration." >&2
            exit 1
          fi
          ip netns delete ${words.namespace} 2> /dev/null || true
          ip link delete dev ${words.link} 2> /dev/null || true
          ip netns add ${words.namespace}
          ip link add ${words.link} type veth peer name eth0 netns ${words.namespace}
          ip link set dev ${words.link} master ${bridge} up
          ${inNamespace} address add ${words.address} dev eth0
          ${inNamespace} link set dev eth0 up
          ${inNamespace} route add default via ${gateway}
          ${lib.getExe seedRunner} --network /run/netns/${words.namespace} "$@"
          if [ -t 0 ] && [ -t 1 ]; then
            exec seed exec --tty --env HOME=/root --cwd /root ${words.name} -- ${shell}
          fi
        '';
      };
    };

  roleOf =
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
        (declaredRunner name address)
        module
      ];
    };

  # pool's README calls it both ways.
  role = first: if builtins.isString first then roleOf first else roleOf;
  local = { inherit arch; };

  channel = interface: {
    # Names, and addresses for instances that have none of their own.
    services.dnsmasq = {
      enable = true;
      resolveLocalQueries = false;
      settings = {
        interface = bridge;
        bind-dynamic = true;
        dhcp-range = "10.0.0.100,10.0.0.250,1h";
      };
    };
    networking.firewall.interfaces.${bridge} = {
      allowedTCPPorts = [ 53 ];
      allowedUDPPorts = [
        53
        67
      ];
    };
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
