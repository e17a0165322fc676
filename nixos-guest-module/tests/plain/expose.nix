# Tests of ../../lib/expose.nix.
let
  inherit (import ../../lib) expose;
  entry =
    values:
    {
      enable = true;
      port = null;
      protocol = null;
    }
    // values;
  problems = entries: expose.problems (builtins.mapAttrs (_: entry) entries);
  resolved = entries: expose.resolveAll (builtins.mapAttrs (_: entry) entries);
in
{
  "a well-known name is enough" = {
    got = resolved {
      https = { };
      ssh = { };
      dns = { };
      postgresql = { };
    };
    want = {
      https = {
        port = 443;
        protocol = "http";
      };
      ssh = {
        port = 22;
        protocol = "tcp";
      };
      dns = {
        port = 53;
        protocol = "dns";
      };
      postgresql = {
        port = 5432;
        protocol = "tcp";
      };
    };
  };
  "what is said wins over what is known" = {
    got = resolved {
      https.port = 8443;
      http.protocol = "tcp";
    };
    want = {
      https = {
        port = 8443;
        protocol = "http";
      };
      http = {
        port = 80;
        protocol = "tcp";
      };
    };
  };
  "a custom name is TCP unless it says otherwise" = {
    got = resolved {
      myapp.port = 9090;
      game = {
        port = 27015;
        protocol = "udp";
      };
    };
    want = {
      myapp = {
        port = 9090;
        protocol = "tcp";
      };
      game = {
        port = 27015;
        protocol = "udp";
      };
    };
  };
  "what is off is not there" = {
    got = resolved { ssh.enable = false; };
    want = { };
  };
  "a custom name without a port is told where to put it" = {
    got = problems { myapp = { }; };
    want = [
      "seed.expose.myapp: the name is not a well-known service, so it has no port. Set seed.expose.myapp.port = <number>;"
    ];
  };
  "port 0 is refused" = {
    got = problems { http.port = 0; };
    want = [
      "seed.expose.http: port 0 is no port that anybody can connect to. Set seed.expose.http.port to the port that the service listens on, from 1 to 65535."
    ];
  };
  "two services on one port are named" = {
    got = problems {
      a.port = 80;
      http = { };
    };
    want = [
      "seed.expose: a, http all want tcp port 80. Give each a port of its own, or keep one of them."
    ];
  };
  "TCP and UDP may share a number" = {
    got = problems {
      a = {
        port = 5000;
        protocol = "udp";
      };
      b.port = 5000;
    };
    want = [ ];
  };
  "dns opens both, http opens TCP, each once and in order" =
    let
      entries = builtins.mapAttrs (_: entry) {
        dns = { };
        http = { };
        ntp = { };
        same = {
          port = 80;
        };
        off = {
          enable = false;
          port = 1;
        };
      };
    in
    {
      got = [
        (expose.openPorts "tcp" entries)
        (expose.openPorts "udp" entries)
      ];
      want = [
        [
          53
          80
        ]
        [
          53
          123
        ]
      ];
    };
  "http and grpc want certificates, nothing else does" = {
    got =
      map
        (
          protocol:
          expose.wantsAcme {
            x = entry {
              port = 1;
              inherit protocol;
            };
          }
        )
        [
          "http"
          "grpc"
          "tcp"
          "udp"
          "dns"
        ];
    want = [
      true
      true
      false
      false
      false
    ];
  };
}
