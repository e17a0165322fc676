# Where /etc is an overlay (`system.etc.overlay`, as the perlless and bashless profiles have it), what is written to it
# is kept on the root. The root comes by virtiofs, and overlayfs takes that for no upper layer ("upper fs missing required
# features"): the initrd would end there. So the upper layer is in memory, and each boot begins with the closure's /etc.
#
# An owner with a root of another kind gets NixOS's way back by fileSystems."/.rw-etc".enable = false.
{ config, lib, ... }:
let
  cfg = config.system.etc.overlay;
  upper = "/.rw-etc";
in
{
  config = lib.mkIf (cfg.enable && cfg.mutable) {
    fileSystems.${upper} = {
      device = lib.mkDefault "tmpfs";
      fsType = lib.mkDefault "tmpfs";
      options = [ "mode=0755" ];
      neededForBoot = true;
    };
    # NixOS knows the root alone to come before it.
    boot.initrd.systemd.services.rw-etc.unitConfig.RequiresMountsFor = [ "/sysroot${upper}" ];
  };
}
