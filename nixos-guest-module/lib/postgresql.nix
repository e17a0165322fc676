# Who may do what in a shared PostgreSQL: from the options' plain values to pg_hba.conf, pg_ident.conf and SQL. A
# client is known by the subject of its certificate; its namespace, where none is named, is that of the server, which
# is known at run time alone and stands as `ownNamespace` until then.
{ words }:
let
  inherit (words) join;
  inherit (builtins) attrNames concatMap filter;
in
rec {
  ownNamespace = "@SEED_NAMESPACE@";

  # The name of the map in pg_ident.conf.
  map = "seed";

  # Names that PostgreSQL takes without quotes.
  isName = words.matches "[a-z_][a-z0-9_]{0,62}";
  # A name that begins with "/" would be a pattern.
  isSubject = words.matches "[A-Za-z0-9][A-Za-z0-9@=.,:/ _-]*";

  subjectOf =
    client: namespace: "CN=${client}.${if namespace == null then ownNamespace else namespace}";

  # A role that says so in its name reads only.
  accessOf = role: if words.hasSuffix "_ro" role then "read" else "write";

  # The options' entry of each client of each database, with both names.
  grants =
    databases:
    concatMap (
      database:
      let
        inherit (databases.${database}) clients;
      in
      builtins.map (client: clients.${client} // { inherit database client; }) (attrNames clients)
    ) (attrNames databases);

  lines = make: databases: join "" (builtins.map (grant: make grant + "\n") (grants databases));

  # By certificate, from anywhere, to the database that was declared; nobody else comes in from outside.
  hba = lines (grant: "hostssl ${grant.database} ${grant.role} all cert map=${map} clientname=DN");

  # Which subject may be which role.
  ident = lines (grant: "${map} \"${grant.subject}\" ${grant.role}");

  # Run by psql at each start, so each statement may find its work done; \gexec runs what a query gives.
  sql =
    databases:
    let
      all = grants databases;
      missing =
        table: column: name: what:
        "SELECT '${what}' WHERE NOT EXISTS (SELECT FROM ${table} WHERE ${column} = '${name}')\\gexec";
      of = database: filter (grant: grant.database == database) all;
      inDatabase =
        database:
        [ "\\connect ${database}" ]
        ++ concatMap (allow (filter (grant: grant.access == "write") (of database))) (of database);
      # What is there, and what the writers will make.
      allow =
        writers: grant:
        let
          right = if grant.access == "write" then "ALL" else "SELECT";
          onSchema = if grant.access == "write" then "ALL" else "USAGE";
          onDatabase = if grant.access == "write" then "ALL" else "CONNECT";
          later =
            writer: kind:
            "ALTER DEFAULT PRIVILEGES FOR ROLE ${writer.role} IN SCHEMA public GRANT ${right} ON ${kind} TO ${grant.role};";
        in
        [
          "GRANT ${onDatabase} ON DATABASE ${grant.database} TO ${grant.role};"
          "GRANT ${onSchema} ON SCHEMA public TO ${grant.role};"
          "GRANT ${right} ON ALL TABLES IN SCHEMA public TO ${grant.role};"
          "GRANT ${right} ON ALL SEQUENCES IN SCHEMA public TO ${grant.role};"
        ]
        ++ concatMap (writer: [
          (later writer "TABLES")
          (later writer "SEQUENCES")
        ]) (filter (writer: writer.role != grant.role) writers);
    in
    join "" (
      builtins.map (line: line + "\n") (
        builtins.map (name: missing "pg_database" "datname" name "CREATE DATABASE ${name}") (
          attrNames databases
        )
        ++ builtins.map (
          grant: missing "pg_roles" "rolname" grant.role "CREATE ROLE ${grant.role} LOGIN"
        ) all
        ++ builtins.map (name: "REVOKE CONNECT ON DATABASE ${name} FROM PUBLIC;") (attrNames databases)
        ++ concatMap inDatabase (attrNames databases)
      )
    );

  # Two that listen on one port of localhost. `taken` are ports that others have, by a name for who it is.
  proxyProblems =
    { proxies, taken }:
    let
      listeners = builtins.mapAttrs (_: proxy: proxy.listen) proxies // taken;
      clashes = words.shared (
        builtins.map (name: {
          inherit name;
          key = "port ${toString listeners.${name}}";
        }) (attrNames listeners)
      );
    in
    builtins.map (
      clash:
      "seed.services.postgresqlProxy: ${words.list clash.names} all listen on ${clash.key}. Give each proxy a port of its own with listen."
    ) clashes;

  # Sentences, each ending with what to do.
  problems =
    databases:
    let
      option = "seed.services.postgresql.databases";
      unquoted = "Use lower-case letters, digits and \"_\", not a digit first.";
    in
    concatMap (
      name:
      words.optional (
        !isName name
      ) "${option}: ${words.quoted name} is no plain name of a database. ${unquoted}"
    ) (attrNames databases)
    ++ concatMap (
      grant:
      let
        at = "${option}.${grant.database}.clients.${grant.client}";
      in
      words.optional (
        !isName grant.role
      ) "${at}.role: ${words.quoted grant.role} is no plain name of a role. ${unquoted}"
      ++ words.optional (
        words.hasPrefix "pg_" grant.role || grant.role == "postgres"
      ) "${at}.role: ${words.quoted grant.role} is PostgreSQL's own. Choose another name."
      ++
        words.optional (!isSubject (builtins.replaceStrings [ ownNamespace ] [ "own" ] grant.subject))
          "${at}.subject: ${words.quoted grant.subject} is no subject of a certificate. Write it as openssl x509 -subject -nameopt RFC2253 shows it."
    ) (grants databases);
}
