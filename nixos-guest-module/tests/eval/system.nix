# The guest as a system: the order of its units, its firewall, its boot, its profiles, and what is built of it.
{
  lib,
  drv,
  evaluates,
  inputs,
  instance,
  mkSeed,
  refusals,
  yes,
  ...
}:
let
  profile = name: inputs.nixpkgs.outPath + "/nixos/modules/profiles/${name}.nix";
  plain = instance { };
  perlless = instance (profile "perlless");
  bashless = instance (profile "bashless");
  secret = {
    sops.defaultSopsFile = ../reference/modules/secrets/api.yaml;
    sops.secrets.api-key = { };
  };
  app = {
    systemd.services.app = {
      wantedBy = [ "multi-user.target" ];
      script = "exec sleep infinity";
    };
  };
  ordered = instance [
    secret
    app
  ];
  units = ordered.config.systemd.services;
in
{
  order = {
    "the agent is started early, and the boot waits for it" = {
      got = {
        inherit (units.seed-agent) wantedBy;
        inherit (units.seed-agent.unitConfig) DefaultDependencies;
        inherit (units.seed-agent.serviceConfig) Type TimeoutStartSec;
        before = lib.elem "sysinit.target" units.seed-agent.before;
      };
      want = {
        wantedBy = [ "sysinit.target" ];
        DefaultDependencies = "no";
        Type = "notify";
        TimeoutStartSec = "infinity";
        before = true;
      };
    };
    "users come before the agent" = yes (
      lib.elem "userborn.service" units.seed-agent.after && ordered.config.systemd.services ? userborn
    );
    "a Kata shim's target is the whole system" =
      let
        target = ordered.config.systemd.targets.kata-containers;
      in
      {
        got = [
          target.requires
          target.after
          target.unitConfig.AllowIsolate
        ];
        want = [
          [ "multi-user.target" ]
          [ "multi-user.target" ]
          "yes"
        ];
      };
    "volumes come before tmpfiles" = yes (
      lib.elem "systemd-tmpfiles-setup.service" units.seed-agent.before
    );
    "secrets come after the agent and before everything else" = {
      got = {
        after = lib.elem "seed-agent.service" units.sops-install-secrets.after;
        requires = lib.elem "seed-agent.service" units.sops-install-secrets.requires;
        before = lib.elem "sysinit.target" units.sops-install-secrets.before;
        inherit (units.sops-install-secrets) wantedBy;
      };
      want = {
        after = true;
        requires = true;
        before = true;
        wantedBy = [ "sysinit.target" ];
      };
    };
    "an application comes after sysinit.target, by systemd's default" = yes (
      !(units.app.unitConfig ? DefaultDependencies)
    );
    "no secrets, no unit for them" = yes (!(plain.config.systemd.services ? sops-install-secrets));
    "the plugin and the key are preset" = {
      got = {
        inherit (ordered.config.sops) useSystemdActivation;
        inherit (ordered.config.sops.age) keyFile sshKeyPaths;
        plugins = map lib.getName ordered.config.sops.age.plugins;
      };
      want = {
        useSystemdActivation = true;
        keyFile = "/seed/tpm/age-identity";
        sshKeyPaths = [ ];
        plugins = [ "age-plugin-tpm" ];
      };
    };
    "an owner's own key file wins" = {
      got = (instance { sops.age.keyFile = "/srv/key"; }).config.sops.age.keyFile;
      want = "/srv/key";
    };
  };

  system = {
    "what is exposed is let in" =
      let
        it = instance {
          seed.expose.https = { };
          seed.expose.dns = { };
          seed.expose.myapp = 9090;
          networking.firewall.allowedTCPPorts = [ 1 ];
        };
        inherit (it.config.networking) firewall;
      in
      {
        got = [
          firewall.enable
          firewall.allowedTCPPorts
          firewall.allowedUDPPorts
        ];
        want = [
          true
          [
            1
            53
            443
            9090
          ]
          [ 53 ]
        ];
      };
    "the initrd has what the root and the way to the host need" = {
      got =
        lib.subtractLists
          (plain.config.boot.initrd.availableKernelModules ++ plain.config.boot.initrd.kernelModules)
          [
            "erofs"
            "overlay"
            "tpm_crb"
            "virtio_blk"
            "virtio_pci"
            "virtio_rng"
            "virtiofs"
            "vmw_vsock_virtio_transport"
          ];
      want = [ ];
    };
    "the drivers of the shared root are there before it is mounted" = {
      got =
        let
          inherit (plain.config.boot) initrd;
          unit = initrd.systemd.units."systemd-modules-load.service";
        in
        [
          (lib.subtractLists initrd.kernelModules [
            "virtio_pci"
            "virtiofs"
          ])
          (lib.hasInfix "Before=sysroot.mount" unit.text)
          unit.overrideStrategy
        ];
      want = [
        [ ]
        true
        "asDropinIfExists"
      ];
    };
    "an owner's own root wins, such as a store that is an EROFS on a disk" = {
      got =
        let
          it = instance {
            fileSystems."/".fsType = "tmpfs";
            fileSystems."/nix/store" = {
              device = "/dev/vda";
              fsType = "erofs";
            };
          };
        in
        [
          (evaluates it)
          it.config.fileSystems."/".fsType
        ];
      want = [
        true
        "tmpfs"
      ];
    };
    "a root that the host names is writable" = yes (lib.elem "rw" plain.config.boot.kernelParams);
    "links keep the names that the host gives them" = yes (
      lib.elem "net.ifnames=0" plain.config.boot.kernelParams
    );
    "it is a machine with a kernel and no loader" = {
      got = {
        inherit (plain.config.boot) isContainer;
        grub = plain.config.boot.loader.grub.enable;
        initrd = plain.config.boot.initrd.systemd.enable;
        nix = plain.config.nix.enable;
        docs = plain.config.documentation.enable;
      };
      want = {
        isContainer = false;
        grub = false;
        initrd = true;
        nix = false;
        docs = false;
      };
    };
    "users that only the closure makes need no password" = {
      got = refusals { users.mutableUsers = false; };
      want = [ ];
    };
    "nothing is left for activation to warn of" = {
      got = plain.config.warnings;
      want = [ ];
    };
    "http brings certificates, tcp does not" = {
      got = map (module: (instance module).config.seed.acme) [
        { seed.expose.https = { }; }
        {
          seed.expose.rpc = {
            port = 1;
            protocol = "grpc";
          };
        }
        { seed.expose.ssh = { }; }
      ];
      want = [
        true
        true
        false
      ];
    };
    "Caddy and lego take the platform's address from the environment" =
      let
        inherit
          (instance {
            seed.acme = true;
            services.caddy.enable = true;
          })
          config
          ;
      in
      {
        got = [
          config.services.caddy.acmeCA
          config.security.acme.defaults.server
          config.security.acme.defaults.environmentFile
          (lib.elem "-/run/seed/env" config.systemd.services.caddy.serviceConfig.EnvironmentFile)
        ];
        want = [
          "{$SEED_ACME_URL:https://acme-v02.api.letsencrypt.org/directory}"
          null
          "/run/seed-acme/env"
          true
        ];
      };
    "a Caddyfile of one's own gets the platform's address, unless nobody asks for certificates" =
      let
        source =
          module:
          (instance module).config.environment.etc."caddy/caddy_config".source.name or "as NixOS has it";
        own =
          { pkgs, ... }:
          {
            services.caddy.enable = true;
            services.caddy.configFile = pkgs.writeText "mine" ":80";
          };
      in
      {
        got = map source [
          {
            imports = [ own ];
            seed.acme = true;
          }
          own
          {
            imports = [ own ];
            seed.acme = true;
            services.caddy.acmeCA = null;
          }
          {
            seed.acme = true;
            services.caddy.enable = true;
          }
        ];
        want = [
          "Caddyfile"
          "mine"
          "mine"
          "as NixOS has it"
        ];
      };
    "seed-shoot is there when asked for" = {
      got =
        map
          (
            enable:
            lib.any (p: lib.getName p == "seed-shoot")
              (instance { seed.shoot = { inherit enable; }; }).config.environment.systemPackages
          )
          [
            true
            false
          ];
      want = [
        true
        false
      ];
    };
    "extend adds a module" = {
      got = (plain.extend { seed.size = "l"; }).meta.size;
      want = "l";
    };
    "modules, specialArgs, system and nixpkgs are the caller's" = {
      got =
        let
          it = mkSeed {
            name = "other";
            system = "aarch64-linux";
            nixpkgs = inputs.nixpkgs.outPath;
            specialArgs.tier = "s";
            modules = [
              (
                { tier, ... }:
                {
                  seed.size = tier;
                }
              )
            ];
          };
        in
        [
          it.meta.name
          it.meta.size
          it.meta.system
          it.config.networking.hostName
        ];
      want = [
        "other"
        "s"
        "aarch64-linux"
        "other"
      ];
    };
  };

  builds = {
    "root" = yes (drv plain.root);
    "image" = yes (drv plain.image);
    "runner" = yes (drv plain.runner);
  };
  perlless = {
    "with the perlless profile" = yes (evaluates perlless);
    "what is written to an overlay of /etc is kept in memory, which is there before it" =
      let
        inherit (perlless) config;
        upper = config.fileSystems."/.rw-etc";
      in
      {
        got = {
          overlay = config.system.etc.overlay.enable && config.system.etc.overlay.mutable;
          inherit (upper) fsType neededForBoot;
          mode = lib.elem "mode=0755" upper.options;
          after = lib.elem "/sysroot/.rw-etc" config.boot.initrd.systemd.services.rw-etc.unitConfig.RequiresMountsFor;
        };
        want = {
          overlay = true;
          fsType = "tmpfs";
          neededForBoot = true;
          mode = true;
          after = true;
        };
      };
    "an /etc that is written to nowhere needs no place for it" = {
      got =
        let
          it = perlless.extend { system.etc.overlay.mutable = false; };
        in
        [
          (evaluates it)
          (it.config.fileSystems ? "/.rw-etc")
        ];
      want = [
        true
        false
      ];
    };
  };
  bashless = {
    "with the bashless profile" = yes (evaluates bashless);
    "its /etc, too" = yes (bashless.config.fileSystems ? "/.rw-etc");
  };
}
