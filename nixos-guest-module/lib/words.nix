# Grammars of names, and how lists are written in sentences.
rec {
  matches = pattern: text: builtins.match pattern text != null;

  # An instance's name is a label of its DNS name and its host name (RFC 1123), in lower case.
  isInstanceName = text: matches "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?" text;

  # The agent's and the shim's `VolumeName`.
  isVolumeName = text: matches "[A-Za-z0-9][A-Za-z0-9._-]{0,63}" text;

  isDnsName =
    text:
    builtins.stringLength text <= 253
    && matches "([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?" text;

  isMode = text: matches "[0-7]{3,4}" text;

  isNumber = text: matches "[0-9]+" text;

  hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;

  hasSuffix =
    suffix: text:
    let
      excess = builtins.stringLength text - builtins.stringLength suffix;
    in
    excess >= 0 && builtins.substring excess (builtins.stringLength suffix) text == suffix;

  quoted = text: "\"${text}\"";

  join = builtins.concatStringsSep;

  list = names: join ", " names;

  # The keys that more than one entry of a list of `{ key; name; }` has, with the names that have it.
  shared =
    entries:
    let
      groups = builtins.groupBy (entry: entry.key) entries;
      several = builtins.filter (key: builtins.length groups.${key} > 1) (builtins.attrNames groups);
    in
    map (key: {
      inherit key;
      names = map (entry: entry.name) groups.${key};
    }) several;

  optional = condition: value: if condition then [ value ] else [ ];
}
