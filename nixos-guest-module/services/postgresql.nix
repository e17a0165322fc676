# `seed.services.postgresql`: a PostgreSQL that other instances use. They come with their own certificates, and the
# map from certificates to roles is made of what is declared here.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.seed.services.postgresql;
  rules = (import ../lib).postgresql;
  inherit (config.seed) tls;
  mapFile = "/run/seed-postgresql/pg_ident.conf";
  identities = pkgs.writeText "pg_ident.conf" (
    config.services.postgresql.identMap + rules.ident cfg.databases
  );
  statements = pkgs.writeText "seed-pg-init.sql" (rules.sql cfg.databases);

  client = lib.types.submodule (
    { name, config, ... }:
    {
      options = {
        role = lib.mkOption {
          type = lib.types.str;
          example = "myapp_rw";
          description = "The role that the client is. It is made where it is not there.";
        };
        namespace = lib.mkOption {
          type = lib.types.nullOr lib.types.str;
          default = null;
          example = "s-gaydazldmnsg";
          description = "The client's namespace. Without it the server's own.";
        };
        subject = lib.mkOption {
          type = lib.types.str;
          default = rules.subjectOf name config.namespace;
          defaultText = lib.literalMD "`CN=<client>.<namespace>`";
          description = "The subject of the client's certificate, as RFC 2253 writes it.";
        };
        access = lib.mkOption {
          type = lib.types.enum [
            "read"
            "write"
          ];
          default = rules.accessOf config.role;
          defaultText = lib.literalMD "`read` for a role that ends with `_ro`, else `write`";
          description = "What the role may do in the database.";
        };
      };
    }
  );
in
{
  options.seed.services.postgresql = {
    enable = lib.mkEnableOption "a PostgreSQL that other instances use with their own certificates";
    databases = lib.mkOption {
      type = lib.types.attrsOf (
        lib.types.submodule {
          options.clients = lib.mkOption {
            type = lib.types.attrsOf client;
            default = { };
            description = "The instances that may use the database, by name.";
          };
        }
      );
      default = { };
      example = lib.literalExpression ''
        {
          myapp.clients.api = { role = "myapp_rw"; };
          myapp.clients.worker = { role = "myapp_ro"; namespace = "s-xyz"; };
        }
      '';
      description = "The databases, each with the instances that may use it. What is there is never removed.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = map (message: {
      assertion = false;
      inherit message;
    }) (rules.problems cfg.databases);

    seed.tls.enable = true;
    seed.tls.users = [
      "postgresql.service"
      "seed-pg-init.service"
    ];
    seed.expose.postgresql = lib.mkDefault { };
    seed.storage.postgresql = lib.mkDefault {
      size = "10Gi";
      mountPoint = "/var/lib/postgresql";
      user = "postgres";
      group = "postgres";
      mode = "0750";
    };

    services.postgresql = {
      enable = true;
      enableTCPIP = true;
      settings = {
        ssl = true;
        ssl_cert_file = "/run/credentials/postgresql.service/cert.pem";
        ssl_key_file = "/run/credentials/postgresql.service/key.pem";
        ssl_ca_file = "/run/credentials/postgresql.service/ca.pem";
        ident_file = lib.mkForce mapFile;
      };
      # Nothing from outside but what is declared; the socket stays as NixOS has it.
      authentication = lib.mkForce ''
        local all postgres peer map=postgres
        local all all peer
        ${rules.hba cfg.databases}'';
    };

    systemd.services.postgresql = lib.mkMerge [
      tls.unit
      {
        requires = [ "seed-pg-ident.service" ];
        after = [ "seed-pg-ident.service" ];
      }
    ];

    systemd.services.seed-pg-ident = {
      description = "Which certificates are which PostgreSQL roles";
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        EnvironmentFile = "-/run/seed/env";
        RuntimeDirectory = "seed-postgresql";
        ExecStart = pkgs.writeShellScript "seed-pg-ident" ''
          # What follows goes into a file of one line for each client.
          case "''${SEED_NAMESPACE:-}" in
            *[!a-z0-9-]*)
              echo "SEED_NAMESPACE is no name of a namespace" >&2
              exit 1
              ;;
          esac
          exec ${lib.getExe' pkgs.gnused "sed"} "s/${rules.ownNamespace}/''${SEED_NAMESPACE:-default}/" ${identities} > ${mapFile}
        '';
      };
    };

    systemd.services.seed-pg-init = {
      description = "Databases and roles of other instances";
      wantedBy = [ "multi-user.target" ];
      requires = [ "postgresql.target" ];
      after = [ "postgresql.target" ];
      restartTriggers = [ statements ];
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        User = "postgres";
        ExecStart = "${lib.getExe' config.services.postgresql.finalPackage "psql"} --no-psqlrc --set ON_ERROR_STOP=1 --dbname postgres --file ${statements}";
      };
    };
  };
}
