# A program that says how large an instance's closure is, and which are its ten largest paths.
{ pkgs, instance }:
let
  page =
    pkgs.runCommand "seed-closure-${instance.name}.md"
      {
        __structuredAttrs = true;
        exportReferencesGraph.closure = [ instance.toplevel ];
        nativeBuildInputs = [ pkgs.jq ];
        preferLocalBuild = true;
      }
      ''
        jq --raw-output --from-file ${./closure.jq} "$NIX_ATTRS_JSON_FILE" > "$out"
      '';
in
pkgs.writeShellApplication {
  name = "closure";
  text = "cat ${page}";
  # One word has nothing to check.
  checkPhase = "";
  meta.description = "The size of the smallest instance's closure, and its ten largest paths";
}
