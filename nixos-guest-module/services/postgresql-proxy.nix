# A PostgreSQL on localhost that is another instance's: for programs that cannot use a key in a TPM themselves. Each
# connection is one `openssl s_client`, which says STARTTLS as PostgreSQL does and holds the certificate. Without
# `-nocommands` it would take the Q of a query for its own command to quit; without `-no_ign_eof` it would outlive a
# client that is gone.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  proxies = config.seed.services.postgresqlProxy;
  inherit (config.seed) tls;
  inherit (config.services) postgresql;
  problems = (import ../lib).postgresql.proxyProblems {
    inherit proxies;
    taken = lib.optionalAttrs postgresql.enable {
      "services.postgresql" = postgresql.settings.port;
    };
  };
  # socat takes commas and colons for its own, so the command is a file. The credentials are the unit's.
  connect =
    name: proxy:
    pkgs.writeShellScript "seed-pg-connect-${name}" ''
      exec ${lib.getExe' pkgs.openssl "openssl"} s_client -quiet -verify_quiet -verify_return_error \
        -no_ign_eof -nocommands \
        -starttls postgres -connect ${proxy.host}:${toString proxy.port} -servername ${proxy.host} \
        -verify_hostname ${proxy.host} -CAfile "$CREDENTIALS_DIRECTORY/ca.pem" \
        -cert "$CREDENTIALS_DIRECTORY/cert.pem" -key "$CREDENTIALS_DIRECTORY/key.pem"
    '';
  unit =
    name: proxy:
    lib.nameValuePair "seed-pg-proxy-${name}" (
      lib.mkMerge [
        tls.unit
        {
          description = "PostgreSQL of ${proxy.host}, with this instance's certificate";
          wantedBy = [ "multi-user.target" ];
          after = [ "network.target" ];
          serviceConfig = {
            ExecStart = "${lib.getExe pkgs.socat} TCP-LISTEN:${toString proxy.listen},bind=127.0.0.1,fork,reuseaddr,max-children=${toString proxy.connections} EXEC:${connect name proxy}";
            DynamicUser = true;
            Restart = "on-failure";
            NoNewPrivileges = true;
            ProtectHome = true;
            ProtectSystem = "strict";
            RestrictAddressFamilies = [
              "AF_INET"
              "AF_INET6"
            ];
            SystemCallArchitectures = "native";
          };
        }
      ]
    );
in
{
  options.seed.services.postgresqlProxy = lib.mkOption {
    default = { };
    example = lib.literalExpression ''
      {
        orders.host = "postgres.s-gaydazldmnsg.svc.cluster.local";
      }
    '';
    description = ''
      PostgreSQL servers of other instances ({option}`seed.services.postgresql`), each on a port of localhost: what
      connects there is the role that the server gives to this instance's certificate.
    '';
    type = lib.types.attrsOf (
      lib.types.submodule {
        options = {
          host = lib.mkOption {
            type = lib.types.strMatching "[A-Za-z0-9.-]+";
            description = "The server's DNS name. Its certificate has to be for it.";
          };
          port = lib.mkOption {
            type = lib.types.port;
            default = 5432;
            description = "The server's port.";
          };
          listen = lib.mkOption {
            type = lib.types.port;
            default = 5432;
            description = "The port on localhost.";
          };
          connections = lib.mkOption {
            type = lib.types.ints.positive;
            default = 64;
            description = "How many connections at once.";
          };
        };
      }
    );
  };

  config = lib.mkIf (proxies != { }) {
    assertions = map (message: {
      assertion = false;
      inherit message;
    }) problems;
    seed.tls.enable = true;
    seed.tls.users = map (name: "seed-pg-proxy-${name}.service") (lib.attrNames proxies);
    systemd.services = lib.mapAttrs' unit proxies;
  };
}
