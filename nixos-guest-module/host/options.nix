# Options of a host.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  program =
    name: default:
    lib.mkOption {
      type = lib.types.path;
      inherit default;
      defaultText = lib.literalMD "from nixpkgs";
      description = "The program `${name}` that the shim starts.";
    };
in
{
  options.seed.host = {
    enable = lib.mkEnableOption "running Seed instances on this machine";

    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ../../host-shim/package.nix { };
      defaultText = lib.literalMD "`seed-shim` of this flake";
      description = "The shim and the command line.";
    };

    vmm = lib.mkOption {
      type = lib.types.enum [
        "qemu"
        "cloud-hypervisor"
      ];
      default = "qemu";
      description = "What runs the virtual machines. Cloud Hypervisor needs KVM.";
    };

    programs = {
      cloud_hypervisor = program "cloud-hypervisor" (
        lib.getExe' pkgs.cloud-hypervisor "cloud-hypervisor"
      );
      qemu = program "qemu" (
        lib.getExe' pkgs.qemu_kvm "qemu-system-${pkgs.stdenv.hostPlatform.qemuArch}"
      );
      virtiofsd = program "virtiofsd" (lib.getExe pkgs.virtiofsd);
      swtpm = program "swtpm" (lib.getExe' pkgs.swtpm "swtpm");
    };

    settings = lib.mkOption {
      type = lib.types.submodule { freeformType = (pkgs.formats.toml { }).type; };
      default = { };
      example = {
        accel = "kvm";
        limits.poweroff_seconds = 120;
      };
      description = ''
        `/etc/seed/shim.toml`, key by key. Keys that the shim does not know are refused by it. With
        `vmm = "cloud-hypervisor"` name the program as well, in `programs.cloud_hypervisor`.
      '';
    };

    containerd = {
      enable = lib.mkOption {
        type = lib.types.bool;
        default = true;
        description = "Whether containerd runs, with the shim as one of its runtimes.";
      };
      runtimeName = lib.mkOption {
        type = lib.types.str;
        default = "seed";
        description = "The runtime's name: the `handler` of a Kubernetes RuntimeClass.";
      };
      podAnnotations = lib.mkOption {
        type = lib.types.listOf lib.types.str;
        default = [
          "seed.loom.farm/*"
        ]
        ++ map (
          name:
          # The one that chooses the VMM is not among the VMM's.
          if name == "hypervisor_name" then
            "io.katacontainers.config.runtime.${name}"
          else
            "io.katacontainers.config.hypervisor.${name}"
        ) config.seed.host.settings.enable_annotations;
        defaultText = lib.literalMD "`seed.loom.farm/*`, and those of Kata's that `seed.host.settings.enable_annotations` names";
        description = ''
          The annotations that containerd hands from pods to the shim. Others never reach it. Of Kata's the shim
          takes those alone that its setting `enable_annotations` names.
        '';
      };
      runtime = lib.mkOption {
        type = lib.types.raw;
        internal = true;
        readOnly = true;
        default = {
          runtime_type = "io.containerd.seed.v2";
          pod_annotations = config.seed.host.containerd.podAnnotations;
          container_annotations = config.seed.host.containerd.podAnnotations;
          # A machine has its own kernel, so a privileged container gets none of the host's devices.
          privileged_without_host_devices = true;
          options.ConfigPath = "/etc/seed/shim.toml";
        };
        description = "The runtime as containerd's configuration has it.";
      };
    };

    k3s.enable = lib.mkEnableOption "the runtime in k3s, with its RuntimeClass";

    shell = {
      enable = lib.mkEnableOption "the seed shell, by which owners manage their instances over SSH";

      package = lib.mkOption {
        type = lib.types.package;
        default = pkgs.callPackage ../../seed-shell/package.nix { };
        defaultText = lib.literalMD "`seed-shell` of this flake";
        description = "The server, and the tools of owners.";
      };

      openFirewall = lib.mkOption {
        type = lib.types.bool;
        default = false;
        description = "Whether the firewall lets connections to it through.";
      };

      settings = lib.mkOption {
        type = lib.types.submodule { freeformType = (pkgs.formats.toml { }).type; };
        default = { };
        example = {
          limits.idle_seconds = 600;
          listen = [ "[::]:2222" ];
        };
        description = ''
          `/etc/seed/shell.toml`, key by key. It is checked when the system is built.
        '';
      };
    };
  };
}
