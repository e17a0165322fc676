# The rules that agent, shim and module share (../golden/rules.json): the same file is read by tests of
# `seed-agent` and `seed-shim`.
let
  seed = import ../../lib;
  golden = builtins.fromJSON (builtins.readFile ../golden/rules.json);
  answers =
    rule: cases:
    builtins.listToAttrs (
      map (name: {
        inherit name;
        value = rule name;
      }) (builtins.attrNames cases)
    );
  same = key: rule: {
    got = answers rule golden.${key};
    want = golden.${key};
  };
  services = builtins.readFile /etc/services;
  knownTo =
    name: row:
    builtins.match ".*\n${row.iana or name}[[:space:]]+${toString row.port}/.*" services != null;
  # Some systems have a short list: only names that it has can be compared.
  listed = name: row: builtins.match ".*\n${row.iana or name}[[:space:]].*" services != null;
  strangers =
    if builtins.pathExists /etc/services then
      builtins.filter (name: listed name seed.ports.${name} && !knownTo name seed.ports.${name}) (
        builtins.attrNames seed.ports
      )
    else
      [ ];
in
{
  "modes are the agent's" = same "modes" seed.words.isMode;
  "mount points are the agent's" = same "mountPoints" (
    path: seed.storage.mountPointProblem path == null
  );
  "sizes of volumes are the shim's" = same "quantities" seed.quantity.parse;
  "sizes of instances are the shim's" = {
    got = seed.sizes;
    want = golden.sizes;
  };
  "volume names are the agent's" = same "volumeNames" seed.words.isVolumeName;
  "no well-known port differs from /etc/services" = {
    got = strangers;
    want = [ ];
  };
}
