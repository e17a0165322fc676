# Every option, in every form that the reference has.
{
  seed = {
    size = "m";
    expose.https.enable = true;
    expose.http = 8080;
    expose.myapp = {
      port = 9090;
      protocol = "grpc";
    };
    expose.dns = { };
    expose.ssh.enable = false;
    storage.data = "1Gi";
    storage.db = {
      size = "10Gi";
      mountPoint = "/var/lib/db";
      user = "app";
      group = "app";
      mode = "0750";
    };
    dns.names = [
      "example.com"
      "www.example.com"
    ];
    rollout = "rolling";
    shoot.enable = true;
    environment.group = "app";
    identity.group = "app";
  };
  users.users.app = {
    isSystemUser = true;
    group = "app";
  };
  users.groups.app = { };
}
