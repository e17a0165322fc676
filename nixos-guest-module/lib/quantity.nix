# Sizes of volumes as Kubernetes writes quantities: whole numbers with k, M, G, T or Ki, Mi, Gi, Ti. The same
# grammar as `parse_size` in host-shim/src/spec/bootspec.rs.
let
  ki = 1024;
  factors = {
    "" = 1;
    k = 1000;
    M = 1000 * 1000;
    G = 1000 * 1000 * 1000;
    T = 1000 * 1000 * 1000 * 1000;
    Ki = ki;
    Mi = ki * ki;
    Gi = ki * ki * ki;
    Ti = ki * ki * ki * ki;
  };
  # 1 EiB: no volume is as large, and Nix counts to 8 EiB.
  maxBytes = ki * ki * ki * ki * ki * ki;
  # More digits than this are more than maxBytes in any unit, and might not fit a Nix integer.
  maxDigits = 18;
  # fromJSON takes no leading zeros.
  number =
    digits:
    let
      significant = builtins.match "0*([0-9]+)" digits;
    in
    builtins.fromJSON (builtins.head significant);
in
rec {
  # Bytes, or null when the text is no size.
  parse =
    text:
    let
      parts = builtins.match "([0-9]{1,${toString maxDigits}})(|k|M|G|T|Ki|Mi|Gi|Ti)" text;
      count = number (builtins.elemAt parts 0);
      factor = factors.${builtins.elemAt parts 1};
    in
    if parts == null || count == 0 || count > maxBytes / factor then null else count * factor;

  isSize = text: parse text != null;

  remedy = "write a whole number with a unit, such as \"500Mi\", \"1Gi\" or \"2Ti\"";
}
