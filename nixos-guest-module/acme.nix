# Certificates from the platform. Its address comes with the environment (SEED_ACME_URL) and is known only at
# run time, so lego and Caddy read it from there.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  letsEncrypt = "https://acme-v02.api.letsencrypt.org/directory";
  environment = "/run/seed/env";
  legoEnvironment = "/run/seed-acme/env";
  orders = lib.concatMap (name: [
    "acme-${name}"
    "acme-order-renew-${name}"
  ]) (lib.attrNames config.security.acme.certs);
in
{
  config = lib.mkIf config.seed.acme {
    security.acme = {
      acceptTerms = lib.mkDefault true;
      defaults = {
        email = lib.mkDefault "acme@seed.loom.farm";
        # Without --server lego takes LEGO_SERVER.
        server = lib.mkDefault null;
        environmentFile = lib.mkDefault legoEnvironment;
      };
    };
    systemd.services = lib.mkMerge [
      (lib.mkIf (config.security.acme.certs != { }) {
        seed-acme-env = {
          description = "Address of the platform's ACME server";
          before = map (name: "${name}.service") orders;
          requiredBy = map (name: "${name}.service") orders;
          serviceConfig = {
            Type = "oneshot";
            RemainAfterExit = true;
            EnvironmentFile = "-${environment}";
            RuntimeDirectory = "seed-acme";
            UMask = "0077";
            ExecStart = pkgs.writeShellScript "seed-acme-env" ''
              printf 'LEGO_SERVER=%s\n' "''${SEED_ACME_URL:-${letsEncrypt}}" > ${legoEnvironment}
            '';
          };
        };
      })
      # {$SEED_FQDN} and {$SEED_ACME_URL} in Caddyfiles.
      (lib.mkIf config.services.caddy.enable {
        caddy.serviceConfig.EnvironmentFile = [ "-${environment}" ];
      })
    ];
    services.caddy.acmeCA = lib.mkDefault "{$SEED_ACME_URL:${letsEncrypt}}";
  };
}
