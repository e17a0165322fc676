# Numbers of users and groups, from their names. A guest's root is new at each start, so whatever hands out
# numbers in turn would give another one to the same user when the closure gets one user more, and files on
# volumes would change hands.
let
  # Above what subordinate ids and dynamic users take by default, below the range of containers
  # (systemd's docs/UIDS-GIDS.md).
  first = 300000;
  count = 200000;
  # 28 bits.
  hexDigits = 7;
  number =
    name:
    let
      digits = builtins.substring 0 hexDigits (builtins.hashString "sha256" name);
    in
    (builtins.fromTOML "number = 0x${digits}").number;
  remainder = a: b: a - (a / b) * b;
in
{
  idOf = name: first + remainder (number name) count;
}
