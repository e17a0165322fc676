# `seed.services.zitadel`: an identity provider on a shared PostgreSQL. It is a Go program, which cannot open a key
# that the TPM holds, so it talks to a proxy on localhost.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.seed.services.zitadel;
  state = "/var/lib/zitadel";
  keyFile = "${state}/masterkey";
  settings = pkgs.writers.writeYAML "zitadel.yaml" config.services.zitadel.settings;
  zitadel = lib.getExe' config.services.zitadel.package "zitadel";
  proxy = "seed-pg-proxy-zitadel.service";
in
{
  options.seed.services.zitadel = {
    enable = lib.mkEnableOption "Zitadel, an identity provider, with its data in a shared PostgreSQL";
    hostname = lib.mkOption {
      type = lib.types.str;
      example = "id.example.com";
      description = "The name that users reach it by, over TLS that something in front of it ends.";
    };
    database = {
      host = lib.mkOption {
        type = lib.types.str;
        example = "postgres.s-gaydazldmnsg.svc.cluster.local";
        description = "The instance with `seed.services.postgresql`.";
      };
      name = lib.mkOption {
        type = lib.types.str;
        default = "zitadel";
        description = "The database.";
      };
      role = lib.mkOption {
        type = lib.types.str;
        default = "zitadel";
        description = "The role that the server's list of clients gives to this instance.";
      };
    };
  };

  config = lib.mkIf cfg.enable {
    seed.services.postgresqlProxy.zitadel.host = cfg.database.host;
    seed.tls.users = [ "zitadel.service" ];
    # The key that everything in the database is encrypted with.
    seed.storage.zitadel = lib.mkDefault {
      size = "100Mi";
      mountPoint = state;
      user = "zitadel";
      group = "zitadel";
      mode = "0700";
    };

    services.zitadel = {
      enable = true;
      tlsMode = "external";
      masterKeyFile = keyFile;
      settings = {
        ExternalDomain = cfg.hostname;
        ExternalPort = 443;
        ExternalSecure = true;
        Database.postgres = {
          Host = "127.0.0.1";
          Port = config.seed.services.postgresqlProxy.zitadel.listen;
          Database = cfg.database.name;
          # The proxy's side of the connection is encrypted; this one does not leave the instance.
          User = {
            Username = cfg.database.role;
            SSL.Mode = "disable";
          };
        };
      };
    };

    systemd.services.seed-zitadel-key = {
      description = "Zitadel's key";
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        User = "zitadel";
        UMask = "0077";
        # Exactly 32 characters. Made once; a key that is there is never replaced.
        ExecStart = pkgs.writeShellScript "seed-zitadel-key" ''
          [ -s ${keyFile} ] && exit 0
          ${lib.getExe' pkgs.coreutils "od"} -An -N16 -tx1 /dev/urandom | ${lib.getExe' pkgs.coreutils "tr"} -d ' \n' > ${keyFile}.new &&
            ${lib.getExe' pkgs.coreutils "mv"} ${keyFile}.new ${keyFile}
        '';
      };
      unitConfig.RequiresMountsFor = state;
    };

    systemd.services.zitadel = {
      requires = [
        "seed-zitadel-key.service"
        proxy
      ];
      after = [
        "seed-zitadel-key.service"
        proxy
      ];
      serviceConfig.RestartSec = 5;
      # The database and its owner are the server's to make: only the schemas are made here.
      script = lib.mkForce ''
        ${zitadel} init zitadel --config ${settings}
        exec ${zitadel} start-from-setup --config ${settings} --masterkeyFile ${keyFile} --tlsMode external
      '';
    };
  };
}
