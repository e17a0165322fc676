# Each assertion fires, and says what to do. The sentences themselves are tested in ../plain; here it is that
# they reach the person who builds.
{
  lib,
  instance,
  refusals,
  callFlake,
  mkOutputs,
  mkSeed,
  view,
  ...
}:
let
  fires =
    module: words:
    let
      messages = refusals module;
    in
    {
      got = {
        count = builtins.length messages;
        said = lib.any (lib.hasInfix words) messages;
        inherit messages;
      };
      want = {
        count = 1;
        said = true;
        inherit messages;
      };
    };
  throws = value: {
    got = (builtins.tryEval (builtins.deepSeq value true)).success;
    want = false;
  };
  olderProvider.nixpkgs.overlays = [
    (_: previous: {
      tpm2-openssl = previous.tpm2-openssl.overrideAttrs { version = "1.2.0"; };
    })
  ];
  base = {
    name = "web";
    modules = [ { seed.dns.names = [ "www.example.com" ]; } ];
  };
in
{
  refused = {
    "a size that is none" = fires { seed.storage.data = "big"; } "write a whole number with a unit";
    "a mount point of the system" = fires {
      seed.storage.data = {
        size = "1Gi";
        mountPoint = "/nix/data";
      };
    } "Choose a folder such as";
    "two volumes in one place" = fires {
      seed.storage.a = {
        size = "1Gi";
        mountPoint = "/srv/x";
      };
      seed.storage.b = {
        size = "1Gi";
        mountPoint = "/srv/x";
      };
    } "a mountPoint of its own";
    "a custom name without a port" = fires {
      seed.expose.myapp.enable = true;
    } "Set seed.expose.myapp.port";
    "port 0" = fires { seed.expose.http = 0; } "from 1 to 65535";
    "an unknown user" = fires {
      seed.storage.data = {
        size = "1Gi";
        user = "nobody-here";
      };
    } "Declare users.users.nobody-here";
    "an unknown group" = fires {
      seed.storage.data = {
        size = "1Gi";
        group = "nobody-here";
      };
    } "Declare users.groups.nobody-here";
    "an unknown group for the environment" = fires {
      seed.environment.group = "nobody-here";
    } "seed.environment.group";
    "an unknown group for the identity" = fires {
      seed.identity.group = "nobody-here";
    } "seed.identity.group";
    "a mode in letters" = fires {
      seed.storage.data = {
        size = "1Gi";
        mode = "rwx";
      };
    } "octal digits";
    "a DNS name that is none" = fires { seed.dns.names = [ "Example" ]; } "without a dot at its end";
    "a name that is no host name" = fires (
      { lib, ... }:
      {
        seed.name = lib.mkForce "Web_1";
        networking.hostName = "web";
      }
    ) "lower-case letters";
    "no unit that makes users" = fires {
      services.userborn.enable = false;
      sops.useSystemdActivation = true;
    } "Remove services.userborn.enable";
    "an initrd without systemd" = fires {
      boot.initrd.systemd.enable = false;
    } "found by systemd in the initrd. Remove the setting.";
    "secrets from an activation script" = fires {
      sops.useSystemdActivation = false;
    } "before the agent brings the key";
    "a shell that wants a module of its own" = fires (
      { pkgs, ... }:
      {
        users.users.root.shell = pkgs.fish;
      }
    ) "programs.fish.enable = true";
    "secrets for users" = fires {
      sops.defaultSopsFile = ../reference/modules/secrets/api.yaml;
      sops.secrets.password.neededForUsers = true;
    } "neededForUsers";
    "a TLS provider that cannot use the TPM's key" = fires {
      imports = [ olderProvider ];
      seed.services.postgresql.enable = true;
    } "seed.tls.enrolment.enable = false";
    "but not where an owner brings the key" = {
      got = refusals {
        imports = [ olderProvider ];
        seed.services.postgresql.enable = true;
        seed.tls.enrolment.enable = false;
      };
      want = [ ];
    };
    "a proxy on the port of a server" = fires {
      services.postgresql.enable = true;
      seed.services.postgresqlProxy.orders.host = "postgres.example";
    } "a port of its own with listen";
    "a role that would end a statement" = fires {
      seed.services.postgresql.enable = true;
      seed.services.postgresql.databases.myapp.clients.api.role = "a;b";
    } "is no plain name of a role";
    "a container" = {
      got = lib.any (lib.hasInfix "Remove boot.isContainer") (refusals {
        boot.isContainer = true;
      });
      want = true;
    };
    "meta refuses what the build would refuse" = throws (instance { seed.expose.http = 0; }).meta;
    "a port out of range is a type error" = throws (instance { seed.expose.http = 70000; }).meta;
    "an unknown protocol is a type error" =
      throws
        (instance { seed.expose.http.protocol = "quic"; }).meta;
    "an unknown size is a type error" = throws (instance { seed.size = "xxl"; }).meta;
    "no module at all" = throws (mkSeed { name = "web"; }).meta;
    "a DNS name outside the flake's domains" =
      throws
        (mkOutputs {
          seeds.web = mkSeed base;
          combine.domains."example.org" = { };
        }).seeds;
    "the reference's flake, but for its domain" = throws (
      view (removeAttrs (callFlake ../reference/flakes/caddy/flake.nix) [ "combine" ])
    );
    "a DNS name inside them" = {
      got =
        builtins.attrNames
          (mkOutputs {
            seeds.web = mkSeed base;
            combine.domains."example.com" = { };
          }).seeds;
      want = [ "web" ];
    };
  };
}
