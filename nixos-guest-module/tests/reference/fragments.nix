# The fragments of the user reference, line by line as they stand there, each with what it takes for granted.
{
  size = {
    seed.size = "xs";
  };
  well-known = {
    seed.expose.https.enable = true;       # 443/tcp, ACME-enabled
    seed.expose.ssh.enable = true;         # 22/tcp
    seed.expose.dns.enable = true;         # 53, TCP+UDP
    seed.expose.postgresql.enable = true;  # 5432/tcp
  };
  override = {
    seed.expose.https.port = 8443;                          # override default port
    seed.expose.myapp = { port = 9090; protocol = "tcp"; }; # not well-known, specify both
    seed.expose.http = 8080;                                 # bare port shorthand
  };
  storage = {
    services.postgresql.enable = true;

    seed.storage.data = "1Gi";                                       # /seed/storage/data
    seed.storage.cache = { size = "500Mi"; mountPoint = "/tmp/cache"; }; # custom mount
    seed.storage.db = { size = "10Gi"; user = "postgres"; group = "postgres"; }; # owned by postgres
  };
  dns-names = {
    seed.dns.names = [ "example.com" "www.example.com" ];
  };
  domain-names = {
    seed.expose.https.enable = true;
    seed.dns.names = [ "example.com" "www.example.com" ];
  };
  acme = {
    seed.acme = true;
  };
  environment = {
    systemd.services.myapp.script = "exec sleep infinity";

    systemd.services.myapp.serviceConfig.EnvironmentFile = "/run/seed/env";
  };
  runtime-directory = {
    systemd.services.myapp.script = "exec sleep infinity";

    systemd.services.myapp.serviceConfig.RuntimeDirectory = "myapp";
  };
  ownership = {
    users.users.myapp = { isSystemUser = true; group = "myapp"; };
    users.groups.myapp = { };

    seed.storage.data = { size = "1Gi"; user = "myapp"; group = "myapp"; };
  };
  firewall = {
    networking.firewall.allowedTCPPorts = [ 9090 ];
  };
  shoot = {
    seed.shoot.enable = true;
  };
  secrets = { lib, ... }:
  {
    imports = [ ./modules/secrets.nix ];
    options.services.myapp.environmentFile = lib.mkOption { type = lib.types.path; };
  };
  summary = {
    seed.size = "xs";                    # xs|s|m|l|xl — VM sizing tier
    seed.dns.names = [ "example.com" ]; # custom DNS names (must match combine.domains)
    seed.rollout = "recreate";          # or "rolling"
    seed.acme = true;                   # auto-detected from expose protocols
    seed.shoot.enable = false;          # ephemeral VM forking
  };
  postgresql = {
    # On the PostgreSQL instance:
    seed.services.postgresql = {
      enable = true;
      databases.myapp = {
        clients.api = { role = "myapp_rw"; };                        # same namespace
        clients.worker = { role = "myapp_ro"; namespace = "s-xyz"; }; # cross-namespace
      };
    };
  };
  zitadel = { pkgs, ... }:
  {
    # On the Zitadel instance:
    seed.services.zitadel = {
      enable = true;
      hostname = "id.loom.farm";
      database.host = "postgres.s-gaydazldmnsg.svc.cluster.local";
    };

    services.caddy = {
      enable = true;
      dataDir = "/var/lib/caddy";
      configFile = pkgs.writeText "Caddyfile" ''
        {$SEED_FQDN}, id.loom.farm { reverse_proxy localhost:8080 }
      '';
    };
    systemd.services.caddy.serviceConfig.EnvironmentFile = "/run/seed/env";
  };
}
