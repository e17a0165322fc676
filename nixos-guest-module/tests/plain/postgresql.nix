# Tests of ../../lib/postgresql.nix.
let
  inherit (import ../../lib) postgresql;
  client = role: subject: {
    inherit role subject;
    access = postgresql.accessOf role;
  };
  databases.myapp.clients = {
    api = client "myapp_rw" (postgresql.subjectOf "api" null);
    worker = client "myapp_ro" (postgresql.subjectOf "worker" "s-xyz");
  };
  problems =
    name: role: subject:
    postgresql.problems { ${name}.clients.api = client role subject; };
  counted = list: builtins.length list;
in
{
  "who reads only says so" = {
    got = map postgresql.accessOf [
      "myapp_ro"
      "myapp_rw"
      "ro"
    ];
    want = [
      "read"
      "write"
      "write"
    ];
  };
  "a certificate lets in, to one database" = {
    got = postgresql.hba databases;
    want = ''
      hostssl myapp myapp_rw all cert map=seed clientname=DN
      hostssl myapp myapp_ro all cert map=seed clientname=DN
    '';
  };
  "a subject is a role; one's own namespace is filled in later" = {
    got = postgresql.ident databases;
    want = ''
      seed "CN=api.@SEED_NAMESPACE@" myapp_rw
      seed "CN=worker.s-xyz" myapp_ro
    '';
  };
  "statements can be run again, and readers read what writers will make" = {
    got = postgresql.sql databases;
    want = ''
      SELECT 'CREATE DATABASE myapp' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'myapp')\gexec
      SELECT 'CREATE ROLE myapp_rw LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'myapp_rw')\gexec
      SELECT 'CREATE ROLE myapp_ro LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'myapp_ro')\gexec
      REVOKE CONNECT ON DATABASE myapp FROM PUBLIC;
      \connect myapp
      GRANT ALL ON DATABASE myapp TO myapp_rw;
      GRANT ALL ON SCHEMA public TO myapp_rw;
      GRANT ALL ON ALL TABLES IN SCHEMA public TO myapp_rw;
      GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO myapp_rw;
      GRANT CONNECT ON DATABASE myapp TO myapp_ro;
      GRANT USAGE ON SCHEMA public TO myapp_ro;
      GRANT SELECT ON ALL TABLES IN SCHEMA public TO myapp_ro;
      GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO myapp_ro;
      ALTER DEFAULT PRIVILEGES FOR ROLE myapp_rw IN SCHEMA public GRANT SELECT ON TABLES TO myapp_ro;
      ALTER DEFAULT PRIVILEGES FOR ROLE myapp_rw IN SCHEMA public GRANT SELECT ON SEQUENCES TO myapp_ro;
    '';
  };
  "names that would end a statement or a line are refused" = {
    got = map counted [
      (postgresql.problems databases)
      (problems "my app" "a" "CN=a")
      (problems "myapp" "a;b" "CN=a")
      (problems "myapp" "postgres" "CN=a")
      (problems "myapp" "a" "/.*")
      (problems "myapp" "a" "CN=a\"\nseed \"CN=b")
    ];
    want = [
      0
      1
      1
      1
      1
      1
    ];
  };
  "proxies share no port, with each other or with a server here" =
    let
      problems =
        taken: ports:
        postgresql.proxyProblems {
          inherit taken;
          proxies = builtins.mapAttrs (_: listen: { inherit listen; }) ports;
        };
    in
    {
      got = [
        (problems { } {
          a = 5432;
          b = 5433;
        })
        (problems { "services.postgresql" = 5432; } {
          a = 5432;
          b = 5433;
          c = 5433;
        })
      ];
      want = [
        [ ]
        [
          "seed.services.postgresqlProxy: a, services.postgresql all listen on port 5432. Give each proxy a port of its own with listen."
          "seed.services.postgresqlProxy: b, c all listen on port 5433. Give each proxy a port of its own with listen."
        ]
      ];
    };
}
