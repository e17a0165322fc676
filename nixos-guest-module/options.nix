# Every option of an instance, and the values that others compute from them (`seed.meta`).
{
  config,
  lib,
  pkgs,
  ...
}:
let
  seed = import ./lib;
  cfg = config.seed;

  exposeEntry = lib.types.submodule {
    options = {
      enable = lib.mkOption {
        type = lib.types.bool;
        default = true;
        description = "Whether to expose this service. Naming it is enough.";
      };
      port = lib.mkOption {
        type = lib.types.nullOr lib.types.port;
        default = null;
        defaultText = lib.literalMD "the service's well-known port";
        example = 8443;
        description = "The port that the service listens on. A name that is not well-known needs one.";
      };
      protocol = lib.mkOption {
        type = lib.types.nullOr (lib.types.enum seed.expose.protocols);
        default = null;
        defaultText = lib.literalMD "the service's well-known protocol, else `tcp`";
        example = "grpc";
        description = ''
          How the service is reached. `dns` is TCP and UDP; `http` and `grpc` are TCP with certificates from
          the platform ({option}`seed.acme`).
        '';
      };
    };
  };

  storageEntry = lib.types.submodule (
    { name, ... }:
    {
      options = {
        size = lib.mkOption {
          type = lib.types.str;
          example = "10Gi";
          description = "How large the volume is: a whole number with k, M, G, T or Ki, Mi, Gi, Ti.";
        };
        mountPoint = lib.mkOption {
          type = lib.types.str;
          default = seed.storage.defaultMountPoint name;
          defaultText = lib.literalMD "`/seed/storage/<name>`";
          example = "/var/lib/acme";
          description = "Where the volume is mounted.";
        };
        user = lib.mkOption {
          type = lib.types.nullOr lib.types.str;
          default = null;
          example = "postgres";
          description = "Who owns the mount point, by name or number. Without it root does.";
        };
        group = lib.mkOption {
          type = lib.types.nullOr lib.types.str;
          default = null;
          example = "postgres";
          description = "The mount point's group. Without it the group of {option}`user`.";
        };
        mode = lib.mkOption {
          type = lib.types.nullOr lib.types.str;
          default = null;
          example = "0750";
          description = "The mount point's mode, in octal digits.";
        };
      };
    }
  );

  # What the types of `seed.meta` have in common.
  constant =
    type: description:
    lib.mkOption {
      inherit type description;
      readOnly = true;
    };
  record = options: lib.types.submodule { inherit options; };
