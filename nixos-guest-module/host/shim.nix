# The shim's configuration, which the shim itself checks at build time, its state, kernel modules, and `seed` in everybody's PATH.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.seed.host;
  runDir = cfg.settings.run_dir or "/run/seed";
  stateDir = cfg.settings.state_dir or "/var/lib/seed";
  settings = (pkgs.formats.toml { }).generate "seed-shim.toml" cfg.settings;
  inherit (pkgs.stdenv) buildPlatform hostPlatform;
in
{
  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    environment.etc."seed/shim.toml".source =
      pkgs.runCommand "seed-shim.toml" { preferLocalBuild = true; }
        ''
          cp ${settings} "$out"
          ${lib.optionalString (buildPlatform.canExecute hostPlatform) ''
            ${lib.getExe' cfg.package "containerd-shim-seed-v2"} -check-config "$out"
          ''}
        '';
    seed.host.settings.vmm = lib.mkDefault cfg.vmm;
    # Of the VMMs only the one that is used is part of the system.
    seed.host.settings.programs = lib.mapAttrs (_: lib.mkDefault) (
      removeAttrs cfg.programs [ (if cfg.vmm == "qemu" then "cloud_hypervisor" else "qemu") ]
    );
    # The shim's own default, said here so that containerd's allow-list follows it.
    seed.host.settings.enable_annotations = lib.mkDefault [
      "default_vcpus"
      "default_memory"
    ];

    boot.kernelModules = [
      "vhost_net"
      "vhost_vsock"
      "tun"
    ];
    # Identities and volumes: nobody but root looks in. A group that the settings name may list what runs, and gets to what
    # the shim opens for it; as the shim leaves the folders (host-shim/src/access.rs), since NixOS sets this again at
    # each switch.
    systemd.tmpfiles.settings."10-seed" =
      let
        folder = group: mode: {
          d = {
            user = "root";
            inherit group mode;
          };
        };
      in
      if cfg.settings ? group then
        {
          ${runDir} = folder cfg.settings.group "2751";
          ${stateDir} = folder "root" "0711";
        }
      else
        lib.genAttrs [ runDir stateDir ] (_: folder "root" "0700");
  };
}
