# A disk image and a kernel for an unmodified Kata shim. Kata boots a kernel and an image without an initrd, and
# attaches the image read-only, so the root is an EROFS (Kata's `rootfs_type`) whose drivers the kernel has built in, and
# the first program lays a tmpfs over it before the system's own init starts. Not imported by default: mkSeed makes a
# variant of the instance with it.
{
  config,
  lib,
  modulesPath,
  pkgs,
  ...
}:
let
  cfg = config.seed;
  inherit (config.system.build) toplevel;
  # Read-only by nature: nothing to replay, and no room that nobody can use.
  rootType = "erofs";
  folders = [
    "dev"
    "etc"
    "mnt"
    "proc"
    "run"
    "sys"
    "tmp"
    "var"
  ];
  skeleton = pkgs.runCommand "seed-kata-skeleton" { } ''
    cd "$(mkdir "$out" && echo "$out")"
    mkdir ${lib.escapeShellArgs folders}
  '';
  init = pkgs.writeScript "seed-kata-init" ''
    #!${pkgs.pkgsStatic.busybox}/bin/sh
    # PID 1: a writable layer in memory over the read-only root, then the system.
    export PATH=${pkgs.pkgsStatic.busybox}/bin
    mount -t tmpfs -o mode=0755 tmpfs /mnt &&
      mkdir /mnt/upper /mnt/work /mnt/root &&
      mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root &&
      cd /mnt/root &&
      pivot_root . mnt &&
      exec chroot . ${toplevel}/init "$@"
    echo "seed: the root cannot be made writable" >&2
    exit 1
  '';
  settings = (pkgs.formats.toml { }).generate "configuration-seed.toml" {
    hypervisor.qemu = {
      kernel = "${config.system.build.kernel}/${config.system.boot.loader.kernelFile}";
      image = "${config.system.build.image}/${config.image.fileName}";
      rootfs_type = rootType;
      disable_image_nvdimm = true;
      kernel_params = lib.concatStringsSep " " (
        builtins.filter (
          parameter: parameter != "rw" && !lib.hasPrefix "root=" parameter
        ) config.boot.kernelParams
        ++ [ "init=/sbin/init" ]
      );
    };
  };
in
{
  imports = [ (modulesPath + "/image/repart.nix") ];

  boot.initrd.enable = false;
  boot.kernelPatches = [
    {
      name = "seed-kata";
      patch = null;
      structuredExtraConfig = lib.genAttrs [
        "EROFS_FS"
        "EXT4_FS"
        "OVERLAY_FS"
        "VIRTIO"
        "VIRTIO_BLK"
        "VIRTIO_PCI"
      ] (_: lib.mkForce lib.kernel.yes);
    }
  ];
  boot.kernelModules = [
    "virtio_rng"
    "vmw_vsock_virtio_transport"
  ];
  fileSystems."/" = lib.mkForce {
    device = "/dev/vda1";
    fsType = rootType;
    noCheck = true;
  };

  image.repart = {
    name = "seed-${cfg.name}";
    partitions."10-root" = {
      storePaths = [
        toplevel
        init
      ];
      contents = {
        "/".source = skeleton;
        "/sbin/init".source = init;
      };
      repartConfig = {
        Type = "root";
        Format = rootType;
        Minimize = "best";
      };
    };
  };

  system.build.kataImage = pkgs.linkFarm "seed-kata-${cfg.name}" {
    "configuration-seed.toml" = settings;
    kernel = "${config.system.build.kernel}/${config.system.boot.loader.kernelFile}";
    "image.raw" = "${config.system.build.image}/${config.image.fileName}";
  };
}
