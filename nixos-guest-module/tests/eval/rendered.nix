# What the modules come to where others read it: journald's and the agent's files, the configuration of the OCI image,
# the command line of the runner.
{
  lib,
  instance,
  says,
  ...
}:
let
  inherit (import ../../lib) unitFile;
  plain = instance { };
  lines = text: builtins.filter (line: line != "") (lib.splitString "\n" text);

  journald = it: lines it.config.environment.etc."systemd/journald.conf".text;
  ownLimit = "SystemMaxUse=1G";

  # X-… are NixOS's own keys, for switching.
  rendered = unitFile.parse (
    lib.concatStringsSep "\n" (
      builtins.filter (line: !lib.hasPrefix "X-" line) (
        lines plain.config.systemd.units."seed-agent.service".text
      )
    )
  );
  written = unitFile.parse (builtins.readFile ../../../guest-agent/systemd/seed-agent.service);

  # An instance whose image is what the builder was asked for.
  asked = instance {
    nixpkgs.overlays = [
      (_: previous: {
        dockerTools = previous.dockerTools // {
          buildLayeredImage = arguments: arguments;
        };
      })
    ];
  };
in
{
  rendered = {
    "journald keeps everything, in one journal on disk" = {
      got = lib.subtractLists (journald plain) [
        "Storage=persistent"
        "RateLimitInterval=0"
        "RateLimitBurst=0"
        "SplitMode=none"
        "SystemMaxUse=64M"
        "RuntimeMaxUse=32M"
        "SystemMaxFileSize=8M"
        "ForwardToSyslog=no"
        "ForwardToWall=no"
      ];
      want = [ ];
    };
    "no setting of journald is there twice" =
      let
        keys = map (line: lib.head (lib.splitString "=" line)) (journald plain);
      in
      {
        got = lib.unique keys;
        want = keys;
      };
    "an owner's limit of the journal is the last word" = {
      got = lib.findFirst (lib.hasPrefix "SystemMaxUse=") null (
        lib.reverseList (
          journald (instance {
            services.journald.extraConfig = ownLimit;
          })
        )
      );
      want = ownLimit;
    };
    "an owner's own choice of storage wins" = {
      got = builtins.elem "Storage=volatile" (
        journald (instance {
          services.journald.storage = "volatile";
        })
      );
      want = true;
    };
    "the agent's service is hardened as its unit file says, and has nothing else" = {
      got = removeAttrs rendered.Service [
        "Environment"
        "ExecStart"
      ];
      want = removeAttrs written.Service [ "ExecStart" ];
    };
    "the agent has the programs of every file system that volumes may have" = {
      got =
        let
          it = instance {
            boot.supportedFilesystems = {
              btrfs = true;
              xfs = true;
            };
          };
        in
        lib.subtractLists (map lib.getName it.config.systemd.services.seed-agent.path) [
          "btrfs-progs"
          "e2fsprogs"
          "xfsprogs"
        ];
      want = [ ];
    };
    "the agent that is started is the closure's" = {
      got = rendered.Service.ExecStart;
      want = [ (lib.getExe plain.config.seed.agent.package) ];
    };
    "the agent checks its file where it is made" = {
      got =
        says plain.config.environment.etc."seed/instance.json".source.buildCommand
          "${lib.getExe plain.config.seed.agent.package} --check-config \"$out\"";
      want = true;
    };
    "the image starts the closure, and says whose it is" = {
      got = {
        inherit (asked.image) config name;
        tagged = lib.hasPrefix asked.image.tag (baseNameOf asked.toplevel.outPath);
      };
      want = {
        name = "seed-test";
        config = {
          Entrypoint = [ "${asked.toplevel}/init" ];
          Labels."farm.loom.seed.name" = "test";
        };
        tagged = true;
      };
    };
    "the runner boots the instance's root under its name, with what it needs in its path" =
      let
        words = [
          "exec seed run ${plain.root} --toplevel ${plain.toplevel} --name test "
          "qemu"
          "swtpm"
          "virtiofsd"
          "seed-shim"
        ];
      in
      {
        got = builtins.filter (word: !says plain.runner.text word) words;
        want = [ ];
      };
  };
}
