# The one network card: whatever its name, addresses come by DHCP and router advertisements, and what the host
# sets through the agent stays. The firewall lets in what is exposed.
{ config, lib, ... }:
let
  seed = import ./lib;
in
{
  # A name stays what the kernel or the host gives it: udev renames nothing, so that what the host says to the agent (Kata's
  # UpdateInterface) is the last word. (This is `net.ifnames=0`.)
  networking.usePredictableInterfaceNames = lib.mkDefault false;
  networking.useNetworkd = lib.mkDefault true;
  networking.useDHCP = lib.mkDefault false;
  # The agent writes /etc/resolv.conf from what the host says, unless the closure brings one of its own.
  networking.resolvconf.enable = lib.mkDefault false;
  # (networkd turns it on by a default of its own.)
  services.resolved.enable = lib.mkOverride 900 false;

  systemd.network.networks."80-seed" = {
    matchConfig.Driver = "virtio_net";
    networkConfig = {
      DHCP = lib.mkDefault "yes";
      IPv6AcceptRA = lib.mkDefault true;
      KeepConfiguration = lib.mkDefault "yes";
    };
    # Not every instance has a network, and no boot waits for one.
    linkConfig.RequiredForOnline = lib.mkDefault false;
  };
  systemd.network.wait-online.enable = lib.mkDefault false;

  networking.firewall.allowedTCPPorts = seed.expose.openPorts "tcp" config.seed.expose;
  networking.firewall.allowedUDPPorts = seed.expose.openPorts "udp" config.seed.expose;
}
