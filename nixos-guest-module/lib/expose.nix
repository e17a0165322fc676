# `seed.expose`: what an entry means, and what may be wrong with it. An entry is
# `{ enable; port; protocol; }`, where port and protocol are null when the owner left them out.
{ ports, words }:
let
  # What the firewall has to let in.
  transports = {
    tcp = [ "tcp" ];
    udp = [ "udp" ];
    dns = [
      "tcp"
      "udp"
    ];
    http = [ "tcp" ];
    grpc = [ "tcp" ];
  };
  withCertificates = [
    "http"
    "grpc"
  ];
  enabled =
    entries:
    builtins.listToAttrs (
      builtins.concatMap (
        name:
        words.optional entries.${name}.enable {
          inherit name;
          value = entries.${name};
        }
      ) (builtins.attrNames entries)
    );
in
rec {
  protocols = builtins.attrNames transports;

  # Port and protocol of an entry; the port is null when nothing names one.
  resolve =
    name: entry:
    let
      known =
        ports.${name} or {
          port = null;
          protocol = "tcp";
        };
      first = a: b: if a != null then a else b;
    in
    {
      port = first entry.port known.port;
      protocol = first entry.protocol known.protocol;
    };

  # The entries that are on and have a port.
  resolveAll =
    entries:
    let
      all = builtins.mapAttrs resolve (enabled entries);
      ported = builtins.filter (name: all.${name}.port != null) (builtins.attrNames all);
    in
    builtins.listToAttrs (
      map (name: {
        inherit name;
        value = all.${name};
      }) ported
    );

  # Whether any entry wants certificates from the platform.
  wantsAcme =
    entries:
    builtins.any (entry: builtins.elem entry.protocol withCertificates) (
      builtins.attrValues (resolveAll entries)
    );

  # Ports to open for one transport, in order and without repeats.
  openPorts =
    transport: entries:
    let
      wanted = builtins.filter (entry: builtins.elem transport transports.${entry.protocol}) (
        builtins.attrValues (resolveAll entries)
      );
      unique = builtins.attrValues (builtins.groupBy (entry: toString entry.port) wanted);
    in
    builtins.sort builtins.lessThan (map (group: (builtins.head group).port) unique);

  problems =
    entries:
    let
      all = builtins.mapAttrs resolve (enabled entries);
      names = builtins.attrNames all;
      one =
        name:
        let
          inherit (all.${name}) port;
        in
        words.optional (port == null)
          "seed.expose.${name}: the name is not a well-known service, so it has no port. Set seed.expose.${name}.port = <number>;"
        ++
          words.optional (port == 0)
            "seed.expose.${name}: port 0 is no port that anybody can connect to. Set seed.expose.${name}.port to the port that the service listens on, from 1 to 65535.";
      taken = builtins.concatMap (
        name:
        map (transport: {
          inherit name;
          key = "${transport} port ${toString all.${name}.port}";
        }) transports.${all.${name}.protocol}
      ) (builtins.filter (name: all.${name}.port != null) names);
      twice =
        clash:
        "seed.expose: ${words.list clash.names} all want ${clash.key}. Give each a port of its own, or keep one of them.";
    in
    builtins.concatMap one names ++ map twice (words.shared taken);
}
