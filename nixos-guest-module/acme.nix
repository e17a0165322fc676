# Certificates from the platform. Its address comes with the environment (SEED_ACME_URL) and is known only at
# run time, so lego and Caddy read it from there. NixOS writes it into Caddyfiles that it makes itself; here it comes
# into those that an owner brings (`services.caddy.configFile`) as well.
{
  config,
  lib,
  options,
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

  inherit (config.services) caddy;
  # By more than NixOS's own default, and part of the closure.
  ownCaddyfile =
    options.services.caddy.configFile.highestPrio < (lib.mkOptionDefault null).priority
    && caddy.adapter == "caddyfile"
    && builtins.hasContext "${caddy.configFile}";
  caddyfile = pkgs.runCommand "Caddyfile" { preferLocalBuild = true; } ''
    awk -v address=${lib.escapeShellArg caddy.acmeCA} -f ${./caddyfile.awk} ${caddy.configFile} > "$out"
  '';
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
      (lib.mkIf caddy.enable {
        caddy.serviceConfig.EnvironmentFile = [ "-${environment}" ];
      })
    ];
    services.caddy.acmeCA = lib.mkDefault "{$SEED_ACME_URL:${letsEncrypt}}";
    environment.etc."caddy/caddy_config" =
      lib.mkIf (caddy.enable && ownCaddyfile && caddy.acmeCA != null)
        {
          source = lib.mkForce caddyfile;
        };
  };
}
