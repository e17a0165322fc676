# What is built from an instance, beside its toplevel: a folder that `seed run` takes as the root, an OCI image
# for containerd, and a program that boots the instance on the machine that calls it.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.seed;
  inherit (config.system.build) toplevel;
  # Mount points, and what programs expect before activation has run.
  folders = [
    "dev"
    "etc"
    "home"
    "proc"
    "root"
    "run"
    "sys"
    "tmp"
    "usr"
    "var/log/journal"
  ];

  root =
    pkgs.runCommand "seed-root-${cfg.name}"
      {
        closure = pkgs.closureInfo { rootPaths = [ toplevel ]; };
        # It holds a copy of the closure and needs the original no more.
        __structuredAttrs = true;
        unsafeDiscardReferences.out = true;
        preferLocalBuild = true;
      }
      ''
        mkdir -p "$out/nix/store"
        xargs --arg-file="$closure/store-paths" cp --archive --reflink=auto --target-directory="$out/nix/store"
        cd "$out"
        mkdir -p ${lib.escapeShellArgs folders}
        chmod 1777 tmp
        chmod 0700 root
      '';

  image = pkgs.dockerTools.buildLayeredImage {
    name = "seed-${cfg.name}";
    tag = lib.head (lib.splitString "-" (baseNameOf toplevel.outPath));
    extraCommands = ''
      mkdir -p ${lib.escapeShellArgs folders}
      chmod 1777 tmp
    '';
    config = {
      Entrypoint = [ "${toplevel}/init" ];
      Labels."farm.loom.seed.name" = cfg.name;
    };
  };

  programs = [
    (pkgs.callPackage ../host-shim/package.nix { })
    pkgs.qemu_kvm
    pkgs.swtpm
    pkgs.virtiofsd
  ];
  runner = pkgs.writeShellScriptBin "seed-run-${cfg.name}" ''
    # Boots the instance ${cfg.name} here; arguments go to `seed run`. `seed`'s other commands then know it.
    export PATH=${lib.makeBinPath programs}:$PATH
    exec seed run ${root} --toplevel ${toplevel} --name ${lib.escapeShellArg cfg.name} "$@"
  '';
in
{
  system.build = {
    seedRoot = root;
    seedImage = image;
    seedRunner = runner.overrideAttrs (old: {
      meta = old.meta or { } // {
        mainProgram = "seed-run-${cfg.name}";
      };
    });
  };
}
