# What an unmodified Kata shim boots: the image, the kernel and the piece of configuration that names them.
{
  lib,
  drv,
  instance,
  says,
  yes,
  ...
}:
let
  plain = instance { };
  inherit (plain.nixos.extendModules { modules = [ ../../kata.nix ]; }) config;
  inherit (plain.kataImage) entries;
  said = entries."configuration-seed.toml".value.hypervisor.qemu;
  words = lib.splitString " " said.kernel_params;
  kernel = lib.foldl' (all: patch: all // patch.structuredExtraConfig or { }) { } (
    config.boot.kernelPatches
  );
  root = config.image.repart.partitions."10-root";
in
{
  kata-image = {
    "for an unmodified Kata shim" = yes (drv plain.kataImage);
    "its configuration names what is beside it" = {
      got = [
        said.kernel
        said.image
      ];
      want = [
        entries.kernel
        entries."image.raw"
      ];
    };
    "its root is an EROFS, and the kernel needs no initrd to mount it" = {
      got = {
        inherit (said) rootfs_type;
        inherit (config.fileSystems."/") fsType noCheck;
        inherit (root.repartConfig) Format;
        initrd = config.boot.initrd.enable;
        builtIn = builtins.filter (option: kernel.${option}.content.tristate or null == "y") (
          lib.attrNames kernel
        );
      };
      want = {
        rootfs_type = "erofs";
        fsType = "erofs";
        noCheck = true;
        Format = "erofs";
        initrd = false;
        builtIn = [
          "EROFS_FS"
          "EXT4_FS"
          "OVERLAY_FS"
          "VIRTIO"
          "VIRTIO_BLK"
          "VIRTIO_PCI"
        ];
      };
    };
    "Kata says where the root is, and the first program is the one that makes it writable" = {
      got = {
        root = builtins.filter (word: word == "rw" || lib.hasPrefix "root=" word) words;
        init = builtins.filter (lib.hasPrefix "init=") words;
        starts =
          says root.contents."/sbin/init".source.text
            "exec chroot . ${config.system.build.toplevel}/init \"$@\"";
      };
      want = {
        root = [ ];
        init = [ "init=/sbin/init" ];
        starts = true;
      };
    };
  };
}
