# Reads a systemd unit file (systemd.syntax(7)) into `{ Section.Key = [ values ]; }`, so that the agent's unit
# is written once, beside the agent, and NixOS takes it from there. Lines that go on with a backslash are not
# known and refused.
let
  lines = text: builtins.filter builtins.isString (builtins.split "\n" text);
  step =
    state: line:
    let
      section = builtins.match "\\[([A-Za-z]+)]" line;
      setting = builtins.match "([A-Za-z]+)=(.*)" line;
      name = builtins.elemAt setting 0;
      value = builtins.elemAt setting 1;
      current = state.units.${state.section} or { };
    in
    if builtins.match "[[:space:]]*|[#;].*" line != null then
      state
    else if section != null then
      state // { section = builtins.head section; }
    else if setting == null || builtins.match ".*\\\\" line != null then
      throw "a unit file has the line ${builtins.toJSON line}, which cannot be read. Write it as Key=value on one line."
    else
      state
      // {
        units = state.units // {
          ${state.section} = current // {
            ${name} = current.${name} or [ ] ++ [ value ];
          };
        };
      };
in
rec {
  parse =
    text:
    (builtins.foldl' step {
      section = "Unit";
      units = { };
    } (lines text)).units;

  # The words of a setting that is a list of units.
  unitNames =
    values:
    builtins.filter (word: builtins.isString word && word != "") (
      builtins.concatMap (builtins.split "[[:space:]]+") values
    );

  # A section as NixOS takes it: one value as itself, several as a list.
  settings = builtins.mapAttrs (
    _: values: if builtins.length values == 1 then builtins.head values else values
  );
}
