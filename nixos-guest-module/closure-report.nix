# How large an instance's closure is, and its ten largest paths.
{ pkgs, instance }:
let
  closure = pkgs.closureInfo { rootPaths = [ instance.toplevel ]; };
in
pkgs.runCommand "seed-closure-${instance.name}.txt" { } ''
  # In `registration` each path stands with its hash, its size, its deriver, a count and as many references.
  awk '
    want == "path" { path = $0; want = "hash"; next }
    want == "hash" { want = "size"; next }
    want == "size" { printf "%d %s\n", $0, path; want = "deriver"; next }
    want == "deriver" { want = "count"; next }
    want == "count" { left = $0; want = left ? "reference" : "path"; next }
    want == "reference" { if (--left == 0) want = "path" }
    BEGIN { want = "path" }
  ' ${closure}/registration | sort --numeric-sort --reverse > sizes
  awk '
    { total += $1; count += 1 }
    NR <= 10 { lines = lines sprintf("%8.1f MiB  %s\n", $1 / 1048576, $2) }
    END { printf "%.1f MiB in %d paths; the largest:\n%s", total / 1048576, count, lines }
  ' sizes > "$out"
''
