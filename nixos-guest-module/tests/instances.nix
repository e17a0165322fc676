# Two instances as plain values: what the options of ./modules/<name>.nix come to. Tests without nixpkgs start
# here; tests with it start at the modules; both end at ./golden.
{
  small = {
    name = "small";
    system = "x86_64-linux";
    size = "xs";
    expose = { };
    storage = { };
    dns.names = [ ];
    rollout = "recreate";
    acme = false;
    shoot.enable = false;
    environment.group = null;
    identity.group = null;
  };
  full = {
    name = "full";
    system = "x86_64-linux";
    size = "m";
    expose = {
      https = {
        enable = true;
        port = null;
        protocol = null;
      };
      http = {
        enable = true;
        port = 8080;
        protocol = null;
      };
      myapp = {
        enable = true;
        port = 9090;
        protocol = "grpc";
      };
      dns = {
        enable = true;
        port = null;
        protocol = null;
      };
      ssh = {
        enable = false;
        port = null;
        protocol = null;
      };
    };
    storage = {
      data = {
        size = "1Gi";
        mountPoint = "/seed/storage/data";
        user = null;
        group = null;
        mode = null;
      };
      db = {
        size = "10Gi";
        mountPoint = "/var/lib/db";
        user = "app";
        group = "app";
        mode = "0750";
      };
    };
    dns.names = [
      "example.com"
      "www.example.com"
    ];
    rollout = "rolling";
    acme = true;
    shoot.enable = true;
    environment.group = "app";
    identity.group = "app";
  };
}