in
{
  options.seed = {
    name = lib.mkOption {
      type = lib.types.str;
      example = "web";
      description = ''
        The instance's name: its host name, and the first label of its DNS name. `mkSeed` sets it.
      '';
    };

    size = lib.mkOption {
      type = lib.types.enum (builtins.attrNames seed.sizes);
      default = "xs";
      example = "m";
      description = ''
        How much of a machine the instance gets.

        | size | vCPUs | memory |
        |------|-------|--------|
        ${lib.concatMapStringsSep "\n"
          (
            name:
            let
              tier = seed.sizes.${name};
            in
            "| ${name} | ${toString tier.vcpus} | ${toString tier.memoryMiB} MiB |"
          )
          (lib.sort (a: b: seed.sizes.${a}.memoryMiB < seed.sizes.${b}.memoryMiB) (lib.attrNames seed.sizes))
        }
      '';
    };

    expose = lib.mkOption {
      type = lib.types.attrsOf (lib.types.coercedTo lib.types.port (port: { inherit port; }) exposeEntry);
      default = { };
      example = lib.literalExpression ''
        {
          https.enable = true;
          myapp = { port = 9090; protocol = "tcp"; };
          http = 8080;
        }
      '';
      description = ''
        Services that can be reached from outside; the firewall lets them in. A well-known name (`https`, `ssh`,
        `dns`, `postgresql`...) brings port and protocol; a bare number is the port.
      '';
    };

    storage = lib.mkOption {
      type = lib.types.attrsOf (lib.types.coercedTo lib.types.str (size: { inherit size; }) storageEntry);
      default = { };
      example = lib.literalExpression ''
        {
          data = "1Gi";
          db = { size = "10Gi"; user = "postgres"; group = "postgres"; };
        }
      '';
      description = ''
        Volumes that outlive restarts and redeployments. A bare string is the size; the volume is then mounted at
        `/seed/storage/<name>`.
      '';
    };

    dns.names = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      example = [
        "example.com"
        "www.example.com"
      ];
      description = ''
        DNS names of the instance beside its own. Each belongs to a domain in the flake's `combine.domains`; one
        without a dot is in the default domain.
      '';
    };

    rollout = lib.mkOption {
      type = lib.types.enum [
        "recreate"
        "rolling"
      ];
      default = "recreate";
      description = ''
        How a new version takes over: `recreate` stops the old instance first, which is safe for state;
        `rolling` starts the new one first.
      '';
    };

    acme = lib.mkOption {
      type = lib.types.bool;
      default = seed.expose.wantsAcme cfg.expose;
      defaultText = lib.literalMD "whether anything is exposed as `http` or `grpc`";
      description = ''
        Whether certificates come from the platform: {option}`security.acme` and {option}`services.caddy.acmeCA`
        use the address in `SEED_ACME_URL`, or Let's Encrypt where the platform names none.
      '';
    };

    shoot.enable = lib.mkEnableOption "the command {command}`seed-shoot`, which runs a command in a short-lived VM beside this one";

    environment.group = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = null;
      example = "app";
      description = ''
        The group whose members may read `/run/seed/env`. Without it root alone may, which is enough for
        `EnvironmentFile=`.
      '';
    };

    identity.group = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = null;
      example = "keys";
      description = ''
        The group whose members may open what is encrypted to the instance's age identity, through the agent.
        Without it root alone may.
      '';
    };

    agent.package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ../guest-agent/package.nix { };
      defaultText = lib.literalMD "`seed-agent` of this flake";
      description = "The agent that looks after the guest.";
    };

    agent.tpmPlugin = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ../age-tpm/package.nix { };
      defaultText = lib.literalMD "`age-plugin-tpm` of this flake";
      description = "The age plugin that opens secrets with the instance's TPM.";
    };

    meta = lib.mkOption {
      readOnly = true;
      description = ''
        The instance as the platform sees it. It is also in the closure's `boot.json`, under
        `farm.loom.seed.v1`, where a host reads it without evaluating anything.
      '';
      type = record {
        name = constant lib.types.str "{option}`seed.name`.";
        system = constant lib.types.str "The kind of machine, such as `x86_64-linux`.";
        size = constant lib.types.str "{option}`seed.size`.";
        resources = constant (record {
          vcpus = constant lib.types.ints.positive "Virtual processors.";
          memoryMiB = constant lib.types.ints.positive "Memory in MiB.";
        }) "What the size stands for.";
        expose = constant (lib.types.attrsOf (record {
          port = constant lib.types.port "Its port.";
          protocol = constant lib.types.str "Its protocol.";
        })) "{option}`seed.expose`, with every port and protocol filled in.";
        storage = constant (lib.types.attrsOf (record {
          size = constant lib.types.str "Its size.";
          mountPoint = constant lib.types.str "Where it is mounted.";
          user = constant (lib.types.nullOr lib.types.str) "Its owner.";
          group = constant (lib.types.nullOr lib.types.str) "Its group.";
          mode = constant (lib.types.nullOr lib.types.str) "Its mode.";
        })) "{option}`seed.storage`, with every mount point filled in.";
        dns = constant (record {
          names = constant (lib.types.listOf lib.types.str) "The names.";
        }) "{option}`seed.dns`.";
        rollout = constant lib.types.str "{option}`seed.rollout`.";
        acme = constant lib.types.bool "{option}`seed.acme`.";
        shoot = constant (record {
          enable = constant lib.types.bool "Whether it is on.";
        }) "{option}`seed.shoot`.";
      };
    };

    problems = lib.mkOption {
      internal = true;
      readOnly = true;
      type = lib.types.listOf lib.types.str;
      description = "What is wrong with the options, a sentence each.";
    };
  };

  config.seed = {
    meta = seed.instance.meta {
      inherit (pkgs.stdenv.hostPlatform) system;
      inherit (cfg)
        name
        size
        expose
        storage
        dns
        rollout
        acme
        shoot
        ;
    };
    problems = seed.instance.problems {
      instance = {
        inherit (cfg)
          name
          expose
          storage
          dns
          environment
          identity
          ;
      };
      users = lib.attrNames config.users.users;
      groups = lib.attrNames config.users.groups;
    };
  };
}
