# The option reference, made from the options themselves: Markdown of everything below `seed`, for instances and for
# hosts. Rendered by evaluation alone, so that a test can compare it with OPTIONS.md.
{ pkgs }:
let
  inherit (pkgs) lib;

  optionsOf =
    module:
    (import (pkgs.path + "/nixos/lib/eval-config.nix") {
      system = null;
      modules = [
        module
        { nixpkgs.hostPlatform = pkgs.stdenv.hostPlatform.system; }
      ];
    }).options.seed;

  # Literal values are Nix text; Markdown stays as it is.
  labelled =
    label: value:
    if value._type or "" == "literalMD" then
      "${label}: ${value.text}"
    else
      let
        text = value.text or (lib.generators.toPretty { } value);
      in
      if lib.hasInfix "\n" text then
        "${label}:\n\n```nix\n${lib.removeSuffix "\n" text}\n```"
      else
        "${label}: `${text}`";

  # The manual's own roles, such as {option}`seed.size`, without their names.
  plain =
    text:
    builtins.replaceStrings
      [
        "{option}`"
        "{command}`"
        "{file}`"
        "{env}`"
      ]
      [
        "`"
        "`"
        "`"
        "`"
      ]
      (lib.trim text);

  entry =
    option:
    lib.concatStringsSep "\n\n" (
      [
        "## `${option.name}`"
        (plain (option.description.text or option.description))
        "Type: ${option.type}"
      ]
      ++ lib.optional (option ? default) (labelled "Default" option.default)
      ++ lib.optional (option ? example) (labelled "Example" option.example)
    );

  section =
    title: module:
    let
      shown = builtins.filter (option: option.visible && !option.internal) (
        lib.optionAttrSetToDocList (optionsOf module)
      );
    in
    "# ${title}\n\n${lib.concatMapStringsSep "\n\n" entry shown}\n";
in
pkgs.writeText "OPTIONS.md" ''
  <!-- Made from the options: nix build .#option-reference -->

  ${section "Options of an instance" ./default.nix}
  ${lib.removeSuffix "\n" (section "Options of a host" ./host)}
''
