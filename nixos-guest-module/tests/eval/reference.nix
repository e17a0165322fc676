# Every snippet of the user reference about instances, unchanged.
{
  lib,
  callFlake,
  enabledServices,
  evaluates,
  instance,
  says,
  view,
  yes,
  ...
}:
let
  fragments = import ../reference/fragments.nix;
  # They have a group of their own.
  ofServices = [
    "postgresql"
    "zitadel"
  ];
  example = module: services: {
    got =
      let
        it = instance module;
      in
      {
        drv = evaluates it;
        services = enabledServices services it;
      };
    want = {
      drv = true;
      services = true;
    };
  };
  # As the platform reads it: whatever `combine.domains` and names say of each other is checked, too.
  read = name: view (callFlake (../reference/flakes + "/${name}/flake.nix"));
  flake = name: names: {
    got = lib.mapAttrs (_: meta: meta.name) (read name).instances;
    want = lib.genAttrs names lib.id;
  };
in
{
  reference-static = {
    "getting started" = example ../reference/modules/getting-started.nix [
      "nginx"
      "seed-agent"
    ];
    "static site" = example ../reference/modules/static.nix [ "nginx" ];
  };
  reference-caddy = {
    "Caddy with a domain" = example ../reference/modules/caddy.nix [
      "app"
      "caddy"
    ];
    "Caddy with TLS" = example ../reference/modules/caddy-tls.nix [ "caddy" ];
  };
  reference-nginx-tls = {
    "nginx with TLS" = example ../reference/modules/nginx-tls.nix [
      "nginx"
      "acme-order-renew-my-app.example.com"
      "seed-acme-env"
    ];
  };
  reference-secrets = {
    "DNS server" = example ../reference/modules/dns.nix [
      "pdns"
      "sops-install-secrets"
    ];
    "app with secrets" = example ../reference/modules/api.nix [
      "api"
      "sops-install-secrets"
    ];
  };
  reference-services =
    let
      postgresql = (instance fragments.postgresql).config;
      tlsFiles = [
        "/seed/tls/cert.pem"
        "/seed/tls/key.pem"
        "/seed/tls/ca.pem"
      ];
    in
    {
      "a shared PostgreSQL" = example fragments.postgresql [
        "postgresql"
        "seed-pg-ident"
        "seed-pg-init"
      ];
      "an identity provider on it" = example fragments.zitadel [
        "caddy"
        "seed-pg-proxy-zitadel"
        "seed-tls-enrol"
        "seed-zitadel-key"
        "zitadel"
      ];
      "an application with the proxy alone" =
        let
          it = instance {
            seed.services.postgresqlProxy.orders = {
              host = "postgres.s-xyz.svc.cluster.local";
              listen = 5433;
            };
          };
          unit = it.config.systemd.services.seed-pg-proxy-orders;
        in
        {
          got = [
            (evaluates it)
            (it.config.systemd.services.seed-tls-enrol.environment.SEED_TLS_USERS)
            (says unit.serviceConfig.ExecStart "TCP-LISTEN:5433,bind=127.0.0.1,")
            unit.unitConfig.AssertPathExists
          ];
          want = [
            true
            "seed-pg-proxy-orders.service"
            true
            tlsFiles
          ];
        };
      "its certificate comes before the server, and the server is started when it comes" =
        let
          enrol = postgresql.systemd.services.seed-tls-enrol;
        in
        {
          got = [
            (lib.elem "seed-tls-enrol.service" postgresql.systemd.services.postgresql.after)
            enrol.environment.SEED_TLS_USERS
            enrol.environment.SEED_TLS_KEY
            enrol.serviceConfig.EnvironmentFile
            postgresql.systemd.timers.seed-tls-enrol.wantedBy
            (map
              (
                name:
                lib.hasPrefix "${name}.pem:/seed/tls/" (
                  lib.findFirst (lib.hasPrefix name) ""
                    postgresql.systemd.services.postgresql.serviceConfig.LoadCredential
                )
              )
              [
                "ca"
                "cert"
                "key"
              ]
            )
          ];
          want = [
            true
            "postgresql.service seed-pg-init.service"
            "/seed/tls/key.pem"
            "-/run/seed/env"
            [ "timers.target" ]
            [
              true
              true
              true
            ]
          ];
        };
      "an owner's own certificate is not fetched" =
        let
          own = instance [
            fragments.postgresql
            { seed.tls.enrolment.enable = false; }
          ];
        in
        {
          got = own.config.systemd.services ? seed-tls-enrol;
          want = false;
        };
      "the server takes certificates alone, and its key from the TPM" = {
        got = [
          (lib.hasInfix "hostssl myapp myapp_rw all cert" postgresql.services.postgresql.authentication)
          (lib.hasInfix "scram" postgresql.services.postgresql.authentication)
          postgresql.systemd.services.postgresql.serviceConfig.PrivateDevices
          postgresql.systemd.services.postgresql.serviceConfig.DeviceAllow
          postgresql.systemd.services.postgresql.unitConfig.AssertPathExists
        ];
        want = [
          true
          false
          false
          [ "/dev/tpmrm0 rw" ]
          tlsFiles
        ];
      };
    };
  reference-multi = {
    "front end" = example ../reference/modules/multi-web.nix [ "caddy" ];
    "back end" = example ../reference/modules/multi-api.nix [ "api" ];
  };
  reference-flakes = {
    "getting started" = flake "getting-started" [ "web" ];
    "examples" = flake "examples" [ "web" ];
    "with a domain" = flake "caddy" [ "web" ];
    "domains" = flake "domains" [ "web" ];
    "whose settings are all there" = {
      got = (read "domains").domains;
      want."example.com" = {
        register = true;
        default = true;
      };
    };
    "two instances" = flake "multi" [
      "api"
      "web"
    ];
    "three instances" = flake "three" [
      "api"
      "db"
      "web"
    ];
  };
}
# A group each: a whole system takes its memory.
// lib.mapAttrs' (
  name: module: lib.nameValuePair "fragment-${name}" { ${name} = yes (evaluates (instance module)); }
) (removeAttrs fragments ofServices)
